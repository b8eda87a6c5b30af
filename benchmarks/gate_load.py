"""What a flood of refused requests costs an honest promotion: its time beside 50 connections, and alone.

    python benchmarks/gate_load.py [--quick] [--json FILE] [--only PART-OF-A-NAME] [--rounds N]

A gated server with four workers; an adapter of 100 MB is promoted alone, then while 50 connections keep asking for one
kind of thing that is refused (or changes nothing), each as soon as its last answer is there. Attackers are one process
of low priority (nice 15), because on a small machine their own processor time is not the server's to answer for.
Exits 1 where the honest promotion takes more than twice as long as alone (medians). --quick: 20 MB, one promotion each.
Not covered: attackers who do not wait for answers or come from many addresses. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from inspect import signature
from multiprocessing.synchronize import Event
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.extend(map(str, (Path(__file__).parents[1] / "tests" / "helpers").iterdir()))

from gate_chains import proven, vote
from gate_fixtures import client_of
from gated_servers import People, Running, gated_server, people
from matrix import Cell
from registry_bundles import heavy

from guardrail.errors import AwaitingApproval, ServiceUnavailable
from guardrail.evidence.bundle import Bundle
from guardrail.registry.gate.client import GateClient

CONNECTIONS, WORKERS, RATIO = 50, 4, 2.0
API, ARTIFACTS, GATE = "/api/2.0/mlflow", "/api/2.0/mlflow-artifacts/artifacts", "/api/2.0/guardrail"
MODEL, OTHER, WAITING = "guarded", "second", "waiting"
PATIENCE = 400.0
"""Seconds after which a flood is called off: the promotion takes at least that long."""


@dataclass(frozen=True)
class Request:
    """What one connection keeps asking for."""

    method: str
    path: str
    body: bytes = b""


@dataclass(frozen=True)
class Load:
    """Seconds of an honest promotion beside a flood and alone, and what the flood came to, answers by status."""

    flood: str
    alone: float
    beside: float
    answers: dict[str, int] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        return self.beside / self.alone


class World:
    """A server, honest adapters of so many megabytes, and what attackers have to work with."""

    def __init__(self, running: Running, who: People, folder: Path, megabytes: int) -> None:
        self.running, self.who, self._folder, self._megabytes = running, who, folder, megabytes
        self.client, self._seeds = client_of(running), iter(range(1, 10_000))

    def promotion(self) -> float:
        """Seconds of an honest promotion of a new adapter."""
        bundle = self.bundle(MODEL)
        start = perf_counter()
        self.promote(bundle)
        return perf_counter() - start

    def bundle(self, model: str) -> Bundle:
        """A new adapter with its evidence; the one before is removed, for they are large."""
        shutil.rmtree(self._folder, ignore_errors=True)
        seed = next(self._seeds)
        given = {"model": model, "seed": seed, "prepare": self._fill}
        return proven(self._folder / str(seed), GateClient(self.running.uri), self.who.signers, **given)

    def promote(self, bundle: Bundle) -> str:
        """As the command does; asked again where the server is busy, as its message says."""
        from guardrail.registry.record.promote import promote

        key, until = self.who.decider.private, perf_counter() + PATIENCE
        while True:
            try:
                record = promote(bundle, tracking_uri=self.running.uri, private_key=key, now=datetime.now(UTC))
                return str(record.version)
            except ServiceUnavailable:
                if perf_counter() > until:
                    return ""

    def logged(self, fill: Callable[[Path], object]) -> str:
        """A logged model of a client's own; its id."""
        model = self.client.create_logged_model("0", name="proposed")
        with tempfile.TemporaryDirectory() as folder:
            fill(Path(folder))
            self.client.log_model_artifacts(model.model_id, folder)
        self.client.finalize_logged_model(model.model_id, "READY")
        return str(model.model_id)

    def junk(self, directory: Path) -> None:
        """What looks like an adapter and evidence from afar."""
        (directory / "evidence").mkdir()
        (directory / "evidence" / "decision.dsse.json").write_bytes(b"{}" * 1000)
        (directory / "adapter_model.safetensors").write_bytes(os.urandom(self._megabytes << 20))

    def waits(self) -> Bundle:
        """An adapter of the same size that waits for a second person; the first has agreed."""
        bundle = self.bundle(WAITING)
        with suppress(AwaitingApproval):
            self.promote(bundle)
        GateClient(self.running.uri).submit(self.approval(bundle))
        return bundle

    def approval(self, bundle: Bundle) -> bytes:
        """The vote of the first person."""
        return vote(bundle, self.who.approvers[0].private)

    def _fill(self, directory: Path) -> None:
        heavy(directory, self._megabytes)


def _alias(version: str, name: str = MODEL) -> Request:
    return _json("registered-models/alias", name=name, alias="production", version=version)


def _standing(world: World) -> Request:
    """To set an alias, of another guarded model, where it points already: that is not refused, and reads everything."""
    return _alias(world.promote(world.bundle(OTHER)), OTHER)


def _proposal(model_id: str, name: str = MODEL) -> Request:
    return _json("model-versions/create", name=name, source=f"models:/{model_id}", model_id=model_id)


def _json(route: str, **body: Any) -> Request:
    return Request("POST", f"{API}/{route}", json.dumps(body).encode())


def _logged_of(world: World, version: str) -> str:
    return str(world.client.get_model_version(MODEL, version).tags["guardrail.model_id"])


