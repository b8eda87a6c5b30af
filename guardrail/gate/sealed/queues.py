"""Who waits for whom in the gate, over all workers of this machine; each queue is fair (``turnstile.py``).

    decisions   short: what is known is asked once more, the ledger and the database are written
    work        long: an adapter is fetched, hashed and sealed; one at a time for each guarded model
    again       long, and for nothing new: what an alias points at already is hashed once more
    looks       the doctor, which reads everything

Nobody waits for long work while they hold ``decisions``. Work for a model is one at a time so that what many propose at
once is fetched once: whoever comes next finds it in the ledger. What anybody may ask for as often as they like
(``again``) waits apart, and keeps nobody's promotion waiting.
Not covered: what unguarded requests cost (MLflow's own limits), and several machines.
"""

from __future__ import annotations

from pathlib import Path

from guardrail.evidence.digest import sha256
from guardrail.gate.sealed.turnstile import Turnstile, opened

FILE = ".queues"
MODELS = 16
"""The number of the first model's queue."""
LONG = 600.0
"""So many seconds long work is waited for."""
WORKERS, IDLE = 16, 4
"""So many requests of one process may wait for a model's work, and for what is hashed for nothing new."""


class Queues:
    """The queues of a server whose own directory is ``root``; all of them are in one empty file."""

    def __init__(self, root: Path) -> None:
        self._file = root / FILE
        self._work: dict[str, Turnstile] = {}
        self.decisions = Turnstile(self._file, 0)
        self.again = Turnstile(self._file, 1, LONG, IDLE)
        self.looks = Turnstile(self._file, 2, 0, 1)

    def prepare(self) -> None:
        """Make the file, so that nothing appears later.

        Raises:
            ServiceUnavailable: the disk refuses.
        """
        with opened(self._file):
            pass

    def work(self, model: str) -> Turnstile:
        """The queue of a guarded model; there are as many as the trust file names."""
        which = MODELS + int(sha256(model.encode())[:6], 16)
        return self._work.setdefault(model, Turnstile(self._file, which, LONG, WORKERS))
