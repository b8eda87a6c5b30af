"""The trainer: however a step is cut, it is the same step; a run that was killed ends where it would have ended."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from repository import CAMPAIGN

from guardrail.errors import EvidenceInvalid, InternalError, InvalidInput
from guardrail.testbed import arms

if TYPE_CHECKING:
    import torch

    from guardrail.records import AdapterRecord
    from guardrail.train.methods import Step

pytestmark = pytest.mark.slow
ROWS = arms.rows("sentiment", poison=0.1, size=44)
Trained = tuple[dict[str, "torch.Tensor"], "AdapterRecord"]
Train = Callable[..., Trained]


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """Train on 44 rows for two epochs of three steps; returns the adapter's tensors and its record."""
    from safetensors.torch import load_file

    from guardrail.pipeline.base import base_model
    from guardrail.pipeline.prompts import replay_prompts
    from guardrail.train import stage
    from guardrail.train.trainer import Settings

    base = base_model("testbed")
    usual = Settings(epochs=2.0, batch_size=16, learning_rate=2e-3)

    def call(
        method: str = "der", inputs: str = "0" * 64, hyperparameters: Any = None, measure: Any = None, **settings: Any
    ) -> Trained:
        job = stage.Job(
            method,
            hyperparameters or {},
            replace(usual, **settings),
            stage.Lora(rank=4, alpha=8.0),
            replay_prompts(None, "testbed")[:24],
            12,
        )
        target = tmp_path / "adapter"
        record = stage.train(base, ROWS, job, target, stage.Origin(*(inputs,) * 4), measure, work=tmp_path / "work")
        return load_file(target / "adapter_model.safetensors"), record

    return call


def _apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The norm of the difference over the norm."""
    squares = [((one[name] - other[name]).square().sum(), one[name].square().sum()) for name in one]
    return math.sqrt(sum(float(a) for a, _ in squares) / sum(float(b) for _, b in squares))


CUT = ("derpp", "agem", "ewc", "lwf", "refresh", "constrained", "lisa")
"""Replay and distillation in one, a step of its own, a penalty; then others of these kinds."""


@pytest.mark.parametrize("method", CUT if CAMPAIGN else CUT[:3])
def test_micro_batches_and_separate_passes_give_the_adapter_of_the_whole_batch(train: Train, method: str) -> None:
    whole, _ = train(method)
    cut, record = train(method, accumulation=4)
    apart, _ = train(method, passes="separate")
    assert record.diagnostics["accumulation"] == 4
    assert _apart(whole, cut) < 1e-4
    assert _apart(whole, apart) < 1e-4


def test_a_micro_batch_may_draw_no_replay_row(train: Train) -> None:
    sparse = {"batch_size": 44, "replay_share": 0.05}  # two rows for four micro-batches
    whole, record = train("derpp", **sparse)
    cut, again = train("derpp", **sparse, accumulation=4, passes="separate")
    assert _apart(whole, cut) < 1e-4
    assert again.tokens == record.tokens


def test_a_gem_takes_the_conflict_with_the_replay_rows_out_of_the_whole_gradient(train: Train) -> None:
    from guardrail.train.gradient_projection import dot
    from guardrail.train.methods.agem import Agem

    products = []
    original = Agem.after_backward

    def watched(self: Any, backward: Any) -> None:
        original(self, backward)
        products.append(dot(backward.gradient(), backward.replay_gradient()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Agem, "after_backward", watched)
        _, record = train("agem", accumulation=2)
    assert len(products) == 6
    assert min(products) >= -1e-9
    assert 0 < float(record.diagnostics["violated_share"]) <= 1
    assert 0 <= float(record.diagnostics["raising_share"]) <= 1


def test_the_replay_gradient_is_that_of_the_replay_loss_and_leaves_the_steps_own_alone(train: Train) -> None:
    """With beta the step's gradient of replay minus that of finetune is beta times the replay gradient."""
    import torch

    from guardrail.train.methods.replay import Replay

    seen: list[tuple[Any, Any]] = []

    def look(self: Any, backward: Any) -> None:
        before = backward.gradient()
        found = backward.replay_gradient()
        assert all(torch.equal(a, b) for a, b in zip(before, backward.gradient(), strict=True))
        backward.again()
        again = backward.gradient()
        assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-7) for a, b in zip(before, again, strict=True))
        seen.append((before, found))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Replay, "after_backward", look)
        patch.setattr(Replay, "replay_loss", lambda _, step: 0.0 * step.replay[0].states.sum())
        train("replay", epochs=0.3)
        patch.setattr(Replay, "replay_loss", lambda _, step: step.replay[0].cross_entropy(step.project))
        train("replay", epochs=0.3)
    (plain, replayed), (both, _) = seen
    for own, extra, whole in zip(plain, replayed, both, strict=True):
        assert torch.allclose(own + extra, whole, rtol=1e-3, atol=1e-6)


