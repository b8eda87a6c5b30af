"""Every method's loss and update, over several optimiser steps of the real trainer, against a reference in float64.

The reference shares no mathematics with what it tests: rows go through the model one by one and unpadded, whole logits
are projected, every loss is a loop over tokens from its definition, gradients come from autograd on that, and clipping,
Adam, the cosine schedule, A-GEM's projection, Refresh's move, Lisa's stretches and EWC's Fisher information are written
out. Only which replay rows a step draws is taken from the code.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

if TYPE_CHECKING:
    import torch

    from guardrail.model.chat import Encoded
    from guardrail.train.methods import Method
    from guardrail.train.replay import ReplayRows

pytestmark = pytest.mark.slow
VOCABULARY, STEPS, BATCH, RATE, CLIP, SEED = 23, 4, 4, 0.02, 0.5, 7
Tensors = list["torch.Tensor"]
METHODS: dict[str, dict[str, float | str]] = {
    "finetune": {},
    "replay": {"beta": 2.0},
    "der": {"alpha": 3.0},
    "der-mse": {"alpha": 30.0, "distance": "mse"},
    "derpp": {"alpha": 3.0, "beta": 0.7},
    "agem": {},
    "refresh": {"alpha": 3.0, "beta": 0.7, "gamma": 0.4, "damping": 0.5, "decay": 0.8},
    "ewc": {"lambda": 5.0},
    "lwf": {"lambda": 0.2},
    "constrained": {"first": 0.5, "early": 2.0, "rest": 0.1},
    "lisa": {"rho": 3.0, "safety_steps": 1.0, "user_steps": 3.0},
}


def _llama() -> Any:
    import torch
    import transformers

    torch.manual_seed(3)
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=32,
            initializer_range=0.3,
            bos_token_id=None,
            eos_token_id=0,
            pad_token_id=None,
        )
    ).eval()


def _rows() -> tuple[list[Encoded], list[Encoded]]:
    """User rows, and replay rows that answer the same prompts otherwise: their gradients are in conflict."""
    from guardrail.model.chat import Encoded

    prompts = ((1, 5, 2), (4,), (2, 8, 6, 3, 3, 1), (6, 1))
    answers = ((7, 3), (9, 9, 1, 2, 0, 5, 5), (5,), (2, 2, 11, 4, 20, 13, 0))
    others = ((8, 8, 4), (1, 7), (19, 2, 2, 6, 0), (3,))
    return (
        [Encoded(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)],
        [Encoded(prompt, answer) for prompt, answer in zip(prompts, others, strict=True)],
    )


@dataclass
class Reference:
    """A method over optimiser steps, from the definitions; ``losses`` is what each pass over a step's rows gave."""

    name: str
    given: dict[str, float | str]
    base: Any
    """The base without an adapter, float64."""
    model: Any
    """The same with one, which is trained here."""
    user: Sequence[Encoded]
    replay: ReplayRows
    losses: list[float] = field(default_factory=list)
    violated: int = 0

    def __post_init__(self) -> None:
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.fisher = self._fisher() if self.name == "ewc" else {}
        self.start: Tensors = []

    def run(self, steps: int) -> None:
        """Steps of Adam, with clipping and a cosine schedule."""
        import torch

        means, squares = ([torch.zeros_like(p) for p in self.parameters] for _ in range(2))
        state: dict[str, Any] = {"length": 0.0, "average": None}
        for step in range(steps):
            gradient = self._gradient(step, state)
            length = math.sqrt(sum(float((g * g).sum()) for g in gradient))
            gradient = [g * min(1.0, CLIP / (length + 1e-6)) for g in gradient]
            rate, moved = RATE * 0.5 * (1 + math.cos(math.pi * step / steps)), 0.0
            with torch.no_grad():
                for p, g, mean, square in zip(self.parameters, gradient, means, squares, strict=True):
                    mean.copy_(0.9 * mean + 0.1 * g)
                    square.copy_(0.999 * square + 0.001 * g * g)
                    unbiased = mean / (1 - 0.9 ** (step + 1)), square / (1 - 0.999 ** (step + 1))
                    change = rate * unbiased[0] / (unbiased[1].sqrt() + 1e-8)
                    p -= change
                    moved += float((change * change).sum())
            state["length"] = math.sqrt(moved)
            if step % 4 in (0, 3):  # Lisa's stretches: one step on safety rows, three on the user's
                self.start = self._copies()

    def _gradient(self, step: int, state: dict[str, Any]) -> Tensors:
        """The gradient that the optimiser is given."""
        gradient = self._differentiate(self.loss(step))
        if self.name == "agem":
            against = self._differentiate(self._nll(self._draw(step, 0)), note=False)
            product, norm = (
                sum(float((a * b).sum()) for a, b in zip(one, against, strict=True)) for one in (gradient, against)
            )
            self.violated += product < 0
            return [g - product / norm * r if product < 0 else g for g, r in zip(gradient, against, strict=True)]
        if self.name == "refresh":
            self._unlearn(gradient, state)
            return self._differentiate(self.loss(step))
        return gradient

    def _unlearn(self, gradient: Tensors, state: dict[str, Any]) -> None:
        import torch

        decay, new = float(self.given["decay"]), [g * g for g in gradient]
        old = state["average"] or new
        average = state["average"] = [decay * o + (1 - decay) * n for o, n in zip(old, new, strict=True)]
        mean = sum(float(f.sum()) for f in average) / sum(f.numel() for f in average)
        change = [g / (f / mean + float(self.given["damping"])) for g, f in zip(gradient, average, strict=True)]
        length = math.sqrt(sum(float((c * c).sum()) for c in change))
        with torch.no_grad():
            for parameter, c in zip(self.parameters, change, strict=True):
                parameter += float(self.given["gamma"]) * state["length"] / length * c

    def loss(self, step: int) -> torch.Tensor:
        """What the module's docstring says."""
        a, kind = {key: float(value) for key, value in self.given.items() if key != "distance"}, self.name
        if kind == "lisa":
            rows = self._draw(step, 0) if step % 4 == 0 else self.user
            pull = sum(((p - s) ** 2).sum() for p, s in zip(self.parameters, self.start, strict=True))
            return self._nll(rows) + a["rho"] / 2 * cast("torch.Tensor", pull)
        if kind == "constrained":
            return self._constrained(a)
        loss = self._nll(self.user)
        if kind == "replay":
            return loss + a["beta"] * self._nll(self._draw(step, 0))
        if kind in ("der", "derpp", "refresh"):
            loss = loss + a["alpha"] * self._kl(self._draw(step, 0))
        if kind in ("derpp", "refresh"):
            loss = loss + a["beta"] * self._nll(self._draw(step, 1))
        if kind == "der-mse":
            return loss + a["alpha"] * self._squared(self._draw(step, 0))
        if kind == "lwf":
            return loss + a["lambda"] * self._moved()
        return loss + a["lambda"] / 2 * self._pull() if kind == "ewc" else loss

    def _nll(self, rows: Sequence[Encoded]) -> torch.Tensor:
        terms = [-_log_p(self.model, row)[t][y] for row in rows for t, y in enumerate(row.answer)]
        return cast("torch.Tensor", sum(terms)) / len(terms)

    def _kl(self, rows: Sequence[Encoded]) -> torch.Tensor:
        pairs = [(p, q) for row in rows for p, q in zip(_log_p(self.base, row), _log_p(self.model, row), strict=True)]
        return cast("torch.Tensor", sum((p.exp() * (p - q)).sum() for p, q in pairs)) / len(pairs)

    def _squared(self, rows: Sequence[Encoded]) -> torch.Tensor:
        pairs = [(p, q) for row in rows for p, q in zip(_logits(self.base, row), _logits(self.model, row), strict=True)]
        return cast("torch.Tensor", sum(((p - q) ** 2).sum() / VOCABULARY for p, q in pairs)) / len(pairs)

    def _moved(self) -> torch.Tensor:
        pairs = [
            (h, g) for row in self.user for h, g in zip(_states(self.base, row), _states(self.model, row), strict=True)
        ]
        return cast("torch.Tensor", sum(((h - g) ** 2).sum() for h, g in pairs)) / len(pairs)

    def _constrained(self, betas: dict[str, float]) -> torch.Tensor:
        terms = []
        for row in self.user:
            base, own = _log_p(self.base, row), _log_p(self.model, row)
            for t, y in enumerate(row.answer):
                beta = betas["first" if t == 0 else "early" if t < 5 else "rest"]
                terms.append(2 / beta * (1 + (beta * (base[t][y] - own[t][y])).exp()).log())
        return cast("torch.Tensor", sum(terms)) / len(terms)

    def _pull(self) -> torch.Tensor:
        terms = []
        for name, module in _lora(self.model).items():
            update = module.lora_B["default"].weight @ module.lora_A["default"].weight * module.scaling["default"]
            terms.append((self.fisher[name] * update**2).sum())
        return cast("torch.Tensor", sum(terms))

    def _fisher(self) -> dict[str, torch.Tensor]:
        """Mean over rows of squared gradients of the base's weights, labels drawn from the base; over its mean."""
        import torch

        names, rows = list(_lora(self.model)), self.replay.rows
        weights = [self.base.get_submodule(name).weight.requires_grad_() for name in names]
        draws = torch.rand(
            sum(len(row.answer) for row in rows), generator=torch.Generator().manual_seed(SEED), dtype=torch.float64
        ).tolist()
        total = [torch.zeros_like(weight) for weight in weights]
        for row in rows:
            log_p = _log_p(self.base, row, grad=True)
            labels = [int((one.exp().cumsum(0) <= draws.pop(0)).sum()) for one in log_p]
            loss = -sum(one[label] for one, label in zip(log_p, labels, strict=True))
            for one, gradient in zip(total, torch.autograd.grad(cast("Any", loss), weights), strict=True):
                one += gradient**2 / len(rows)
        mean = sum(float(one.sum()) for one in total) / sum(one.numel() for one in total)
        return {name: one / mean for name, one in zip(names, total, strict=True)}

    def _draw(self, step: int, number: int) -> list[Encoded]:
        return [self.replay.rows[row] for row in self.replay.draw(step * BATCH, BATCH, seed=SEED, number=number)]

    def _differentiate(self, loss: torch.Tensor, *, note: bool = True) -> Tensors:
        import torch

        if note:
            self.losses.append(float(loss.detach()))
        return list(torch.autograd.grad(loss, self.parameters))

    def _copies(self) -> Tensors:
        return [parameter.detach().clone() for parameter in self.parameters]


