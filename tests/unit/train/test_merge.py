"""Merges: lambda is chosen as promised; its ends are the parts; what is stored is what was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrail.errors import InternalError, InvalidInput

if TYPE_CHECKING:
    from guardrail.model.updates import Update
    from guardrail.train.methods import Method, Score

pytestmark = pytest.mark.slow
MERGES = ("dare", "linear", "magmax", "slerp", "ties", "wise_ft")
CONFIG = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "r": 3,
    "lora_alpha": 6,
    "target_modules": ["q", "v"],
    "base_model_name_or_path": "testbed",
    "inference_mode": True,
}


def _score(admissible: bool, utility: float, attack_success_rate: float) -> Score:
    from guardrail.train.methods import Score

    return Score(admissible, utility, attack_success_rate)


def _adapter(directory: Path, seed: int) -> Path:
    """An adapter of rank 3 on two modules of [8, 6]."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)
    shapes = {"A": (3, 6), "B": (8, 3)}
    tensors = {
        f"base_model.model.{name}.lora_{factor}.weight": torch.randn(shape, generator=generator)
        for name in ("q", "v")
        for factor, shape in shapes.items()
    }
    directory.mkdir()
    save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    (directory / "adapter_config.json").write_text(json.dumps(CONFIG))
    return directory


@pytest.fixture
def parts(tmp_path: Path) -> dict[str, Path]:
    return {name: _adapter(tmp_path / name, seed) for seed, name in enumerate(("user", "replay"))}


def _create(name: str, adapters: int = 0, **hyperparameters: float | str) -> Method:
    from guardrail.train.methods import Setup, create

    method = create(name, hyperparameters, adapters)
    method.begin(Setup(None, None, (), (), 0))  # type: ignore[arg-type]
    return method


def _merge(name: str, parts: Mapping[str, Path], factor: float, **hyperparameters: float | str) -> dict[str, Update]:
    """The updates that are stored at a lambda."""
    from guardrail.model.updates import read_updates

    method = _create(name, sum(part.startswith("adapter-") for part in parts), lambdas=str(factor), **hyperparameters)
    chosen = method.finish(parts["user"], parts, lambda _: _score(True, 1.0, 0.0))
    assert chosen["lambda"] == factor
    return read_updates(parts["user"])


def _dense(updates: Mapping[str, Update]) -> dict[str, Any]:
    return {name: update.dense for name, update in updates.items()}


def _close(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    import torch

    return all(bool(torch.allclose(one[name], other[name], rtol=1e-4, atol=1e-4)) for name in one)


@pytest.mark.parametrize("name", ["linear", "slerp", "wise_ft"])
def test_at_one_a_merge_is_the_users_update(name: str, parts: dict[str, Path]) -> None:
    from guardrail.model.updates import read_updates

    user = _dense(read_updates(parts["user"]))
    assert _close(_dense(_merge(name, parts, 1.0)), user)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("linear", "replay"),
        ("slerp", "replay"),
        ("wise_ft", None),
        ("ties", None),
        ("dare", None),
        ("magmax", None),
    ],
)
def test_at_zero_a_merge_is_the_safety_update_or_the_base(name: str, part: str | None, parts: dict[str, Path]) -> None:
    from guardrail.model.updates import read_updates

    expected = _dense(read_updates(parts["replay"]))
    if part is None:
        expected = {key: 0.0 * value for key, value in expected.items()}
    assert _close(_dense(_merge(name, parts, 0.0)), expected)


def test_linear_is_the_weighted_sum_of_the_updates(parts: dict[str, Path]) -> None:
    from guardrail.model.updates import read_updates

    user, safety = (_dense(read_updates(parts[part])) for part in ("user", "replay"))
    merged = _merge("linear", parts, 0.3)
    assert _close(_dense(merged), {key: 0.3 * user[key] + 0.7 * safety[key] for key in user})
    assert merged["q"].a.shape[0] == 6


@pytest.mark.parametrize("name", MERGES)
def test_what_is_kept_is_byte_for_byte_what_was_measured(name: str, parts: dict[str, Path]) -> None:
    from guardrail.evidence.digest import manifest

    seen = {}

    def measure(path: Path) -> Score:
        seen[float(path.name)] = manifest(path)
        return _score(path.name == "0.5", 0.7, 0.1 if path.name == "0.5" else 0.9)

    chosen = _create(name, lambdas="0.25,0.5,1").finish(parts["user"], parts, measure)
    assert chosen == {"lambda": 0.5, "validation_utility": 0.7, "validation_attack_success_rate": 0.1}
    assert manifest(parts["user"]) == seen[0.5]
    assert sorted(path.name for path in parts["user"].parent.iterdir()) == ["replay", "user"]


