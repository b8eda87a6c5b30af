"""Whoever signs, by URI: a private key file, or a key that never leaves a KMS, a vault or an HSM.

The services are securesystemslib's signers (https://github.com/secure-systems-lab/securesystemslib), which hash here
and sign there; credentials are the environment's. What a service signs is verified before it is used, with the public
key that was given: a service that signs with another key is found at once.
Not tried here: the services themselves. Tests cover what is ours: schemes, messages, the check of what came back.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from securesystemslib.exceptions import Error
from securesystemslib.signer import Signature, Signer

from guardrail.errors import InvalidInput, ServiceUnavailable
from guardrail.evidence.keys.key_pairs import PrivateKey, PublicKey, load_private, load_public
from guardrail.evidence.keys.key_uris import Secrets, parse_uri, require_installed, said


def load_signer(uri: str, public: Path | None = None, secrets: Secrets | None = None) -> PrivateKey:
    """What signs with the key at ``uri``.

    Args:
        uri: see ``key_uris.py``; a bare path is a file.
        public: the public key's file; a service's key needs it (``guardrail keys show URI --out FILE`` writes it).
        secrets: gives the secret of a name (an HSM asks for its ``pin``).

    Raises:
        InvalidInput: an unknown scheme, a key that cannot be used, or a service whose package is not installed.
    """
    place = parse_uri(uri)
    if place.scheme == "file":
        return _of_pair(Path(place.rest), public)
    require_installed(place.scheme)
    if public is None:
        raise InvalidInput(
            f"the key {uri} stays in its service",
            expected="its public key in a file, to know what must verify",
            next_step=f"guardrail keys show {uri} --out FILE, then give --public-key FILE",
        )
    known = load_public(public)
    try:
        return VerifyingSigner(Signer.from_priv_key_uri(uri, known, secrets), known)
    except Exception as error:  # each service raises its own kinds
        raise InvalidInput(f"cannot use the key {uri}: {said(error)}") from error


class VerifyingSigner(Signer):  # type: ignore[misc]
    """A service's signer that verifies what came back, and speaks our errors."""

    def __init__(self, signer: Signer, public: PublicKey) -> None:
        self._signer, self._public = signer, public

    @property
    def public_key(self) -> PublicKey:
        """The key that was given for it."""
        return self._public

    @classmethod
    def from_priv_key_uri(cls, priv_key_uri: str, public_key: Any, secrets_handler: Any = None) -> Signer:
        """As securesystemslib asks for it; :func:`load_signer` is ours."""
        return cls(Signer.from_priv_key_uri(priv_key_uri, public_key, secrets_handler), public_key)

    def sign(self, payload: bytes) -> Signature:
        """Sign, then verify.

        Raises:
            ServiceUnavailable: the service does not answer or refuses.
            InvalidInput: the signature is not by the public key that was given.
        """
        try:
            signature = self._signer.sign(payload)
        except Exception as error:  # each service raises its own kinds
            raise ServiceUnavailable(f"the key's service did not sign: {said(error)}") from error
        try:
            self._public.verify_signature(signature, payload)
        except (Error, ValueError) as error:
            raise InvalidInput(
                f"the service signed with another key than {self._public.keyid}",
                expected="the public key that belongs to the URI",
                next_step="write it again: guardrail keys show URI --out FILE",
            ) from error
        return signature


def _of_pair(private: Path, public: Path | None) -> PrivateKey:
    signer = load_private(private)
    if public is not None and signer.public_key.keyid != load_public(public).keyid:
        raise InvalidInput(f"{public} is not the public key of {private}", expected="the two files of one pair")
    return signer
