"""Suites load as their authors publish them. The files are not part of the project; without them this is skipped."""

from __future__ import annotations

import pytest
from repository import DATA

from guardrail import plugins
from guardrail.evaluate.splits import split_of
from guardrail.evaluate.suites import SuiteKind
from guardrail.evaluate.suites.harmbench import load as load_harmbench
from guardrail.samples import Suite

pytestmark = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"published benchmarks are not at {DATA}; set GUARDRAIL_SHARED_DATA"
)
FILES: tuple[tuple[str, str, SuiteKind, int], ...] = (
    ("advbench", "advbench/harmful_behaviors.csv", "harmful", 520),
    ("strongreject", "strongreject/strongreject.csv", "harmful", 313),
    ("harmbench", "harmbench/behaviors_text_all.csv", "harmful", 300),
    ("jailbreakbench", "jailbreakbench/harmful-behaviors.csv", "harmful", 100),
    ("jailbreakbench", "jailbreakbench/benign-behaviors.csv", "benign", 100),
    ("xstest", "xstest/xstest_prompts.csv", "harmful", 200),
    ("xstest", "xstest/xstest_prompts.csv", "benign", 250),
)


def load(loader: str, file: str, kind: SuiteKind, split: str = "all") -> Suite:
    suite: Suite = plugins.load("guardrail.evaluate.suites", loader).load(DATA / file, name="s", kind=kind, split=split)
    return suite


@pytest.mark.parametrize(("loader", "file", "kind", "n"), FILES)
def test_every_behaviour_loads_with_a_distinct_id(loader: str, file: str, kind: SuiteKind, n: int) -> None:
    suite = load(loader, file, kind)
    assert (suite.kind, len(suite.behaviours)) == (kind, n)
    assert len({behaviour.id for behaviour in suite.behaviours}) == n
    assert len({behaviour.variants for behaviour in suite.behaviours}) == n


@pytest.mark.parametrize(("loader", "file", "kind", "n"), FILES)
def test_validation_and_gate_share_nothing_and_are_the_whole(loader: str, file: str, kind: SuiteKind, n: int) -> None:
    gate, validation = ({b.id for b in load(loader, file, kind, split).behaviours} for split in ("gate", "validation"))
    assert not gate & validation
    assert len(gate) + len(validation) == n
    assert 0.1 * n <= len(validation) <= 0.3 * n


def test_prompts_that_benchmarks_share_lie_in_the_same_split() -> None:
    prompts = {
        file: {b.variants[0] for b in load(loader, file, kind).behaviours} for loader, file, kind, _ in FILES[:4]
    }
    shared = prompts["advbench/harmful_behaviors.csv"] & prompts["jailbreakbench/harmful-behaviors.csv"]
    assert shared
    gates = {b.variants[0] for b in load(*FILES[0][:3], "gate").behaviours}
    others = {b.variants[0] for b in load(*FILES[3][:3], "validation").behaviours}
    assert not gates & others
    assert {split_of(text) for text in prompts["strongreject/strongreject.csv"]} == {"gate", "validation"}


@pytest.mark.parametrize(("loader", "file", "kind"), [FILES[i][:3] for i in (0, 2, 3, 4)])
def test_targets_that_the_authors_give_are_there(loader: str, file: str, kind: SuiteKind) -> None:
    assert all(behaviour.target for behaviour in load(loader, file, kind).behaviours)


def test_harmbench_contexts_come_before_the_behaviour_and_copyright_is_left_out() -> None:
    suite = load(*FILES[2][:3])
    contextual = [b for b in suite.behaviours if b.category.startswith("contextual/")]
    assert len(contextual) == 100
    assert all("\n\n---\n\n" in behaviour.variants[0] for behaviour in contextual)
    assert not any(b.category.startswith("copyright/") for b in suite.behaviours)
    everything = load_harmbench(DATA / FILES[2][1], name="h", kind="harmful", split="all", with_copyright=True)
    assert sum(b.category.startswith("copyright/") for b in everything.behaviours) == 100


@pytest.mark.parametrize(
    ("loader", "file", "kind"),
    [(FILES[0][0], FILES[0][1], "benign"), (FILES[3][0], FILES[3][1], "benign"), (FILES[4][0], FILES[4][1], "harmful")],
)
def test_a_suite_of_one_kind_is_not_loaded_as_the_other(loader: str, file: str, kind: SuiteKind) -> None:
    from guardrail.errors import InvalidInput

    with pytest.raises(InvalidInput, match="write kind"):
        load(loader, file, kind)
