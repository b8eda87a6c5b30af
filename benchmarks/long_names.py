"""What long names cost a server: processor time and memory, gated beside stock.

    python benchmarks/long_names.py [--quick] [--json FILE]

Every route that carries a name of a model or an alias gets names of two megabytes (as long as an address may be, where
the route takes it from there), of plain letters and of characters that grow when they are folded; no two requests are
the same. Then it prints processor seconds for each request and by how much the server's memory grew. Exits 1 where the
gated server takes more than 0.25 s of processor time for a request beyond what the stock one takes, or grows by 100 MB
more. --quick sends a fifth of the requests. Linux only: it reads /proc.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import requests

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.extend(map(str, (Path(__file__).parents[1] / "tests" / "helpers").iterdir()))

from gated_servers import Running, gated_server, people, stock_server
from matrix import Cell

API = "api/2.0/mlflow"
SECONDS, MEGABYTES = 0.25, 100.0
LONG, ADDRESS = 2_000_000, 8_000
TIMES = 5
GROWING = "\ufdfa"
"""Eighteen characters once it is folded."""


def plain(number: int, size: int) -> str:
    """ASCII letters."""
    return f"{number:06}" + "a" * (size - 6)


def growing(number: int, size: int) -> str:
    """As many bytes of what grows."""
    return f"{number:06}" + GROWING * (size // 3)


def accented(number: int, size: int) -> str:
    """One letter with all of the accents, in the order that has to be mended."""
    return f"{number:06}a" + "\u0301\u0323" * (size // 4)


Name = Callable[[int, int], str]
NAMES: tuple[Name, ...] = (plain, growing, accented)


@dataclass(frozen=True)
class Route:
    """One request with a name in it."""

    method: str
    path: str
    field: str
    rest: dict[str, str]


def _route(method: str, path: str, field: str = "name", **rest: str) -> Route:
    return Route(method, f"{API}/{path}", field, rest)


ROUTES = (
    _route("POST", "registered-models/create"),
    _route("POST", "registered-models/rename"),
    _route("POST", "registered-models/rename", "new_name", name="guarded"),
    _route("PATCH", "registered-models/update", description="x"),
    _route("DELETE", "registered-models/delete"),
    _route("POST", "registered-models/set-tag", key="k", value="v"),
    _route("POST", "registered-models/set-tag", "key", name="guarded", value="v"),
    _route("DELETE", "registered-models/delete-tag", key="k"),
    _route("POST", "registered-models/alias", alias="production", version="1"),
    _route("POST", "registered-models/alias", "alias", name="guarded", version="1"),
    _route("POST", "registered-models/alias", "version", name="guarded", alias="production"),
    _route("DELETE", "registered-models/alias", alias="production"),
    _route("DELETE", "registered-models/alias", "alias", name="guarded"),
    _route("GET", "registered-models/alias", alias="production"),
    _route("GET", "registered-models/alias", "alias", name="guarded"),
    _route("POST", "model-versions/create", source="s3://bucket/model"),
    _route("POST", "model-versions/create", "source", name="guarded"),
    _route("PATCH", "model-versions/update", version="1", description="x"),
    _route("POST", "model-versions/transition-stage", version="1", stage="Production"),
    _route("POST", "model-versions/set-tag", version="1", key="k", value="v"),
    _route("DELETE", "model-versions/delete-tag", version="1", key="k"),
    _route("DELETE", "model-versions/delete", version="1"),
    Route("POST", "api/2.0/guardrail/tickets", "model", {"alias": "production"}),
    Route("GET", "api/2.0/guardrail/waiting", "model", {}),
    Route("GET", "api/2.0/guardrail/statements", "sha256", {}),
)


@dataclass(frozen=True)
class Used:
    """What a group of processes has used: processor seconds so far, and megabytes of memory now."""

    seconds: float
    megabytes: float

    @classmethod
    def by(cls, group: int) -> Used:
        """All processes of the group."""
        ticks, pages = 0, 0
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                if int(fields[2]) == group:
                    ticks += int(fields[11]) + int(fields[12])
                    pages += int((folder / "statm").read_text().split()[1])
            except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
                continue
        return cls(ticks / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE") / 1e6)


@dataclass(frozen=True)
class Slowest:
    """The request that took longest."""

    what: str
    seconds: float


@dataclass(frozen=True)
class Cost:
    """What the requests cost one server."""

    requests: int
    seconds_each: float
    megabytes: float
    slowest: Slowest


def cost(running: Running, times: int) -> Cost:
    """Send everything ``times`` times."""
    session, number = requests.Session(), 0
    for route in ROUTES:
        _send(session, running.uri, route, plain, number)  # what is loaded at a first request does not count
    before, slowest = Used.by(running.group), Slowest("", 0.0)
    for route, name in [(route, name) for route in ROUTES for name in NAMES] * times:
        number, start = number + 1, Used.by(running.group)
        _send(session, running.uri, route, name, number)
        took = Used.by(running.group).seconds - start.seconds
        if took > slowest.seconds:
            slowest = Slowest(f"{route.method} {route.path} with such a {route.field} ({name.__name__})", took)
    after = Used.by(running.group)
    return Cost(number, (after.seconds - before.seconds) / number, after.megabytes - before.megabytes, slowest)


def _send(session: requests.Session, uri: str, route: Route, name: Name, number: int) -> None:
    long = {route.field: name(number, ADDRESS if route.method == "GET" else LONG)}
    given = {"params" if route.method == "GET" else "json": {**route.rest, **long}}
    session.request(route.method, f"{uri}/{route.path}", timeout=600, **given)  # type: ignore[arg-type]


def main() -> int:
    """Start both, send, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="every request once instead of five times")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        for name in ("people", "gated", "stock"):
            (base / name).mkdir()
        who, times = people(base / "people"), 1 if arguments.quick else TIMES
        with gated_server(base / "gated", Cell(), who) as running:
            gated = cost(running, times)
        with stock_server(base / "stock", Cell()) as running:
            stock = cost(running, times)
    for what, found in (("gated", gated), ("stock", stock)):
        print(
            f"{what}: {found.requests} requests, {found.seconds_each:.3f} s of processor time each, memory grew by "
            f"{found.megabytes:.0f} MB; at most {found.slowest.seconds:.2f} s, for {found.slowest.what}"
        )
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({"gated": asdict(gated), "stock": asdict(stock)}) + "\n")
    slow, large = gated.seconds_each - stock.seconds_each, gated.megabytes - stock.megabytes
    return 0 if slow <= SECONDS and large <= MEGABYTES else 1


if __name__ == "__main__":
    sys.exit(main())