@pytest.fixture
def four(tmp_path: Path) -> dict[str, Path]:
    """The user's adapter and those of three other runs."""
    names = ("user", "adapter-1", "adapter-2", "adapter-3")
    return {name: _adapter(tmp_path / name, seed) for seed, name in enumerate(names)}


@pytest.mark.parametrize("name", ["linear", "magmax", "ties", "dare"])
def test_adapters_of_other_runs_are_merged_as_the_formula_says(name: str, four: dict[str, Path]) -> None:
    """Against numpy in float64, of [8, 6] matrices whose rank (6) truncation does not cut."""
    from guardrail.model.updates import read_updates

    dense = {
        part: {key: value.double().numpy() for key, value in _dense(read_updates(path)).items()}
        for part, path in four.items()
    }
    options = {"ties": {"density": 0.5}, "dare": {"drop": 0.0}}.get(name, {})
    merged = _dense(_merge(name, four, 0.3, **options))
    for key in ("q", "v"):
        expected = _reference(name, [dense[part][key] for part in four], 0.3)
        assert abs(merged[key].double().numpy() - expected).max() < 1e-4


def test_dare_drops_each_of_the_adapters_by_itself(four: dict[str, Path]) -> None:
    """Where all are the same adapter, entries of the sum are 0, 1, 2, 3 or 4 kept copies: not all or nothing."""
    import numpy as np

    from guardrail.model.updates import read_updates

    same = dict.fromkeys(four, four["user"])
    before = _dense(read_updates(four["user"]))["q"].numpy()
    after = _dense(_merge("dare", same, 0.5, drop=0.5))["q"].numpy()
    kept = after / before  # 0.5 * copies / (1 - 0.5)
    assert np.allclose(kept, kept.round(), atol=1e-2)
    assert len(set(kept.round().flatten())) >= 4


def test_slerp_takes_the_adapter_of_one_other_run(four: dict[str, Path]) -> None:
    from guardrail.model.updates import read_updates

    other = _dense(read_updates(four["adapter-1"]))
    assert _close(_dense(_merge("slerp", {key: four[key] for key in ("user", "adapter-1")}, 0.0)), other)


@pytest.mark.parametrize(("name", "adapters"), [("slerp", 2), ("wise_ft", 1), ("finetune", 1), ("der", 3)])
def test_more_adapters_than_a_method_can_merge_are_refused(name: str, adapters: int) -> None:
    from guardrail.train.methods import create

    with pytest.raises(InvalidInput) as caught:
        create(name, {}, adapters)
    assert "magmax" in str(caught.value)


@pytest.mark.parametrize("name", ["dare", "linear", "magmax", "slerp", "ties"])
def test_adapters_of_other_runs_take_the_place_of_replay(name: str) -> None:
    from guardrail.train.methods import create

    alone, merging = create(name, {}), create(name, {}, 1)
    assert (alone.parts, alone.needs_replay) == (("user", "replay"), True)
    assert (merging.parts, merging.needs_replay) == (("user", "adapter-1"), False)


