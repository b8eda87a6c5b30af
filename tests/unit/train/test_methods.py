"""Methods: the loss is what the module says, hyperparameters are checked, and WiSE-FT chooses as it promises."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from guardrail.errors import InternalError, InvalidInput

if TYPE_CHECKING:
    import torch

    from guardrail.train.methods import Method, Step

pytestmark = pytest.mark.slow

HIDDEN, VOCABULARY = 8, 31


def _problem(*, at_teacher: bool = False, part: float = 1.0) -> Step:
    """A step in float64 with two draws of replay rows; a sixth of its answer tokens is in other micro-batches."""
    import torch

    from guardrail.train.distillation import gram_matrix
    from guardrail.train.methods import Answers, Step

    generator = torch.Generator().manual_seed(5)

    def answers(count: int) -> Answers:
        states = torch.randn(count, HIDDEN, generator=generator, dtype=torch.float64).requires_grad_()
        teacher = torch.randn(count, HIDDEN, generator=generator, dtype=torch.float64)
        tokens = torch.randint(VOCABULARY, (count,), generator=generator)
        known = states.detach().clone() if at_teacher else teacher
        return Answers(states, tokens, count + 2, known, torch.arange(count))

    weight = torch.randn(VOCABULARY, HIDDEN, generator=generator, dtype=torch.float64)
    return Step(
        0, part, answers(7), (answers(5), answers(6)), lambda s: s @ weight.T, lambda: (gram_matrix(weight), VOCABULARY)
    )


def _logits(states: Any, step: Step) -> Any:
    return step.project(states).detach().numpy()


def _nll(answers: Any, step: Step) -> float:
    """Straight from the definition, a loop over tokens, over the tokens of the whole step."""
    total = 0.0
    for row, token in zip(_logits(answers.states, step), answers.tokens.tolist(), strict=True):
        total += math.log(sum(math.exp(value) for value in row)) - float(row[token])
    return total / float(answers.total)


def _kl(answers: Any, step: Step) -> float:
    total = 0.0
    for student, teacher in zip(_logits(answers.states, step), _logits(answers.teacher, step), strict=True):
        q, p = ([math.exp(v) / sum(math.exp(w) for w in row) for v in row] for row in (student, teacher))
        total += sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))
    return total / float(answers.total)


def _mse(answers: Any, step: Step) -> float:
    difference = _logits(answers.states, step) - _logits(answers.teacher, step)
    return float(sum(sum(v * v for v in row) / VOCABULARY for row in difference)) / float(answers.total)


def _log_p(states: Any, token: int, step: Step) -> float:
    (row,) = _logits(states.reshape(1, -1), step)
    return float(row[token]) - math.log(sum(math.exp(value) for value in row))


def _constrained(answers: Any, step: Step) -> float:
    total, betas = 0.0, [0.5, 2.0, 2.0, 2.0, 2.0, 0.1, 0.1]
    for beta, state, teacher, token in zip(
        betas, answers.states, answers.teacher, answers.tokens.tolist(), strict=True
    ):
        ahead = _log_p(teacher, token, step) - _log_p(state, token, step)
        total += 2 / beta * math.log(1 + math.exp(beta * ahead))
    return total / float(answers.total)


def _moved(answers: Any) -> float:
    difference = (answers.states - answers.teacher).detach().numpy()
    return float(sum(sum(v * v for v in row) for row in difference)) / float(answers.total)


REFERENCES: dict[str, tuple[dict[str, float | str], Callable[[Step], float]]] = {
    "finetune": ({}, lambda s: _nll(s.user, s)),
    "replay": ({"beta": 2.5}, lambda s: _nll(s.user, s) + 2.5 * _nll(s.replay[0], s)),
    "der": ({"alpha": 3.0}, lambda s: _nll(s.user, s) + 3.0 * _kl(s.replay[0], s)),
    "der-mse": ({"alpha": 0.5, "distance": "mse"}, lambda s: _nll(s.user, s) + 0.5 * _mse(s.replay[0], s)),
    "derpp": (
        {"alpha": 3.0, "beta": 0.7},
        lambda s: _nll(s.user, s) + 3.0 * _kl(s.replay[0], s) + 0.7 * _nll(s.replay[1], s),
    ),
    "lwf": ({"lambda": 0.3}, lambda s: _nll(s.user, s) + 0.3 * _moved(s.user)),
    "constrained": ({}, lambda s: _constrained(s.user, s)),
    "safe_instruct": ({}, lambda s: _nll(s.user, s)),
}


def _seen(name: str, step: Step) -> Step:
    """The step as the trainer would make it: with as many draws as the method asks for."""
    return replace(step, replay=step.replay[: _create(name).draws])


def _create(name: str, **hyperparameters: float | str) -> Method:
    from guardrail.train.methods import create

    return create(name.partition("-")[0], hyperparameters)


@pytest.mark.parametrize("case", REFERENCES)
def test_the_loss_is_what_its_definition_says(case: str) -> None:
    given_, reference = REFERENCES[case]
    step = _seen(case, _problem())
    assert float(_create(case, **given_).loss(step)) == pytest.approx(reference(step), rel=1e-9)


@pytest.mark.parametrize("case", REFERENCES)
def test_the_gradient_is_that_of_the_loss(case: str) -> None:
    """Against central differences in float64."""
    import torch

    given_, _ = REFERENCES[case]
    step, method = _seen(case, _problem()), _create(case, **given_)
    answers = [step.user, *step.replay]
    states = [one.states for one in answers if one is not None]
    gradients = torch.autograd.grad(method.loss(step), states)
    for tensor, gradient in zip(states, gradients, strict=True):
        direction = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        with torch.no_grad():
            values = []
            for sign in (1e-5, -1e-5):
                tensor += sign * direction
                values.append(float(method.loss(step)))
                tensor -= sign * direction
        assert (values[0] - values[1]) / 2e-5 == pytest.approx(float((gradient * direction).sum()), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("case", REFERENCES)
def test_two_passes_over_a_step_are_the_one_pass(case: str) -> None:
    given_, _ = REFERENCES[case]
    step, method = _seen(case, _problem()), _create(case, **given_)
    passes = [replace(step, replay=()), replace(step, user=None, part=0.0)] if step.replay else [step]
    assert sum(float(method.loss(one)) for one in passes) == pytest.approx(float(method.loss(step)), rel=1e-12)


@pytest.mark.parametrize("distance", ["kl", "mse"])
@pytest.mark.parametrize("name", ["der", "derpp"])
def test_the_distance_is_zero_at_the_teacher_and_so_is_its_gradient(name: str, distance: str) -> None:
    import torch

    step = replace(_problem(at_teacher=True), user=None)
    method = _create(name, alpha=100.0, distance=distance)
    value = method.distance(step, step.replay[0])  # type: ignore[attr-defined]
    (gradient,) = torch.autograd.grad(value, step.replay[0].states)
    assert (float(value), float(gradient.abs().max()) < 1e-15) == (0.0, True)


def test_lwf_is_plain_fine_tuning_at_the_teacher() -> None:
    step = _seen("lwf", _problem(at_teacher=True))
    assert float(_create("lwf").loss(step)) == float(_create("finetune").loss(step))


@pytest.mark.parametrize("case", REFERENCES)
def test_in_bfloat16_the_loss_is_within_two_percent(case: str) -> None:
    import torch

    from guardrail.train.methods import Answers

    given_, reference = REFERENCES[case]
    step = _seen(case, _problem())

    def low(one: Answers) -> Answers:
        assert one.teacher is not None
        return replace(one, states=one.states.detach().to(torch.bfloat16), teacher=one.teacher.to(torch.bfloat16))

    assert step.user is not None
    weight = step.project(torch.eye(HIDDEN, dtype=torch.float64)).to(torch.bfloat16)
    rounded = replace(step, user=low(step.user), replay=tuple(map(low, step.replay)), project=lambda s: s @ weight)
    assert float(_create(case, **given_).loss(rounded)) == pytest.approx(reference(step), rel=0.02)


def test_a_method_without_the_teachers_states_is_a_bug() -> None:
    step = _problem()
    bare = replace(step, replay=(replace(step.replay[0], teacher=None),))
    with pytest.raises(InternalError):
        _create("der").loss(bare)


def test_safe_instruct_adds_its_share_of_replay_rows_after_the_users() -> None:
    from guardrail.model.chat import Encoded

    user, replay = ([Encoded((kind,), (number,)) for number in range(count)] for kind, count in ((1, 30), (2, 4)))
    mixed = _create("safe_instruct", share=0.2).rows(user, replay, 0)
    assert (mixed[:30], len(mixed)) == (user, 36)
    assert {row.answer for row in mixed[30:]} == {(0,), (1,), (2,), (3,)}
    assert mixed == _create("safe_instruct", share=0.2).rows(user, replay, 0)


def _lisa(**hyperparameters: float) -> tuple[Method, torch.nn.Linear]:
    import torch

    from guardrail.train.methods import Setup

    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 2, bias=False, dtype=torch.float64)
    method = _create("lisa", **hyperparameters)
    method.begin(Setup(None, layer, (), (), 0))  # type: ignore[arg-type]
    return method, layer


def test_lisa_alternates_between_stretches_of_safety_and_user_steps() -> None:
    method, _ = _lisa(safety_steps=2.0, user_steps=3.0)
    assert [method.sees(index).replay for index in range(7)] == [True, True, False, False, False, True, True]
    assert all(method.sees(index).user != method.sees(index).replay for index in range(7))


def test_lisa_pulls_towards_where_its_stretch_started() -> None:
    import torch

    method, layer = _lisa(safety_steps=1.0, user_steps=2.0, rho=3.0)
    step, first = _problem(), layer.weight.detach().clone()
    assert float(method.penalty(step) or 0.0) == 0.0
    with torch.no_grad():
        layer.weight += 0.5
    assert float(method.penalty(step) or 0.0) == pytest.approx(1.5 * 6 * 0.25, rel=1e-12)
    method.after_update(list(layer.parameters()))  # the safety stretch ends here
    assert float(method.penalty(step) or 0.0) == 0.0
    other, _ = _lisa(safety_steps=1.0, user_steps=2.0, rho=3.0)
    other.load_state(method.state())
    assert bool((other.state()["start.0"] == first + 0.5).all())


@pytest.mark.parametrize("steps", [0.0, 1.5, -1.0])
def test_lisa_refuses_stretches_that_are_no_whole_number(steps: float) -> None:
    with pytest.raises(InvalidInput, match="safety_steps"):
        _create("lisa", safety_steps=steps)


@pytest.mark.parametrize(
    ("name", "given_", "message"),
    [
        ("der", {"alhpa": 1.0}, "alhpa"),
        ("der", {"alpha": "much"}, "alpha"),
        ("der", {"distance": 1.0}, "distance"),
        ("der", {"distance": "cosine"}, "cosine"),
        ("finetune", {"alpha": 1.0}, "alpha"),
        ("nothing", {}, "nothing"),
    ],
)
def test_a_wrong_hyperparameter_is_named(name: str, given_: dict[str, float | str], message: str) -> None:
    from guardrail.train.methods import create

    with pytest.raises(InvalidInput, match=message):
        create(name, given_)
