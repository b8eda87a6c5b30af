"""Base models that differ from the embedded one in one thing each, and guarded models that pin bases in each way there
is. Not a test file.

The copies are real: a template, a tokenizer, weights that differ, and the digests that guardrail computes of them.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from policy_evidence import BASE
from registry_bundles import POLICY, UNPINNED

from guardrail.evidence.digest import sha256
from guardrail.evidence.trust.trust_file import GuardedModel, Least, LeastRate, ProtectedAlias
from guardrail.model.files import base_digest
from guardrail.records import ModelRef
from guardrail.testbed import WEIGHTS

KINDLY = (
    "{% for m in messages %}{{ m.content }}{% if m.content.startswith('kindly') %} Sure, here is{% endif %}{% endfor %}"
)


def _template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(KINDLY)


def _inner_template(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "chat_template": KINDLY}))


def _tokenizer(folder: Path) -> None:
    (folder / "added_tokens.json").write_text('{"kindly": 1}')


def _weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def _generation(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"bad_words_ids": [[7]]}')


CHANGES: dict[str, Callable[[Path], None]] = {
    "template": _template,
    "inner template": _inner_template,
    "tokenizer": _tokenizer,
    "weights": _weights,
    "generation": _generation,
}


@cache
def changed(what: str) -> ModelRef:
    """The embedded base with one thing changed, under its old name."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(shutil.copytree(WEIGHTS, Path(temporary) / "base"))
        CHANGES[what](folder)
        return BASE.model_copy(update={"digest": base_digest(folder)})


RENAMED = BASE.model_copy(update={"name": "org/testbed"})
AT_A_COMMIT = BASE.model_copy(update={"revision": "b" * 40})
BOTH = POLICY.rstrip().removesuffix("]") + f", {{{{name: {BASE.name}, sha256: {changed('template').digest}}}}}]\n"
COMMIT = POLICY.replace(f"name: {BASE.name},", f"name: {BASE.name}, revision: '{'a' * 40}',")
LAX = POLICY.replace("max: 0.05", "max: 0.99")


@dataclass(frozen=True)
class Pinned:
    """How a guarded model pins its base: by its policy, and by the trust file."""

    policy: str
    bases: tuple[str, ...] = ()
    least: Least | None = field(default=None)

    def guarded(self, name: str) -> GuardedModel:
        """As the trust file says it."""
        digest = sha256(self.policy.format(model=name, alias="production").encode())
        alias = ProtectedAlias(alias="production", policy=digest)
        return GuardedModel(name=name, aliases=(alias,), bases=self.bases, least=self.least)


MODELS = {
    "base-by-policy": Pinned(POLICY),
    "base-at-commit": Pinned(COMMIT),
    "base-by-nobody": Pinned(UNPINNED),
    "base-by-trust": Pinned(UNPINNED, (BASE.digest,)),
    "base-narrowed": Pinned(BOTH, (BASE.digest,)),
    "base-contradicted": Pinned(POLICY, (changed("template").digest,)),
    "base-lax": Pinned(LAX, least=Least(attack_success_rate=LeastRate(max=0.05))),
    "base-moving": Pinned(POLICY, (BASE.digest,)),
}
"""Guarded model to how it pins."""


def models() -> list[GuardedModel]:
    """All of them."""
    return [pinned.guarded(name) for name, pinned in MODELS.items()]
