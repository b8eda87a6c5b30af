"""What the gate costs: a gated server beside a stock one, same MLflow, same database, one worker each.

    python benchmarks/server.py [--quick] [--json FILE]

Reads and unguarded writes go to both in short alternating rounds of one run, so that whatever else the machine does
meets both; a figure is the median round's. Then a protected alias moves to a sealed adapter of 100 MB, and a ledger of
100,000 entries is verified. Exits 1 where the gated server answers fewer than 0.95 of the stock server's requests per
second, the alias takes 1 s, or the ledger 10 s. --quick makes fewer rounds and a tenth of the ledger.
One client, one connection to each: it measures what a request costs, not how many wait. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import Any

import requests
from ledger import SECONDS, seconds, written

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from gate_chains import proven
from gated_servers import HOSTILE, environment, gated_server, people
from matrix import Cell
from server_process import Command, free_port, started

from guardrail.evidence import keys
from guardrail.registry.gate_client import GateClient

RATIO, ALIAS_SECONDS = 0.95, 1.0
MEGABYTES = 100
API = "api/2.0/mlflow"
MODEL = "free"
numbers = count()


class _Far(Exception):
    """Promotion has come as far as it should."""


@dataclass(frozen=True)
class Side:
    """One of the servers."""

    uri: str
    session: requests.Session

    def call(self, method: str, route: str, **said: Any) -> None:
        """One request; anything but success ends the benchmark."""
        given: dict[str, Any] = {"params": said} if method == "GET" else {"json": said}
        self.session.request(method, f"{self.uri}/{API}/{route}", timeout=60, **given).raise_for_status()


Ask = Callable[[Side], None]
READS: dict[str, Ask] = {
    "get a registered model": lambda at: at.call("GET", "registered-models/get", name=MODEL),
    "get a version": lambda at: at.call("GET", "model-versions/get", name=MODEL, version="1"),
    "resolve an alias": lambda at: at.call("GET", "registered-models/alias", name=MODEL, alias="champion"),
    "search versions": lambda at: at.call("GET", "model-versions/search", filter=f"name = '{MODEL}'", max_results=10),
    "search models": lambda at: at.call("GET", "registered-models/search", max_results=10),
}
WRITES: dict[str, Ask] = {
    "create a registered model": lambda at: at.call("POST", "registered-models/create", name=f"new-{next(numbers)}"),
    "set a tag": lambda at: at.call("POST", "registered-models/set-tag", name=MODEL, key="k", value=str(next(numbers))),
    "set an alias": lambda at: at.call("POST", "registered-models/alias", name=MODEL, alias="champion", version="1"),
    "create a version": lambda at: at.call("POST", "model-versions/create", name="many", source="s3://bucket/model"),
}


@dataclass(frozen=True)
class Compared:
    """One kind of request: requests per second of the median round, and the 99th percentile of all, in ms."""

    request: str
    gated: float
    stock: float
    gated_p99: float
    stock_p99: float
    ratio: float
    """The median, over pairs of neighbouring rounds, of gated to stock requests per second."""


def compared(name: str, ask: Ask, gated: Side, stock: Side, rounds: int, each: int) -> Compared:
    """Rounds in turn, gated first in every second pair."""
    took: dict[str, list[list[float]]] = {gated.uri: [], stock.uri: []}
    for number in range(rounds + 1):
        for side in (gated, stock) if number % 2 else (stock, gated):
            took[side.uri].append([_seconds(ask, side) for _ in range(each)])
    ours, theirs = took[gated.uri][1:], took[stock.uri][1:]  # the first warms up
    ratios = [sum(b) / sum(a) for a, b in zip(ours, theirs, strict=True)]
    return Compared(
        name, each / median(map(sum, ours)), each / median(map(sum, theirs)), _p99(ours), _p99(theirs), median(ratios)
    )


def _seconds(ask: Ask, side: Side) -> float:
    start = perf_counter()
    ask(side)
    return perf_counter() - start


def _p99(rounds: list[list[float]]) -> float:
    return 1000 * quantiles([one for found in rounds for one in found], n=100)[98]


def fill(side: Side) -> None:
    """What reads and writes are about."""
    for name in (MODEL, "many"):
        side.call("POST", "registered-models/create", name=name)
    side.call("POST", "model-versions/create", name=MODEL, source="s3://bucket/model")
    side.call("POST", "registered-models/alias", name=MODEL, alias="champion", version="1")


@contextmanager
def stock_server(directory: Path) -> Iterator[str]:
    """`mlflow server` with the settings that the gate's launcher makes."""
    port = free_port()
    arguments = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{directory / 'mlflow.db'}", "--disable-workspaces",
        "--artifacts-destination", (directory / "artifacts").as_uri(),
    ]  # fmt: skip
    with started(Command(arguments, environment(directory) | dict.fromkeys(HOSTILE, "false")), port, directory):
        yield f"http://127.0.0.1:{port}"


