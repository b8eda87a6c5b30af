"""Key pairs: Ed25519 (what we make) and ECDSA on P-256 (what key services offer), named by what they are.

A key's id is the SHA-256 of its DER SubjectPublicKeyInfo, so whoever has the public key can compute it with any
tool. Private keys on disk are made once, never overwritten, and refused when others can read them.
Not covered: keys that stay in a KMS or an HSM (``signers.py``), passphrases, and who may sign what
(``evidence/trust/trust_file.py``).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from securesystemslib.signer import CryptoSigner, Signer, SSlibKey

from guardrail.errors import InvalidInput, ServiceUnavailable
from guardrail.evidence.digest import sha256
from guardrail.evidence.keys.key_files import create, read_private, read_public

PrivateKey: TypeAlias = Signer
PublicKey: TypeAlias = SSlibKey
KeyType = Literal["ed25519", "ecdsa"]
RawPublic: TypeAlias = Ed25519PublicKey | ec.EllipticCurvePublicKey
RawPrivate: TypeAlias = Ed25519PrivateKey | ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class KeyPair:
    """Where a new key pair lies, and the id of its public key."""

    private: Path
    public: Path
    key_id: str


def init(directory: Path, name: str = "guardrail", kind: KeyType = "ed25519") -> KeyPair:
    """Make a key pair: ``NAME.key`` (PKCS8 PEM, mode 0600) and ``NAME.pub`` (PEM, mode 0644).

    Raises:
        InvalidInput: a key of that name is already there; it is never overwritten.
        ServiceUnavailable: the directory cannot be written.
    """
    private, public = directory / f"{name}.key", directory / f"{name}.pub"
    for path in (private, public):
        if os.path.lexists(path):
            raise _already(path)
    key = _generate(kind)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        create(private, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
        create(public, _pem(key.public_key()), 0o644)
    except FileExistsError as error:
        raise _already(Path(str(error.filename))) from error
    except OSError as error:
        raise ServiceUnavailable(f"cannot write a key in {directory}: {error.strerror}") from error
    return KeyPair(private, public, key_id(key.public_key()))


def load_private(path: Path) -> PrivateKey:
    """The signer of a private key file.

    Raises:
        InvalidInput: no readable regular file, readable by others, or not an unencrypted key of the two types.
    """
    data = read_private(path)
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidInput(f"{path} is not a private key we can read: {error}", expected=_WANTED_PRIVATE) from error
    if not isinstance(key, RawPrivate) or not _usable(key.public_key()):
        raise InvalidInput(f"{path} holds a key of another type", expected=_WANTED_PRIVATE)
    return CryptoSigner(key, _public(key.public_key()))


def load_public(path: Path) -> PublicKey:
    """The verifying key of a public key file.

    Raises:
        InvalidInput: the file cannot be read or does not hold a public key of the two types.
    """
    return parse_public(read_public(path), str(path))


def parse_public(pem: bytes, source: str) -> PublicKey:
    """The verifying key of a PEM; ``source`` is what messages call it.

    Raises:
        InvalidInput: not the PEM of an Ed25519 or ECDSA P-256 public key.
    """
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidInput(f"{source} is not a public key", expected=_WANTED_PUBLIC) from error
    if not isinstance(key, RawPublic) or not _usable(key):
        raise InvalidInput(f"{source} holds a key of another type", expected=_WANTED_PUBLIC)
    return _public(key)


def public_of(private: PrivateKey) -> PublicKey:
    """The public half, to verify what ``private`` signed."""
    return private.public_key


def public_pem(public: PublicKey) -> str:
    """The PEM, in the one form that we write."""
    return _pem(raw_public(public)).decode("ascii")


def raw_public(public: PublicKey) -> RawPublic:
    """The key as ``cryptography`` has it, for verifying many signatures."""
    if public.keytype == "ed25519":
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(public.keyval["public"]))
    key = load_pem_public_key(public.keyval["public"].encode("ascii"))
    assert isinstance(key, ec.EllipticCurvePublicKey)  # noqa: S101  (every PublicKey was made by parse_public)
    return key


def key_id(key: RawPublic) -> str:
    """SHA-256 (hexadecimal) of the DER SubjectPublicKeyInfo."""
    return sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


_WANTED_PRIVATE = "an unencrypted Ed25519 or ECDSA P-256 key in PKCS8 PEM, as `guardrail keys init` makes it"
_WANTED_PUBLIC = "an Ed25519 or ECDSA P-256 public key in PEM, as `guardrail keys init` makes it"


def _generate(kind: KeyType) -> RawPrivate:
    return Ed25519PrivateKey.generate() if kind == "ed25519" else ec.generate_private_key(ec.SECP256R1())


def _usable(key: RawPublic) -> bool:
    return isinstance(key, Ed25519PublicKey) or isinstance(key.curve, ec.SECP256R1)


def _public(key: RawPublic) -> PublicKey:
    return SSlibKey.from_crypto(key, keyid=key_id(key))


def _pem(key: RawPublic) -> bytes:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _already(path: Path) -> InvalidInput:
    return InvalidInput(
        f"{path} is already there and is never overwritten",
        expected="a directory without a key of this name",
        next_step="use the key that is there, or give another --directory",
    )