def _waiting_again(world: World) -> Request:
    """To propose what waits once more, from the very logged model."""
    evidence = world.waits().evidence_sha256
    experiment = world.client.get_experiment_by_name("guardrail")
    where = f"tags.`guardrail.evidence_sha256` = '{evidence}'"
    (found,) = world.client.search_logged_models([str(experiment and experiment.experiment_id)], where)
    return _proposal(str(found.model_id), WAITING)


def _vote_again(world: World) -> Request:
    return Request("POST", f"{GATE}/statements", world.approval(world.waits()))


FLOODS: dict[str, Callable[[World], Request]] = {
    "an alias to an old version": lambda _: _alias("1"),
    "an alias to a version that is not there": lambda _: _alias("999"),
    "an alias to where it points already": _standing,
    "a proposal without evidence": lambda w: _proposal(w.logged(lambda d: (d / "a.json").write_text("{}"))),
    "a proposal of large junk": lambda w: _proposal(w.logged(w.junk)),
    "a proposal that was admitted before": lambda w: _proposal(_logged_of(w, "1")),
    "a proposal that waits for approval": _waiting_again,
    "an approval that was handed in before": _vote_again,
    "a statement of nobody": lambda _: Request("POST", f"{GATE}/statements", b"{}" * 1000),
    "an upload into the sealed tree": lambda _: Request("PUT", f"{ARTIFACTS}/sealed/x/a.bin", bytes(1 << 20)),
    "a junk candidate": lambda _: _json(
        "logged-models", experiment_id="0", name="junk", tags=[{"key": "guardrail.candidate", "value": "0" * 64}]
    ),
    "the doctor": lambda _: Request("GET", f"{GATE}/doctor"),
}
QUICK = ("an alias to an old version", "a proposal of large junk", "an approval that was handed in before")


def attack(uri: str, request: Request, warm: Event, stop: Event, found: Any) -> None:
    """50 connections that keep asking; ``warm`` once each was answered, or a while has passed. A process of its own."""
    os.nice(15)
    counted: dict[str, int] = {}
    lock, answered = threading.Lock(), threading.Semaphore(0)

    def ask() -> None:
        first = True
        while not stop.is_set():
            status = _asked(uri, request, stop, lambda one: _count(counted, lock, one))
            _count(counted, lock, status)
            if first:
                answered.release()
                first = False

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 5
    for _ in threads:
        answered.acquire(timeout=max(0.0, until - time.monotonic()))
    warm.set()
    stop.wait()
    found.update(counted)
    os._exit(0)  # some may wait for their answers for minutes


def _asked(uri: str, request: Request, stop: Event, count: Callable[[str], None]) -> str:
    """Ask over one connection until it breaks; the reason."""
    address = urlsplit(uri)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=PATIENCE)
    try:
        while not stop.is_set():
            connection.request(request.method, request.path, request.body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            count(str(answer.status))
        return "stopped"
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__
    finally:
        connection.close()


def _count(counted: dict[str, int], lock: threading.Lock, status: str) -> None:
    with lock:
        counted[status] = counted.get(status, 0) + 1


@contextmanager
def flooding(uri: str, request: Request) -> Iterator[dict[str, int]]:
    """A flood for as long as the block lasts; afterwards what it came to."""
    context, answers = multiprocessing.get_context("spawn"), dict[str, int]()
    with context.Manager() as manager:
        warm, stop, found = context.Event(), context.Event(), manager.dict()
        process = context.Process(target=attack, args=(uri, request, warm, stop, found))
        process.start()
        warm.wait(60)
        try:
            yield answers
        finally:
            stop.set()
            process.join(30)
            process.kill()
            answers.update(found)


def measured(folder: Path, floods: list[str], megabytes: int, rounds: int) -> Iterator[Load]:
    """Each flood, and a promotion alone right before it: the registry grows meanwhile."""
    (folder / "server").mkdir()
    who = people(folder / "people")
    paced: dict[str, Any] = {"refusals": "1"} if "refusals" in signature(gated_server).parameters else {}  # the default
    with gated_server(folder / "server", Cell(), who, workers=WORKERS, **paced) as running:
        world = World(running, who, folder / "adapters", megabytes)
        for _ in range(2):  # every worker has imported what it needs, and there is an old version
            world.promotion()
        for name in floods:
            request = FLOODS[name](world)
            alone = median(world.promotion() for _ in range(rounds))
            with flooding(running.uri, request) as answers:
                beside = median(world.promotion() for _ in range(rounds))
            yield Load(name, alone, beside, answers)


def main() -> int:
    """Measure, compare, say so."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20 MB, three floods, one promotion each")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--only", default="", help="the floods whose name contains this")
    parser.add_argument("--rounds", type=int, default=3, help="so many promotions beside each flood and alone")
    arguments = parser.parse_args()
    megabytes, rounds = (20, 1) if arguments.quick else (100, arguments.rounds)
    floods = [name for name in (QUICK if arguments.quick else FLOODS) if arguments.only in name]
    if not floods:
        parser.error(f"no flood's name contains {arguments.only!a}; there are: {', '.join(FLOODS)}")
    found: list[Load] = []
    with tempfile.TemporaryDirectory() as folder:
        for one in measured(Path(folder), floods, megabytes, rounds):
            found.append(one)
            print(
                f"{one.flood:42s} alone {one.alone:6.2f} s   beside {CONNECTIONS} connections {one.beside:7.2f} s   "
                f"ratio {one.ratio:6.2f}   answers {dict(sorted(one.answers.items()))}",
                flush=True,
            )
    print(f"the worst ratio: {max(one.ratio for one in found):.2f} (target at most {RATIO})")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps([asdict(one) | {"ratio": one.ratio} for one in found]) + "\n")
    return 0 if all(one.ratio <= RATIO for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
