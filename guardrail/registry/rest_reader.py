"""Reading an MLflow server over REST with requests alone.

Uses ``model-versions/get``, ``registered-models/alias``, ``logged-models/ID/artifacts/directories`` and, for the bytes
(wherever the server keeps them), ``ajax-api/…/logged-models/ID/artifacts/files``; for adapters that a gated server
sealed, the artifact proxy. Honours the credentials that
MLflow's client honours: MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import requests
from pydantic import TypeAdapter, ValidationError
from urllib3.exceptions import HTTPError

from guardrail.errors import EvidenceInvalid, GuardrailError, InvalidInput, ServiceUnavailable
from guardrail.registry.reader import CHUNK, Entry, Spec, StoredVersion, is_sealed, too_large
from guardrail.registry.store import GATE, redacted, require_address, unavailable, verify_tls

PROXY = "api/2.0/mlflow-artifacts/artifacts"
LARGEST_ANSWER = 16 << 20
DIGITS = re.compile(r"[0-9]{1,19}")
TIMEOUT = (5.0, 60.0)


def session() -> requests.Session:
    """With the credentials and certificates that MLflow's client would use."""
    made = requests.Session()
    made.verify = verify_tls()
    made.auth = _credentials()
    made.cert = os.environ.get("MLFLOW_TRACKING_CLIENT_CERT_PATH") or None
    return made


class RestReader:
    """A reader of the server at ``uri``."""

    def __init__(self, uri: str) -> None:
        require_address(uri)
        self._uri = uri.rstrip("/")
        self._session = session()

    def version(self, spec: Spec) -> StoredVersion:
        """The version that ``spec`` names."""
        if spec.version:
            answer = self._json("mlflow/model-versions/get", {"name": spec.name, "version": spec.version})
        else:
            answer = self._json("mlflow/registered-models/alias", {"name": spec.name, "alias": str(spec.alias)})
        raw = _dict(answer.get("model_version"))
        tags = {str(tag.get("key")): str(tag.get("value", "")) for tag in _dicts(raw.get("tags"))}
        fields = {name: str(raw.get(name, "")) for name in ("name", "version", "source", "status")}
        return StoredVersion(**fields, tags=tags)

    def listing(self, root: str, directory: str) -> tuple[Entry, ...]:
        """The names in one directory; follows pages where the server makes them."""
        if is_sealed(root):
            return self._listing_sealed(root, directory)
        found: list[Entry] = []
        params = {"artifact_directory_path": directory} if directory else {}
        while True:
            answer = self._json(f"mlflow/logged-models/{root}/artifacts/directories", params)
            for raw in _dicts(answer.get("files")):
                found.append(_entry(raw))
            token = str(answer.get("next_page_token") or "")
            if not token or token == params.get("page_token"):
                return tuple(found)
            params = {**params, "page_token": token}

    def fetch(self, root: str, path: str, target: Path, limit: int) -> int:
        """Stream one file to disk."""
        route, params, size = (
            f"ajax-api/2.0/mlflow/logged-models/{root}/artifacts/files",
            {"artifact_file_path": path},
            0,
        )
        if is_sealed(root):
            route, params = f"{PROXY}/{root}/{path}", {}
        try:
            with self._get(route, params) as answer, target.open("xb") as stream:
                for chunk in answer.iter_content(CHUNK):
                    size += len(chunk)
                    if size > limit:
                        raise too_large(path, limit)
                    stream.write(chunk)
        except (requests.RequestException, HTTPError) as error:
            raise unavailable(self._uri, type(error).__name__) from error
        except OSError as error:
            raise ServiceUnavailable(f"cannot store {path} for checking: {error.strerror}") from error
        return size

    def _listing_sealed(self, root: str, directory: str) -> tuple[Entry, ...]:
        """The artifact proxy says names without their directory."""
        where = f"{root}/{directory}".rstrip("/")
        entries = (
            _entry(raw) for raw in _dicts(self._json(PROXY.removeprefix("api/2.0/"), {"path": where}).get("files"))
        )
        return tuple(
            entry.model_copy(update={"path": f"{directory}/{entry.path}"}) if directory else entry for entry in entries
        )

    def _json(self, route: str, params: dict[str, str]) -> dict[str, object]:
        try:
            with self._get(f"api/2.0/{route}", params) as answer:
                body = answer.raw.read(LARGEST_ANSWER, decode_content=True)
            return TypeAdapter(dict[str, object]).validate_json(body)
        except ValidationError as error:
            raise InvalidInput(f"{redacted(self._uri)} does not answer like an MLflow server") from error
        except (requests.RequestException, HTTPError, OSError) as error:
            raise unavailable(self._uri, type(error).__name__) from error

    def _get(self, route: str, params: dict[str, str]) -> requests.Response:
        try:
            answer = self._session.get(f"{self._uri}/{route}", params=params, timeout=TIMEOUT, stream=True)
        except (requests.RequestException, HTTPError) as error:
            raise unavailable(self._uri, type(error).__name__) from error
        if answer.ok:
            return answer
        with answer:
            raise self._refused(answer)

    def _refused(self, answer: requests.Response) -> GuardrailError:
        said = _said(answer)
        if GATE in said:  # a gated server does not resolve what has expired or was revoked
            return EvidenceInvalid(f"{redacted(self._uri)} refuses: {said.partition(GATE)[2]}")
        if answer.status_code in (401, 403):
            return InvalidInput(
                f"{redacted(self._uri)} does not let us read: {said}",
                next_step="set MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
            )
        if answer.status_code == 429 or answer.status_code >= 500:
            return unavailable(self._uri, said)
        return InvalidInput(f"{redacted(self._uri)} refuses: {said}", expected="a registered model version")


def _entry(raw: dict[str, object]) -> Entry:
    path, is_dir, size = str(raw.get("path", "")), raw.get("is_dir") is True, raw.get("file_size", 0)
    if is_dir:
        return Entry(path=path, is_dir=True, size=0)
    if isinstance(size, str) and DIGITS.fullmatch(size):
        size = int(size)  # 64-bit numbers are text in the JSON of protocol buffers
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise EvidenceInvalid(f"the model's file {path!r} has a size that is no number", expected="a number of bytes")
    return Entry(path=path, is_dir=False, size=size)


def _said(answer: requests.Response) -> str:
    try:
        body: Any = TypeAdapter(dict[str, object]).validate_json(answer.raw.read(CHUNK, decode_content=True))
        return f"{answer.status_code} {str(body['message'])[:500]}"
    except (ValidationError, KeyError, requests.RequestException, HTTPError, OSError):
        return f"{answer.status_code} {answer.reason}"


def _credentials() -> requests.auth.AuthBase | None:
    user, password = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD")
    if user and password:
        return requests.auth.HTTPBasicAuth(user, password)
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    return _Bearer(token) if token else None


class _Bearer(requests.auth.AuthBase):
    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _dict(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _dicts(value: object) -> list[dict[str, object]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
