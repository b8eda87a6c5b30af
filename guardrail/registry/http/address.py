"""The address of a server or store: whether it can be read, how it is shown, what is said when nobody answers there."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from guardrail.errors import InvalidInput, ServiceUnavailable

SCHEME = re.compile(
    r"(https?://|sqlite:///|(sqlite|postgresql|mysql|mssql)\+\w+://|(postgresql|mysql|mssql)://|file:).+"
)
"""Servers, and what MLflow stores in; everything else is refused for good, and not tried again."""
OTHERS = ("databricks", "databricks-uc", "uc")
"""Names of services that MLflow takes without a scheme."""
REGISTRY = "MLFLOW_REGISTRY_URI"
HOST_CHECK = "Invalid Host header"
"""How MLflow's check of the name that it was asked by begins what it says (it is no JSON)."""
CREDENTIALS = ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_AUTH")


def require_address(tracking_uri: str) -> None:
    """Refuse what can never be asked, however often it is tried again.

    Raises:
        InvalidInput: the address cannot be read.
    """
    try:
        if urlsplit(tracking_uri).port == 0:
            raise ValueError("no port has the number 0")
        if tracking_uri.startswith(("http://", "https://")):
            from requests import PreparedRequest

            PreparedRequest().prepare_url(tracking_uri, None)
    except ValueError as error:  # requests' own errors about addresses are ValueErrors too
        raise _no_address(tracking_uri, "correct --tracking-uri or $MLFLOW_TRACKING_URI") from error
    scheme, colon, rest = tracking_uri.partition(":")
    if tracking_uri in OTHERS or (colon and not SCHEME.fullmatch(tracking_uri)):
        meant = f"http://{tracking_uri}" if rest[:1].isdigit() else f"{scheme.lower()}:{rest}"
        known = meant != tracking_uri and SCHEME.fullmatch(meant)
        advice = f"did you mean {redacted(meant)}?" if known else "ask its MLflow server instead"
        raise _no_address(tracking_uri, advice)


def _no_address(tracking_uri: str, next_step: str) -> InvalidInput:
    return InvalidInput(
        f"{redacted(tracking_uri)!r} is no address of an MLflow server or store",
        expected="an address such as http://mlflow.example.org:5000 or sqlite:///mlflow.db",
        next_step=next_step,
    )


def require_one_server(tracking_uri: str) -> None:
    """Refuse a registry that lies elsewhere (``MLFLOW_REGISTRY_URI``): a version and its evidence lie together.

    Raises:
        InvalidInput: the variable names another server or store.
    """
    registry = os.environ.get(REGISTRY, "")
    if registry and _same(registry) != _same(tracking_uri):
        raise InvalidInput(
            f"{REGISTRY} is {redacted(registry)!r}, and the tracking URI {redacted(tracking_uri)!r}",
            expected="one server for both: a version and its evidence lie together",
            next_step=f"unset {REGISTRY}, or give that server as --tracking-uri",
        )


def _same(uri: str) -> str:
    """One spelling of addresses that are the same: without credentials, usual ports, a last slash, relative paths."""
    if uri.startswith("sqlite:///"):
        return f"sqlite:///{Path(unquote(uri.removeprefix('sqlite:///').partition('?')[0])).resolve()}"
    try:
        parts = urlsplit(uri)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme.lower())
    except ValueError:
        return uri
    return f"{parts.scheme.lower()}://{parts.hostname}:{port}{parts.path.rstrip('/')}" if parts.hostname else uri


def redacted(tracking_uri: str) -> str:
    """The URI without user, password and query; also of one that cannot be read."""
    scheme, mark, rest = tracking_uri.partition("://")
    host, slash, path = rest.partition("?")[0].partition("/")
    return f"{scheme}{mark}{host.rpartition('@')[2]}{slash}{path}" if mark else tracking_uri


def run_page(tracking_uri: str, experiment_id: str, run_id: str) -> str:
    """Where MLflow shows a run to people; empty where it has no page, or it is not known which run."""
    if not (experiment_id and run_id and tracking_uri.startswith(("http://", "https://"))):
        return ""
    return f"{redacted(tracking_uri).rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"


def unavailable(tracking_uri: str, why: str) -> ServiceUnavailable:
    """The one message for a store that does not work now."""
    return ServiceUnavailable(
        f"MLflow at {redacted(tracking_uri)} is not available: {why}",
        expected="an MLflow server that answers, or a SQLite store that can be written",
        next_step="check the address (--tracking-uri, $MLFLOW_TRACKING_URI) and try again",
    )


def not_let_in(tracking_uri: str, said: str) -> InvalidInput:
    """The one message for a server that lets us do nothing, with the next step that fits what it said (401, 403)."""
    host = urlsplit(tracking_uri).netloc.rpartition("@")[2]
    refused = f"{redacted(tracking_uri)} does not let us in: {said}"
    if HOST_CHECK in said:
        return InvalidInput(
            refused,
            expected="a host name that the server answers to; credentials do not matter here",
            next_step=f"whoever runs the server can allow it: --allowed-hosts {host} (or MLFLOW_SERVER_ALLOWED_HOSTS);"
            " or ask it by a name that it knows",
        )
    given = [name for name in CREDENTIALS if os.environ.get(name)]
    if given:
        return InvalidInput(
            refused,
            expected="credentials that it accepts and that may do this",
            next_step=f"correct {', '.join(given)}, or ask whoever runs the server for the permission",
        )
    return InvalidInput(
        refused, next_step="set MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    )


def verify_tls() -> bool | str:
    """How MLflow's own client was told to check the server's certificate."""
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1"):
        return False
    return os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or True
