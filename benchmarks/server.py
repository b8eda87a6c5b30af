"""What the gate costs: a gated server beside two stock ones, same MLflow, same database, one worker each.

    python benchmarks/server.py [--quick] [--json FILE]

Reads and unguarded writes go to all three, one request each in a new random order, so that whatever else the machine
does meets all. Two processes of the very same code differ by a few percent (where their memory lies), so the servers
are started anew several times, the median start counts, and the second stock server tells how much of a difference is
nothing. Then a protected alias moves to a sealed adapter of 100 MB, and a ledger of 100,000 entries is verified.
Exits 1 where the gated server answers fewer than 0.95 of the stock servers' requests per second, the alias takes 1 s,
or the ledger 10 s. --quick starts them once, with fewer requests, and verifies a tenth of the ledger.
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
from random import Random
from statistics import fmean, median, quantiles
from time import perf_counter
from typing import Any

import requests
from ledger import SECONDS, seconds, written

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.extend(map(str, (Path(__file__).parents[1] / "tests" / "helpers").iterdir()))

from gate_chains import proven
from gated_servers import HOSTILE, People, environment, gated_server, people
from matrix import Cell
from registry_bundles import heavy
from server_process import Command, free_port, started

from guardrail.evidence.keys import key_pairs
from guardrail.registry.gate.client import GateClient

RATIO, ALIAS_SECONDS = 0.95, 1.0
MEGABYTES = 100
API = "api/2.0/mlflow"
MODEL = "free"
SERVERS = ("gated", "stock", "stock again")
numbers = count()
order = Random(0)


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
    """One kind of request, by server: requests per second of the median start, and the 99th percentile of all, in ms.

    ``ratio`` is the median, over the starts, of gated to stock requests per second (both stock servers together);
    ``noise`` the same of the second stock server to the first.
    """

    request: str
    per_second: dict[str, float]
    p99: dict[str, float]
    ratio: float
    noise: float


Times = dict[str, dict[str, list[float]]]
"""Seconds of every request, by kind of request and server."""


def timed(sides: dict[str, Side], each: int) -> Times:
    """Every kind of request ``each`` times to each server, in a random order; the first tenth warms up."""
    found: Times = {}
    for name, ask in (READS | WRITES).items():
        took: dict[str, list[float]] = {server: [] for server in sides}
        for _ in range(each + each // 10):
            for server in order.sample(list(sides), len(sides)):
                took[server].append(_seconds(ask, sides[server]))
        found[name] = {server: seconds[-each:] for server, seconds in took.items()}
    return found


def compared(name: str, starts: list[Times]) -> Compared:
    """What the starts say about one kind of request."""
    means = [{server: fmean(took) for server, took in times[name].items()} for times in starts]
    together = {server: [one for times in starts for one in times[name][server]] for server in SERVERS}
    return Compared(
        name,
        {server: 1 / median(mean[server] for mean in means) for server in SERVERS},
        {server: 1000 * quantiles(took, n=100)[98] for server, took in together.items()},
        median(fmean((mean["stock"], mean["stock again"])) / mean["gated"] for mean in means),
        median(mean["stock"] / mean["stock again"] for mean in means),
    )


def _seconds(ask: Ask, side: Side) -> float:
    start = perf_counter()
    ask(side)
    return perf_counter() - start


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
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
        "--backend-store-uri",
        f"sqlite:///{directory / 'mlflow.db'}",
        "--disable-workspaces",
        "--artifacts-destination",
        (directory / "artifacts").as_uri(),
    ]
    with started(Command(arguments, environment(directory) | dict.fromkeys(HOSTILE, "false")), port, directory):
        yield f"http://127.0.0.1:{port}"


def alias_seconds(uri: str, folder: Path, who: People, rounds: int) -> tuple[float, float]:
    """To move a protected alias to a sealed adapter of 100 MB, and to promote the same once more; medians."""
    from guardrail.registry.record.promote import promote

    gate, key, aliases, whole = GateClient(uri), who.decider.private, [], []
    for seed in range(rounds):
        bundle = proven(
            folder / str(seed), gate, who.signers, seed=seed, prepare=lambda adapter: heavy(adapter, MEGABYTES)
        )
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


def ledger_seconds(folder: Path, entries: int) -> float:
    """To verify a ledger of so many entries (``benchmarks/ledger.py`` measures it in more ways)."""
    key = key_pairs.load_private(key_pairs.init(folder).private)
    _, head = written(folder / "ledger", entries, key)
    return min(seconds(folder / "ledger", entries, head, key, 2)[0] for _ in range(3))


def started_once(folder: Path, who: People, each: int) -> Times:
    """Three new servers, and what their requests take."""
    with ExitStack() as stack:
        for server in SERVERS:
            (folder / server).mkdir(parents=True)
        uris = {"gated": stack.enter_context(gated_server(folder / "gated", Cell(), who)).uri}
        uris |= {server: stack.enter_context(stock_server(folder / server)) for server in SERVERS if server not in uris}
        sides = {server: Side(uri, requests.Session()) for server, uri in uris.items()}
        for side in sides.values():
            fill(side)
        return timed(sides, each)


def measured(folder: Path, starts: int, each: int, entries: int) -> dict[str, Any]:
    """All figures."""
    for name in ("people", "guarded", "bundles", "ledger"):
        (folder / name).mkdir()
    who = people(folder / "people")
    times = [started_once(folder / f"start-{number}", who, each) for number in range(starts)]
    with gated_server(folder / "guarded", Cell(), who) as running:
        alias, whole = alias_seconds(running.uri, folder / "bundles", who, 3)
    return {
        "requests": [asdict(compared(name, times)) for name in READS | WRITES],
        "alias_seconds": alias,
        "promote_again_seconds": whole,
        "ledger_entries": entries,
        "ledger_seconds": ledger_seconds(folder / "ledger", entries),
    }


def main() -> int:
    """Measure, compare, say so."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one start, fewer requests, a tenth of the ledger")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    starts, each, entries = (1, 100, 10_000) if arguments.quick else (5, 300, 100_000)
    with tempfile.TemporaryDirectory() as folder:
        found = measured(Path(folder), starts, each, entries)
    for one in found["requests"]:
        said = "   ".join(f"{one['per_second'][at]:6.1f}/s p99 {one['p99'][at]:5.1f} ms" for at in ("gated", "stock"))
        ratios = f"{one['ratio']:.3f} (stock to stock {one['noise']:.3f})"
        print(f"{one['request']:26s} gated, stock {said}   ratio {ratios}")
    worst = min(one["ratio"] for one in found["requests"])
    limit = SECONDS * entries / 100_000
    print(f"the worst ratio: {worst:.3f} (target at least {RATIO})")
    print(
        f"a protected alias to a sealed adapter of {MEGABYTES} MB: {found['alias_seconds']:.2f} s (target under "
        f"{ALIAS_SECONDS:.0f} s); promoting it again: {found['promote_again_seconds']:.2f} s"
    )
    print(f"a ledger of {entries} entries verified: {found['ledger_seconds']:.2f} s (target under {limit:.0f} s)")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(found) + "\n")
    good = worst >= RATIO and found["alias_seconds"] < ALIAS_SECONDS and found["ledger_seconds"] < limit
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
