"""Any base: GPT-2 (no template, no pad token), Qwen2, Gemma 2 (tied embeddings, soft-capping) through every stage."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tiny_models import ARCHITECTURES, write_base, write_policy, write_replay, write_rows

from guardrail.errors import EvidenceInvalid, InvalidInput
from guardrail.pipeline.run import Run, RunConfig
from guardrail.policy.load import load_policy
from guardrail.records import Verdict

if TYPE_CHECKING:
    from guardrail.model.load import BaseModel

pytestmark = pytest.mark.slow

HEADS = {"gpt2": "GPT2LMHeadModel", "qwen2": "Qwen2ForCausalLM", "gemma2": "Gemma2ForCausalLM"}


@dataclass(frozen=True)
class Tiny:
    """One base, loaded as the product loads it, and a run that is started on it."""

    kind: str
    base: BaseModel
    run: Run
    rows: Path
    replay: Path


@pytest.fixture(scope="module", params=ARCHITECTURES)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tiny]:
    from guardrail.pipeline.base import base_model

    folder = tmp_path_factory.mktemp(request.param)
    policy = load_policy(write_policy(folder))
    directory = write_base(request.param, folder / "base")
    run = Run(folder / "run")
    run.start(policy, RunConfig(policy_source=policy.source, base=str(directory)))
    base = base_model(str(directory))
    yield Tiny(request.param, base, run, write_rows(folder / "train.jsonl"), write_replay(folder / "replay.jsonl"))
    base_model.cache_clear()


def test_the_base_is_named_by_what_it_is(tiny: Tiny) -> None:
    ref = tiny.base.ref
    assert (ref.name, ref.architecture, ref.dtype) == ("base", HEADS[tiny.kind], _dtype())
    assert ref.template == ("fallback" if tiny.kind == "gpt2" else "own")
    assert tiny.base.tokenizer.pad_token_id is not None
    assert tiny.base.context == 128


def test_the_head_is_known(tiny: Tiny) -> None:
    from guardrail.model.head import check_head

    check_head(tiny.base.model)


def test_a_head_that_does_something_else_is_refused(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    from guardrail.model.head import check_head

    original = tiny.base.model.forward

    def scaled(*args: Any, **kwargs: Any) -> Any:
        output = original(*args, **kwargs)
        return replace(output, logits=output.logits * 2)

    monkeypatch.setattr(tiny.base.model, "forward", scaled)
    with pytest.raises(InvalidInput, match="does not compute its logits"):
        check_head(tiny.base.model)


def test_hidden_states_do_not_depend_on_what_else_is_in_the_batch(tiny: Tiny) -> None:
    import numpy as np

    from guardrail.model.hidden_states import embed

    texts = ["Hi", "How do I paint a school, and then another school?", "What is 3 plus 4?"]
    together = embed(tiny.base, texts)
    alone = np.concatenate([embed(tiny.base, [text]) for text in texts])
    assert np.abs(together - alone).max() < 1e-3 * np.abs(alone).max()


def test_answers_do_not_depend_on_what_else_is_in_the_batch(tiny: Tiny) -> None:
    from guardrail.model.chat import encode_prompt, user
    from guardrail.model.generate import generate

    texts = ["Hi", "How do I paint a school, and then another school?", "What is 3 plus 4?"]
    prompts = [encode_prompt(tiny.base.tokenizer, user(text)) for text in texts]
    together = generate(tiny.base, prompts, max_new_tokens=5, batch_size=8)
    assert together == [generate(tiny.base, [one], max_new_tokens=5, batch_size=1)[0] for one in prompts]


def test_the_squared_distance_is_refused_where_logits_are_soft_capped_and_exact_elsewhere(tiny: Tiny) -> None:
    import torch

    from guardrail.model.head import logit_scale, project
    from guardrail.train.distillation import gram_matrix, squared_logit_distance

    if tiny.kind == "gemma2":
        with pytest.raises(InvalidInput, match="soft-caps"):
            logit_scale(tiny.base.model)
        return
    model = tiny.base.model
    student, teacher = (torch.randn(9, 32, device=model.device, dtype=model.dtype) for _ in range(2))
    gram = gram_matrix(model.get_output_embeddings().weight, logit_scale(model))
    with torch.no_grad():
        expected = (project(model, student) - project(model, teacher)).float().square().sum()
    assert float(squared_logit_distance(student, teacher, gram)) == pytest.approx(float(expected), rel=0.02)


@pytest.mark.parametrize("method", ["finetune", "der", "wise_ft"])
def test_every_method_goes_through_every_stage_to_a_decision(tiny: Tiny, method: str) -> None:
    from guardrail.pipeline.data import validate_data
    from guardrail.pipeline.evaluation import evaluate_adapter
    from guardrail.pipeline.promotion import decide_run
    from guardrail.pipeline.training import train_adapter

    before = _weights(tiny.base)
    report = validate_data(tiny.run, str(tiny.rows))
    adapter = train_adapter(tiny.run, _request(method, tiny.replay))
    evaluation = evaluate_adapter(tiny.run)
    decision = decide_run(tiny.run, datetime.now(UTC))
    assert (report.rows, report.training_rows, adapter.rows, adapter.rows_too_long) == (30, 30, 30, 0)
    assert (adapter.method, adapter.base, evaluation.base) == (method, tiny.base.ref, tiny.base.ref)
    assert [m.candidate.n for m in evaluation.measurements] == [12] * len(evaluation.measurements)
    assert decision.verdict in (Verdict.FAILED, Verdict.INCONCLUSIVE)
    assert _weights(tiny.base) == before, "training or measuring left something in the base"
    assert not hasattr(tiny.base.model, "peft_config")


def test_the_saved_adapter_holds_two_files_and_no_path_of_this_machine(tiny: Tiny) -> None:
    directory = tiny.run.path / "adapter"
    assert sorted(path.name for path in directory.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    config = json.loads((directory / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "base"
    assert str(directory.parent) not in (directory / "adapter_config.json").read_text()


def test_the_method_der_without_replay_prompts_says_what_to_give(tiny: Tiny) -> None:
    from guardrail.pipeline.data import validate_data
    from guardrail.pipeline.training import train_adapter

    validate_data(tiny.run, str(tiny.rows))
    with pytest.raises(InvalidInput) as caught:
        train_adapter(tiny.run, replace(_request("der", tiny.replay), replay=None))
    assert "--replay FILE" in caught.value.next_step


def test_an_unknown_lora_target_lists_those_there_are(tiny: Tiny) -> None:
    from guardrail.model.adapter import add_lora

    with pytest.raises(InvalidInput) as caught:
        add_lora(tiny.base, rank=2, alpha=2.0, dropout=0.0, targets=("q_prj",))
    assert ("c_attn" if tiny.kind == "gpt2" else "q_proj") in caught.value.expected


def test_the_output_head_is_never_adapted(tiny: Tiny) -> None:
    """Every loss is projected through the frozen head: layers there would learn nothing and spoil the teacher."""
    from guardrail.model.adapter import add_lora

    with pytest.raises(InvalidInput, match="the output head is not adapted"):
        add_lora(tiny.base, rank=2, alpha=2.0, dropout=0.0, targets=("lm_head",))


def test_the_shapes_of_an_adapter_are_known_before_there_is_one(tiny: Tiny, tmp_path: Path) -> None:
    from guardrail.model.adapter import add_lora, lora_shapes, save_adapter, strip_lora
    from guardrail.model.updates import read_updates

    target = "c_attn" if tiny.kind == "gpt2" else "v_proj"
    for targets in ((), (target,)):
        expected = lora_shapes(tiny.base, targets)
        model = add_lora(tiny.base, rank=2, alpha=2.0, dropout=0.0, targets=targets)
        save_adapter(model, tmp_path / "adapter", tiny.base.ref)
        strip_lora(tiny.base, model)
        updates = read_updates(tmp_path / "adapter")
        assert {name: (one.b.shape[0], one.a.shape[1]) for name, one in updates.items()} == expected
    assert len(expected) == 2  # one in each layer


def test_an_adapter_of_another_base_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    from guardrail.model.adapter import add_lora, load_adapter, save_adapter, strip_lora
    from guardrail.model.load import load_base

    other = load_base(write_base("qwen2" if tiny.kind == "gpt2" else "gpt2", tmp_path / "other"))
    model = add_lora(other, rank=2, alpha=2.0, dropout=0.0)
    save_adapter(model, tmp_path / "adapter", other.ref)
    strip_lora(other, model)
    with pytest.raises(EvidenceInvalid, match="does not fit"):
        load_adapter(tiny.base, tmp_path / "adapter")


def test_a_base_without_an_end_token_is_refused(tmp_path: Path) -> None:
    from guardrail.model.load import load_base

    directory = write_base("gpt2", tmp_path / "base")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = directory / name
        if path.exists():
            values = json.loads(path.read_text())
            values.pop("eos_token", None)
            path.write_text(json.dumps(values))
    with pytest.raises(InvalidInput, match="no end-of-text token"):
        load_base(directory)


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    import torch

    from guardrail.model.load import load_base

    directory = write_base("gpt2", tmp_path / "base")
    (directory / "model.safetensors").unlink()
    torch.save({}, directory / "pytorch_model.bin")
    with pytest.raises(InvalidInput) as caught:
        load_base(directory)
    assert "safetensors" in caught.value.expected


def test_another_template_is_another_base(tmp_path: Path) -> None:
    from guardrail.model.load import base_digest

    directory = write_base("qwen2", tmp_path / "base")
    before = base_digest(directory)
    (directory / "README.md").write_text("no part of the model")
    assert base_digest(directory) == before
    template = directory / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    assert base_digest(directory) != before


def _request(method: str, replay: Path) -> Any:
    from guardrail.pipeline.request import TrainRequest
    from guardrail.train.stage import Lora
    from guardrail.train.trainer import Settings

    hyperparameters: dict[str, float | str] = {"lambdas": "0.5,1.0"} if method == "wise_ft" else {}
    return TrainRequest(
        method=method,
        hyperparameters=hyperparameters,
        settings=Settings(epochs=1.0, batch_size=8),
        lora=Lora(rank=2, alpha=4.0),
        replay=str(replay),
    )


def _weights(base: BaseModel) -> dict[str, float]:
    return {name: float(tensor.double().abs().sum()) for name, tensor in base.model.state_dict().items()}


def _dtype() -> str:
    import torch

    return "bfloat16" if torch.cuda.is_available() else "float32"
