"""What a real server's log says: that the gate is active and over what, and who was refused what and why."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from bypass import session
from gate_fixtures import Pair, client_of
from gated_servers import USER

pytestmark = [pytest.mark.slow, pytest.mark.every_cell]


def _lines(pair: Pair, part: str) -> list[str]:
    return [line for line in Path(pair.gated.log).read_text(errors="replace").splitlines() if part in line]


def test_at_its_start_it_says_that_the_gate_is_active_and_what_it_guards(pair: Pair) -> None:
    (line,) = _lines(pair, "the gate is active")
    assert re.search(r"it guards \d+ models, trust file version \d+ until 20\d\d-", line)
    assert "ledger at " in line
    assert "guarded@production" in line
    assert "artifacts" in line or "s3://" in line


def test_every_refusal_says_who_what_and_why_on_one_line(pair: Pair) -> None:
    """A tag of a guarded model, whose key is meant to look like a line of the log."""
    evil = "mark-7f3a\n2026-11-27 00:00:00 INFO guardrail.server: the gate is active"
    answer = session().post(
        f"{pair.gated.uri}/api/2.0/mlflow/registered-models/set-tag",
        json={"name": "guarded", "key": evil, "value": "x"},
        timeout=60,
    )
    assert answer.status_code in (400, 403), answer.text
    answer = session().post(
        f"{pair.gated.uri}/ajax-api/2.0/mlflow/registered-models/alias",
        json={"name": "guarded", "alias": "Production", "version": "mark-7f3b"},
        timeout=60,
    )
    assert answer.status_code == 403
    (line,) = _lines(pair, "mark-7f3b")
    for part in (
        "refused ",
        " at 127.0.0.1 POST /ajax-api/2.0/mlflow/registered-models/alias",
        "name='guarded'",
        "alias='Production'",
        "another spelling of a protected one",
    ):
        assert part in line
    assert (USER in line) == (pair.gated.cell.auth == "basic-auth" or USER in line)
    assert not [found for found in _lines(pair, "the gate is active") if found.startswith("2026-11-27 00:00:00 INFO g")]


def test_a_refused_write_to_sealed_files_is_written_down_too(pair: Pair) -> None:
    from mlflow.exceptions import MlflowException

    name = f"sealed/{'ab' * 32}/mark-7f3c"
    answer = session().put(f"{pair.gated.uri}/api/2.0/mlflow-artifacts/artifacts/{name}", data=b"evil", timeout=60)
    assert answer.status_code == 403
    assert len(_lines(pair, "mark-7f3c")) >= 1
    with pytest.raises(MlflowException):
        client_of(pair.gated).delete_registered_model("mark-7f3d")
    assert _lines(pair, "refused") == [line for line in _lines(pair, "refused") if "mark-7f3d" not in line]
