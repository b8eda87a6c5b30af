"""The trust file of the highest version that was ever accepted: the ledger says which, and what it guards.

A database may be restored from an older dump, or be another one; the ledger may not go back. The database's number
(table ``guardrail_state``) is a second floor, for a ledger that was put back from an older backup with its head.
Not covered: both put back at once.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Engine, MetaData, String, Table, insert, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from guardrail.errors import EvidenceInvalid, GuardrailError
from guardrail.evidence.trust.trust_file import Trust, read_unverified_trust
from guardrail.gate.ledger.journal import Journal
from guardrail.gate.ledger_drafts import note_trust

METADATA = MetaData()
STATE = Table(
    "guardrail_state",
    METADATA,
    Column("name", String(64), primary_key=True),
    Column("value", BigInteger, nullable=False),
)
VERSION = "trust_version"


class DatabaseFloor:
    """A floor in the table ``guardrail_state``."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        try:
            METADATA.create_all(engine)
        except DBAPIError:  # another worker was faster
            METADATA.create_all(engine)

    def get(self) -> int:
        """The highest version, or 0."""
        with self._engine.connect() as connection:
            return connection.execute(select(STATE.c.value).where(STATE.c.name == VERSION)).scalar() or 0

    def raise_to(self, version: int) -> None:
        """Remember ``version`` unless a higher one is known."""
        if self.get() >= version:
            return
        try:
            with self._engine.begin() as connection:
                connection.execute(insert(STATE).values(name=VERSION, value=version))
        except IntegrityError:
            with self._engine.begin() as connection:
                where = (STATE.c.name == VERSION) & (STATE.c.value < version)
                connection.execute(update(STATE).where(where).values(value=version))


class Floors:
    """What the ledger and the database remember, the higher of both."""

    def __init__(self, journal: Journal, database: DatabaseFloor) -> None:
        self._journal, self._database = journal, database

    def get(self) -> int:
        """The highest version, or 0.

        Raises:
            GuardrailError: the ledger cannot be read.
        """
        return max(self._journal.state().trust_version, self._database.get())

    def accept(self, trust: Trust, envelope: bytes) -> None:
        """Write it down with what it says, before anything is done by it.

        Raises:
            EvidenceInvalid: a later one, or another of the same version, is in force.
            ServiceUnavailable: the disk refuses.
        """
        note_trust(self._journal, trust, envelope)
        self._database.raise_to(trust.version)

    def accepted(self, above: int) -> Trust | None:
        """What the latest trust file of the ledger says, if its version is ``above`` this; its digest is the ledger's.

        A ledger that cannot be read adds nothing to what a worker knows by itself.

        Raises:
            EvidenceInvalid: there is one, and its envelope was not kept or was changed.
        """
        try:
            state = self._journal.state()
        except GuardrailError:
            return None
        if state.trust_version <= above:
            return None
        return self._kept(state.trust_version, state.trust_statement)

    def _kept(self, version: int, statement: str) -> Trust:
        try:
            return read_unverified_trust(self._journal.statement(statement))
        except GuardrailError as error:
            raise EvidenceInvalid(
                f"version {version} of the trust file is in force, and this worker does not know what it guards",
                expected="that file, or its envelope beside the ledger",
                next_step=f"put version {version} of the trust file back, or a later one",
            ) from error
