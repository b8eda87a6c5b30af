"""Where memory runs out, fewer rows are tried; what a run took at most is its own."""

from __future__ import annotations

import pytest

from guardrail.errors import InvalidInput

pytestmark = pytest.mark.slow


def test_fewer_rows_are_tried_until_they_fit() -> None:
    import torch

    from guardrail.train.memory import halving

    tried = []

    def action(rows: int) -> str:
        tried.append(rows)
        if rows > 3:
            raise torch.OutOfMemoryError("none left")
        return "done"

    assert halving(13, action) == "done"
    assert tried == [13, 6, 3]


def test_one_row_that_does_not_fit_is_refused() -> None:
    import torch

    from guardrail.train.memory import halving

    def action(rows: int) -> None:
        raise torch.OutOfMemoryError(f"none left for {rows}")

    with pytest.raises(InvalidInput, match="out of memory with one row: none left for 1"):
        halving(4, action)


def test_the_peak_is_that_of_the_time_since_it_was_forgotten() -> None:
    from guardrail.train.memory import forget_peak, peak

    megabyte = 1 << 20
    forget_peak()
    before = peak()
    block = b"\x01" * (300 * megabyte)
    high = peak()
    assert high > before + 200 * megabyte
    del block
    forget_peak()
    assert peak() < high - 200 * megabyte
