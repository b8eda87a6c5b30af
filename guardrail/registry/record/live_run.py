"""A training shown in MLflow while it goes on: an MLflow run of its own, which is not evidence and says so.

Numbers are put into a queue and sent by a thread, many in one request, so that a training step waits for nothing. A
server that dies is asked again now and then; numbers wait for it, and what never reached it is counted when the run
ends. Nothing that MLflow raises after the start reaches the training. The run lies in an experiment of its own, apart
from the decisions; promotion and verification do not look at it.

Not covered: a process that is killed (SIGKILL, or SIGTERM) leaves its run RUNNING until the training is gone on with.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from guardrail.registry.http.address import redacted
from guardrail.registry.http.limits import limits
from guardrail.registry.mlflow.mlflow_client import calm, client
from guardrail.registry.mlflow.mlflow_session import bounded
from guardrail.registry.mlflow.tags import PREFIX
from guardrail.registry.record.decision_run import BATCH, experiment

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

EXPERIMENT = "guardrail-training"
KIND, NO_EVIDENCE, INPUTS = PREFIX + "kind", PREFIX + "is_evidence", PREFIX + "training_inputs"
NOTE = (
    "Numbers that a training sent while it ran. They are not signed, decide nothing and prove nothing. Decisions and "
    "their evidence are in the experiment of the promotion."
)
INTERVAL, LONGEST_INTERVAL = 2.0, 60.0
"""Seconds between requests; twice as long after each one that failed."""
PATIENCE = 15.0
"""Seconds that the end of a training waits for the store at most."""
TIMEOUT = "10"
"""Seconds that a server may take for an answer, unless MLFLOW_HTTP_REQUEST_TIMEOUT says otherwise."""
FOR_EVER = float("inf")
"""A training has no end that is known; each answer has (``registry/http/limits.py``)."""
MOST = 200_000
"""Numbers that wait for a server at most; the oldest are forgotten first."""


@dataclass(frozen=True)
class Resumed:
    """An MLflow run of an earlier process; ``same`` says whether it showed this training or another one."""

    run_id: str
    same: bool


@dataclass(frozen=True)
class _KnownRun:
    """An MLflow run, and the last step that it holds numbers of."""

    run_id: str
    last_step: int = 0


def start(
    uri: str, inputs: str, params: Mapping[str, str], resumed: Resumed | None = None, *, interval: float = INTERVAL
) -> LiveRun:
    """Make the MLflow run of a training, or go on with the one that shows it already.

    Args:
        uri: the MLflow server or store.
        inputs: the digest of what is trained, for the run's name and tag.
        params: what the run shows besides numbers; ``method`` is part of its name.
        resumed: the run that an earlier process left; one of another training is marked KILLED.
        interval: seconds between requests.

    Raises:
        ServiceUnavailable: nobody answers, the database is locked, the disk is full or read-only.
        InvalidInput: no MLflow store is there, or it refuses what we ask.
    """
    with client(uri, write=True) as opened:
        known = (_reopened(opened, resumed) if resumed else None) or _new(opened, uri, inputs, params)
    return LiveRun(uri, known.run_id, known.last_step, interval)


class LiveRun:
    """An MLflow run that numbers are sent to until :meth:`end`.

    Args:
        last_step: what the store holds already; numbers of the steps up to it are not sent again.
    """

    def __init__(self, uri: str, run_id: str, last_step: int, interval: float) -> None:
        from mlflow import MlflowClient

        self.run_id = run_id
        self._uri, self._last_step, self._interval = uri, last_step, interval
        self._waiting: deque[Metric] = deque(maxlen=MOST)
        self._batch: list[Metric] = []  # taken from the queue and not yet acknowledged
        self._told = self._sent = 0
        self._why, self._status, self._ended = "", "", False
        self._ending = threading.Event()
        self._calm = ExitStack()
        self._calm.enter_context(calm(MLFLOW_HTTP_REQUEST_TIMEOUT=TIMEOUT))
        self._calm.enter_context(bounded(uri, given=replace(limits(), total_seconds=FOR_EVER, calls=sys.maxsize)))
        self._client = MlflowClient(tracking_uri=uri)
        self._thread = threading.Thread(target=self._work, name="guardrail-live", daemon=True)
        self._thread.start()

    def tell(self, step: int, values: Mapping[str, float]) -> None:
        """Take the numbers of an optimiser step; returns at once and never fails."""
        from mlflow.entities import Metric

        if step <= self._last_step:
            return
        now = int(time.time() * 1000)
        self._told += len(values)
        self._waiting.extend(Metric(name, value, now, step) for name, value in values.items())

    def end(self, status: str) -> str:
        """Send the rest, mark the run, and return within ``PATIENCE``; never fails.

        Args:
            status: FINISHED, FAILED or KILLED.

        Returns:
            What is missing in MLflow and why, or "".
        """
        self._status = status
        self._ending.set()
        self._thread.join(PATIENCE)
        self._calm.close()
        return "" if self._ended and self._sent == self._told else self._missing()

    def _missing(self) -> str:
        return (
            f"MLflow at {redacted(self._uri)} took {self._sent} of {self._told} live numbers"
            f"{'' if self._ended else ' and not the end'} of run {self.run_id}: "
            f"{self._why or 'it was too slow'}. The training was not affected."
        )

    def _work(self) -> None:
        wait = self._interval
        while not self._ending.wait(wait):
            wait = self._interval if self._flush() else min(2 * wait, LONGEST_INTERVAL)
        if self._flush():
            self._ended = self._tried(lambda: self._client.set_terminated(self.run_id, self._status))

    def _flush(self) -> bool:
        """Send what waits; what a store does not take stays for the next time."""
        while self._batch or self._waiting:
            while self._waiting and len(self._batch) < BATCH:
                self._batch.append(self._waiting.popleft())
            if not self._tried(lambda: self._client.log_batch(self.run_id, metrics=self._batch, synchronous=True)):
                return False
            self._sent += len(self._batch)
            self._batch = []
        return True

    def _tried(self, action: Callable[[], object]) -> bool:
        try:
            action()
        except Exception as error:  # whatever MLflow raises in this thread: it is told at the end, not obeyed
            text = (str(error).splitlines() or [""])[0].replace(self._uri.rstrip("/"), redacted(self._uri))
            self._why = f"{type(error).__name__}: {text[:200]}"
            return False
        return True


def _new(client: MlflowClient, uri: str, inputs: str, params: Mapping[str, str]) -> _KnownRun:
    from mlflow.entities import Param

    tags = {KIND: "live training", NO_EVIDENCE: "no", INPUTS: inputs, "mlflow.note.content": NOTE}
    name = f"training {params.get('method', '')} {inputs[:8]} (live, no decision)"
    run = client.create_run(experiment(client, uri, EXPERIMENT), tags=tags, run_name=name)
    client.log_batch(run.info.run_id, params=[Param(key, value) for key, value in params.items()])
    return _KnownRun(str(run.info.run_id))


def _reopened(client: MlflowClient, resumed: Resumed) -> _KnownRun | None:
    """The run of the training that goes on, RUNNING again; None where it is gone or showed another training."""
    from mlflow.exceptions import MlflowException

    try:
        info = client.get_run(resumed.run_id).info
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    if info.lifecycle_stage != "active":
        return None
    if not resumed.same:
        if info.status == "RUNNING":
            client.set_terminated(resumed.run_id, "KILLED")
        return None
    client.update_run(resumed.run_id, status="RUNNING")
    steps = [metric.step for metric in client.get_metric_history(resumed.run_id, "loss")]
    return _KnownRun(resumed.run_id, max(steps, default=0))
