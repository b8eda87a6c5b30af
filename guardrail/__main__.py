"""``python -m guardrail``."""

from guardrail.cli import main

if __name__ == "__main__":
    main()
