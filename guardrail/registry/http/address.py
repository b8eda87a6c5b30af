"""The address of a server or store: whether it can be read, how it is shown, what is said when nobody answers there."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from guardrail.errors import InvalidInput, ServiceUnavailable


def require_address(tracking_uri: str) -> None:
    """Refuse what can never be asked, however often it is tried again.

    Raises:
        InvalidInput: the address cannot be read.
    """
    try:
        urlsplit(tracking_uri)
        if tracking_uri.startswith(("http://", "https://")):
            from requests import PreparedRequest

            PreparedRequest().prepare_url(tracking_uri, None)
    except ValueError as error:  # requests' own errors about addresses are ValueErrors too
        raise InvalidInput(
            f"{redacted(tracking_uri)!r} is no address of an MLflow server or store",
            expected="an address such as http://mlflow.example.org:5000 or sqlite:///mlflow.db",
            next_step="correct --tracking-uri or $MLFLOW_TRACKING_URI",
        ) from error


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


def verify_tls() -> bool | str:
    """How MLflow's own client was told to check the server's certificate."""
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1"):
        return False
    return os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or True