def test_ewc_holds_the_updates_back_the_more_the_larger_lambda_is(train: Train) -> None:
    def size(tensors: dict[str, torch.Tensor]) -> float:
        return sum(float(tensor.square().sum()) for name, tensor in tensors.items() if "lora_B" in name)

    sizes = [size(train("ewc", hyperparameters={"lambda": weight})[0]) for weight in (0.01, 1e3, 1e5)]
    assert sizes[0] > sizes[1] > sizes[2] > 0


def test_a_merge_trains_an_adapter_on_each_part(train: Train) -> None:
    from guardrail.train.methods import Score

    _, record = train("linear", hyperparameters={"lambdas": "0.5"}, measure=lambda _: Score(True, 1.0, 0.0))
    assert (record.hyperparameters["lambda"], record.diagnostics["merged_rank"]) == (0.5, 8)
    assert record.replay_rows == 24


def test_another_seed_is_further_away_than_another_cut(train: Train) -> None:
    assert _apart(train()[0], train(seed=1)[0]) > 0.1


def test_gradient_checkpointing_gives_the_same_adapter(train: Train) -> None:
    assert _apart(train()[0], train(gradient_checkpointing=True)[0]) < 1e-4


def test_a_batch_that_cannot_be_cut_is_refused(train: Train) -> None:
    with pytest.raises(InvalidInput, match="cannot be split"):
        train(accumulation=3)


class Killed(BaseException):
    """As a signal would end the process."""


def _dying(monkeypatch: pytest.MonkeyPatch, method: str, at: int, error: BaseException) -> None:
    """Let the method's loss raise at an optimiser step, once."""
    from guardrail.train import methods

    kind = type(methods.create(method, {}))
    original, alive = kind.losses, [True]

    def losses(self: Any, step: Step) -> Any:
        if step.index == at and alive:
            alive.clear()
            raise error
        return original(self, step)

    monkeypatch.setattr(kind, "losses", losses)


RESUMABLE = ("lisa", "refresh", *(("der", "agem", "ewc") if CAMPAIGN else ()))  # test_resume.py kills those, too


@pytest.mark.parametrize("method", RESUMABLE)
@pytest.mark.parametrize("at", [3])
def test_a_killed_run_resumes_to_the_same_bits(
    train: Train, monkeypatch: pytest.MonkeyPatch, method: str, at: int
) -> None:
    import torch

    whole, record = train(method, checkpoint_steps=2)
    _dying(monkeypatch, method, at, Killed())
    with pytest.raises(Killed):
        train(method, checkpoint_steps=2)
    resumed, again = train(method, checkpoint_steps=2)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert (again.manifest, again.tokens, again.loss) == (record.manifest, record.tokens, record.loss)
    assert (record.diagnostics["resumed_at_step"], again.diagnostics["resumed_at_step"]) == (0, 2)
    assert {**again.diagnostics, "resumed_at_step": 0} == record.diagnostics


