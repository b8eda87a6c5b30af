"""What it costs to verify a promoted version while more and more tickets that nobody used lie in the ledger.

    python benchmarks/checkpoint.py [--quick] [--json FILE]

One server for each size: a ledger with so many unused tickets, then a real promotion. `guardrail verify --trust` asks
it over HTTP, in a new process as users do, once from the checkpoint and once from the first entry (with an exported
head, which is also how every verification was before there were checkpoints); reading the ledger is measured alone,
too. Exits 1 where verifying takes more than 1.2 times as long with the most tickets as with the fewest.
--quick takes a tenth of the tickets. Run it on an idle machine.
Not covered: how long a server takes to start with such a ledger, and other databases.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from time import perf_counter

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.extend(map(str, (Path(__file__).parents[1] / "tests" / "helpers").iterdir()))

from gate_chains import proven
from gated_servers import People, Running, gated_server, people
from matrix import Cell

from guardrail.evidence.digest import canonical, sha256
from guardrail.evidence.ledger import signed_ledger
from guardrail.evidence.ledger.checkpoint import EVERY
from guardrail.evidence.ledger.entries import EntryKind, Head
from guardrail.evidence.ledger.ledger_file import read_head
from guardrail.evidence.ledger.sums import Sums
from guardrail.registry.audit.ledger_reader import read_history
from guardrail.registry.gate.client import GateClient

RATIO = 1.2
SIZES = (1_000, 10_000, 100_000)
MODEL, ALIAS = "guarded", "production"


@dataclass(frozen=True)
class Figures:
    """Seconds, the median of the rounds, with so many unused tickets; ``whole``: from the first entry."""

    tickets: int
    command: float
    command_whole: float
    reading: float
    reading_whole: float
    document_bytes: int
    entries_after: int


class Writer:
    """A ledger that a server wrote: unused tickets, and checkpoints where they are due."""

    def __init__(self, path: Path, who: People) -> None:
        self.path, self.key, self.sums = path, who.server.private, Sums()
        self.head: Head | None = None
        self.time = datetime.now(UTC) - timedelta(days=1)

    def write(self, tickets: int) -> None:
        """All of them, and the head."""
        self.path.parent.mkdir(parents=True)
        with self.path.open("wb") as stream:
            for number in range(tickets):
                nonce = sha256(str(number).encode())
                self._add(stream.write, kind="proposal", model=MODEL, alias=ALIAS, nonce=nonce)
                latest = self.sums.latest
                if self.sums.number - (latest.number if latest else 0) >= EVERY:
                    self._add(stream.write, kind="checkpoint", subject=sha256(canonical(self.sums.checkpoint())))
        assert self.head is not None
        self.path.with_name("ledger.head").write_bytes(canonical(self.head))

    def _add(self, write: Callable[[bytes], object], kind: EntryKind, **what: str) -> None:
        entry = signed_ledger.next_entry(self.head, time=self.time, kind=kind, **what)
        data = signed_ledger.append(self.head, entry, self.key)
        self.head = signed_ledger.advance(self.head, data)
        self.sums.take(entry, self.head)
        write(data + b"\n")


@contextmanager
def flooded(folder: Path, tickets: int) -> Iterator[tuple[Running, People]]:
    """A server with a promoted version and so many unused tickets before it."""
    from gate_fixtures import gate_of

    from guardrail.registry.record.promote import promote

    (folder / "people").mkdir(parents=True)
    who = people(folder / "people")
    Writer(folder / "server" / "ledger" / "ledger", who).write(tickets)
    with gated_server(folder / "server", Cell(), who) as running:
        now = datetime.now(UTC)
        bundle = proven(folder / "bundle", gate_of(running), who.signers, model=MODEL, now=now)
        promote(bundle, tracking_uri=running.uri, private_key=who.decider.private, now=now)
        yield running, who


def measured(running: Running, who: People, tickets: int, rounds: int) -> Figures:
    """Every way so many times, in turns."""
    gate, head = GateClient(running.uri), running.destination.parent / "ledger" / "ledger.head"
    ways = {"command": (), "command_whole": ("--head", str(head))}
    found: dict[str, list[float]] = {name: [] for name in (*ways, "reading", "reading_whole")}
    for _ in range(rounds):
        for name, more in ways.items():
            found[name].append(_command(running, who, *more))
        found["reading"].append(_reading(gate, who))
        found["reading_whole"].append(_reading(gate, who, read_head(head)))
    checkpoint, last = gate.checkpoint(), read_head(head)
    return Figures(
        tickets=tickets,
        **{name: median(values) for name, values in found.items()},
        document_bytes=len(canonical(checkpoint)) if checkpoint else 0,
        entries_after=last.number - (checkpoint.head.number if checkpoint else 0),
    )


def _command(running: Running, who: People, *more: str) -> float:
    arguments = [
        sys.executable,
        "-m",
        "guardrail",
        "verify",
        f"{MODEL}@{ALIAS}",
        "--trust",
        str(who.trust_file),
        "--root-key",
        str(who.root.public_file),
        "--tracking-uri",
        running.uri,
        *more,
    ]
    start = perf_counter()
    subprocess.run(arguments, check=True, capture_output=True, env=os.environ)
    return perf_counter() - start


def _reading(gate: GateClient, who: People, head: Head | None = None) -> float:
    start = perf_counter()
    history = read_history(gate, [who.server.public], now=datetime.now(UTC), head=head)
    assert history.moved(MODEL, ALIAS) is not None
    return perf_counter() - start


def main() -> int:
    """Each size, then the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the tickets")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    rows: list[Figures] = []
    for tickets in (size // 10 if arguments.quick else size for size in SIZES):
        with tempfile.TemporaryDirectory() as folder, flooded(Path(folder), tickets) as (running, who):
            rows.append(measured(running, who, tickets, arguments.rounds))
            one = rows[-1]
            print(
                f"{tickets:>7} unused tickets: verify {one.command:.2f} s (whole ledger {one.command_whole:.2f} s), "
                f"of that reading {one.reading:.3f} s ({one.reading_whole:.2f} s); checkpoint {one.document_bytes} "
                f"bytes, {one.entries_after} entries after it",
                flush=True,
            )
    ratio = rows[-1].command / rows[0].command
    print(
        f"ratio most/fewest: verify {ratio:.2f} (target at most {RATIO}), whole ledger "
        f"{rows[-1].command_whole / rows[0].command_whole:.2f}"
    )
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps([asdict(row) for row in rows]) + "\n")
    return 0 if ratio <= RATIO else 1


if __name__ == "__main__":
    sys.exit(main())
