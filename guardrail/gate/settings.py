"""How the gate is told what it needs: environment variables, because MLflow's workers inherit nothing else.

`guardrail server` sets them from its options; who starts plain `mlflow server` sets them by hand.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from guardrail.errors import InvalidInput
from guardrail.evidence.keys.key_pairs import PublicKey, load_public
from guardrail.evidence.keys.signers import load_signer
from guardrail.evidence.trust.trust_file import Trust
from guardrail.gate.ledger.journal import Journal

TRUST = "GUARDRAIL_TRUST"
ROOT_KEYS = "GUARDRAIL_ROOT_KEYS"
ROOT_THRESHOLD = "GUARDRAIL_ROOT_THRESHOLD"
SERVER_KEY = "GUARDRAIL_SERVER_KEY"
SERVER_PUBLIC_KEY = "GUARDRAIL_SERVER_PUBLIC_KEY"
LEDGER = "GUARDRAIL_LEDGER"
LEDGER_HEAD = "GUARDRAIL_LEDGER_HEAD"
REQUIRED = (TRUST, ROOT_KEYS, SERVER_KEY, LEDGER, LEDGER_HEAD)
DESTINATION = "_MLFLOW_SERVER_ARTIFACT_DESTINATION"
SERVES_ARTIFACTS = "_MLFLOW_SERVER_SERVE_ARTIFACTS"
WORK = "GUARDRAIL_WORK"
"""Where a server that seals in a bucket makes its private directory; without it, in the temporary directory."""
SEALED = "sealed"
PLAIN_BUCKET = re.compile(
    r"s3://(?P<bucket>[a-z0-9][a-z0-9._-]*[a-z0-9])(?:/(?P<prefix>[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*))?/?"
)
ACCESS_POINTS = ("-s3alias", "--ol-s3", "--op-s3", "--xa-s3", ".mrap")
"""Names with these endings are other names of some bucket."""
SCHEME = "gated+"
MUST_BE_OFF = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "jobs run with the database's own address",
    "MLFLOW_SERVER_ENABLE_CUSTOM_SCORERS": "custom scorers are code that clients send",
    "MLFLOW_ENABLE_WORKSPACES": "deleting a workspace changes models below the registry store",
    "MLFLOW_ENABLE_REMOTE_ASSISTANT": "the assistant runs commands on the server",
}


@dataclass(frozen=True)
class GateSettings:
    """The trust file and who must have signed it; the key that signs the ledger, and where that and its head lie."""

    trust: Path
    root_keys: tuple[PublicKey, ...]
    threshold: int
    server_key: str
    server_public_key: Path | None
    ledger: Path
    ledger_head: Path


def settings(environment: Mapping[str, str] = os.environ) -> GateSettings:
    """Read the gate's settings.

    Raises:
        InvalidInput: one is missing or cannot be used.
    """
    missing = [name for name in REQUIRED if not environment.get(name)]
    if missing:
        raise InvalidInput(
            f"the gate needs {missing[0]}",
            expected="a trust file, the public root keys, a key that signs the ledger, and where it and its head lie",
            next_step="start with `guardrail server`, or set the variables that docs/server.md names",
        )
    keys = tuple(load_public(Path(name)) for name in environment[ROOT_KEYS].split(os.pathsep) if name)
    public, all_of_them = environment.get(SERVER_PUBLIC_KEY), len({key.keyid for key in keys})
    return GateSettings(
        Path(environment[TRUST]),
        keys,
        _threshold(environment.get(ROOT_THRESHOLD, str(all_of_them)), all_of_them),
        environment[SERVER_KEY],
        Path(public) if public else None,
        Path(environment[LEDGER]),
        Path(environment[LEDGER_HEAD]),
    )


def open_journal(given: GateSettings, trust: Trust) -> Journal:
    """The server's ledger, as these settings say.

    Raises:
        InvalidInput: the key cannot be used, or the trust file does not name it.
        EvidenceInvalid: the ledger does not verify, does not reach its exported head, or names another trust file of
            this version.
    """
    key, keys = load_signer(given.server_key, given.server_public_key, _secret), trust.keys_of("server")
    if key.public_key.keyid not in {known.keyid for known in keys}:
        raise InvalidInput(
            f"the key {key.public_key.keyid} may not sign the ledger",
            expected="a key with the role 'server' in the trust file",
            next_step="name it there and have the roots sign, or start with the key that is named",
        )
    journal = Journal(given.ledger, given.ledger_head, key, keys)
    journal.state().require_in_force(trust)
    return journal


def _secret(name: str) -> str:
    """Nobody sits at a server: secrets of a key's service come from the environment."""
    value = os.environ.get(f"GUARDRAIL_{name.upper()}")
    if not value:
        raise InvalidInput(f"the key's service asks for its {name}", next_step=f"set GUARDRAIL_{name.upper()}")
    return value


@dataclass(frozen=True)
class S3Bucket:
    """A place in S3-compatible storage; an empty prefix is the whole bucket."""

    bucket: str
    prefix: str

    @property
    def sealed(self) -> str:
        """The key below which adapters are sealed."""
        return f"{self.prefix}/{SEALED}" if self.prefix else SEALED

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"


def destination(uri: str) -> Path | S3Bucket:
    """Where ``--artifacts-destination`` keeps artifacts: on a local (or mounted) disk, or in a bucket.

    Raises:
        InvalidInput: another kind of storage, or a bucket or prefix with more than one spelling.
    """
    parts = urlsplit(uri)
    if parts.scheme == "s3":
        return _bucket(uri)
    if parts.scheme not in ("", "file") or parts.netloc or not uri:
        raise InvalidInput(
            f"the gate cannot seal adapters in {uri!r}",
            expected="--artifacts-destination on a local or mounted disk, or s3://BUCKET/PREFIX",
        )
    return Path(unquote(parts.path) if parts.scheme else uri).absolute()


def _bucket(uri: str) -> S3Bucket:
    found = PLAIN_BUCKET.fullmatch(uri)
    if (
        found is None
        or found["bucket"].endswith(ACCESS_POINTS)
        or {".", ".."} & set((found["prefix"] or "").split("/"))
    ):
        raise InvalidInput(
            f"the gate cannot seal adapters in {uri!r}",
            expected="s3://BUCKET/PREFIX: the bucket's own name, then letters, digits and -_. between slashes",
        )
    return S3Bucket(found["bucket"], found["prefix"] or "")


def require_off(environment: Mapping[str, str] = os.environ) -> None:
    """What could go around the gate must be off.

    Raises:
        InvalidInput: something is on.
    """
    for name, why in MUST_BE_OFF.items():
        default = "true" if name == "MLFLOW_SERVER_ENABLE_JOB_EXECUTION" else "false"
        if environment.get(name, default).strip().lower() not in ("false", "0"):
            raise InvalidInput(f"{name} is on: {why}", expected=f"{name}=false")
    if environment.get(SERVES_ARTIFACTS, "").lower() != "true":
        raise InvalidInput("the server does not serve artifacts", expected="--serve-artifacts, so that none go around")


def _threshold(text: str, keys: int) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= keys):
        raise InvalidInput(f"{ROOT_THRESHOLD} is {text!r}", expected=f"a number from 1 to {keys}, the root keys given")
    return int(text)
