"""A quiet, impatient MLflow client: probes before it imports, silences what MLflow prints, translates what it raises.

Retries of MLflow itself last minutes; a gate that cannot reach its registry says so at once and exits 5. Everything
that this changes in the process (environment, tracking URI, log levels) is put back. Not thread-safe for that reason.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from guardrail.errors import (
    AwaitingApproval,
    EvidenceInvalid,
    GuardrailError,
    InvalidInput,
    PolicyDenied,
)
from guardrail.registry.http.address import HOST_CHECK, not_let_in, redacted, require_address, unavailable

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    from guardrail.registry.http.transport import Transport

PATIENCE = 5.0
GATE = "guardrail refuses: "
AWAITS = "guardrail awaits: "
DENIES = "guardrail denies: "
"""How a gated server begins what it says: evidence that does not hold, approvals that are missing, a no."""
QUIET = {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
IMPATIENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
ABSENT = (404, 405, 501)
"""How a server says that it does not know what is asked of it."""
REFUSALS = {
    "BAD_REQUEST",
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "RESOURCE_DOES_NOT_EXIST",
    "RESOURCE_ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
    "CUSTOMER_UNAUTHORIZED",
    "FEATURE_DISABLED",
    "NOT_FOUND",
}


@contextmanager
def client(tracking_uri: str, *, write: bool, also: Sequence[str] = ()) -> Iterator[MlflowClient]:
    """A client of the store or server at ``tracking_uri``; what MLflow raises inside is translated.

    Args:
        tracking_uri: the store or server; over HTTP nothing else is asked.
        write: whether something will be written.
        also: other locations that the user named; of these, too, over HTTP.

    Raises:
        ServiceUnavailable: nobody answers, the database is locked, the disk is full or read-only.
        InvalidInput: no MLflow store is there, its database's driver is missing, or it refuses what we ask.
    """
    probe(tracking_uri, write=write)
    with ExitStack() as stack:
        stack.enter_context(calm())
        from mlflow import MlflowClient
        from mlflow.tracking._tracking_service.utils import _use_tracking_uri

        from guardrail.registry.mlflow.mlflow_session import NO_PARTS, bounded

        stack.enter_context(_environment(NO_PARTS))
        stack.enter_context(_translated(tracking_uri))
        stack.enter_context(bounded(tracking_uri, also))
        # the local registry looks up logged models through the process-wide tracking URI
        stack.enter_context(_use_tracking_uri(tracking_uri))
        yield MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)


@contextmanager
def calm(**more: str) -> Iterator[None]:
    """MLflow impatient and quiet in this process; ``more`` are further variables, for what the user has not set."""
    wanted = {**{k: os.environ.get(k, v) for k, v in {**IMPATIENT, **more}.items()}, **QUIET}
    with _environment(wanted):
        import mlflow  # noqa: F401 - it sets its log levels when it is imported

        with _silence("mlflow", "alembic", "urllib3"):
            yield


def probe(tracking_uri: str, *, write: bool) -> None:
    """Ask in seconds whether the store can be used at all; MLflow takes minutes to give up.

    Raises:
        ServiceUnavailable: nobody answers, the database is locked, the disk is full or read-only.
        InvalidInput: the address is none, it redirects, or no MLflow store is there.
    """
    require_address(tracking_uri)
    if tracking_uri.startswith("sqlite:///"):
        _probe_sqlite(sqlite_path(tracking_uri), write=write)
    elif tracking_uri.startswith(("http://", "https://")):
        from guardrail.registry.http.limits import limits
        from guardrail.registry.http.transport import Transport

        given = limits()
        quick = replace(given, idle_seconds=min(PATIENCE, given.idle_seconds), seconds=min(2 * PATIENCE, given.seconds))
        _require_mlflow(Transport(tracking_uri, quick))


def _require_mlflow(server: Transport) -> None:
    """Refuse a server that knows neither MLflow's health nor its experiments: trying again would not change it."""
    healthy = server.ask("GET", "health")
    if healthy.status not in ABSENT and not (healthy.ok and healthy.body.lstrip().startswith(b"<")):
        return
    known = server.ask("GET", "api/2.0/mlflow/experiments/search", params={"max_results": "1"})
    if known.status in ABSENT or (known.ok and not known.body.lstrip().startswith(b"{")):
        raise InvalidInput(
            f"{redacted(server.uri)} does not answer like an MLflow server ({known.status} {known.reason[:80]})",
            expected="the address under which its API lies, with the path that a proxy may put in front",
            next_step="correct --tracking-uri or $MLFLOW_TRACKING_URI",
        )


def sqlite_path(tracking_uri: str) -> Path:
    """The database file of ``sqlite:///relative`` or ``sqlite:////absolute``."""
    return Path(unquote(tracking_uri.removeprefix("sqlite:///").partition("?")[0]))


def _probe_sqlite(path: Path, *, write: bool) -> None:
    uri = f"sqlite:///{path}"
    if path.is_dir():
        raise InvalidInput(f"{path} is a directory", expected="the file of an MLflow store, such as mlflow.db")
    if not write and not path.is_file():
        raise InvalidInput(f"there is no MLflow store {path}", expected="the store that the adapter was promoted to")
    if not path.parent.is_dir():
        raise InvalidInput(f"there is no directory {path.parent}", expected=f"a directory for {path.name}")
    try:
        with closing(sqlite3.connect(path, timeout=PATIENCE)) as connection:
            connection.execute("BEGIN IMMEDIATE" if write else "SELECT count(*) FROM sqlite_master")
    except sqlite3.DatabaseError as error:
        if "not a database" in str(error):
            raise InvalidInput(f"{path} is not a SQLite database", expected="an MLflow store") from error
        raise unavailable(uri, str(error)) from error


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    # MLflow's own setter removes this one on the way out, so it is put back with the others
    names = {*values, "MLFLOW_TRACKING_URI"}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _silence(*names: str) -> Iterator[None]:
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


@contextmanager
def _translated(tracking_uri: str) -> Iterator[None]:
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError
    from urllib3.exceptions import HTTPError

    try:
        yield
    except MlflowException as error:
        raise _ours(error) or _meaning(tracking_uri, error) from error
    except (SQLAlchemyError, OSError, HTTPError) as error:
        raise unavailable(tracking_uri, _first_line(error)) from error
    except ImportError as error:
        raise InvalidInput(
            f"MLflow at {redacted(tracking_uri)} needs the Python package {error.name!r}: {_first_line(error)}",
            expected="the driver of this database beside guardrail",
            next_step="install it, or ask the MLflow server instead of its database",
        ) from error


def _ours(error: BaseException | None) -> GuardrailError | None:
    """What we raised below MLflow (``mlflow_session.py``), which MLflow made its own error of."""
    while error is not None and not isinstance(error, GuardrailError):
        error = error.__cause__ or error.__context__
    return error


def _meaning(tracking_uri: str, error: MlflowException) -> GuardrailError:
    for begins, kind in ((GATE, EvidenceInvalid), (AWAITS, AwaitingApproval), (DENIES, PolicyDenied)):
        said = str(error).partition(begins)[2]
        if said and error.error_code == "PERMISSION_DENIED":
            return kind(f"MLflow at {redacted(tracking_uri)} {begins.split()[1]} {said[:2000]}")
    if HOST_CHECK in str(error) or error.error_code in ("UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED"):
        return not_let_in(tracking_uri, _first_line(error))
    if error.error_code not in REFUSALS:
        return unavailable(tracking_uri, _first_line(error))
    return InvalidInput(f"MLflow at {redacted(tracking_uri)} refuses ({error.error_code}): {_first_line(error)}")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:500]
