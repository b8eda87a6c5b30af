"""A disk that takes nothing more, under a server that runs: every write is refused, and afterwards nothing is missing.

The limit on the size of files (``RLIMIT_FSIZE``) of the running processes stands for the disk: the kernel refuses the
write, wherever it is, and cuts off the one that crosses it. Not covered: a disk that loses what it has taken.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from gate_chains import drawn, proven
from gate_fixtures import Pair
from gated_servers import Running
from server_process import members

from guardrail.errors import ServiceUnavailable
from guardrail.evidence.digest import sha256
from guardrail.evidence.ledger import signed_ledger

if TYPE_CHECKING:
    from guardrail.registry.gate.client import GateClient

pytestmark = pytest.mark.slow
MODEL = "full"


@contextmanager
def largest_file(running: Running, size: int) -> Iterator[None]:
    """No process of the server writes beyond this many bytes of any file."""
    pids = members(running.group)
    before = [resource.prlimit(pid, resource.RLIMIT_FSIZE) for pid in pids]
    try:
        for pid, (_, hard) in zip(pids, before, strict=True):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))
        yield
    finally:
        for pid, limits in zip(pids, before, strict=True):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)


def _ledger(pair: Pair) -> Path:
    return pair.gated.log.parent / "ledger" / "ledger"


def _verified(pair: Pair, gate: GateClient) -> int:
    return signed_ledger.verify(gate.ledger(), [pair.people.server.public], gate.page().head).entries


def test_a_promotion_on_a_full_disk_is_unavailable_and_succeeds_when_there_is_room(
    pair: Pair, gate: GateClient, tmp_path: Path
) -> None:
    from guardrail.registry.record.promote import promote

    key, uri = pair.people.decider.private, pair.gated.uri
    before = gate.health().problems
    bundle = proven(tmp_path / "a", gate, pair.people.signers, model=MODEL, seed=81)
    with largest_file(pair.gated, 0), pytest.raises(ServiceUnavailable):
        promote(bundle, tracking_uri=uri, private_key=key, now=datetime.now(UTC))
    assert promote(bundle, tracking_uri=uri, private_key=key, now=datetime.now(UTC)).version == "1"
    assert gate.health().problems == before


@pytest.mark.parametrize("room", [0, 1, 100])
def test_an_entry_that_the_disk_cuts_off_is_finished_before_the_next(pair: Pair, gate: GateClient, room: int) -> None:
    """The line lies whole in LEDGER.pending, of which there is room, for it is smaller than the ledger."""
    drawn(gate, pair.people.signers, MODEL)
    before, problems = _verified(pair, gate), gate.health().problems
    with largest_file(pair.gated, _ledger(pair).stat().st_size + room):
        with pytest.raises(ServiceUnavailable, match="ledger"):
            drawn(gate, pair.people.signers, MODEL)
        with pytest.raises(ServiceUnavailable, match="ledger"):
            drawn(gate, pair.people.signers, MODEL)
    ticket = drawn(gate, pair.people.signers, MODEL)
    assert ticket.ledger == sha256(list(gate.ledger())[-1])
    assert _verified(pair, gate) == before + 2, "the one that was cut off, and the new one"
    assert gate.health().problems == problems
