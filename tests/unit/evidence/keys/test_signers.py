"""Keys by URI: what is a file, what is a service, and what a service may not get away with."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
from securesystemslib.signer import SIGNER_FOR_URI_SCHEME, Signature, Signer, SSlibKey

from guardrail.errors import InvalidInput, ServiceUnavailable
from guardrail.evidence.envelope import sign, verify
from guardrail.evidence.keys import key_pairs, key_uris
from guardrail.evidence.keys.fetch_key import fetch_public
from guardrail.evidence.keys.signers import VerifyingSigner, load_signer


@pytest.fixture
def key_pair(tmp_path: Path) -> key_pairs.KeyPair:
    return key_pairs.init(tmp_path / "keys")


@pytest.mark.parametrize("form", ["{}", "file:{}"])
def test_a_path_is_a_file_with_or_without_its_scheme(key_pair: key_pairs.KeyPair, form: str) -> None:
    signer = load_signer(form.format(key_pair.private), key_pair.public)
    assert verify(sign(b"x", signer), [key_pairs.load_public(key_pair.public)]) == b"x"


def test_a_path_with_a_colon_is_written_with_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key_pairs.init(tmp_path, "odd:name")
    monkeypatch.chdir(tmp_path)
    assert load_signer("./odd:name.key").public_key == fetch_public("file:odd:name.pub")


def test_a_loose_file_is_refused_under_either_name(key_pair: key_pairs.KeyPair) -> None:
    key_pair.private.chmod(0o644)
    for uri in (str(key_pair.private), f"file:{key_pair.private}"):
        with pytest.raises(InvalidInput, match="mode 0644"):
            load_signer(uri)


def test_the_two_files_must_be_a_pair(key_pair: key_pairs.KeyPair, tmp_path: Path) -> None:
    other = key_pairs.init(tmp_path / "other")
    with pytest.raises(InvalidInput, match="is not the public key of"):
        load_signer(str(key_pair.private), other.public)


@pytest.mark.parametrize("uri", ["aws:alias/x", "AWSKMS:x", "file2:x", "http://x", "gnupg:", "tkey:"])
def test_an_unknown_scheme_lists_the_known(uri: str) -> None:
    for use in (load_signer, fetch_public):
        with pytest.raises(InvalidInput) as caught:
            use(uri)
        assert all(f"{scheme}:" in caught.value.expected for scheme in ("file", "awskms", "azurekms", "hsm", "hv"))


@pytest.mark.parametrize("scheme", key_uris.SERVICES)
def test_a_missing_package_is_named_with_what_installs_it(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    service = key_uris.Service("no_such_package.part", key_uris.SERVICES[scheme].extra)
    monkeypatch.setitem(key_uris.SERVICES, scheme, service)
    for use in (load_signer, fetch_public):
        with pytest.raises(InvalidInput) as caught:
            use(f"{scheme}:x")
        assert f"securesystemslib[{service.extra}]" in caught.value.next_step


def test_a_service_needs_its_public_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(key_uris.SERVICES, "hsm", key_uris.Service("json", "hsm"))
    with pytest.raises(InvalidInput, match="stays in its service") as caught:
        load_signer("hsm:2")
    assert "--public-key" in caught.value.next_step


def test_a_service_that_cannot_be_used_says_why(key_pair: key_pairs.KeyPair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(key_uris.SERVICES, "hsm", key_uris.Service("json", "hsm"))
    with pytest.raises(InvalidInput, match="cannot use the key hsm:two"):
        load_signer("hsm:two", key_pair.public)
    with pytest.raises(ServiceUnavailable, match="cannot fetch the public key of hsm:two"):
        fetch_public("hsm:two")


def test_a_service_that_signs_with_another_key_is_found(key_pair: key_pairs.KeyPair, tmp_path: Path) -> None:
    right, wrong = (
        key_pairs.load_private(key_pair.private),
        key_pairs.load_private(key_pairs.init(tmp_path / "other").private),
    )
    public = key_pairs.load_public(key_pair.public)
    assert verify(sign(b"x", VerifyingSigner(right, public)), [public]) == b"x"
    with pytest.raises(InvalidInput, match="signed with another key"):
        sign(b"x", VerifyingSigner(wrong, public))


class Silent(Signer):  # type: ignore[misc]
    """A service that does not answer."""

    @property
    def public_key(self) -> Any:
        raise NotImplementedError

    @classmethod
    def from_priv_key_uri(cls, priv_key_uri: str, public_key: Any, secrets_handler: Any = None) -> Signer:
        raise NotImplementedError

    def sign(self, payload: bytes) -> Signature:
        del payload
        raise TimeoutError("no answer\nafter 3 attempts")


def test_a_service_that_does_not_answer_is_unavailable(key_pair: key_pairs.KeyPair) -> None:
    with pytest.raises(ServiceUnavailable, match=r"TimeoutError: no answer$"):
        sign(b"x", VerifyingSigner(Silent(), key_pairs.load_public(key_pair.public)))


def test_the_public_half_of_a_file_of_either_kind_is_shown(key_pair: key_pairs.KeyPair) -> None:
    assert (
        fetch_public(str(key_pair.private))
        == fetch_public(f"file:{key_pair.public}")
        == key_pairs.load_public(key_pair.public)
    )
    with pytest.raises(InvalidInput):
        fetch_public(str(key_pair.public.with_name("absent")))


AZURE = "azurekms://ours.vault.azure.net/keys/release/7"


def told(newest: str, key: key_pairs.PrivateKey, asked: list[tuple[Any, ...]]) -> type:
    """Stands in for a service, which cannot be reached from here: what securesystemslib's signers answer with."""

    class Kind:
        @staticmethod
        def import_(*arguments: Any) -> tuple[str, SSlibKey]:
            asked.append(arguments)
            public = key.public_key
            return newest, SSlibKey("its own id", public.keytype, public.scheme, public.keyval)

    return Kind