def alias_seconds(uri: str, folder: Path, who: Any, rounds: int) -> tuple[float, float]:
    """To move a protected alias to a sealed adapter of 100 MB, and to promote the same once more; medians."""
    from guardrail.registry.promote import promote

    gate, key, aliases, whole = GateClient(uri), who.decider.private, [], []
    for seed in range(rounds):
        bundle = proven(folder / str(seed), gate, who.signers, seed=seed, prepare=_heavy)
        with suppress(_Far):
            promote(bundle, tracking_uri=uri, private_key=key, now=datetime.now(UTC), on_step=_until_alias)
        side = Side(uri, requests.Session())
        said = {"name": "guarded", "alias": "production", "version": str(seed + 1)}
        aliases.append(_seconds(lambda at, said=said: at.call("POST", "registered-models/alias", **said), side))  # type: ignore[misc]
        start = perf_counter()
        promote(bundle, tracking_uri=uri, private_key=key, now=datetime.now(UTC))
        whole.append(perf_counter() - start)
    return median(aliases), median(whole)


def _until_alias(step: str) -> None:
    if step == "alias":
        raise _Far


def _heavy(adapter: Path) -> None:
    block = bytes(range(256)) * 4096
    with (adapter / "more.safetensors").open("wb") as stream:
        for _ in range(MEGABYTES):
            stream.write(block)


def ledger_seconds(folder: Path, entries: int) -> float:
    """To verify a ledger of so many entries (``benchmarks/ledger.py`` measures it in more ways)."""
    key = keys.load_private(keys.init(folder).private)
    _, head = written(folder / "ledger", entries, key)
    return min(seconds(folder / "ledger", entries, head, key, 2)[0] for _ in range(3))


def measured(folder: Path, rounds: int, each: int, entries: int) -> dict[str, Any]:
    """All figures."""
    for name in ("people", "gated", "stock", "bundles", "ledger"):
        (folder / name).mkdir()
    who = people(folder / "people")
    with ExitStack() as stack:
        gated_uri = stack.enter_context(gated_server(folder / "gated", Cell(), who)).uri
        stock_uri = stack.enter_context(stock_server(folder / "stock"))
        gated, stock = Side(gated_uri, requests.Session()), Side(stock_uri, requests.Session())
        for side in (gated, stock):
            fill(side)
        requests_ = [compared(name, ask, gated, stock, rounds, each) for name, ask in (READS | WRITES).items()]
        alias, whole = alias_seconds(gated_uri, folder / "bundles", who, 3)
    return {
        "requests": [asdict(one) for one in requests_], "alias_seconds": alias, "promote_again_seconds": whole,
        "ledger_entries": entries, "ledger_seconds": ledger_seconds(folder / "ledger", entries),
    }  # fmt: skip


def main() -> int:
    """Measure, compare, say so."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and a tenth of the ledger")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    rounds, each, entries = (10, 10, 10_000) if arguments.quick else (60, 20, 100_000)
    with tempfile.TemporaryDirectory() as folder:
        found = measured(Path(folder), rounds, each, entries)
    for one in found["requests"]:
        print(f"{one['request']:26s} gated {one['gated']:7.1f}/s p99 {one['gated_p99']:6.1f} ms   stock "
              f"{one['stock']:7.1f}/s p99 {one['stock_p99']:6.1f} ms   ratio {one['ratio']:.3f}")  # fmt: skip
    worst = min(one["ratio"] for one in found["requests"])
    limit = SECONDS * entries / 100_000
    print(f"the worst ratio: {worst:.3f} (target at least {RATIO})")
    print(f"a protected alias to a sealed adapter of {MEGABYTES} MB: {found['alias_seconds']:.2f} s (target under "
          f"{ALIAS_SECONDS:.0f} s); promoting it again: {found['promote_again_seconds']:.2f} s")  # fmt: skip
    print(f"a ledger of {entries} entries verified: {found['ledger_seconds']:.2f} s (target under {limit:.0f} s)")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(found) + "\n")
    good = worst >= RATIO and found["alias_seconds"] < ALIAS_SECONDS and found["ledger_seconds"] < limit
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
