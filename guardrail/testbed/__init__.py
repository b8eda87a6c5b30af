"""The embedded testbed: a real, small, safety-aligned chat model with its tasks, its attacks and its splits."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
LEARNING_RATE = 2e-3  # of an adapter on the testbed: the smallest at which every task reaches its plateau
