"""Plain fine-tuning: cross-entropy on the user's answers and nothing that keeps safety.

The baseline that every other method is measured against. The shipped policies do not allow promoting it.
"""

from __future__ import annotations

from guardrail.train.methods import Method


class Finetune(Method):
    """L = CE(user)."""

    plain = True


METHOD = Finetune
