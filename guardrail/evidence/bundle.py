"""What is stored for one decision: the adapter's files and, in ``evidence/`` beside them, why it may be trusted.

    adapter_config.json, adapter_model.safetensors, ...   the adapter, at the root, so that peft loads the directory
    evidence/policy.yaml                                  the policy's bytes as they were given
    evidence/data.json, adapter.json, evaluation.json     the records, canonical JSON
    evidence/data.dsse.json, train…, evaluate.dsse.json   what each stage signed, where a gated server asks for it
    evidence/decision.dsse.json                           the signed statement

Not covered: whether the evidence is good (``registry/verify/evidence_checks.py``) and where it is kept (``registry``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from guardrail import nofollow
from guardrail.atomic import write_atomically
from guardrail.errors import EvidenceInvalid
from guardrail.evidence.digest import canonical, manifest, sha256
from guardrail.evidence.envelope import sign, verify
from guardrail.evidence.keys.key_pairs import PrivateKey, public_of
from guardrail.evidence.statements import decision_statement
from guardrail.records import AdapterRecord, DataReport, Decision, EvaluationReport, FileDigest

EVIDENCE = "evidence"
POLICY, DATA, ADAPTER, EVALUATION = "policy.yaml", "data.json", "adapter.json", "evaluation.json"
ENVELOPE = "decision.dsse.json"
SIGNED = ("data", "train", "evaluate")
"""The stages whose statements travel with the evidence: all of them, or none."""
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")


@dataclass(frozen=True)
class Bundle:
    """A decision with everything that it was made from. ``envelope`` is made by :func:`seal`.

    ``stages`` are the envelopes of ``SIGNED``, by stage; empty where nobody asks for them.
    """

    decision: Decision
    policy: bytes
    data: DataReport
    adapter: AdapterRecord
    evaluation: EvaluationReport
    adapter_dir: Path
    envelope: bytes = b""
    stages: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def evidence_sha256(self) -> str:
        """The digest that names this evidence everywhere; promoting is idempotent by it."""
        return sha256(self.envelope)

    def records(self) -> dict[str, bytes]:
        """File name to bytes of the evidence that the envelope covers."""
        return {
            POLICY: self.policy,
            DATA: canonical(self.data),
            ADAPTER: canonical(self.adapter),
            EVALUATION: canonical(self.evaluation),
            **{stage_file(stage): data for stage, data in self.stages.items()},
        }


def stage_file(stage: str) -> str:
    """The name of a stage's envelope."""
    return f"{stage}.dsse.json"


def seal(bundle: Bundle, private_key: PrivateKey, earlier: bytes = b"") -> Bundle:
    """The same bundle with its signed envelope.

    Args:
        bundle: what to sign.
        private_key: who signs.
        earlier: an envelope to keep, if it says the same and is signed by the same key.

    Raises:
        EvidenceInvalid: the adapter holds a symbolic link, or a file whose name a registry may change.
        InvalidInput: a file cannot be read.
    """
    payload = decision_statement.build(bundle.decision, adapter_files(bundle.adapter_dir), bundle.records())
    return Bundle(**{**bundle.__dict__, "envelope": _kept(earlier, payload, private_key) or sign(payload, private_key)})


def _kept(earlier: bytes, payload: bytes, private_key: PrivateKey) -> bytes:
    try:
        return earlier if verify(earlier, [public_of(private_key)]) == payload else b""
    except EvidenceInvalid:
        return b""


def adapter_files(directory: Path) -> tuple[FileDigest, ...]:
    """The manifest of the adapter's files, whose names must survive a registry.

    Raises:
        EvidenceInvalid: there are none, one is no regular file, or a name is not plain (a registry decodes ``%20``).
    """
    files = manifest(directory)
    if not files:
        raise EvidenceInvalid(f"there is no adapter in {directory}", expected="the adapter's files")
    for entry in files:
        if not NAME.fullmatch(entry.path) or entry.path.split("/")[0].casefold() == EVIDENCE:
            raise EvidenceInvalid(
                f"the adapter holds a file called {entry.path!r}",
                expected="names of letters, digits, '_', '-' and '.', and nothing called 'evidence'",
            )
    return files


def write(bundle: Bundle, directory: Path) -> None:
    """Lay the bundle out below an empty ``directory``, as it will be stored."""
    for entry in adapter_files(bundle.adapter_dir):
        target = directory / entry.path
        target.parent.mkdir(parents=True, exist_ok=True)
        nofollow.copy(bundle.adapter_dir / entry.path, target)
    (directory / EVIDENCE).mkdir()
    for name, data in {**bundle.records(), ENVELOPE: bundle.envelope}.items():
        write_atomically(directory / EVIDENCE / name, data)
