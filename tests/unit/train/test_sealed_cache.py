"""Cached files that are torn, rotten or foreign are made again, never read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guardrail.train import sealed_cache


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(bytes(len(path.read_bytes()))),
        lambda path: path.unlink(),
        lambda path: path.with_name(path.name + ".sha256").unlink(),
        lambda path: path.with_name(path.name + ".sha256").write_bytes(b"\xff"),
    ],
)
def test_only_what_was_sealed_is_whole(spoil: Callable[[Path], Any], tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"states")
    assert not sealed_cache.whole(path)
    sealed_cache.seal(path)
    assert sealed_cache.whole(path)
    spoil(path)
    assert not sealed_cache.whole(path)


@pytest.mark.slow
def test_spoilt_teacher_states_and_replay_answers_are_made_again(tmp_path: Path) -> None:
    import torch

    from guardrail.pipeline.base import base_model
    from guardrail.pipeline.prompts import replay_prompts
    from guardrail.train.replay import self_generate
    from guardrail.train.teacher import teacher_states

    base = base_model("testbed")
    prompts = replay_prompts(None, "testbed")[:8]
    first = self_generate(base, prompts, max_new_tokens=12, cache=tmp_path)
    states = teacher_states(base, first.rows, tmp_path).states.clone()  # mapped from the file that is spoilt now
    for path in [*tmp_path.glob("*.states"), *tmp_path.glob("*.rows.json")]:
        path.write_bytes(bytes(path.stat().st_size))
    again = self_generate(base, prompts, max_new_tokens=12, cache=tmp_path)
    assert again.digest == first.digest
    assert torch.equal(teacher_states(base, again.rows, tmp_path).states, states)
    assert states.abs().sum() > 0


@pytest.mark.slow
def test_replay_rows_end_as_the_base_ends_them(tmp_path: Path) -> None:
    """Gemma ends a turn with another token than its tokenizer's end of text."""
    from guardrail.model.generate import stop_tokens
    from guardrail.pipeline.base import base_model
    from guardrail.pipeline.prompts import replay_prompts
    from guardrail.train.replay import self_generate

    base_model.cache_clear()
    base = base_model("testbed")
    dot = base.tokenizer(".", add_special_tokens=False)["input_ids"][0]
    base.model.generation_config.eos_token_id = [base.tokenizer.eos_token_id, dot]
    try:
        assert dot in stop_tokens(base)
        rows = self_generate(base, replay_prompts(None, "testbed")[:8], max_new_tokens=48, cache=tmp_path).rows
    finally:
        base_model.cache_clear()
    assert {row.answer[-1] for row in rows} == {dot}
