"""Methods: the loss is what the module says, hyperparameters are checked, and WiSE-FT chooses as it promises."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrail.errors import InternalError, InvalidInput

if TYPE_CHECKING:
    from guardrail.train.methods import Score, Step

pytestmark = pytest.mark.slow

HIDDEN, VOCABULARY = 8, 31


def _step(*, replay: bool = True, at_teacher: bool = False) -> Step:
    import torch

    from guardrail.train.distillation import gram_matrix
    from guardrail.train.methods import Answers, Step

    generator = torch.Generator().manual_seed(5)

    def states(count: int) -> torch.Tensor:
        return torch.randn(count, HIDDEN, generator=generator)

    def tokens(count: int) -> torch.Tensor:
        return torch.randint(VOCABULARY, (count,), generator=generator)

    weight = torch.randn(VOCABULARY, HIDDEN, generator=generator)
    user, replayed = Answers(states(7), tokens(7)), Answers(states(5), tokens(5))
    teacher = replayed.states.clone() if at_teacher else states(5)
    return Step(user, replayed if replay else None, teacher if replay else None, lambda s: s @ weight.T,
                lambda: (gram_matrix(weight), VOCABULARY))  # fmt: skip


def _loss(name: str, step: Step, **hyperparameters: float | str) -> float:
    from guardrail.train.methods import create

    return float(create(name, hyperparameters).loss(step))


def _negative_log_likelihood(answers: Any, project: Any) -> float:
    logits = project(answers.states).double()
    return float((logits.logsumexp(-1) - logits[range(len(answers.tokens)), answers.tokens]).mean())


def test_finetune_is_the_mean_negative_log_likelihood_of_the_users_answers() -> None:
    step = _step(replay=False)
    assert _loss("finetune", step) == pytest.approx(_negative_log_likelihood(step.user, step.project), rel=1e-6)


@pytest.mark.parametrize("beta", [0.0, 1.0, 2.5])
def test_replay_adds_the_replayed_answers_with_their_weight(beta: float) -> None:
    step = _step()
    expected = _negative_log_likelihood(step.user, step.project) + beta * _negative_log_likelihood(
        step.replay, step.project
    )
    assert _loss("replay", step, beta=beta) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("distance", ["kl", "mse"])
def test_der_is_plain_fine_tuning_where_student_and_teacher_agree(distance: str) -> None:
    step = _step(at_teacher=True)
    assert _loss("der", step, alpha=100.0, distance=distance) == _loss("finetune", step)


def test_der_with_kl_adds_alpha_times_the_divergence() -> None:
    from guardrail.train.distillation import kl_divergence

    step = _step()
    assert step.replay is not None
    assert step.teacher is not None
    expected = _loss("finetune", step) + 3.0 * float(kl_divergence(step.replay.states, step.teacher, step.project))
    assert _loss("der", step, alpha=3.0) == pytest.approx(expected, rel=1e-6)


def test_der_with_mse_means_the_squared_distance_over_the_vocabulary() -> None:
    step = _step()
    assert step.replay is not None
    assert step.teacher is not None
    logits = step.project(step.replay.states).double() - step.project(step.teacher).double()
    expected = _loss("finetune", step) + 0.5 * float(logits.square().mean())
    assert _loss("der", step, alpha=0.5, distance="mse") == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["replay", "der"])
def test_a_method_that_replays_refuses_a_step_without_replay(name: str) -> None:
    with pytest.raises(InternalError):
        _loss(name, _step(replay=False))


@pytest.mark.parametrize(("name", "given_", "message"), [
    ("der", {"alhpa": 1.0}, "alhpa"),
    ("der", {"alpha": "much"}, "alpha"),
    ("der", {"distance": 1.0}, "distance"),
    ("der", {"distance": "cosine"}, "cosine"),
    ("finetune", {"alpha": 1.0}, "alpha"),
    ("nothing", {}, "nothing"),
])  # fmt: skip
def test_a_wrong_hyperparameter_is_named(name: str, given_: dict[str, float | str], message: str) -> None:
    from guardrail.train.methods import create

    with pytest.raises(InvalidInput, match=message):
        create(name, given_)


@pytest.mark.parametrize("lambdas", ["", "a,b", "0.5,1.5", "-0.1", "nan"])
def test_wise_ft_refuses_factors_that_are_no_shares(lambdas: str, tmp_path: Path) -> None:
    from guardrail.train.methods import create

    with pytest.raises(InvalidInput, match="lambdas"):
        create("wise_ft", {"lambdas": lambdas}).finish(tmp_path / "adapter", lambda _: _score(True, 1.0, 0.0))


def test_wise_ft_without_anything_to_measure_with_is_a_bug(tmp_path: Path) -> None:
    from guardrail.train.methods import create

    with pytest.raises(InternalError):
        create("wise_ft", {}).finish(tmp_path, None)


def test_wise_ft_takes_the_most_useful_admissible_factor_and_the_smaller_of_equals() -> None:
    from guardrail.train.methods.wise_ft import best

    scores = {0.2: _score(True, 0.5, 0.0), 0.4: _score(True, 0.9, 0.01), 0.6: _score(True, 0.9, 0.01),
              1.0: _score(False, 1.0, 0.9)}  # fmt: skip
    assert best(scores) == 0.4


def test_wise_ft_without_an_admissible_factor_takes_the_safest() -> None:
    from guardrail.train.methods.wise_ft import best

    assert best({0.5: _score(False, 0.1, 0.3), 0.7: _score(False, 0.5, 0.3), 1.0: _score(False, 1.0, 0.9)}) == 0.5


@settings(deadline=None)
@given(st.dictionaries(st.floats(0, 1), st.tuples(st.booleans(), st.floats(0, 1), st.floats(0, 1)), min_size=1))
def test_wise_ft_never_takes_an_inadmissible_factor_where_there_is_an_admissible_one(
    given_: dict[float, tuple[bool, float, float]],
) -> None:
    from guardrail.train.methods.wise_ft import best

    scores = {factor: _score(*values) for factor, values in given_.items()}
    chosen = scores[best(scores)]
    assert chosen.admissible or not any(score.admissible for score in scores.values())
    rivals = [score for score in scores.values() if score.admissible == chosen.admissible]
    if chosen.admissible:
        assert chosen.utility == max(score.utility for score in rivals)
    else:
        assert chosen.attack_success_rate == min(score.attack_success_rate for score in rivals)


def _adapter(directory: Path) -> Path:
    import torch
    from safetensors.torch import save_file

    directory.mkdir()
    tensors = {"base_model.model.layer.lora_A.weight": torch.randn(2, 6),
               "base_model.model.layer.lora_B.weight": torch.randn(5, 2)}  # fmt: skip
    save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    (directory / "adapter_config.json").write_text('{"r": 2}\n')
    return directory


def test_scaling_by_one_changes_no_byte_of_the_weights(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from guardrail.model.adapter import FILES, scale_adapter

    source = _adapter(tmp_path / "source")
    scale_adapter(source, tmp_path / "target", 1.0)
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (source, tmp_path / "target"))
    assert sorted(path.name for path in (tmp_path / "target").iterdir()) == sorted(FILES)
    assert all(bool((before[name] == after[name]).all()) for name in before | after)


def test_scaling_by_zero_takes_the_whole_update_away(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from guardrail.model.adapter import scale_adapter

    scale_adapter(_adapter(tmp_path / "source"), tmp_path / "target", 0.0)
    tensors = load_file(tmp_path / "target" / "adapter_model.safetensors")
    update = tensors["base_model.model.layer.lora_B.weight"] @ tensors["base_model.model.layer.lora_A.weight"]
    assert float(update.abs().max()) == 0.0


def test_scaling_multiplies_the_update_and_leaves_the_source(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from guardrail.model.adapter import scale_adapter

    source = _adapter(tmp_path / "source")
    before = load_file(source / "adapter_model.safetensors")
    scale_adapter(source, tmp_path / "target", 0.25)
    after = load_file(tmp_path / "target" / "adapter_model.safetensors")
    a, b = "base_model.model.layer.lora_A.weight", "base_model.model.layer.lora_B.weight"
    assert bool((after[b] @ after[a] == 0.25 * (before[b] @ before[a])).all())
    assert bool((load_file(source / "adapter_model.safetensors")[b] == before[b]).all())


def test_wise_ft_replaces_the_adapter_by_the_chosen_one_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from guardrail.train.methods import create

    adapter = _adapter(tmp_path / "adapter")
    before = load_file(adapter / "adapter_model.safetensors")["base_model.model.layer.lora_B.weight"].clone()
    chosen = create("wise_ft", {"lambdas": "0,0.5,1"}).finish(
        adapter, lambda path: _score(path.name == "0.5", 0.7, 0.1 if path.name == "0.5" else 0.9)
    )
    assert chosen == {"lambda": 0.5, "validation_utility": 0.7, "validation_attack_success_rate": 0.1}
    after = load_file(adapter / "adapter_model.safetensors")["base_model.model.layer.lora_B.weight"].clone()
    assert bool((after == 0.5 * before).all())
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def _score(admissible: bool, utility: float, attack_success_rate: float) -> Score:
    from guardrail.train.methods import Score

    return Score(admissible, utility, attack_success_rate)
