"""A copy of a database for one test: SQLite's file goes with its directory, PostgreSQL has templates, MariaDB neither.

Not a test file. Not covered: databases that somebody is connected to (a template may not be).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, create_engine, make_url, text


@contextmanager
def copied(uri: str, directory: Path) -> Iterator[str]:
    """The address of a copy, gone afterwards; ``directory`` is a copy of the one that SQLite's file lies in."""
    url = make_url(uri)
    if url.get_backend_name() == "sqlite":
        yield f"sqlite:///{directory / Path(str(url.database)).name}"
        return
    postgresql, fresh = url.get_backend_name() == "postgresql", f"guardrail_{uuid.uuid4().hex[:12]}"
    admin = create_engine(url.set(database="postgres" if postgresql else None), isolation_level="AUTOCOMMIT")
    try:
        with admin.connect() as connection:
            if postgresql:
                connection.execute(text(f"CREATE DATABASE {fresh} TEMPLATE {url.database}"))
            else:
                _copy_tables(connection, str(url.database), fresh)
        yield url.set(database=fresh).render_as_string(hide_password=False)
    finally:
        with admin.connect() as connection:
            connection.execute(text(f"DROP DATABASE IF EXISTS {fresh}" + (" WITH (FORCE)" if postgresql else "")))
        admin.dispose()


def _copy_tables(connection: Connection, source: str, target: str) -> None:
    """Every table with its keys (``LIKE`` would leave the foreign ones out) and rows."""
    connection.execute(text(f"CREATE DATABASE {target}"))
    connection.execute(text("SET FOREIGN_KEY_CHECKS = 0, sql_mode = CONCAT(@@sql_mode, ',NO_AUTO_VALUE_ON_ZERO')"))
    connection.execute(text(f"USE {target}"))
    for (table,) in connection.execute(text(f"SHOW TABLES FROM {source}")).all():
        made = connection.execute(text(f"SHOW CREATE TABLE {source}.`{table}`")).one()[1]
        connection.exec_driver_sql(made.replace("%", "%%"))
        connection.execute(text(f"INSERT INTO {target}.`{table}` SELECT * FROM {source}.`{table}`"))  # noqa: S608
    connection.execute(text("SET FOREIGN_KEY_CHECKS = 1"))