def _reference(name: str, vectors: list[Any], factor: float) -> Any:
    """The formulas of docs/methods.md."""
    import numpy as np

    stacked = np.stack(vectors)
    if name == "linear":
        return factor * stacked[0] + (1 - factor) / (len(vectors) - 1) * stacked[1:].sum(0)
    if name == "dare":
        return factor * stacked.sum(0)
    if name == "magmax":
        return factor * np.take_along_axis(stacked, np.abs(stacked).argmax(0)[None], 0)[0]
    half = np.sort(np.abs(stacked).reshape(len(vectors), -1))[:, stacked[0].size // 2]
    trimmed = np.where(np.abs(stacked) >= half[:, None, None], stacked, 0.0)
    agreeing = (np.sign(trimmed) == np.sign(trimmed.sum(0))) & (trimmed != 0)
    return factor * (trimmed * agreeing).sum(0) / np.maximum(agreeing.sum(0), 1)


def test_a_truncated_merge_reports_its_rank_and_its_error(parts: dict[str, Path]) -> None:
    method = _create("magmax", lambdas="0.5", rank=2.0)
    method.finish(parts["user"], parts, lambda _: _score(True, 1.0, 0.0))
    told = method.diagnostics()
    assert told["merged_rank"] == 2
    assert 0.1 < float(told["largest_relative_error"]) < 1.0


@pytest.mark.parametrize("name", ["dare", "magmax", "ties"])
def test_where_lambda_only_scales_each_module_is_merged_once_and_every_candidate_is_as_if_merged_alone(
    name: str, parts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from guardrail.model.updates import read_updates
    from guardrail.train import merge
    from guardrail.train import merge_math as merging

    calls, factors, seen = [0], (0.0, 0.3, 0.7, 1.0), dict[float, Any]()

    def truncate(dense: Any, rank: int) -> Any:
        calls[0] += 1
        return merging.truncate(dense, rank)

    def measure(path: Path) -> Score:
        seen[float(path.name)] = _dense(read_updates(path))
        return _score(True, 1.0, 0.0)

    updates = {part: read_updates(_adapter(tmp_path / f"{part}-again", seed)) for seed, part in enumerate(parts)}
    monkeypatch.setattr(merge, "truncate", truncate)
    method = _create(name, lambdas=",".join(map(str, factors)))
    method.finish(parts["user"], parts, measure)
    assert calls == [2]  # modules
    for factor in factors:
        for module, dense in seen[factor].items():
            pair = (updates["user"][module], updates["replay"][module])
            alone = merging.truncate(method.merged(module, pair, factor), 6).update.dense  # type: ignore[attr-defined]
            assert float((dense - alone).norm()) <= 1e-5 * float(alone.norm()), (factor, module)


@pytest.mark.parametrize(
    ("name", "given_"),
    [
        ("ties", {"density": 0.0}),
        ("ties", {"density": 1.5}),
        ("dare", {"drop": 1.0}),
        ("dare", {"drop": 2.0}),
        ("slerp", {"rank": 2.5}),
    ],
)
def test_settings_that_make_no_merge_are_refused_before_anything_is_trained(
    name: str, given_: dict[str, float]
) -> None:
    from guardrail.train.methods import create

    with pytest.raises(InvalidInput, match=next(iter(given_))):
        create(name, given_)


def test_dare_draws_the_same_for_the_same_seed(parts: dict[str, Path], tmp_path: Path) -> None:
    again = {name: _adapter(tmp_path / f"{name}-again", seed) for seed, name in enumerate(("user", "replay"))}
    assert _close(_dense(_merge("dare", parts, 0.5)), _dense(_merge("dare", again, 0.5)))


def test_adapters_on_other_modules_are_refused(parts: dict[str, Path]) -> None:
    from guardrail.model.updates import read_updates, write_updates

    only = {"q": read_updates(parts["replay"])["q"]}
    write_updates(parts["replay"], only, parts["replay"])
    with pytest.raises(InvalidInput, match="other modules"):
        _merge("linear", parts, 0.5)


@pytest.mark.parametrize("lambdas", ["", "a,b", "0.5,1.5", "-0.1", "nan"])
@pytest.mark.parametrize("name", ["wise_ft", "ties"])
def test_factors_that_are_no_shares_are_refused_before_anything_is_trained(name: str, lambdas: str) -> None:
    with pytest.raises(InvalidInput, match="lambdas"):
        _create(name, lambdas=lambdas)


def test_a_single_factor_may_be_given_as_a_number() -> None:
    assert _create("wise_ft", lambdas=0.5).hyperparameters["lambdas"] == "0.5"


def test_without_anything_to_measure_with_is_a_bug(parts: dict[str, Path]) -> None:
    with pytest.raises(InternalError):
        _create("wise_ft").finish(parts["user"], parts, None)


def test_the_most_useful_admissible_factor_is_taken_and_the_smaller_of_equals() -> None:
    from guardrail.train.merge import best

    scores = {
        0.2: _score(True, 0.5, 0.0),
        0.4: _score(True, 0.9, 0.01),
        0.6: _score(True, 0.9, 0.01),
        1.0: _score(False, 1.0, 0.9),
    }
    assert best(scores) == 0.4


def test_without_an_admissible_factor_the_safest_is_taken_and_the_more_useful_of_equals() -> None:
    from guardrail.train.merge import best

    assert best({0.5: _score(False, 0.1, 0.3), 0.7: _score(False, 0.5, 0.3), 1.0: _score(False, 1.0, 0.9)}) == 0.7
    assert best({0.5: _score(False, 0.5, 0.3), 0.7: _score(False, 0.5, 0.3), 1.0: _score(False, 1.0, 0.9)}) == 0.5


@given(st.dictionaries(st.floats(0, 1), st.tuples(st.booleans(), st.floats(0, 1), st.floats(0, 1)), min_size=1))
def test_an_inadmissible_factor_is_never_taken_where_there_is_an_admissible_one(
    given_: dict[float, tuple[bool, float, float]],
) -> None:
    from guardrail.train.merge import best

    scores = {factor: _score(*values) for factor, values in given_.items()}
    chosen = scores[best(scores)]
    assert chosen.admissible or not any(score.admissible for score in scores.values())
    rivals = [score for score in scores.values() if score.admissible == chosen.admissible]
    if chosen.admissible:
        assert chosen.utility == max(score.utility for score in rivals)
    else:
        assert chosen.attack_success_rate == min(score.attack_success_rate for score in rivals)
