"""The public key that belongs to a key URI: read from a file, or asked of the service that holds the private half.

A service is asked once; the answer is kept in a file, so that later a service cannot answer with another key unnoticed.
Not tried here: the services themselves (see ``signers.py``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib import parse

from securesystemslib.signer import SIGNER_FOR_URI_SCHEME

from guardrail.errors import ServiceUnavailable
from guardrail.evidence.keys.key_pairs import PublicKey, load_private, load_public, parse_public, public_pem
from guardrail.evidence.keys.key_uris import KeyUri, Secrets, parse_uri, require_installed, said


def fetch_public(uri: str, secrets: Secrets | None = None) -> PublicKey:
    """The public key of a private or public key file, or as the service tells it.

    Raises:
        InvalidInput: an unknown scheme, a missing package, an unreadable file, a key of another type.
        ServiceUnavailable: the service does not answer, or does not know the key.
    """
    place = parse_uri(uri)
    if place.scheme == "file":
        path = Path(place.rest)
        return load_public(path) if _looks_public(path) else load_private(path).public_key
    require_installed(place.scheme)
    try:
        key = _ask(place, secrets)
    except Exception as error:  # each service raises its own kinds
        raise ServiceUnavailable(f"cannot fetch the public key of {uri}: {said(error)}") from error
    pem = public_pem(key) if key.keytype == "ed25519" else str(key.keyval["public"])
    return parse_public(pem.encode("ascii"), uri)


def _ask(place: KeyUri, secrets: Secrets | None) -> PublicKey:
    kind: Any = SIGNER_FOR_URI_SCHEME[place.scheme]
    if place.scheme == "azurekms":  # azurekms://VAULT.vault.azure.net/keys/NAME/VERSION
        address = parse.urlsplit(place.rest)
        return _newest(place, kind.import_(address.netloc.split(".")[0], address.path.strip("/").split("/")[1]))
    if place.scheme == "hsm":
        number, _, query = place.rest.partition("?")
        label = dict(parse.parse_qsl(query)).get("label")
        return kind.import_(int(number) if number else None, label, secrets)[1]
    if place.scheme == "hv":
        return _newest(place, kind.import_(place.rest.partition("/")[0]))
    return kind.import_(place.rest)[1]


def _newest(place: KeyUri, told: tuple[str, PublicKey]) -> PublicKey:
    """Vaults tell the newest version only; it must not be taken for another."""
    newest, key = told
    if newest != f"{place.scheme}:{place.rest}":
        raise ValueError(f"the newest version of this key is {newest}")
    return key


def _looks_public(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return b"PUBLIC KEY" in stream.read(64)
    except (OSError, ValueError):
        return False
