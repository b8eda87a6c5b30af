"""Where there is no terminal, a log says how a stage begins, how far it is each minute, and how it ends."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from guardrail.commands._output import ProgressLines, progress_bar


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def told() -> tuple[Callable[[str, int, int, float], None], list[str]]:
    """Advances the clock and reports; what was said."""
    clock, lines = Clock(), list[str]()
    progress = ProgressLines(lines.append, clock)

    def report(stage: str, done: int, total: int, seconds: float) -> None:
        clock.now += seconds
        progress(stage, done, total)

    return report, lines


def test_a_stage_is_told_at_its_beginning_each_minute_and_at_its_end(
    told: tuple[Callable[..., None], list[str]],
) -> None:
    report, lines = told
    for done in range(0, 101, 5):
        report("training", done, 100, 10.0)
    assert lines == [
        "training: 0 of 100",
        "training: 30 of 100, about 2 min left",
        "training: 60 of 100, about 80 s left",
        "training: 90 of 100, about 20 s left",
        "training: 100 of 100, 3 min",
    ]


def test_a_stage_that_comes_again_begins_again(told: tuple[Callable[..., None], list[str]]) -> None:
    report, lines = told
    for _ in range(2):
        report("validating", 0, 4, 1.0)
        report("validating", 4, 4, 1.0)
    assert lines == ["validating: 0 of 4", "validating: 4 of 4, 1 s"] * 2


def test_without_a_terminal_lines_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar() as progress:
        progress("evaluating", 0, 2)
        progress("evaluating", 2, 2)
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "evaluating: 0 of 2\nevaluating: 2 of 2, 0 s\n")
