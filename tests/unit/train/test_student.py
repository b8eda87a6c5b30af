"""A base that is trained on answers the same twice: whatever it calls its dropout, it is off."""

from __future__ import annotations

from typing import Any

import pytest

from guardrail.errors import InvalidInput

pytestmark = pytest.mark.slow


def _model(kind: str) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

    small: Any = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    if kind == "gpt2":  # modules of dropout
        return GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2))
    if kind == "opt":  # numbers for functional dropout
        return OPTForCausalLM(OPTConfig(**small, ffn_dim=64, word_embed_proj_dim=32, dropout=0.1))
    return LlamaForCausalLM(LlamaConfig(**small, intermediate_size=64, attention_dropout=0.5))


def _twice(model: Any) -> tuple[Any, Any]:
    import torch

    ids = torch.arange(1, 17).unsqueeze(0)
    model.train()
    with torch.no_grad():
        return model(input_ids=ids).logits, model(input_ids=ids).logits


@pytest.mark.parametrize("kind", ["gpt2", "opt", "llama"])
def test_dropout_is_off_wherever_it_is(kind: str) -> None:
    import torch

    from guardrail.train.student import disable_dropout

    model = _model(kind)
    before = _twice(model)
    assert not torch.equal(*before)
    disable_dropout(model)
    assert torch.equal(*_twice(model))


def test_a_base_that_still_answers_differently_is_refused() -> None:
    import torch

    from guardrail.train.student import disable_dropout

    class Noisy(torch.nn.Module):
        def forward(self, hidden: Any) -> Any:
            return hidden + torch.randn_like(hidden)

    model = _model("llama")
    model.model.norm = Noisy()
    with pytest.raises(InvalidInput, match="answers differently each time"):
        disable_dropout(model)
