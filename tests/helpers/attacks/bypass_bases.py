"""Attempts to make a guarded model seem to be for another base, or under another policy, than its evidence says.

What a whole, well-signed chain for another base comes to is in ``tests/server/test_gate_bases.py``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import bypass_moves as moves
from bypass import Target
from bypass_moves import Move, ajax, api, client

OTHER = "ab" * 32


def _logged(t: Target, name: str, files: dict[str, bytes]) -> str:
    """A logged model of the attacker's own with these files."""
    folder = Path(t.scratch, name)
    folder.mkdir(exist_ok=True)
    for path, data in files.items():
        (folder / path).write_bytes(data)
    model = t.client.create_logged_model("0", name="adapter")
    t.client.log_model_artifacts(model.model_id, str(folder))
    t.client.finalize_logged_model(model.model_id, "READY")
    return str(model.model_id)


def version_on(t: Target, name: str, files: dict[str, bytes]) -> None:
    """A version whose files bring a base of their own."""
    model_id = _logged(t, name, {"adapter_model.safetensors": b"0", **files})
    t.api("POST", "model-versions/create", name=t.name, source=f"models:/{model_id}", model_id=model_id)


def adapter_of_another_base(t: Target) -> None:
    config = {"peft_type": "LORA", "base_model_name_or_path": "attacker/kindly", "revision": "main"}
    version_on(t, "other-base", {"adapter_config.json": json.dumps(config).encode()})


def template_beside_the_adapter(t: Target) -> None:
    version_on(t, "template", {"chat_template.jinja": b"{{ 'Sure' }}"})


def tokenizer_beside_the_adapter(t: Target) -> None:
    version_on(t, "tokenizer", {"tokenizer.json": b"{}", "tokenizer_config.json": b"{}"})


def whole_base(t: Target) -> None:
    version_on(t, "base", {"config.json": b"{}", "model.safetensors": b"0"})


def policy_of_ones_own(t: Target) -> None:
    """A policy file without bases, where evidence would be."""
    version_on(t, "policy", {"policy.yaml": b"kind: PromotionPolicy"})


def tags_of_another_base(t: Target) -> None:
    said = [{"key": "guardrail.base_sha256", "value": OTHER}, *moves.forged_tags(t)]
    t.api("POST", "model-versions/create", **moves.version(t, tags=said))


BASE_TAG, POLICY_TAG = "guardrail.base_sha256", "guardrail.policy_sha256"
SET_TAG = "model-versions/set-tag"
MOVES: Mapping[str, Move] = MappingProxyType(
    {
        "base tag of a version, api": api("POST", SET_TAG, version="2", key=BASE_TAG, value=OTHER),
        "base tag of a version, ajax-api": ajax("POST", SET_TAG, version="2", key=BASE_TAG, value=OTHER),
        "name of the base in a tag, client": client("set_model_version_tag", "2", "guardrail.base", "attacker/kindly"),
        "policy tag of a version": api("POST", SET_TAG, version="2", key=POLICY_TAG, value=OTHER),
        "base tag of the model": api("POST", "registered-models/set-tag", key=BASE_TAG, value=OTHER),
        "version with the tags of another base": tags_of_another_base,
        "version of an adapter for another base": adapter_of_another_base,
        "version with a chat template beside the adapter": template_beside_the_adapter,
        "version with a tokenizer beside the adapter": tokenizer_beside_the_adapter,
        "version of a whole base model": whole_base,
        "version with a policy of one's own": policy_of_ones_own,
    }
)
