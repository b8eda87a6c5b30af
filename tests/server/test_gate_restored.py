"""Databases that were really dumped and put back, on each kind: the ledger is the memory, not the rows.

And what a stock client sees of a revoked version on a real server.
"""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from copied_databases import copied
from gate_fixtures import Pair, client_of, gate_of, promoted
from gate_parts import parts
from gated_servers import database
from matrix import DATABASES, Cell, absent

from guardrail.errors import EvidenceInvalid
from guardrail.evidence.envelope import sign
from guardrail.evidence.statements import orders
from guardrail.evidence.statements.orders import Revocation
from guardrail.gate.app.doctor import examine_all

pytestmark = pytest.mark.slow
MODEL, ALIAS = "guarded", "production"


@pytest.mark.parametrize("kind", DATABASES)
def test_a_dump_from_before_the_last_promotion_moves_nothing_and_promoting_again_mends_it(
    tmp_path: Path, kind: str
) -> None:
    from mlflow.exceptions import MlflowException

    if why := absent(kind):
        pytest.skip(why)
    with ExitStack() as stack:
        folder = tmp_path / "gate"
        folder.mkdir()
        uri = stack.enter_context(database(folder, Cell(database=kind)))
        with parts(folder, uri) as made:
            made.store.create_registered_model(MODEL)
            first = made.bundle(MODEL, 1)
            assert made.promote(first) == "1"
        dump = stack.enter_context(copied(uri, _snapshot(folder, tmp_path / "dump")))
        with parts(folder, uri) as made:
            second = made.bundle(MODEL, 2)
            assert made.promote(second) == "2"
        with parts(folder, dump) as made:
            with pytest.raises(MlflowException, match="points at version 1"):
                made.store.get_model_version_by_alias(MODEL, ALIAS)
            assert [p.where for p in examine_all(made.registrar).problems] == ["guarded/2", "guarded@production"]
            with pytest.raises(EvidenceInvalid, match="no step forward"):
                made.promote(first)
            assert made.promote(second) == "3"
            assert made.store.get_model_version_by_alias(MODEL, ALIAS).version == 3
            assert examine_all(made.registrar).problems == ()


def _snapshot(folder: Path, place: Path) -> Path:
    """SQLite's dump is a copy of its file."""
    place.mkdir()
    if (folder / "mlflow.db").exists():
        (place / "mlflow.db").write_bytes((folder / "mlflow.db").read_bytes())
    return place


@pytest.mark.every_cell
def test_a_stock_client_sees_that_a_version_was_revoked(pair: Pair, tmp_path: Path) -> None:
    client, now = client_of(pair.gated), datetime.now(UTC)
    version = promoted(pair.gated, pair.people, tmp_path / "a", "revoked-seen", seed=171)
    before = client.get_model_version("revoked-seen", version)
    assert (before.tags["guardrail.verdict"], before.description or "") == ("PASSED", "")
    out = Revocation(
        manifest=before.tags["guardrail.adapter_sha256"],
        reason="it leaks",
        not_before=now,
        expires=now + timedelta(days=1),
    )
    gate_of(pair.gated).submit(sign(orders.build(out), pair.people.approvers[0].private))
    after = client.get_model_version("revoked-seen", version)
    assert after.tags["guardrail.verdict"] == "REVOKED"
    assert "it leaks" in after.tags["guardrail.revoked"]
    assert "REVOKED" in (after.description or "")
    found = client.search_model_versions("tags.`guardrail.verdict` = 'REVOKED'")
    assert [one.name for one in found if one.name == "revoked-seen"] == ["revoked-seen"]
