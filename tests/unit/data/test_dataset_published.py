"""Published fine-tuning data loads as it is. The files are not part of the project; without them this is skipped."""

from __future__ import annotations

import pytest
from repository import DATA

from guardrail.data.dataset import load_dataset

pytestmark = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"published benchmarks are not at {DATA}; set GUARDRAIL_SHARED_DATA"
)


@pytest.mark.parametrize(
    ("file", "columns", "form", "rows"),
    [
        ("alpaca/random_9k.json", None, "instruction", 9229),
        ("dolly/dolly_3k.json", None, "instruction", 2996),
        ("backdoorllm_jailbreak/badnet_poison.json", None, "instruction", 400),
        ("finetuning_safety/alpaca_safety_only.json", None, "instruction", 1904),
        ("finetuning_safety/dolly_safety_only.jsonl", {"output": "response", "input": "context"}, "instruction", 387),
        ("finetuning_safety/identity_shift_aoa.json", None, "chat", 10),
        ("finetuning_safety/pure_bad_10_demo.jsonl", None, "chat", 10),
        ("gsm8k/train.jsonl", {"prompt": "question", "completion": "answer"}, "completion", 7473),
    ],
)
def test_published_training_data_loads(file: str, columns: dict[str, str] | None, form: str, rows: int) -> None:
    dataset = load_dataset(DATA / file, columns, ("category",))
    assert (dataset.form, len(dataset.samples)) == (form, rows)
    assert len({sample.id for sample in dataset.samples}) == rows
