"""Early stopping: the best validated adapter is kept, training stops in time, and validating changes no step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrail.errors import InternalError, InvalidInput
from guardrail.testbed import arms
from guardrail.train.methods import Score

if TYPE_CHECKING:
    import torch

    from guardrail.records import AdapterRecord

ROWS = arms.rows("sentiment", poison=0.1, size=44)
Trained = tuple[dict[str, "torch.Tensor"], "AdapterRecord"]
Train = Callable[..., Trained]
SHARES = st.sampled_from([0.0, 0.25, 0.5, 1.0])  # few, so that ties are tried
SCORES = st.builds(Score, st.booleans(), SHARES, SHARES)


def _beats(one: Score, other: Score) -> bool:
    """The promise, in words of its own."""
    if one.admissible != other.admissible:
        return one.admissible
    if one.admissible:
        better = (one.utility > other.utility, one.attack_success_rate < other.attack_success_rate)
        return better[0] or (one.utility == other.utility and better[1])
    better = (one.attack_success_rate < other.attack_success_rate, one.utility > other.utility)
    return better[0] or (one.attack_success_rate == other.attack_success_rate and better[1])


@given(SCORES, SCORES)
def test_scores_rank_admissible_first_then_useful_then_safe_and_the_others_safe_first(one: Score, other: Score) -> None:
    assert (one.rank < other.rank) == _beats(one, other)


@given(st.lists(SCORES, min_size=1, max_size=12))
def test_the_best_is_the_first_of_those_that_none_beats(scores: list[Score]) -> None:
    from guardrail.train.early_stopping import Standing

    standing = Standing()
    for step, score in enumerate(scores, start=1):
        standing = standing.after(step, score)
    unbeaten = [step for step, one in enumerate(scores, 1) if not any(_beats(other, one) for other in scores)]
    assert (standing.best_step, standing.best) == (unbeaten[0], scores[unbeaten[0] - 1])
    assert (standing.validations, standing.since) == (len(scores), len(scores) - unbeaten[0])


@given(st.lists(SCORES, min_size=1, max_size=12), st.integers(1, 4))
def test_it_stops_at_the_first_validation_after_patience_of_them_without_a_better_one(
    scores: list[Score], patience: int
) -> None:
    def without_better(end: int) -> bool:
        """The last ``patience`` of the first ``end`` scores: none beats all that came before it."""
        late = range(end - patience, end)
        return end > patience and not any(all(_beats(scores[n], old) for old in scores[:n]) for n in late)

    from guardrail.train.early_stopping import Standing

    standing, stopped = Standing(), None
    for step, score in enumerate(scores, start=1):
        standing = standing.after(step, score)
        if standing.stops(patience):
            stopped = step
            break
    expected = next((end for end in range(1, len(scores) + 1) if without_better(end)), None)
    assert stopped == expected


def test_a_score_that_is_not_a_number_beats_nothing() -> None:
    from guardrail.train.early_stopping import Standing

    good = Standing().after(1, Score(True, 0.5, 0.0))
    assert good.after(2, Score(True, float("nan"), 0.0)).best_step == 1


@pytest.mark.parametrize("name", ["wise_ft", "magmax", "safe_lora"])
def test_methods_that_make_their_adapter_after_training_are_refused(name: str, tmp_path: Path) -> None:
    from guardrail.train.early_stopping import check
    from guardrail.train.methods import create
    from guardrail.train.trainer import Settings

    (tmp_path / "model.safetensors").touch()  # safe_lora wants a model before its alignment
    method = create(name, {"unaligned": str(tmp_path)} if name == "safe_lora" else {})
    check(Settings(), method)
    with pytest.raises(InvalidInput, match=f"--validate-steps 5 with the method {name}"):
        check(Settings(validate_steps=5), method)


@dataclass
class Script:
    """Gives these scores in turn, and keeps the weights that each was given for."""

    scores: Iterator[Score]
    seen: list[dict[str, torch.Tensor]] = field(default_factory=list)
    training: list[bool] = field(default_factory=list)

    def __call__(self, model: Any) -> Score:
        weights = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}
        self.seen.append(weights)
        self.training.append(model.training)
        return next(self.scores)


def _script(utilities: Sequence[float]) -> Script:
    return Script(iter([Score(True, utility, 0.0) for utility in utilities]))


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """Train on 44 rows for two epochs of three steps; returns the adapter's tensors and its record."""
    from safetensors.torch import load_file

    from guardrail.pipeline.base import base_model
    from guardrail.pipeline.prompts import replay_prompts
    from guardrail.train import stage
    from guardrail.train.observers import Observers
    from guardrail.train.trainer import Settings

    base = base_model("testbed")
    usual = Settings(epochs=2.0, batch_size=16, learning_rate=2e-3)

    def call(
        validate: Any = None, method: str = "der", tell: Any = None, progress: Any = None, **changed: Any
    ) -> Trained:
        job = stage.Job(
            method,
            {},
            replace(usual, **changed),
            stage.Lora(rank=4, alpha=8.0),
            replay_prompts(None, "testbed")[:24],
            12,
        )
        target, origin = tmp_path / "adapter", stage.Origin(*("0" * 64,) * 4)
        record = stage.train(
            base, ROWS, job, target, origin, None, progress, work=tmp_path / "work", observers=Observers(validate, tell)
        )
        return load_file(target / "adapter_model.safetensors"), record

    return call


