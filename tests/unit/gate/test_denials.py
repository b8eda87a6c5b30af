"""Denials and trust files on the gate's real parts: what is old, foreign or a second of its kind changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from gate_chains import proven
from gate_parts import Parts, parts
from registry_bundles import POLICY

from guardrail.errors import EvidenceInvalid
from guardrail.evidence.trust.trust_file import CLOCKS_DIFFER, read_unverified_trust

pytestmark = pytest.mark.slow

MODEL = "guarded"


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Parts]:
    with parts(tmp_path / "gate") as made:
        yield made


def denied(gate: Parts, **given: Any) -> bytes:
    """The envelope of a denial whose adapter a ticket is bound to."""
    return proven(gate.folder / "denied", gate, gate.who.signers, model=MODEL, safe=False, **given).envelope


def test_a_denial_spends_the_ticket_that_was_bound_before_it_was_made(gate: Parts) -> None:
    gate.submit(denied(gate))
    state = gate.registrar.journal.state()
    assert set(state.closed) == set(state.bound)


def test_a_denial_from_before_its_ticket_was_bound_spends_nothing(gate: Parts) -> None:
    """Whoever kept an old denial that was never handed in cannot use it against a new measurement."""
    envelope = denied(gate, now=datetime.now(UTC) - CLOCKS_DIFFER - timedelta(minutes=1))
    with pytest.raises(EvidenceInvalid, match="no ticket of its model and alias"):
        gate.submit(envelope)
    assert not gate.registrar.journal.state().closed


def test_a_denial_under_another_policy_than_the_pinned_one_spends_nothing(gate: Parts) -> None:
    with pytest.raises(EvidenceInvalid, match="denial was made under the policy"):
        gate.submit(denied(gate, policy_text=POLICY.replace("name: test", "name: harsher")))
    assert not gate.registrar.journal.state().closed


def test_a_second_trust_file_of_the_version_in_force_starts_no_server_and_admits_nothing(
    gate: Parts, tmp_path: Path
) -> None:
    gate.registrar.court()
    first = gate.who.trust_file.read_bytes()
    gate.who.write(gate.who.trust("one more"))
    with pytest.raises(EvidenceInvalid, match="another trust file of version 1"):
        gate.registrar.court()
    with pytest.raises(EvidenceInvalid, match="another trust file of version 1"), parts(tmp_path / "gate"):
        pytest.fail("a server started")
    gate.who.write(first)
    gate.registrar.court()
    with parts(tmp_path / "gate") as again:
        again.registrar.court()


def test_a_worker_that_knows_only_the_second_trust_file_is_refused_by_the_ledger(
    gate: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own memory cannot tell; the ledger has the digest of the first."""
    second = read_unverified_trust(gate.who.trust("one more"))
    monkeypatch.setattr(gate.registrar.watch, "current", lambda: second)
    with pytest.raises(EvidenceInvalid, match="another trust file of version 1"):
        gate.registrar.court()