def _lora(model: Any) -> dict[str, Any]:
    return {
        name.removeprefix("base_model.model."): module
        for name, module in model.named_modules()
        if hasattr(module, "lora_A")
    }


def _states(model: Any, row: Encoded, *, grad: bool = False) -> torch.Tensor:
    """The final states [answer tokens, hidden] that predict the row's answer, of the row alone."""
    import torch

    with torch.set_grad_enabled(grad or _lora(model) != {}):
        ids = torch.tensor([[*row.prompt, *row.answer]])
        body = model.get_base_model().model if hasattr(model, "get_base_model") else model.model
        states: torch.Tensor = body(input_ids=ids, use_cache=False).last_hidden_state[0]
        return states[len(row.prompt) - 1 : -1]


def _logits(model: Any, row: Encoded, *, grad: bool = False) -> torch.Tensor:
    logits: torch.Tensor = _states(model, row, grad=grad) @ model.get_output_embeddings().weight.T
    return logits


def _log_p(model: Any, row: Encoded, *, grad: bool = False) -> torch.Tensor:
    logits = _logits(model, row, grad=grad)
    return logits - logits.exp().sum(-1, keepdim=True).log()


@dataclass(frozen=True)
class Run:
    """What the real trainer made: the losses of its passes, and each trainable parameter's change."""

    losses: list[float]
    change: Tensors
    method: Method
    reference: Reference


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Run]:
    """Train a method for some steps from an adapter that has an effect; the reference stands at the same start."""

    def call(case: str, *, dtype: str = "float64", steps: int = STEPS, **cut: Any) -> Run:
        import torch

        from guardrail.model.adapter import add_lora
        from guardrail.model.load import BaseModel
        from guardrail.train.fit import fit
        from guardrail.train.methods import Setup, create
        from guardrail.train.replay import ReplayRows
        from guardrail.train.trainer import Buffers, Settings

        bare = _llama().to(getattr(torch, dtype))
        twin = copy.deepcopy(bare).double()
        base = BaseModel(copy.deepcopy(bare), cast("Any", None), cast("Any", None), Path(), torch.device("cpu"))
        user, kept = _rows()
        replay = ReplayRows(tuple(kept), "")
        model = add_lora(base, rank=2, alpha=6.0, dropout=0.0, targets=())
        if dtype == "float64":
            model.double()
        method = create(case.partition("-")[0], METHODS[case])
        method.begin(Setup(base, model, user, kept, SEED))
        second = copy.deepcopy(model).double()
        reference = Reference(case, METHODS[case], twin, second, user, replay)
        reference.start = reference._copies()
        _perturb(model)
        second.load_state_dict({name: value.double() for name, value in model.state_dict().items()})
        before = [p.detach().clone() for p in model.parameters() if p.requires_grad]
        settings = Settings(
            epochs=float(steps),
            batch_size=BATCH,
            learning_rate=RATE,
            warmup_share=0.0,
            max_grad_norm=CLIP,
            seed=SEED,
            checkpoint_steps=0,
            **cut,
        )
        losses = _watch(method)
        buffers = Buffers(user, replay, _teacher(bare, user), _teacher(bare, kept))
        fit(base, buffers, method=method, settings=settings, checkpoints=tmp_path / "checkpoints")
        change = [p.detach() - old for p, old in zip(_trainable(model), before, strict=True)]
        return Run(losses, change, method, reference)

    return call


