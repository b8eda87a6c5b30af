"""Many promoters at once, on one server with two workers: nothing is lost, doubled or crossed.

A slice here; ``GUARDRAIL_CAMPAIGN=1``: 8 promoters with 20 promotions each, on every database.
Not covered: several servers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from crowds import Job, Outcome, crowd, promote_all, promote_one, versions_of
from gate_chains import proven
from gate_fixtures import client_of, gate_of
from gated_servers import People, Running, gated_server, people
from matrix import DATABASES, Cell
from repository import CAMPAIGN

from guardrail.evidence.envelope import unverified_payload
from guardrail.evidence.ledger import signed_ledger
from guardrail.evidence.ledger.entries import Entry
from guardrail.registry.mlflow.tags import EVIDENCE
from guardrail.registry.verify.evidence_checks import examine

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

pytestmark = pytest.mark.slow
PROMOTERS, EACH = (8, 20) if CAMPAIGN else (4, 3)
MODELS = ("guarded", "second", "twice")


@dataclass(frozen=True)
class Crowd:
    """The server, and what everybody believes to have done."""

    running: Running
    who: People
    outcomes: list[Outcome]
    same: list[list[str]]

    def versions(self, model: str) -> list[ModelVersion]:
        return list(client_of(self.running).search_model_versions(f"name = '{model}'"))

    def entries(self) -> list[Entry]:
        return [
            Entry.model_validate_json(unverified_payload(envelope, payload_type=signed_ledger.LEDGER_TYPE))
            for envelope in gate_of(self.running).ledger()
        ]


def _models(number: int) -> tuple[str, ...]:
    """Neighbours promote to the same model at the same time."""
    return tuple(MODELS[(number + n) // 2 % len(MODELS)] for n in range(EACH))


@pytest.fixture(scope="module", params=DATABASES if CAMPAIGN else DATABASES[:1])
def crowded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crowd]:
    folder, keys = tmp_path_factory.mktemp("crowd"), tmp_path_factory.mktemp("people")
    who = people(keys)
    with gated_server(folder, Cell(database=request.param), who, workers=2) as running, crowd(PROMOTERS) as pool:
        jobs = [Job(running.uri, keys, folder / "bundles", number, _models(number)) for number in range(PROMOTERS)]
        outcomes = [one for found in pool.map(promote_all, jobs) for one in found]
        same = []
        for round_ in range(2):
            bundle = proven(folder / f"same-{round_}", gate_of(running), who.signers, model="rolled", seed=round_)
            asked = [pool.submit(promote_one, running.uri, keys, bundle) for _ in range(PROMOTERS)]
            same.append([one.result() for one in asked])
        yield Crowd(running, who, outcomes, same)


def test_every_promotion_has_one_version_of_its_own_with_its_own_files(crowded: Crowd) -> None:
    whose = versions_of(crowded.outcomes)
    assert len(whose) == PROMOTERS * EACH
    stored = {(model, str(one.version)): one for model in MODELS for one in crowded.versions(model)}
    assert set(stored) == set(whose)
    for place, version in stored.items():
        directory = crowded.running.destination / str(version.source).removeprefix("mlflow-artifacts:/")
        examined = examine(directory, [crowded.who.decider.public])
        assert (examined.evidence_sha256, examined.decision.manifest, examined.decision.model) == (
            whose[place].evidence,
            whose[place].manifest,
            place[0],
        )
        assert version.tags[EVIDENCE] == whose[place].evidence


def test_versions_have_no_gaps_and_every_alias_is_at_the_highest(crowded: Crowd) -> None:
    for model in MODELS:
        numbers = sorted(int(one.version) for one in crowded.versions(model))
        assert numbers == list(range(1, len(numbers) + 1))
        assert client_of(crowded.running).get_registered_model(model).aliases == {"production": str(numbers[-1])}


def test_the_ledger_holds_one_decision_and_at_most_one_promotion_of_each(crowded: Crowd) -> None:
    entries = crowded.entries()
    decisions = Counter(entry.evidence for entry in entries if entry.kind == "decision" and entry.model in MODELS)
    promotions = Counter(entry.evidence for entry in entries if entry.kind == "promotion" and entry.model in MODELS)
    assert decisions == Counter(one.evidence for one in crowded.outcomes)
    assert set(promotions.values()) == {1}
    whose = versions_of(crowded.outcomes)
    assert all(
        whose[e.model, e.version].evidence == e.evidence for e in entries if e.kind == "promotion" and e.model in MODELS
    )


def test_one_candidate_promoted_by_all_at_the_same_moment_is_one_version(crowded: Crowd) -> None:
    assert crowded.same == [["1"] * PROMOTERS, ["2"] * PROMOTERS]
    assert len(crowded.versions("rolled")) == 2


def test_the_registry_is_healthy_afterwards_and_the_ledger_verifies(crowded: Crowd) -> None:
    gate = gate_of(crowded.running)
    assert gate.health().problems == ()
    found = signed_ledger.verify(gate.ledger(), [crowded.who.server.public], gate.page().head)
    assert found.entries > 3 * PROMOTERS * EACH
