"""The highest version of the trust file that was ever accepted, in the registry's database: workers share it."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Engine, MetaData, String, Table, insert, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError

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