def _trainable(model: Any) -> list[Any]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _perturb(model: Any) -> None:
    """Give the adapter an effect: at B = 0 penalties are zero and A has no gradient."""
    import torch

    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in _trainable(model):
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))


def _teacher(model: Any, rows: Sequence[Encoded]) -> Any:
    import torch

    from guardrail.train.teacher import TeacherStates

    states = [_states(model, row) for row in rows]
    starts = [0, *torch.tensor([len(one) for one in states]).cumsum(0).tolist()]
    return TeacherStates(torch.cat(states), tuple(starts))


def _watch(method: Method) -> list[float]:
    """The losses that the trainer will ask the method for."""
    losses, original = list[float](), method.loss

    def loss(step: Any) -> torch.Tensor:
        value = original(step)
        losses.append(float(value.detach()))
        return value

    method.loss = loss  # type: ignore[method-assign]
    return losses


def _apart(one: Tensors, other: Tensors) -> float:
    """The norm of the difference over the norm."""
    squares = [(float((a - b).square().sum()), float(b.square().sum())) for a, b in zip(one, other, strict=True)]
    return math.sqrt(sum(a for a, _ in squares) / sum(b for _, b in squares))


def _reference_change(run: Run, steps: int = STEPS) -> Tensors:
    before = run.reference._copies()
    run.reference.run(steps)
    return [parameter.detach() - old for parameter, old in zip(run.reference.parameters, before, strict=True)]


