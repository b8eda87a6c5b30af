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
from guardrail.registry.server.turnstile import Turnstile

LONG = 600.0
"""So many seconds long work is waited for."""
WORKERS, IDLE = 16, 4
"""So many requests of one process may wait for a model's work, and for what is hashed for nothing new."""


class Queues:
    """The queues whose files lie in ``root``, a directory of the server's own."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._work: dict[str, Turnstile] = {}
        self.decisions = Turnstile(self._file("decisions"))
        self.again = Turnstile(self._file("again"), LONG, IDLE)
        self.looks = Turnstile(self._file("looks"), 0, 1)

    def work(self, model: str) -> Turnstile:
        """The queue of a guarded model; there are as many as the trust file names."""
        file = self._file(f"work-{sha256(model.encode())[:16]}")
        return self._work.setdefault(model, Turnstile(file, LONG, WORKERS))

    def _file(self, name: str) -> Path:
        return self._root / f".queue-{name}"
