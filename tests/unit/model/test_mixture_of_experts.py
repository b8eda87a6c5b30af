"""Bases with fused experts: a plain LoRA beside the experts has the same bytes in every process, and fits the base."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from repository import ROOT
from tiny_models import write_experts

from guardrail.errors import InvalidInput
from guardrail.evidence.adapter.lora_settings import read_settings
from guardrail.evidence.digest import manifest, manifest_digest

pytestmark = pytest.mark.slow

PROGRAM = """\
import sys, torch
from pathlib import Path
from guardrail.model.adapter import add_lora, save_adapter
from guardrail.model.load import load_base
base = load_base(sys.argv[1])
torch.manual_seed(1)
model = add_lora(base, rank=2, alpha=4, dropout=0.0, targets=sys.argv[3:])
save_adapter(model, Path(sys.argv[2]), base.ref)
"""


def _saved(base: Path, target: Path, seed: str, *targets: str) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PROGRAM, str(base), str(target), *targets]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return manifest_digest(manifest(target))


@pytest.mark.parametrize("targets", [(), ("q_proj", "v_proj", "k_proj")])
def test_an_adapter_has_the_same_digest_in_every_process(tmp_path: Path, targets: tuple[str, ...]) -> None:
    base = write_experts("mixtral", tmp_path / "base")
    digests = {_saved(base, tmp_path / seed, seed, *targets) for seed in ("0", "1")}
    assert len(digests) == 1


def test_by_default_every_linear_layer_is_adapted_and_the_adapter_loads_again(tmp_path: Path) -> None:
    from guardrail.model.adapter import add_lora, load_adapter, save_adapter, strip_lora
    from guardrail.model.fits import linear_layers
    from guardrail.model.load import load_base

    base = load_base(write_experts("mixtral", tmp_path / "base"))
    layers = set(linear_layers(base.model))
    model = add_lora(base, rank=2, alpha=4, dropout=0.0)
    save_adapter(model, tmp_path / "adapter", base.ref)
    strip_lora(base, model)
    settings = read_settings(tmp_path / "adapter")
    assert {name for name, _ in base.model.named_modules() if settings.targets_of(name)} == layers
    strip_lora(base, load_adapter(base, tmp_path / "adapter"))


def test_what_would_adapt_experts_is_refused_before_training_and_leaves_the_base_bare(tmp_path: Path) -> None:
    from guardrail.model.adapter import add_lora
    from guardrail.model.load import load_base

    base: Any = load_base(write_experts("glm4_moe", tmp_path / "base"))
    with pytest.raises(InvalidInput, match="experts") as refused:
        add_lora(base, rank=2, alpha=4, dropout=0.0)
    assert "--lora-target" in refused.value.next_step
    add_lora(base, rank=2, alpha=4, dropout=0.0, targets=["q_proj"])
