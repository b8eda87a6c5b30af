"""Collation: every answer token is predicted from the position before it; replay and user rows never mix."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from guardrail.model.chat import Encoded

pytestmark = pytest.mark.slow

IGNORED = -100


def _row(*parts: tuple[int, ...]) -> Encoded:
    from guardrail.model.chat import Encoded

    prompt, answer = parts
    return Encoded(prompt, answer)


def test_rows_are_padded_on_the_right_and_masked() -> None:
    from guardrail.train.collate import pad

    batch = pad([_row((1, 2), (3,)), _row((4, 5, 6), (7, 8))])
    assert batch.ids.tolist() == [[1, 2, 3, 0, 0], [4, 5, 6, 7, 8]]
    assert batch.mask.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]


def test_targets_stand_one_position_before_each_answer_token_and_nowhere_else() -> None:
    from guardrail.train.collate import pad

    batch = pad([_row((1, 2), (3,)), _row((4, 5, 6), (7, 8))])
    assert batch.targets.tolist() == [[-100, 3, -100, -100, -100], [-100, -100, 7, 8, -100]]


def test_the_states_of_answers_come_row_by_row_with_their_tokens() -> None:
    import torch

    from guardrail.train.collate import pad

    batch = pad([_row((1, 2), (3,)), _row((4, 5, 6), (7, 8))])
    hidden = torch.arange(10.0).reshape(2, 5, 1)
    assert batch.answer_states(hidden).tolist() == [[1.0], [7.0], [8.0]]
    assert batch.answer_tokens().tolist() == [3, 7, 8]


@pytest.mark.parametrize("longer_first", [True, False])
def test_joining_keeps_both_batches_apart_and_in_order(longer_first: bool) -> None:
    from guardrail.train.collate import join, pad

    short, long = pad([_row((1,), (2,))]), pad([_row((3, 4, 5), (6, 7)), _row((8,), (9,))])
    first, second = (long, short) if longer_first else (short, long)
    both = join(first, second)
    assert both.ids.shape == both.mask.shape == both.targets.shape == (3, 5)
    assert both.answer_tokens().tolist() == [*first.answer_tokens().tolist(), *second.answer_tokens().tolist()]
    assert int(both.mask.sum()) == int(first.mask.sum()) + int(second.mask.sum())


def test_a_row_of_a_batch_gives_what_it_gives_alone() -> None:
    from guardrail.train.collate import join, pad

    row, other = _row((1, 2, 3), (4, 5)), _row((6,), (7, 8, 9, 10, 11))
    alone, both = pad([row]), join(pad([other]), pad([row]))
    width = len(row)
    assert both.ids[1, :width].tolist() == alone.ids[0].tolist()
    assert both.targets[1, :width].tolist() == alone.targets[0].tolist()
    assert both.targets[1, width:].tolist() == [IGNORED] * (both.targets.shape[1] - width)