@pytest.mark.parametrize(
    ("uri", "asks"),
    [
        ("awskms:alias/release", ("alias/release",)),
        ("gcpkms:projects/p/cryptoKeyVersions/1", ("projects/p/cryptoKeyVersions/1",)),
        (AZURE, ("ours", "release")),
        ("hv:release/3", ("release",)),
        ("hsm:2?label=Our+token", (2, "Our token", None)),
        ("hsm:", (None, None, None)),
    ],
)
@pytest.mark.parametrize("kind", get_args(key_pairs.KeyType))
def test_a_service_s_key_has_our_id_whatever_the_service_calls_it(
    uri: str, asks: tuple[Any, ...], kind: key_pairs.KeyType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheme, asked = uri.partition(":")[0], list[tuple[Any, ...]]()
    key_pair = key_pairs.init(tmp_path, kind=kind)
    monkeypatch.setitem(key_uris.SERVICES, scheme, key_uris.Service("json", "x"))
    monkeypatch.setitem(SIGNER_FOR_URI_SCHEME, scheme, told(uri, key_pairs.load_private(key_pair.private), asked))
    assert fetch_public(uri) == key_pairs.load_public(key_pair.public)
    assert asked == [asks]


@pytest.mark.parametrize("uri", [AZURE, "hv:release/3"])
def test_the_newest_version_is_not_taken_for_another(
    uri: str, key_pair: key_pairs.KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheme = uri.partition(":")[0]
    monkeypatch.setitem(key_uris.SERVICES, scheme, key_uris.Service("json", "x"))
    monkeypatch.setitem(
        SIGNER_FOR_URI_SCHEME, scheme, told(uri[:-1] + "9", key_pairs.load_private(key_pair.private), [])
    )
    with pytest.raises(ServiceUnavailable, match="the newest version of this key is"):
        fetch_public(uri)
