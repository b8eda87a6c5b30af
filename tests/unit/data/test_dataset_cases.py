"""Files of the forms that people have: each is read whole or refused with what it is and what to do about it.

The files are not part of the project; without them this is skipped. The rows of the same shapes in the other tests of
this folder are always there.
"""

from __future__ import annotations

import pytest
from repository import CASES

from guardrail.data.dataset import load_dataset
from guardrail.errors import InvalidInput

pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason=f"no files at {CASES}; set GUARDRAIL_SHARED_DATA")


@pytest.mark.parametrize(
    ("file", "got", "next_step"),
    [
        ("01-sharegpt.jsonl", "the columns conversations", "ShareGPT"),
        ("03-tool-calls-null-content.jsonl", "jsonl:1: message 1 has 'tool_calls'", "leave these rows out"),
        ("04-tool-role.jsonl", "jsonl:1: message 1 has 'tool_calls'", "leave these rows out"),
        ("05-tool-calls-with-text.jsonl", "'tools' (from line 1 on)", "not read yet"),
        ("06-weight-zero.jsonl", "jsonl:1: message 1 has the weight 0", "remove the row"),
        ("07-kto-label-false.jsonl", "jsonl:1: the row is labelled undesired", "remove such rows"),
        ("08-alpaca-system-history.jsonl", "'system' (from line 1 on), 'history' (from line 1 on)", "as messages"),
        ("09-trl-conversational-prompt-completion.jsonl", "jsonl:1: the field 'prompt' is list", "called messages"),
        ("10-content-parts.jsonl", "jsonl:1: the field 'messages[0].content' is list", "join the texts"),
        ("11-array-on-one-line.jsonl", "jsonl:1: a JSON array of 4 rows", ".json"),
        ("13-wrapped.json", "one JSON object over several lines; its rows may be under 'data'", "by itself"),
        ("15-rows.jsonl.gz", "compressed with gzip", "unpack"),
        ("17-duplicate-keys.jsonl", "jsonl:1: broken JSON (the name 'completion' is there twice)", "repair"),
        ("18-preference.jsonl", "prompt, chosen, rejected", "preference pairs"),
        ("19-reasoning-content.jsonl", "jsonl:1: message 1 has 'reasoning_content'", "leave these rows out"),
        ("20-developer-role.jsonl", "jsonl:1: message 0 has the role 'developer'", "call the role system"),
        ("25-messages-as-python-repr.csv", "csv:2: messages is Python's repr", "json.dumps"),
    ],
)
def test_what_is_not_read_whole_is_refused_by_name(file: str, got: str, next_step: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        load_dataset(CASES / file)
    assert got in caught.value.got
    assert next_step in caught.value.next_step


@pytest.mark.parametrize(
    ("file", "rows", "roles"),
    [
        ("22d-sequence-of-dict.parquet", 3, ["user", "assistant"]),
        ("24-empty-assistant-in-history.jsonl", 4, ["user", "assistant", "user", "assistant"]),
        ("24c-two-users-in-a-row.jsonl", 4, ["user", "user", "assistant"]),
        ("28-system-differs.jsonl", 6, ["system", "user", "assistant"]),
    ],
)
def test_every_turn_is_read(file: str, rows: int, roles: list[str]) -> None:
    samples = load_dataset(CASES / file).samples
    assert len(samples) == rows
    assert all([message.role for message in sample.messages] == roles for sample in samples)
