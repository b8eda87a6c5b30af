"""A fair queue over threads and processes: in the order of arrival, and whoever dies gives up their place."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from guardrail.errors import EvidenceInvalid, ServiceUnavailable
from guardrail.gate.sealed import turnstile
from guardrail.gate.sealed.turnstile import Turnstile

HOLDS = (
    "import sys; from pathlib import Path; from guardrail.gate.sealed.turnstile import Turnstile\n"
    "with Turnstile(Path(sys.argv[1])).turn():\n    print('in', flush=True); sys.stdin.read()"
)


class Arrivals:
    """Threads that come one after another; each is known to stand in the queue before the next one comes."""

    def __init__(self, queue: Turnstile, monkeypatch: pytest.MonkeyPatch) -> None:
        self.order: list[object] = []
        self._queue, self._waits, self._threads = queue, threading.Event(), list[threading.Thread]()
        wait = turnstile._wait

        def seen(patience: float, ready: Callable[[], bool]) -> None:
            self._waits.set()
            wait(patience, ready)

        monkeypatch.setattr(turnstile, "_wait", seen)

    def come(self, who: object) -> None:
        self._waits.clear()
        self._threads.append(threading.Thread(target=self._take, args=(who,)))
        self._threads[-1].start()
        assert self._waits.wait(30)

    def finish(self) -> None:
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()

    def _take(self, who: object) -> None:
        try:
            with self._queue.turn():
                self.order.append(who)
        except ServiceUnavailable:
            self.order.append(f"{who} left")


def test_whoever_comes_first_is_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Turnstile(tmp_path / "queue")
    arrivals = Arrivals(queue, monkeypatch)
    with queue.turn():
        for number in range(20):
            arrivals.come(number)
        assert arrivals.order == []
    arrivals.finish()
    assert arrivals.order == list(range(20))


def test_one_at_a_time_over_processes_and_a_killed_one_gives_up_its_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrivals = Arrivals(Turnstile(tmp_path / "queue"), monkeypatch)
    command = [sys.executable, "-c", HOLDS, str(tmp_path / "queue")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"in\n"
        for number in range(3):
            arrivals.come(number)
        assert arrivals.order == []
        holder.send_signal(signal.SIGKILL)
        holder.wait(30)
    arrivals.finish()
    assert arrivals.order == [0, 1, 2]


def test_whoever_waits_too_long_is_told_to_try_again_and_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hasty, patient = Turnstile(tmp_path / "queue", patience=0), Turnstile(tmp_path / "queue")
    arrivals = Arrivals(patient, monkeypatch)
    with patient.turn():
        with pytest.raises(ServiceUnavailable, match="try again"), hasty.turn():
            pass
        arrivals.come("after")
    arrivals.finish()
    assert arrivals.order == ["after"]


def test_queues_of_other_numbers_in_the_same_file_wait_for_nobody(tmp_path: Path) -> None:
    first, second = (Turnstile(tmp_path / "queue", which, patience=0) for which in (0, 1))
    with first.turn(), second.turn():
        assert (tmp_path / "queue").read_bytes() == b""


def test_where_there_is_no_room_nobody_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Turnstile(tmp_path / "queue", room=2)
    arrivals = Arrivals(queue, monkeypatch)
    with queue.turn():
        arrivals.come("second")
        with pytest.raises(ServiceUnavailable, match="too many"), queue.turn():
            pass
    arrivals.finish()
    with queue.turn():
        assert arrivals.order == ["second"]


def test_a_place_that_cannot_be_made_or_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ServiceUnavailable), Turnstile(tmp_path / "nowhere" / "queue").turn():
        pass
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EvidenceInvalid, match="symbolic link"), Turnstile(tmp_path / "link").turn():
        pass
    assert not (tmp_path / "elsewhere").exists()