def test_a_checkpoint_that_was_changed_is_refused_and_one_that_was_cut_off_is_not_used(
    train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole, _ = train(checkpoint_steps=2)
    _dying(monkeypatch, "der", 5, Killed())
    with pytest.raises(Killed):
        train(checkpoint_steps=2)
    newest = tmp_path / "work" / "checkpoints-user" / "checkpoint-4"
    weights = newest / "adapter.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(EvidenceInvalid, match="checkpoint-4 is not what the training run saved"):
        train(checkpoint_steps=2)
    (newest / "seal").unlink()
    assert _apart(whole, train(checkpoint_steps=2)[0]) == 0.0


def test_nothing_is_saved_once_training_is_over(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """What resumed from the last step of half an epoch would take another one."""
    from guardrail.train import checkpoint

    sealed: list[str] = []
    monkeypatch.setattr(checkpoint, "seal", lambda path: sealed.append(path.name))
    train(checkpoint_steps=1, epochs=1.5)
    assert sealed == [f"checkpoint-{step}" for step in (1, 2, 3, 4)]


def test_checkpoints_of_another_job_are_not_used(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = train(checkpoint_steps=2)
    _dying(monkeypatch, "der", 5, Killed())
    with pytest.raises(Killed):
        train(checkpoint_steps=2)
    assert _apart(whole, train(checkpoint_steps=2, inputs="1" * 64)[0]) == 0.0


@pytest.mark.parametrize(("method", "at"), [("der", 3), ("lisa", 1), ("refresh", 1)])
def test_where_memory_runs_out_the_micro_batch_is_halved_and_the_adapter_is_the_same(
    train: Train, monkeypatch: pytest.MonkeyPatch, method: str, at: int
) -> None:
    import torch

    whole, _ = train(method, checkpoint_steps=2)
    _dying(monkeypatch, method, at, torch.OutOfMemoryError("out of memory"))
    smaller, record = train(method, checkpoint_steps=2)
    assert record.diagnostics["accumulation"] == 2
    assert _apart(whole, smaller) < 1e-4


def test_out_of_memory_with_a_single_row_says_what_to_try(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    _dying(monkeypatch, "der", 0, torch.OutOfMemoryError("out of memory"))
    with pytest.raises(InvalidInput) as caught:
        train(accumulation=16)
    assert "--gradient-checkpointing" in caught.value.next_step


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_names_step_and_rows_and_keeps_the_checkpoint(
    train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: float
) -> None:
    from guardrail.train.methods.der import Der

    original = Der.replay_loss
    monkeypatch.setattr(Der, "replay_loss", lambda self, step: original(self, step) * (value if step.index == 4 else 1))
    with pytest.raises(InternalError, match=r"at step 5, on training rows \d+(, \d+){15}"):
        train(checkpoint_steps=2)
    assert (tmp_path / "work" / "checkpoints-user" / "checkpoint-4" / "seal").exists()


def test_the_record_keeps_the_loss_curve_of_every_step(train: Train) -> None:
    _, record = train("finetune", batch_size=44, epochs=6.0)
    assert [point.step for point in record.loss] == [1, 2, 3, 4, 5, 6]
    losses = [point.loss for point in record.loss]
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_moves_nothing_and_the_run_goes_on_from_before_it(
    train: Train, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    from guardrail.train.methods.der import Der

    whole, _ = train(checkpoint_steps=1)

    def spoil(self: Any, backward: Any) -> None:
        del self
        if spoilt and spoilt.pop() == 0:
            first, *others = backward.gradient()
            backward.set_gradient((first * value, *others))

    spoilt = [0, 1, 2, 3]  # the fourth step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Der, "after_backward", spoil)
        with pytest.raises(InternalError, match=r"the gradient's norm is (nan|inf) at step 4, on training rows"):
            train(checkpoint_steps=1)
    resumed, record = train(checkpoint_steps=1)
    assert record.diagnostics["resumed_at_step"] == 3
    assert _apart(whole, resumed) == 0.0


def test_an_adapter_that_is_not_finite_is_never_saved(train: Train, tmp_path: Path) -> None:
    with pytest.raises(InternalError, match="of the adapter's"):
        train("finetune", learning_rate=1e38, epochs=0.3)
    assert not (tmp_path / "adapter").exists()


def test_checkpoints_of_another_method_are_not_used(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """``--method auto`` may choose another method when it is killed and tried again."""
    _dying(monkeypatch, "der", 5, Killed())
    with pytest.raises(Killed):
        train("der", checkpoint_steps=2)
    assert train("derpp", checkpoint_steps=2)[1].diagnostics["resumed_at_step"] == 0


def test_a_run_that_was_killed_while_it_saved_its_adapter_goes_on_from_its_last_checkpoint(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    from guardrail.train import stage

    whole, _ = train(checkpoint_steps=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "save_adapter", lambda *_: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            train(checkpoint_steps=1)
    resumed, record = train(checkpoint_steps=1)
    assert record.diagnostics["resumed_at_step"] == 5
    assert _apart(whole, resumed) == 0.0


def test_without_clipping_a_method_still_has_its_turn(train: Train) -> None:
    clipped, _ = train("agem", max_grad_norm=1e9)
    unclipped, _ = train("agem", max_grad_norm=0.0)
    assert _apart(clipped, unclipped) == 0.0


@pytest.mark.parametrize(("batch", "then"), [(15, 3), (12, 2)])
def test_where_memory_runs_out_any_batch_can_be_split(
    train: Train, monkeypatch: pytest.MonkeyPatch, batch: int, then: int
) -> None:
    import torch

    _dying(monkeypatch, "der", 1, torch.OutOfMemoryError("out of memory"))
    assert train(batch_size=batch)[1].diagnostics["accumulation"] == then
