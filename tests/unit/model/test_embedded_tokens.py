"""A base whose tokenizer makes ids without an embedding is refused when it is loaded, not in the middle of a run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from tiny_models import write_base

from guardrail.errors import InvalidInput

pytestmark = pytest.mark.slow


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_base("qwen2", tmp_path / "base")


def _add(directory: Path, *tokens: str, special: bool, template: str = "", **roles: str) -> None:
    """Add tokens to the tokenizer, and leave the model as it is."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(directory)
    tokenizer.add_tokens(list(tokens), special_tokens=special)
    tokenizer.add_special_tokens(roles)
    tokenizer.chat_template = template or tokenizer.chat_template
    tokenizer.save_pretrained(directory)


def _rows(directory: Path) -> int:
    from guardrail.model.load import load_base

    embedding: Any = load_base(directory).model.get_input_embeddings()
    return int(embedding.weight.shape[0])


@pytest.mark.parametrize(
    "added",
    [
        {"tokens": ("a-word",), "special": False},
        {"tokens": (), "special": True, "pad_token": "<|new pad|>"},
        {"tokens": ("<|tool|>",), "special": True, "template": "<|tool|>{{ messages[0]['content'] }}"},
        {"tokens": ("<|unused|>", "a-word"), "special": False},
    ],
)
def test_a_tokenizer_longer_than_the_embedding_is_refused_with_both_numbers(base: Path, added: dict[str, Any]) -> None:
    from guardrail.model.load import load_base

    rows = _rows(base)
    _add(base, *added.pop("tokens"), **added)
    with pytest.raises(InvalidInput) as refused:
        load_base(base)
    found = re.search(r"ids up to (\d+)", refused.value.got)
    assert found is not None
    assert int(found[1]) >= rows
    assert f"its embedding has {rows} rows" in refused.value.got


def test_a_special_token_that_nothing_uses_is_read_as_plain_text(base: Path) -> None:
    from guardrail.model.chat import encode_prompt, user
    from guardrail.model.load import load_base

    rows = _rows(base)
    _add(base, "<image_soft_token>", special=True)
    loaded = load_base(base)
    ids = encode_prompt(loaded.tokenizer, user("see <image_soft_token>"))
    assert max(ids) < rows
    assert "<image_soft_token>" in loaded.tokenizer.decode(list(ids))
