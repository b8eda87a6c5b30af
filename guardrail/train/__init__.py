"""The training stage: LoRA adapters under continual-learning methods."""
