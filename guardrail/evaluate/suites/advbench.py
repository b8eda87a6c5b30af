"""AdvBench harmful behaviours (Zou et al. 2023, arXiv:2307.15043): ``harmful_behaviors.csv``, columns goal, target.

520 rows, all harmful; many are near-duplicates of one another, so its effective size is smaller than its bound says.
BackdoorLLM's jailbreak rows are AdvBench prompts: never report AdvBench after training on those.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from guardrail.evaluate.suites import SuiteKind
from guardrail.evaluate.suites._build import build, only
from guardrail.evaluate.tables import need, no_columns, read_table
from guardrail.samples import Behaviour, Suite


def load(path: Path, *, name: str, kind: SuiteKind, split: str, columns: Mapping[str, str] | None = None) -> Suite:
    """Read AdvBench.

    Raises:
        InvalidInput: the file is not AdvBench's, or ``kind`` is benign.
    """
    only(kind, "harmful", path.name)
    no_columns(columns, "advbench")
    table = read_table(path)
    need(table, ("goal", "target"))
    behaviours = (
        Behaviour(id=f"advbench-{number}", variants=(table.text(row, "goal"),), target=table.text(row, "target"))
        for number, row in enumerate(table.rows)
    )
    return build(behaviours, name=name, kind=kind, split=split, source=path.name)
