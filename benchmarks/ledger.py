"""How fast a ledger is verified, and whether twice the entries take twice the time.

    python benchmarks/ledger.py [--quick] [--json FILE]

Writes a ledger file of signed entries once, then verifies its first tenth and all of it: every signature, every link,
against the exported head. Exits 1 where 100,000 entries take 10 s or more on 2 cores, or more than 11 times what 10,000
take. --quick verifies 10,000 and 1,000, with a tenth of the time. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from time import perf_counter, process_time

from guardrail.evidence.keys import key_pairs
from guardrail.evidence.keys.key_pairs import PrivateKey
from guardrail.evidence.ledger import signed_ledger
from guardrail.evidence.ledger.entries import Head
from guardrail.evidence.ledger.ledger_file import envelopes

SECONDS = 10.0
RATIO = 11.0
START = datetime(2026, 1, 1, tzinfo=UTC)


def written(path: Path, count: int, key: PrivateKey) -> tuple[Head, Head]:
    """The heads after a tenth of the entries and after all of them."""
    head: Head | None = None
    tenth: Head | None = None
    with path.open("wb") as stream:
        for index in range(count):
            entry = signed_ledger.next_entry(
                head,
                time=START + timedelta(seconds=index),
                kind="decision",
                model="guarded-adapter",
                alias="production",
                version=str(index),
                subject="ab" * 32,
                evidence="cd" * 32,
                note="PASSED",
            )
            data = signed_ledger.append(head, entry, key)
            head = signed_ledger.advance(head, data)
            tenth = head if index + 1 == count // 10 else tenth
            stream.write(data + b"\n")
    assert head is not None
    assert tenth is not None
    return tenth, head


def seconds(path: Path, count: int, head: Head, key: PrivateKey, workers: int) -> tuple[float, float]:
    """Wall and processor seconds to verify the first ``count`` entries."""
    wall, cpu = perf_counter(), process_time()
    found = signed_ledger.verify(islice(envelopes(path), count), [key.public_key], head, workers=workers)
    assert found.entries == count
    return perf_counter() - wall, process_time() - cpu


def main() -> int:
    """Write, verify, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="10,000 entries instead of 100,000")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1), help="threads beside the reader")
    parser.add_argument("--type", choices=["ed25519", "ecdsa"], default="ed25519")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    count, limit = (10_000, SECONDS / 10) if arguments.quick else (100_000, SECONDS)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger"
        key = key_pairs.load_private(key_pairs.init(Path(folder), kind=arguments.type).private)
        tenth, head = written(path, count, key)
        megabytes = path.stat().st_size / 1e6
        small = min(seconds(path, count // 10, tenth, key, arguments.workers) for _ in range(3))
        large = min(seconds(path, count, head, key, arguments.workers) for _ in range(3))
    ratio = large[0] / small[0]
    print(
        f"{count} entries ({megabytes:.0f} MB, {arguments.type}, {arguments.workers} workers): {large[0]:.2f} s, "
        f"{large[1]:.2f} s of processor time (target under {limit:.0f} s)"
    )
    print(f"{count // 10} entries: {small[0]:.3f} s; ratio {ratio:.2f} (target at most {RATIO:.0f})")
    if arguments.json:
        figures = {
            "entries": count,
            "seconds": large[0],
            "cpu_seconds": large[1],
            "seconds_tenth": small[0],
            "ratio": ratio,
            "workers": arguments.workers,
            "type": arguments.type,
        }
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(figures) + "\n")
    return 0 if large[0] < limit and ratio <= RATIO else 1


if __name__ == "__main__":
    sys.exit(main())
