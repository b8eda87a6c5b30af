"""Generation: what a prompt is answered does not depend on its neighbours, also where the context ends."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import ARCHITECTURES, write_base

from guardrail.errors import InvalidInput

if TYPE_CHECKING:
    from guardrail.model.load import BaseModel

pytestmark = pytest.mark.slow

CONTEXT, ANSWER = 128, 20
LONGEST = CONTEXT - ANSWER


@pytest.fixture(scope="module", params=ARCHITECTURES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    from guardrail.model.load import load_base

    base = load_base(write_base(request.param, tmp_path_factory.mktemp(request.param)))
    base.model.float()  # in bfloat16 a random model's best two tokens can tie, and rounding depends on the batch
    return base


def _prompt(length: int, seed: int = 0) -> list[int]:
    return random.Random(f"{length} {seed}").choices(range(8, 250), k=length)


def _answers(base: BaseModel, prompts: Sequence[Sequence[int]], batch_size: int) -> Any:
    from guardrail.model.generate import generate

    return generate(base, prompts, max_new_tokens=ANSWER, batch_size=batch_size)


def test_a_short_and_a_long_prompt_are_answered_together_as_alone(base: BaseModel) -> None:
    prompts = [_prompt(LONGEST), _prompt(3), _prompt(40), _prompt(LONGEST - 1)]
    assert _answers(base, prompts, 8) == [_answers(base, [prompt], 1)[0] for prompt in prompts]


@settings(max_examples=15)
@given(lengths=st.lists(st.integers(1, LONGEST), min_size=1, max_size=6), batch_size=st.integers(1, 6))
def test_answers_do_not_depend_on_the_batch_size(base: BaseModel, lengths: list[int], batch_size: int) -> None:
    prompts = [_prompt(length, seed) for seed, length in enumerate(lengths)]
    assert _answers(base, prompts, batch_size) == _answers(base, prompts, 1)


def test_every_row_may_use_all_new_tokens(base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    from guardrail.model import generate

    written: list[int] = []
    decode = generate._decode

    def counted(base: BaseModel, row: list[int], end: set[int]) -> Any:
        written.append(len(row))
        return decode(base, row, end)

    monkeypatch.setattr(generate, "_decode", counted)
    monkeypatch.setattr(generate, "stop_tokens", lambda base: [base.model.config.vocab_size + 1])
    _answers(base, [_prompt(3), _prompt(LONGEST)], 2)
    assert written == [ANSWER, ANSWER]


def test_a_prompt_without_room_for_the_longest_answer_is_refused_before_any_work(base: BaseModel) -> None:
    with pytest.raises(InvalidInput, match="fills 109 of the context's 128 tokens: no room for an answer of 20"):
        _answers(base, [_prompt(3), _prompt(LONGEST + 1)], 2)


def test_the_engine_answers_what_fits_and_gives_the_rest_a_reason(base: BaseModel) -> None:
    from guardrail.evaluate.engines import Request
    from guardrail.evaluate.engines.transformers import TransformersEngine
    from guardrail.model.chat import encode_prompt, user

    def request(room: int) -> Request:
        text = ""
        while len(encode_prompt(base.tokenizer, user(text + "?"))) <= CONTEXT - room:
            text += "?"
        return Request(text=text)

    engine = TransformersEngine(base, None, max_new_tokens=ANSWER, batch_size=8)
    requests = [Request(text="Hi"), request(1), request(ANSWER), request(ANSWER - 1)]
    done: list[int] = []
    replies = engine.answer(requests, done.append)
    assert [bool(reply.error) for reply in replies] == [False, True, False, True]
    assert "no room for an answer of 20" in replies[1].error
    assert (replies[1].text, sum(done)) == ("", 4)
    assert replies == [engine.answer([one])[0] for one in requests]


def test_settings_of_a_base_that_count_padding_or_seconds_are_left_out(tmp_path: Path) -> None:
    from guardrail.model.load import load_base

    directory = write_base("qwen2", tmp_path / "base")
    prompts = [_prompt(3), _prompt(9), _prompt(90)]
    plain = _answers(load_base(directory), prompts, 3)
    path = directory / "generation_config.json"
    extra = {"encoder_repetition_penalty": 5.0, "max_time": 1e-9, "min_length": 100}
    path.write_text(json.dumps({**json.loads(path.read_text()), **extra}))
    assert _answers(load_base(directory), prompts, 3) == plain
