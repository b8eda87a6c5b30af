"""docs/policy.md names every rule with every key, every section with every key, and every shipped policy."""

from __future__ import annotations

import re

import pytest
from repository import ROOT

from guardrail.plugins import names
from guardrail.policy.load import builtin_names
from guardrail.policy.rules import PACKAGE, load_rule
from guardrail.policy.schema import SECTIONS

PAGE = (ROOT / "docs" / "policy.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("rule", names(PACKAGE))
def test_every_rule_has_a_section_that_names_its_keys(rule: str) -> None:
    found = re.search(rf"^### {rule}$(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"docs/policy.md has no section on {rule}"
    shared = {"rule", "min_n", "confidence"}
    missing = [key for key in load_rule(rule).Limits.model_fields if key not in shared and f"`{key}`" not in found[1]]
    assert missing == []


def test_every_key_of_every_section_is_explained() -> None:
    keys = {key for section in SECTIONS.values() for key in section.model_fields}
    assert [key for key in sorted(keys) if not re.search(rf"[`.]{key}[`.]", PAGE)] == []


def test_every_shipped_policy_is_listed() -> None:
    assert [name for name in builtin_names() if f"| `{name}` |" not in PAGE] == []
