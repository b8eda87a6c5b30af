"""From final hidden states to logits without running the body again: the output head and what some models do after it.

Covers a plain head, a bias, Cohere's ``logit_scale``, Granite's ``logits_scaling`` and Gemma 2's soft-capping. Whether
that is really all a model does is not assumed but probed once (:func:`check_head`).
"""

from __future__ import annotations

from typing import Any

import torch

from guardrail.errors import InvalidInput
from guardrail.model.hidden_states import body


def project(model: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Logits [..., vocabulary] of final hidden states [..., hidden]."""
    logits: torch.Tensor = model.get_output_embeddings()(hidden)
    config = model.config.get_text_config()
    if scale := getattr(config, "logit_scale", None):
        logits = logits * scale
    if scaling := getattr(config, "logits_scaling", None):
        logits = logits / scaling
    if cap := getattr(config, "final_logit_softcapping", None):
        logits = torch.tanh(logits / cap) * cap
    return logits


def logit_scale(model: Any) -> float:
    """The constant by which the head's output is multiplied (1 for most models).

    Raises:
        InvalidInput: the logits are soft-capped, so that no constant describes them.
    """
    config = model.config.get_text_config()
    if getattr(config, "final_logit_softcapping", None):
        raise InvalidInput(
            f"{type(model).__name__} soft-caps its logits: their squared distance does not follow from hidden states",
            next_step="use distance=kl, which is exact for every head",
        )
    return float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)


@torch.no_grad()
def check_head(model: Any, tolerance: float = 1e-3) -> None:
    """Compare :func:`project` with the model's own forward on a few tokens.

    Raises:
        InvalidInput: the model computes its logits in a way that we do not know.
    """
    training = model.training
    model.eval()
    ids = torch.arange(1, 9, device=model.device).unsqueeze(0) % model.config.get_text_config().vocab_size
    expected = model(input_ids=ids).logits.float()
    got = project(model, body(model)(input_ids=ids).last_hidden_state).float()
    model.train(training)
    error = (expected - got).abs().max() / expected.abs().max().clamp_min(1e-6)
    if not error <= (tolerance if expected.dtype == model.dtype else 0.05):
        raise InvalidInput(
            f"{type(model).__name__} does not compute its logits from its last hidden state alone (error {error:.1e})",
            expected="an output head on the final hidden state",
            next_step="report the architecture: guardrail.model.head must learn it",
        )
