"""How fast `guardrail --help` answers: the median of several fresh processes.

    python benchmarks/startup.py [--quick] [--json FILE]

Exits 1 where the median is not under 0.15 s. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from time import perf_counter

TARGET = 0.15


def once(*arguments: str) -> float:
    """Seconds of one fresh process."""
    start = perf_counter()
    subprocess.run([sys.executable, "-m", "guardrail", *arguments], check=True, capture_output=True)
    return perf_counter() - start


def main() -> int:
    """Measure, print, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="5 processes instead of 20")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    once("--help")  # bytecode
    seconds = [once("--help") for _ in range(5 if arguments.quick else 20)]
    median = statistics.median(seconds)
    print(f"guardrail --help: median {median:.3f} s of {len(seconds)} (target under {TARGET} s)")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({"median": median, "seconds": seconds, "target": TARGET}) + "\n")
    return 0 if median < TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
