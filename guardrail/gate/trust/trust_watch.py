"""The trust file as it is now: read again when it changes, refused when it is broken, older or expired.

Which names are guarded survives a broken or older file: the latest that any worker accepted answers, so that no mistake
opens a model. Which one that was, the ledger says (``trust_version_floor.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from guardrail.errors import EvidenceInvalid, GuardrailError
from guardrail.evidence.envelope import LARGEST
from guardrail.evidence.expiry import expired
from guardrail.evidence.trust.trust_file import Trust, load_trust
from guardrail.gate.ledger.ledger_state import another_of_this_version
from guardrail.gate.settings import GateSettings


class Floor(Protocol):
    """Remembers the trust file of the highest version that any worker accepted."""

    def get(self) -> int:
        """Its version, or 0.

        Raises:
            GuardrailError: nobody can tell.
        """

    def accept(self, trust: Trust, envelope: bytes) -> None:
        """Remember this one.

        Raises:
            EvidenceInvalid: a later one, or another of the same version, was accepted meanwhile.
        """

    def accepted(self, above: int) -> Trust | None:
        """The one that was accepted, if its version is ``above`` this; its signatures were checked then.

        Raises:
            EvidenceInvalid: there is one, and what it says is not known.
        """


@dataclass(frozen=True)
class _Loaded:
    stamp: tuple[int, ...]
    trust: Trust


class TrustWatch:
    """The trust file of these settings. ``require`` raises EvidenceInvalid for one that this server cannot follow.

    Raises:
        EvidenceInvalid: on construction, when there is no valid one.
    """

    def __init__(
        self,
        settings: GateSettings,
        floor: Floor,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        require: Callable[[Trust], None] = lambda _: None,
    ) -> None:
        self._settings, self._floor, self._clock, self._require = settings, floor, clock, require
        self._loaded = self._load(clock())
        self._names = self._loaded.trust

    def current(self) -> Trust:
        """The trust file, valid now.

        Raises:
            EvidenceInvalid: it is broken, expired, older than one that was accepted, or another of the same version.
        """
        now = self._clock()
        trust = self._loaded.trust
        if self._stamp() != self._loaded.stamp or expired(trust.expires, now) or trust.version < self._floor.get():
            self._loaded = self._load(now, trust)
        return self._loaded.trust

    def names(self) -> Trust:
        """The latest trust file that any worker accepted, to tell whether a name is guarded; never to admit anything.

        A changed file is read again. One that is refused, or older than what another worker has accepted, opens
        nothing: what that worker accepted answers, whatever the database or the file have become since.

        Raises:
            EvidenceInvalid: another worker accepted one that this worker cannot know: no name can be told to be free.
        """
        if self._stamp() != self._loaded.stamp:
            with suppress(GuardrailError):  # the latest accepted one answers
                self.current()
        latest = max(self._names, self._loaded.trust, key=lambda trust: trust.version)
        self._names = self._floor.accepted(latest.version) or latest
        return self._names

    def now(self) -> datetime:
        """The time that everything is judged at."""
        return self._clock()

    def _load(self, now: datetime, before: Trust | None = None) -> _Loaded:
        stamp, envelope = self._stamp(), _bytes(self._settings)
        trust = _valid(envelope, self._settings, now, max(self._floor.get(), before.version if before else 0))
        if before is not None and trust.version == before.version and trust != before:
            raise another_of_this_version(trust)
        self._require(trust)
        self._floor.accept(trust, envelope)
        return _Loaded(stamp, trust)

    def _stamp(self) -> tuple[int, ...]:
        try:
            state = self._settings.trust.stat()
        except OSError:
            return ()
        return (state.st_mtime_ns, state.st_size, state.st_ino, state.st_dev)


def accepted(settings: GateSettings, now: datetime) -> Trust:
    """The trust file, valid now, before there is a ledger to compare it with: it says whose key signs the ledger.

    Raises:
        EvidenceInvalid: there is no valid one.
    """
    return _valid(_bytes(settings), settings, now, 0)


def _valid(envelope: bytes, settings: GateSettings, now: datetime, at_least: int) -> Trust:
    return load_trust(envelope, roots=settings.root_keys, threshold=settings.threshold, now=now, at_least=at_least)


def _bytes(settings: GateSettings) -> bytes:
    try:
        with settings.trust.open("rb") as stream:
            return stream.read(LARGEST + 1)
    except OSError as error:
        raise EvidenceInvalid(
            f"the trust file {settings.trust} cannot be read: {error.strerror}",
            next_step="restore it; until then nothing guarded can be written",
        ) from error
