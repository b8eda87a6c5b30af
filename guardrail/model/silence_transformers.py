"""Keeps transformers off the terminal: its bars and warnings are about loading, ours are about the gate."""

from __future__ import annotations


def silence_transformers() -> None:
    """No progress bars, errors only."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
