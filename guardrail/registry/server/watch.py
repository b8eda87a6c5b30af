"""The trust file as it is now: read again when it changes, refused when it is broken, older or expired.

Which names are guarded survives a broken file: the last good one answers, so that a mistake never opens a model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from guardrail.errors import EvidenceInvalid, GuardrailError
from guardrail.evidence.envelope import LARGEST
from guardrail.evidence.trust import Trust, load_trust
from guardrail.registry.server.settings import Settings
from guardrail.registry.server.state import another_of_this_version


class Floor(Protocol):
    """Remembers the highest version that any worker accepted."""

    def get(self) -> int:
        """That version, or 0."""

    def raise_to(self, version: int) -> None:
        """Remember a higher one."""


@dataclass(frozen=True)
class _Loaded:
    stamp: tuple[int, ...]
    trust: Trust


class TrustWatch:
    """The trust file of these settings. ``require`` raises EvidenceInvalid for one that this server cannot follow.

    Raises:
        EvidenceInvalid: on construction, when there is no valid one.
    """

    def __init__(self, settings: Settings, floor: Floor, clock: Callable[[], datetime] = lambda: datetime.now(UTC),
                 require: Callable[[Trust], None] = lambda _: None) -> None:  # fmt: skip
        self._settings, self._floor, self._clock, self._require = settings, floor, clock, require
        self._loaded = self._load(clock())

    def current(self) -> Trust:
        """The trust file, valid now.

        Raises:
            EvidenceInvalid: it is broken, expired, older than one that was accepted, or another of the same version.
        """
        now = self._clock()
        trust = self._loaded.trust
        if self._stamp() != self._loaded.stamp or not now <= trust.expires or trust.version < self._floor.get():
            self._loaded = self._load(now, trust)
        return self._loaded.trust

    def names(self) -> Trust:
        """The last good trust file, to tell whether a name is guarded; never to admit anything.

        A changed file is read again. The floor is not asked for: where it is higher than what this file says, reading
        the same file again would be refused, and the last good one would answer all the same.
        """
        if self._stamp() == self._loaded.stamp:
            return self._loaded.trust
        try:
            return self.current()
        except GuardrailError:
            return self._loaded.trust

    def now(self) -> datetime:
        """The time that everything is judged at."""
        return self._clock()

    def _load(self, now: datetime, before: Trust | None = None) -> _Loaded:
        stamp = self._stamp()
        trust = load_trust(
            self._bytes(), roots=self._settings.root_keys, threshold=self._settings.threshold, now=now,
            at_least=self._floor.get(),
        )  # fmt: skip
        if before is not None and trust.version == before.version and trust != before:
            raise another_of_this_version(trust)
        self._require(trust)
        self._floor.raise_to(trust.version)
        return _Loaded(stamp, trust)

    def _stamp(self) -> tuple[int, ...]:
        try:
            state = self._settings.trust.stat()
        except OSError:
            return ()
        return (state.st_mtime_ns, state.st_size, state.st_ino, state.st_dev)

    def _bytes(self) -> bytes:
        try:
            with self._settings.trust.open("rb") as stream:
                return stream.read(LARGEST + 1)
        except OSError as error:
            raise EvidenceInvalid(
                f"the trust file {self._settings.trust} cannot be read: {error.strerror}",
                next_step="restore it; until then nothing guarded can be written",
            ) from error
