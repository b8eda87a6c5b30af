"""Where a key may be, as a URI: a file here, or a KMS, a vault or an HSM that it never leaves.

    PATH or file:PATH     a private key file (mode 0600)
    awskms:KEY            AWS KMS: a key id, alias or ARN
    gcpkms:NAME           Google Cloud KMS: projects/.../cryptoKeyVersions/N
    azurekms://VAULT/...  Azure Key Vault: the key's identifier, azurekms: in place of https:
    hsm:ID?label=TOKEN    a PKCS#11 token (PYKCS11LIB names the module)
    hv:NAME/VERSION       HashiCorp Vault, transit engine

Not covered: signing (``signers.py``) and asking a service for a public key (``fetch_key.py``).
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from guardrail.errors import InvalidInput
from guardrail.plugins import suggestion

Secrets: TypeAlias = Callable[[str], str]
"""Gives the secret of a name; an HSM asks for its ``pin``."""

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+-]*):")


@dataclass(frozen=True)
class Service:
    """What must be importable, and the extra of securesystemslib that brings it."""

    module: str
    extra: str


@dataclass(frozen=True)
class KeyUri:
    """A URI in its two parts; ``rest`` is a path where the scheme is ``file``."""

    scheme: str
    rest: str


SERVICES = {
    "awskms": Service("boto3", "awskms"),
    "azurekms": Service("azure.keyvault.keys", "azurekms"),
    "gcpkms": Service("google.cloud.kms", "gcpkms"),
    "hsm": Service("pkcs11", "hsm"),
    "hv": Service("hvac", "vault"),
}
SCHEMES = ("file", *SERVICES)


def parse_uri(uri: str) -> KeyUri:
    """The URI's parts; a bare path has the scheme ``file``.

    Raises:
        InvalidInput: a scheme that is not known; the message lists those that are.
    """
    found = SCHEME.match(uri)
    if found is None:
        return KeyUri("file", uri)
    if found[1] not in SCHEMES:
        raise InvalidInput(
            f"unknown kind of key {found[1]!r} in {uri!r}",
            expected="a path, or one of " + ", ".join(f"{name}:" for name in SCHEMES),
            next_step=suggestion(found[1].lower(), SCHEMES),
        )
    return KeyUri(found[1], uri[found.end() :])


def require_installed(scheme: str) -> None:
    """Ask for the package that reaches a service, by name.

    Raises:
        InvalidInput: it is not installed.
    """
    service = SERVICES[scheme]
    try:
        found = importlib.util.find_spec(service.module) is not None
    except ModuleNotFoundError:  # a parent package is missing
        found = False
    if not found:
        raise InvalidInput(
            f"keys of the kind {scheme}: need the package {service.module}, which is not installed",
            next_step=f'pip install "securesystemslib[{service.extra}]"',
        )


def said(error: Exception) -> str:
    """The first line of what a service's library raised."""
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"