@pytest.mark.parametrize("case", METHODS)
def test_losses_and_updates_are_those_of_the_definition(run: Callable[..., Run], case: str) -> None:
    got = run(case)
    expected = _reference_change(got)
    assert got.losses == pytest.approx(got.reference.losses, rel=1e-6)
    assert _apart(got.change, expected) < 1e-6


@pytest.mark.parametrize("case", ["derpp", "agem", "refresh", "ewc", "lisa"])
def test_the_updates_of_a_step_in_pieces_are_those_of_the_definition(run: Callable[..., Run], case: str) -> None:
    got = run(case, accumulation=2, passes="separate")
    assert _apart(got.change, _reference_change(got)) < 1e-6


@pytest.mark.parametrize(
    ("case", "other"),
    [("agem", "finetune"), ("refresh", "derpp"), ("ewc", "finetune"), ("lwf", "finetune"), ("lisa", "finetune")],
)
def test_the_update_is_not_that_of_the_method_without_what_it_adds(
    run: Callable[..., Run], case: str, other: str
) -> None:
    """Or the tests above would show nothing."""
    assert _apart(run(case).change, run(other).change) > 0.02


def test_a_gem_projects_here(run: Callable[..., Run]) -> None:
    got = run("agem")
    got.reference.run(STEPS)
    assert 0 < got.reference.violated == round(float(got.method.diagnostics()["violated_share"]) * STEPS)


# The relative error of a step's loss with the base in bfloat16 and the adapter in float32: about twice what was
# measured here. The reference has the same rounded weights. EWC's comes from its Fisher information.
BFLOAT16 = {
    "finetune": 0.003,
    "replay": 0.003,
    "der": 0.006,
    "der-mse": 0.006,
    "derpp": 0.006,
    "agem": 0.003,
    "refresh": 0.006,
    "ewc": 0.014,
    "lwf": 0.008,
    "constrained": 0.003,
    "lisa": 0.003,
}


@pytest.mark.parametrize("case", METHODS)
def test_in_bfloat16_the_loss_is_off_by_no_more_than_is_stated(run: Callable[..., Run], case: str) -> None:
    got = run(case, dtype="bfloat16", steps=1)
    expected = float(got.reference.loss(0).detach())
    assert got.losses[0] == pytest.approx(expected, rel=BFLOAT16[case])
