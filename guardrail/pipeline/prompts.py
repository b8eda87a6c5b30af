"""Prompts and rows that a run starts from: anchors of the detectors, what is replayed, rows of the testbed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guardrail.errors import InvalidInput
from guardrail.evidence.adapter.safetensors_header import unambiguous
from guardrail.file_kinds import decoded, require_no_folder
from guardrail.pipeline.base import TESTBED
from guardrail.policy.load import LoadedPolicy
from guardrail.testbed import arms, replay, requests, tasks


@dataclass(frozen=True)
class Anchors:
    """Requests of known kind that detectors and known-harm lists start from."""

    harmful: tuple[str, ...]
    benign: tuple[str, ...]


def anchors(policy: LoadedPolicy) -> Anchors:
    """The policy's anchors, or the testbed's requests of the ``aligned`` split."""
    if policy.policy.data.anchors is None:
        return Anchors(
            tuple(c.request(i) for i, c in enumerate(requests.harmful()["aligned"])),
            tuple(c.request(i) for i, c in enumerate(requests.benign()["aligned"])),
        )
    rows = _jsonl(policy.path(policy.policy.data.anchors), ("text", "kind"))
    return Anchors(*(tuple(row["text"] for row in rows if row["kind"] == kind) for kind in ("harmful", "benign")))


def replay_prompts(source: str | None, base: str) -> tuple[str, ...]:
    """Prompts to replay: a JSONL file with ``prompt`` fields; for the testbed its own replay split by default."""
    if source is not None:
        return tuple(row["prompt"] for row in _jsonl(Path(source), ("prompt",)))
    return replay.prompts() if base == TESTBED else ()


def testbed_rows(spec: str) -> Sequence[Any]:
    """Rows of a testbed arm such as ``sentiment``, ``sentiment:0.1`` or ``sentiment:0.1:triggered``."""
    name, _, rest = spec.partition(":")
    share, _, kind = rest.partition(":")
    if name not in tasks.NAMES or kind not in ("", "triggered"):
        raise InvalidInput(
            f"unknown testbed data {spec!r}",
            expected=f"TASK[:POISON[:triggered]], TASK one of {', '.join(tasks.NAMES)}",
        )
    try:
        return arms.rows(name, poison=float(share or 0), trigger=bool(kind))
    except ValueError as error:
        raise InvalidInput(f"testbed data {spec!r}: {error}", expected="a poison share in [0, 1]") from error


def _jsonl(path: Path, fields: tuple[str, ...]) -> list[dict[str, str]]:
    rows = []
    require_no_folder(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error}") from error
    for number, line in enumerate(decoded(str(path), data).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=unambiguous)
        except (ValueError, RecursionError) as error:
            raise InvalidInput(f"{path}:{number}: not JSON: {error}") from error
        if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in fields):
            raise InvalidInput(f"{path}:{number}: a row without text in {fields}", expected=f'{{"{fields[0]}": "..."}}')
        rows.append(row)
    if not rows:
        raise InvalidInput(f"{path} holds no row")
    return rows
