"""Promoters that are many: each a process of its own, with its own clients, bundles and outcomes. Not a test file."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gate_chains import proven
from gated_servers import known

from guardrail.errors import ServiceUnavailable
from guardrail.evidence.bundle import Bundle
from guardrail.registry.gate.client import GateClient

PATIENCE = 20


@dataclass(frozen=True)
class Job:
    """One promoter: its number, and the models that it promotes to, in order."""

    uri: str
    keys: Path
    folder: Path
    number: int
    models: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """What a promoter believes of one of its promotions; ``again`` is how often it had to ask again."""

    model: str
    evidence: str
    manifest: str
    version: str
    again: int


def crowd(count: int) -> ProcessPoolExecutor:
    """So many processes; each imports what it needs by itself, as clients on other machines would."""
    return ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"))


def promote_all(job: Job) -> list[Outcome]:
    """Make and promote one candidate after another."""
    gate, who = GateClient(job.uri), known(job.keys)
    found = []
    for index, model in enumerate(job.models):
        seed = 1000 * (job.number + 1) + index
        bundle = proven(job.folder / f"{job.number}-{index}", gate, who.signers, model=model, seed=seed)
        version, again = promoted(job.uri, bundle, who.decider.private)
        found.append(Outcome(model, bundle.evidence_sha256, bundle.decision.manifest, version, again))
    return found


def promote_one(uri: str, keys: Path, bundle: Bundle) -> str:
    """Promote a candidate that others promote, too; its version."""
    return promoted(uri, bundle, known(keys).decider.private)[0]


def promoted(uri: str, bundle: Bundle, key: Any) -> tuple[str, int]:
    """Its version, and how often it had to ask again because the database was busy."""
    from guardrail.registry.record.promote import promote

    for again in range(PATIENCE):
        try:
            return str(promote(bundle, tracking_uri=uri, private_key=key, now=datetime.now(UTC)).version), again
        except ServiceUnavailable:
            continue
    raise AssertionError(f"asked {PATIENCE} times")


def versions_of(outcomes: Sequence[Outcome]) -> dict[tuple[str, str], Outcome]:
    """Model and version to whose they are; two of the same fail."""
    found = {(one.model, one.version): one for one in outcomes}
    assert len(found) == len(outcomes), "two promoters hold the same version"
    return found
