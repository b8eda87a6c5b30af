"""The embedded testbed: a real, small, safety-aligned chat model with its tasks, its attacks and its splits."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
