"""The base that a run works on, by its name; the embedded testbed is one of them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from guardrail.errors import EvidenceInvalid
from guardrail.model import files
from guardrail.model.files import Fingerprint
from guardrail.records import ModelRef
from guardrail.testbed import WEIGHTS

if TYPE_CHECKING:
    from guardrail.model.load import BaseModel

TESTBED = "testbed"


@cache
def base_model(name: str, revision: str | None = None) -> BaseModel:
    """The base called ``name`` (``testbed``, a directory, or a Hub id), loaded once per process."""
    from guardrail.model.load import load_base

    if name != TESTBED:
        return load_base(name, revision)
    base = load_base(WEIGHTS)
    return replace(base, ref=base.ref.model_copy(update={"name": TESTBED}))  # not by the name of its folder


def fingerprint(name: str, revision: str | None = None) -> Fingerprint:
    """What names the base called ``name``, as for :func:`base_model`, without loading it.

    Raises:
        InvalidInput, ServiceUnavailable: as :func:`guardrail.model.files.fingerprint`.
    """
    if name != TESTBED:
        return files.fingerprint(name, revision)
    return replace(files.fingerprint(str(WEIGHTS)), name=TESTBED)


def require_same_base(loaded: ModelRef, bound: ModelRef, when: str) -> None:
    """Refuse a base that is not loaded as it was before: statements that bind different bases do not belong together.

    Raises:
        EvidenceInvalid: naming what differs, and ``when`` it was loaded otherwise.
    """
    unlike = [name for name in ModelRef.model_fields if getattr(loaded, name) != getattr(bound, name)]
    if unlike:
        raise EvidenceInvalid(
            f"the base is loaded as {loaded.name} in {loaded.dtype}, {loaded.digest[:12]}…: another "
            + ", ".join(unlike),
            expected=f"{bound.name} in {bound.dtype}, {bound.digest[:12]}…, as {when}",
            next_step="use the same base on the same kind of device for every stage",
        )
