"""Reading an MLflow server over REST with requests alone.

Uses ``model-versions/get``, ``registered-models/alias``, ``logged-models/ID/artifacts/directories`` and, for the bytes
(wherever the server keeps them), ``ajax-api/…/logged-models/ID/artifacts/files``; for adapters that a gated server
sealed, the artifact proxy; for a run, ``artifacts/list`` and ``get-artifact``. Honours the credentials that
MLflow's client honours: MLFLOW_TRACKING_TOKEN, MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or
MLFLOW_TRACKING_AUTH. How much a server may send: ``registry/http/transport.py``, ``registry/http/pages.py``.
"""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from guardrail.errors import EvidenceInvalid, GuardrailError, InvalidInput, ServiceUnavailable
from guardrail.registry.http.address import not_let_in, redacted, require_one_server, unavailable
from guardrail.registry.http.limits import AnswerLimits
from guardrail.registry.http.pages import ListBounds, Page, follow
from guardrail.registry.http.transport import HttpAnswer, Transport
from guardrail.registry.mlflow.mlflow_client import GATE
from guardrail.registry.read.reader import Spec, StoredFile, StoredVersion, UnresolvedError, is_sealed, too_large

PROXY = "api/2.0/mlflow-artifacts/artifacts"
DIGITS = re.compile(r"[0-9]{1,19}")


class RestReader:
    """A reader of the server at ``uri``."""

    def __init__(self, uri: str, limits: AnswerLimits | None = None) -> None:
        require_one_server(uri)
        self._transport = Transport(uri, limits)
        self._uri = self._transport.uri

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

    def listing(self, root: str, directory: str) -> tuple[StoredFile, ...]:
        """The names in one directory; follows pages where the server makes them."""
        if is_sealed(root):
            return self._listing_sealed(root, directory)
        params = {"artifact_directory_path": directory} if directory else {}
        return self._listed(f"mlflow/logged-models/{root}/artifacts/directories", params)

    def fetch(self, root: str, path: str, target: Path, limit: int) -> int:
        """Stream one file to disk."""
        if is_sealed(root):
            return self._saved(f"{PROXY}/{root}/{path}", {}, path, target, limit)
        route = f"ajax-api/2.0/mlflow/logged-models/{root}/artifacts/files"
        return self._saved(route, {"artifact_file_path": path}, path, target, limit)

    def _listing_sealed(self, root: str, directory: str) -> tuple[StoredFile, ...]:
        """The artifact proxy says names without their directory."""
        entries = self._listed(PROXY.removeprefix("api/2.0/"), {"path": f"{root}/{directory}".rstrip("/")})
        return tuple(
            entry.model_copy(update={"path": f"{directory}/{entry.path}"}) if directory else entry for entry in entries
        )

    def _listed(self, route: str, params: dict[str, str]) -> tuple[StoredFile, ...]:
        def ask(token: str) -> Page[StoredFile]:
            answer = self._json(route, {**params, "page_token": token} if token else params)
            found = tuple(_entry(raw) for raw in _dicts(answer.get("files")))
            return Page(found, str(answer.get("next_page_token") or ""))

        most = self._transport.limits
        return tuple(
            follow(ask, ListBounds("files of one directory", most.pages, most.files + most.directories, "files"))
        )

    def _saved(self, route: str, params: dict[str, str], path: str, target: Path, limit: int) -> int:
        try:
            with target.open("wb") as stream:
                answer = self._transport.save(route, params, stream, limit, lambda: too_large(path, limit))
                size = stream.tell()
        except OSError as error:
            raise ServiceUnavailable(f"cannot store {path} for checking: {error.strerror}") from error
        if not answer.ok:
            raise self._refused(answer)
        return size

    def _json(self, route: str, params: dict[str, str]) -> dict[str, object]:
        answer = self._transport.ask("GET", f"api/2.0/{route}", params=params)
        if not answer.ok:
            raise self._refused(answer)
        try:
            return TypeAdapter(dict[str, object]).validate_json(answer.body)
        except ValidationError as error:
            raise InvalidInput(f"{redacted(self._uri)} does not answer like an MLflow server") from error

    def _refused(self, answer: HttpAnswer) -> GuardrailError:
        said = _said(answer)
        if GATE in said:  # a gated server does not resolve what has expired or was revoked
            return UnresolvedError(f"{redacted(self._uri)} refuses: {said.partition(GATE)[2]}")
        if answer.status in (401, 403):
            return not_let_in(self._uri, said)
        if answer.status == 429 or answer.status >= 500:
            return unavailable(self._uri, said)
        return InvalidInput(f"{redacted(self._uri)} refuses: {said}", expected="a registered model version")


class RestRunFiles(RestReader):
    """Likewise the artifacts of an MLflow run, whose id is the root."""

    def listing(self, root: str, directory: str) -> tuple[StoredFile, ...]:
        """The names in one directory."""
        params = {"path": directory} if directory else {}
        return self._listed("mlflow/artifacts/list", {"run_id": root, **params})

    def fetch(self, root: str, path: str, target: Path, limit: int) -> int:
        """Stream one file to disk."""
        return self._saved("get-artifact", {"run_uuid": root, "path": path}, path, target, limit)


def _entry(raw: dict[str, object]) -> StoredFile:
    path, is_dir, size = str(raw.get("path", "")), raw.get("is_dir") is True, raw.get("file_size", 0)
    if is_dir:
        return StoredFile(path=path, is_dir=True, size=0)
    if isinstance(size, str) and DIGITS.fullmatch(size):
        size = int(size)  # 64-bit numbers are text in the JSON of protocol buffers
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise EvidenceInvalid(f"the model's file {path!r} has a size that is no number", expected="a number of bytes")
    return StoredFile(path=path, is_dir=False, size=size)


def _said(answer: HttpAnswer) -> str:
    try:
        body = TypeAdapter(dict[str, object]).validate_json(answer.body)
        return f"{answer.status} {str(body['message'])[:500]}"
    except (ValidationError, KeyError):
        text = answer.body.decode("utf-8", errors="replace").strip()
        plain = "" if text.startswith(("<", "{")) else text  # a proxy's page is no sentence
        return f"{answer.status} {(plain or answer.reason)[:500]}"


def _dict(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _dicts(value: object) -> list[dict[str, object]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
