"""Ed25519 keys on disk: made once, never overwritten, refused when others can read them.

A key's id is the SHA-256 of its DER SubjectPublicKeyInfo, so whoever has the public key can compute it with any
tool. Not covered: keys in a KMS or an HSM, passphrases, rotation and revocation.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from securesystemslib.signer import CryptoSigner, SSlibKey

from guardrail.errors import InvalidInput, ServiceUnavailable
from guardrail.evidence.digest import sha256

PrivateKey: TypeAlias = CryptoSigner
PublicKey: TypeAlias = SSlibKey

LARGEST_KEY = 1 << 16


@dataclass(frozen=True)
class KeyPair:
    """Where a new key pair lies, and the id of its public key."""

    private: Path
    public: Path
    key_id: str


def init(directory: Path, name: str = "guardrail") -> KeyPair:
    """Make a key pair: ``NAME.key`` (PKCS8 PEM, mode 0600) and ``NAME.pub`` (PEM, mode 0644).

    Raises:
        InvalidInput: a key of that name is already there; it is never overwritten.
        ServiceUnavailable: the directory cannot be written.
    """
    private, public = directory / f"{name}.key", directory / f"{name}.pub"
    for path in (private, public):
        if os.path.lexists(path):
            raise _already(path)
    key = Ed25519PrivateKey.generate()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _create(private, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
        _create(public, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), 0o644)
    except FileExistsError as error:
        raise _already(Path(str(error.filename))) from error
    except OSError as error:
        raise ServiceUnavailable(f"cannot write a key in {directory}: {error.strerror}") from error
    return KeyPair(private, public, key_id(key.public_key()))


def load_private(path: Path) -> PrivateKey:
    """The signer of a private key file.

    Raises:
        InvalidInput: no readable regular file, readable by others, or not an unencrypted Ed25519 key.
    """
    data = _read_private(path)
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidInput(f"{path} is not a private key we can read: {error}", expected=_WANTED_PRIVATE) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidInput(f"{path} holds a key of another type", expected=_WANTED_PRIVATE)
    return CryptoSigner(key, _public(key.public_key()))


def load_public(path: Path) -> PublicKey:
    """The verifying key of a public key file.

    Raises:
        InvalidInput: the file cannot be read or does not hold an Ed25519 public key.
    """
    try:
        with path.open("rb") as stream:
            key = load_pem_public_key(stream.read(LARGEST_KEY))
    except OSError as error:
        raise InvalidInput(f"cannot read the public key {path}: {error.strerror}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidInput(f"{path} is not a public key", expected=_WANTED_PUBLIC) from error
    if not isinstance(key, Ed25519PublicKey):
        raise InvalidInput(f"{path} holds a key of another type", expected=_WANTED_PUBLIC)
    return _public(key)


def public_of(private: PrivateKey) -> PublicKey:
    """The public half, to verify what ``private`` signed."""
    return private.public_key


def key_id(key: Ed25519PublicKey) -> str:
    """SHA-256 (hexadecimal) of the DER SubjectPublicKeyInfo."""
    return sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


_WANTED_PRIVATE = "an unencrypted Ed25519 key in PKCS8 PEM, as `guardrail keys init` makes it"
_WANTED_PUBLIC = "an Ed25519 public key in PEM, as `guardrail keys init` makes it"


def _public(key: Ed25519PublicKey) -> PublicKey:
    return SSlibKey.from_crypto(key, keyid=key_id(key))


def _already(path: Path) -> InvalidInput:
    return InvalidInput(
        f"{path} is already there and is never overwritten",
        expected="a directory without a key of this name",
        next_step="use the key that is there, or give another --directory",
    )


def _create(path: Path, data: bytes, mode: int) -> None:
    """A new file with exactly ``mode``; O_EXCL also refuses a symbolic link."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), mode)
    with os.fdopen(descriptor, "wb") as stream:
        os.fchmod(descriptor, mode)
        stream.write(data)
        stream.flush()
        os.fsync(descriptor)


def _read_private(path: Path) -> bytes:
    """The file's bytes; permissions are checked on the open descriptor, so they cannot be swapped in between."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        why = "it is a symbolic link" if path.is_symlink() else error.strerror
        raise InvalidInput(f"cannot read the private key {path}: {why}", next_step="guardrail keys init") from error
    with os.fdopen(descriptor, "rb") as stream:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            raise InvalidInput(f"the private key {path} is not a regular file")
        if state.st_mode & 0o077:
            raise InvalidInput(
                f"the private key {path} has mode {stat.S_IMODE(state.st_mode):04o}: others may read or change it",
                expected="mode 0600",
                next_step=f"chmod 600 {path}, and replace the key if others could have read it",
            )
        return stream.read(LARGEST_KEY)