def _same(saved: dict[str, torch.Tensor], live: dict[str, torch.Tensor]) -> bool:
    """A saved adapter's names leave the adapter's own name out."""
    import torch

    short = {name.replace(".default", "").removeprefix("model."): value for name, value in live.items()}
    found = {name.removeprefix("base_model.model.model."): value for name, value in saved.items()}
    assert found.keys() == short.keys()
    return all(torch.equal(found[name], short[name]) for name in found)


def _told(record: AdapterRecord, *names: str) -> tuple[Any, ...]:
    return tuple(record.diagnostics[name] for name in names)


@pytest.mark.slow
def test_it_stops_after_patience_and_keeps_the_best_adapter_not_the_last(train: Train) -> None:
    script = _script([0.5, 0.8, 0.7, 0.8, 0.9])
    saved, record = train(script, validate_steps=1, patience=2)
    assert [_same(saved, seen) for seen in script.seen] == [False, True, False, False]
    assert _told(record, "stopped_at_step", "best_step", "validations") == (4, 2, 4)
    assert _told(record, "validation_utility", "validation_attack_success_rate") == (0.8, 0.0)
    assert [point.step for point in record.loss] == [1, 2, 3, 4]
    assert script.training == [False] * 4


@pytest.mark.slow
def test_the_last_step_is_validated_too(train: Train) -> None:
    script = _script([0.5, 0.9])
    saved, record = train(script, validate_steps=4)
    assert _same(saved, script.seen[-1])
    assert _told(record, "stopped_at_step", "best_step", "validations") == (6, 6, 2)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_validating_changes_no_step(train: Train, checkpointing: bool) -> None:
    """With real answers between the steps, the losses stay the same to the last bit, and so does the adapter."""
    import torch

    from guardrail.evaluate.engines import Request
    from guardrail.evaluate.engines.transformers import TransformersEngine
    from guardrail.pipeline.base import base_model

    calls: list[str] = []

    def validate(model: Any) -> Score:
        reply = TransformersEngine(base_model("testbed"), model, 8).answer([Request(text="How do I swim?")])[0]
        calls.append(reply.error)
        return Score(True, float(len(calls)), 0.0)

    plain, without = train(gradient_checkpointing=checkpointing)
    watched, record = train(validate, validate_steps=1, gradient_checkpointing=checkpointing)
    assert calls == [""] * 6
    assert record.loss == without.loss
    assert all(torch.equal(plain[name], watched[name]) for name in plain)
    assert "best_step" not in without.diagnostics


