"""Keys on disk: never overwritten, never loose."""

from __future__ import annotations

import base64
import hashlib
import stat
from pathlib import Path
from typing import get_args

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_public_key,
)

from guardrail.errors import InvalidInput, ServiceUnavailable
from guardrail.evidence.envelope import sign, verify
from guardrail.evidence.keys import key_pairs


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_pair_is_private_and_belongs_together(tmp_path: Path) -> None:
    pair = key_pairs.init(tmp_path / "keys")
    assert (mode(pair.private), mode(pair.public), mode(tmp_path / "keys")) == (0o600, 0o644, 0o700)
    assert key_pairs.load_private(pair.private).public_key == key_pairs.load_public(pair.public)


def test_the_key_id_is_the_sha256_of_the_der_public_key(tmp_path: Path) -> None:
    pair = key_pairs.init(tmp_path)
    public = load_pem_public_key(pair.public.read_bytes())
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert pair.key_id == hashlib.sha256(der).hexdigest() == key_pairs.load_public(pair.public).keyid


@pytest.mark.parametrize("present", ["guardrail.key", "guardrail.pub"])
def test_a_key_is_never_overwritten(tmp_path: Path, present: str) -> None:
    (tmp_path / present).write_text("mine")
    with pytest.raises(InvalidInput, match="never overwritten"):
        key_pairs.init(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [present]
    assert (tmp_path / present).read_text() == "mine"


def test_a_dangling_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "guardrail.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidInput):
        key_pairs.init(tmp_path)
    assert not (tmp_path / "elsewhere").exists()


def test_a_directory_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ServiceUnavailable, match="cannot write a key"):
        key_pairs.init(tmp_path / "file" / "keys")


@pytest.mark.parametrize("loose", [0o640, 0o604, 0o620, 0o601])
def test_a_private_key_that_others_can_reach_is_refused(tmp_path: Path, loose: int) -> None:
    pair = key_pairs.init(tmp_path)
    pair.private.chmod(loose)
    with pytest.raises(InvalidInput, match=f"mode {loose:04o}"):
        key_pairs.load_private(pair.private)


def test_a_link_to_a_private_key_is_refused(tmp_path: Path) -> None:
    pair = key_pairs.init(tmp_path)
    (tmp_path / "link").symlink_to(pair.private)
    with pytest.raises(InvalidInput, match="symbolic link"):
        key_pairs.load_private(tmp_path / "link")


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("kind", get_args(key_pairs.KeyType))
def test_a_pair_of_either_type_signs_and_is_named_by_its_der_form(tmp_path: Path, kind: key_pairs.KeyType) -> None:
    pair = key_pairs.init(tmp_path, kind=kind)
    public = key_pairs.load_public(pair.public)
    envelope = sign(b"{}", key_pairs.load_private(pair.private))
    assert verify(envelope, [public]) == b"{}"
    der = load_pem_public_key(pair.public.read_bytes()).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert public.keyid == pair.key_id == hashlib.sha256(der).hexdigest()
    assert key_pairs.public_pem(public).encode() == pair.public.read_bytes()


def test_a_public_key_in_another_encoding_has_the_same_id(tmp_path: Path) -> None:
    pair = key_pairs.init(tmp_path, kind="ecdsa")
    key = load_pem_public_key(pair.public.read_bytes())
    assert isinstance(key, ec.EllipticCurvePublicKey)
    prefix = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200")  # SubjectPublicKeyInfo of 33 bytes
    der = prefix + key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    text = f"-----BEGIN PUBLIC KEY-----\n{base64.b64encode(der).decode()}\n-----END PUBLIC KEY-----\n"
    assert key_pairs.parse_public(text.encode(), "here").keyid == pair.key_id


def test_a_private_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    other = ec.generate_private_key(ec.SECP384R1())
    pem = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(InvalidInput, match="another type"):
        key_pairs.load_private(written(tmp_path / "ec", pem))
    locked = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    for data in (locked, b"", b"junk", key_pairs.init(tmp_path).public.read_bytes()):
        with pytest.raises(InvalidInput, match="not a private key"):
            key_pairs.load_private(written(tmp_path / "bad", data))


def test_a_public_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    pair, other = key_pairs.init(tmp_path), ec.generate_private_key(ec.SECP384R1()).public_key()
    pem = other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for path in (written(tmp_path / "ec", pem), written(tmp_path / "junk", b"junk"), pair.private, tmp_path / "absent"):
        with pytest.raises(InvalidInput):
            key_pairs.load_public(path)