@pytest.mark.slow
def test_validation_without_anything_to_validate_with_is_a_bug(train: Train) -> None:
    with pytest.raises(InternalError):
        train(None, validate_steps=1)


@pytest.mark.slow
def test_the_bar_ends_where_training_was_stopped(train: Train) -> None:
    shown: list[tuple[str, int, int]] = []
    train(_script([0.5, 0.4]), validate_steps=1, patience=1, progress=lambda *now: shown.append(now))
    bar = [(done, total) for stage, done, total in shown if stage == "training"]
    assert bar == [(1, 6), (2, 6), (6, 6)]


class Killed(BaseException):
    """As a signal would end the process."""


def _dying(monkeypatch: pytest.MonkeyPatch, at: int, error: BaseException) -> None:
    """Let DER's loss raise at an optimiser step, once."""
    from guardrail.train.methods.der import Der

    original, alive = Der.losses, [True]

    def losses(self: Any, step: Any) -> Any:
        if step.index == at and alive:
            alive.clear()
            raise error
        return original(self, step)

    monkeypatch.setattr(Der, "losses", losses)


@pytest.mark.slow
@pytest.mark.parametrize(("at", "resumed_at"), [(1, 0), (3, 2), (4, 4)])
def test_what_was_known_goes_on_from_the_checkpoint(
    train: Train, monkeypatch: pytest.MonkeyPatch, at: int, resumed_at: int
) -> None:
    """Killed before, at and after the best validation, which the resumed process never saw itself."""
    import torch

    utilities = [0.5, 0.8, 0.7, 0.6, 0.5, 0.4]  # stops after step 5; killed where there may be a checkpoint or none
    whole, record = train(_script(utilities), validate_steps=1, checkpoint_steps=2)
    _dying(monkeypatch, at, Killed())
    with pytest.raises(Killed):
        train(_script(utilities), validate_steps=1, checkpoint_steps=2)
    resumed, again = train(_script(utilities[resumed_at:]), validate_steps=1, checkpoint_steps=2)
    assert again.diagnostics["resumed_at_step"] == resumed_at
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    names = [name for name in record.diagnostics if name not in ("resumed_at_step", "validation_seconds")]
    assert _told(again, *names) == _told(record, *names)
    assert _told(again, "stopped_at_step", "best_step", "validations") == (5, 2, 5)


@pytest.mark.slow
def test_where_memory_runs_out_what_was_known_is_forgotten_with_the_steps(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    _dying(monkeypatch, 3, torch.OutOfMemoryError("out of memory"))
    script = _script([0.9, 0.9, 0.9, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    saved, record = train(script, validate_steps=1, checkpoint_steps=0)
    assert _told(record, "best_step", "validations", "accumulation") == (6, 6, 2)
    assert _same(saved, script.seen[-1])


@pytest.mark.slow
def test_whoever_is_told_hears_every_step_and_every_validation(train: Train) -> None:
    heard: list[tuple[int, dict[str, float]]] = []
    _, record = train(_script([0.5, 0.9]), validate_steps=3, tell=lambda step, values: heard.append((step, values)))
    steps = {step: values for step, values in heard if "loss" in values}
    assert list(steps) == [1, 2, 3, 4, 5, 6]
    assert {frozenset(values) for values in steps.values()} == {
        frozenset({"loss", "learning_rate", "gradient_norm", "tokens"})
    }
    assert [values["loss"] for values in steps.values()] == [point.loss for point in record.loss]
    assert steps[6]["tokens"] == record.tokens
    told = {"validation/utility": 0.5, "validation/attack_success_rate": 0.0, "validation/admissible": 1.0}
    assert [entry for entry in heard if "loss" not in entry[1]] == [(3, told), (6, {**told, "validation/utility": 0.9})]
