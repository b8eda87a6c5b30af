"""What must hold of a directory that carries an adapter and its evidence, whoever kept it in between.

Promotion runs these over what it is about to store, verification over what a registry gave back: the same code, so
that nothing is stored which would not verify. Every check raises or says what it found; the decision is made again
from the records, never believed. Not covered: the registry's own claims (``verify.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from guardrail.errors import EvidenceInvalid, GuardrailError
from guardrail.evidence import bundle
from guardrail.evidence.digest import canonical, manifest, manifest_digest, sha256
from guardrail.evidence.envelope import LARGEST, signers, verify
from guardrail.evidence.expiry import expired
from guardrail.evidence.keys.key_pairs import PublicKey
from guardrail.evidence.statements import decision_statement as statement
from guardrail.evidence.statements.decision_statement import Statement
from guardrail.evidence.statements.earliest_expiry import earliest
from guardrail.policy.decide import decide
from guardrail.policy.load import LoadedPolicy, load_policy_bytes
from guardrail.policy.rules import Evidence
from guardrail.policy.schema import Policy
from guardrail.records import (
    AdapterRecord,
    Compared,
    DataReport,
    Decision,
    EvaluationReport,
    FileDigest,
    Frozen,
    Record,
    Verdict,
)
from guardrail.registry.verify.adapter_config import require_fitting

AnyRecord = TypeVar("AnyRecord", bound=Record)
TOLERANCE = 1e-9
UNKNOWN = "0" * 64
"""Stands for the digest of a file that was neither read nor signed; nothing has it."""


class Check(Frozen):
    """One thing that was checked and holds, and what was found; what does not hold is an error."""

    name: str
    why: str


@dataclass(frozen=True)
class Examined:
    """A directory whose evidence holds together: what was decided, on what, under which policy, signed by
    whom; ``files`` are all of it."""

    decision: Decision
    data: DataReport
    adapter: AdapterRecord
    evaluation: EvaluationReport
    evidence_sha256: str
    signed_by: tuple[str, ...]
    checks: tuple[Check, ...]
    stages: Mapping[str, bytes]
    files: tuple[FileDigest, ...]
    loaded: LoadedPolicy

    @property
    def policy(self) -> Policy:
        """The policy that was decided under."""
        return self.loaded.policy

    @property
    def valid_until(self) -> datetime:
        """The earliest of the decision's end and of its stages' statements'; older decisions do not say it."""
        return earliest(self.decision.valid_until, self.stages.values())


@dataclass(frozen=True)
class Outline:
    """What is known of a directory before the adapter's own files are read: the evidence, and how large the others are.

    ``directory`` holds at least ``evidence/``; ``sizes`` maps the path of every other file to its bytes.
    """

    directory: Path
    sizes: Mapping[str, int]


@dataclass(frozen=True)
class _Signed:
    """Files that are those of a statement which somebody known signed."""

    envelope: bytes
    statement: Statement
    files: tuple[FileDigest, ...]
    evidence: Mapping[str, FileDigest]
    checks: tuple[Check, ...]


def as_signed(directory: Path, public_keys: Sequence[PublicKey], files: tuple[FileDigest, ...] | None = None) -> bool:
    """Whether a directory holds exactly the files that one of these keys signed, whatever they say.

    ``files`` is its manifest, where that is known.
    """
    try:
        _as_signed(directory, public_keys, manifest(directory) if files is None else files)
    except GuardrailError:
        return False
    return True


def expected_files(outline: Outline, public_keys: Sequence[PublicKey]) -> tuple[FileDigest, ...]:
    """The manifest of an outlined directory, if every file that was not read is the one that was signed.

    A file of another size than the adapter's record says is not; nor is the manifest then the one that was decided on.

    Raises:
        EvidenceInvalid: there is no envelope that one of these keys signed.
    """
    evidence = tuple(
        entry.model_copy(update={"path": f"{bundle.EVIDENCE}/{entry.path}"})
        for entry in manifest(outline.directory / bundle.EVIDENCE)
    )
    present = {entry.path.removeprefix(f"{bundle.EVIDENCE}/"): entry for entry in evidence}
    signed = statement.parse(verify(_read(outline.directory, bundle.ENVELOPE, present), public_keys))
    recorded = _recorded_sizes(outline.directory, signed, present)
    known = {path: digest for path, digest in signed.subjects.items() if outline.sizes.get(path) == recorded.get(path)}
    adapter = tuple(
        FileDigest(path=path, sha256=known.get(path, UNKNOWN), size=size) for path, size in outline.sizes.items()
    )
    return tuple(sorted((*evidence, *adapter), key=lambda entry: entry.path))


def _recorded_sizes(directory: Path, signed: Statement, present: Mapping[str, FileDigest]) -> dict[str, int]:
    """How large each file is by the adapter's record, if that is there and the one that was signed; else of none."""
    entry = present.get(bundle.ADAPTER)
    if entry is None or entry.sha256 != signed.evidence.get(bundle.ADAPTER):
        return {}  # whoever examines it says so
    try:
        record = AdapterRecord.model_validate_json(_read(directory, bundle.ADAPTER, present))
    except ValidationError:
        return {}
    return {file.path: file.size for file in record.files}


def _as_signed(directory: Path, public_keys: Sequence[PublicKey], files: tuple[FileDigest, ...]) -> _Signed:
    inside = f"{bundle.EVIDENCE}/"
    evidence = {e.path.removeprefix(inside): e for e in files if e.path.startswith(inside)}
    adapter = tuple(entry for entry in files if not entry.path.startswith(inside))
    envelope = _read(directory, bundle.ENVELOPE, evidence)
    signed = statement.parse(verify(envelope, public_keys))
    checks = (
        _ok("envelope", f"canonical, signed by {', '.join(signers(envelope))}"),
        _ok("adapter", _adapter(adapter, signed)),
        _ok("evidence", _evidence(evidence, signed)),
    )
    return _Signed(envelope, signed, files, evidence, checks)


def examine(directory: Path, public_keys: Sequence[PublicKey], files: tuple[FileDigest, ...] | None = None) -> Examined:
    """Check an adapter and the evidence beside it against each other; ``files`` is the manifest, where it was made.

    Raises:
        EvidenceInvalid: the first thing that does not hold.
    """
    found = _as_signed(directory, public_keys, manifest(directory) if files is None else files)
    examined = _examined(directory, found)
    fitting = _ok("configuration", require_fitting(directory, examined.decision.base, found.statement.subjects))
    return replace(examined, checks=(*examined.checks, fitting))


def examine_outline(outline: Outline, public_keys: Sequence[PublicKey]) -> Examined:
    """What :func:`examine` would find if the adapter's own files are as signed: enough to refuse, never to admit.

    Raises:
        EvidenceInvalid: the first thing that does not hold whatever those files contain.
    """
    files = expected_files(outline, public_keys)
    return _examined(outline.directory, _as_signed(outline.directory, public_keys, files))


def _examined(directory: Path, found: _Signed) -> Examined:
    envelope, signed, evidence, checks = found.envelope, found.statement, found.evidence, [*found.checks]
    raw = {name: _read(directory, name, evidence) for name in signed.evidence}
    decision = signed.predicate.decision
    data = _record(DataReport, raw, bundle.DATA, decision.data)
    made = _record(AdapterRecord, raw, bundle.ADAPTER, decision.adapter)
    evaluation = _record(EvaluationReport, raw, bundle.EVALUATION, decision.evaluation)
    records = Evidence(data=data, adapter=made, evaluation=evaluation)
    checks.append(_ok("policy", _policy(raw[bundle.POLICY], decision)))
    policy = _loaded(raw[bundle.POLICY])
    stages = {stage: raw[name] for stage in bundle.SIGNED if (name := bundle.stage_file(stage)) in raw}
    checks += [
        _ok("records", "data, adapter and evaluation are those the decision names"),
        _ok("decision", _decided_again(policy, records, decision, stages)),
    ]
    return Examined(
        decision,
        data,
        made,
        evaluation,
        sha256(envelope),
        signers(envelope),
        tuple(checks),
        stages,
        found.files,
        policy,
    )


def admissible(decision: Decision, now: datetime, until: datetime | None = None) -> Check:
    """Only a decision that passed and has not expired admits anything.

    Args:
        decision: the signed decision.
        now: the time at which it must be valid.
        until: when the first of all that it rests on expires (:attr:`Examined.valid_until`), where that is known.

    Raises:
        EvidenceInvalid: it did not pass, is not valid yet, or no longer.
    """
    if decision.verdict is not Verdict.PASSED:
        raise EvidenceInvalid(f"the signed decision is {decision.verdict}", expected=Verdict.PASSED)
    if not decision.decided_at <= now:
        raise EvidenceInvalid(
            f"the decision was made at {decision.decided_at}, which is after now ({now})",
            expected="a decision from the past",
            next_step="compare the clocks",
        )
    until = min(decision.valid_until, until or decision.valid_until)
    if expired(until, now):
        raise EvidenceInvalid(
            f"the evidence expired at {until}",
            expected=f"evidence that is valid at {now}",
            next_step="evaluate and promote the adapter again",
        )
    return _ok("validity", f"PASSED, valid until {until.isoformat()}")


def require_bounded(examined: Examined) -> None:
    """The decision itself says the one validity: it ends no later than anything that it rests on.

    Asked of what is new to a server; what was admitted before that was asked is judged by the earliest end as well.

    Raises:
        EvidenceInvalid: it says a later time.
    """
    if not examined.decision.valid_until <= examined.valid_until:
        raise EvidenceInvalid(
            f"the decision is valid until {examined.decision.valid_until}",
            expected=f"{examined.valid_until}, when the first of its stages' statements expires",
            next_step="decide again with this version of guardrail: guardrail promote",
        )


def _ok(name: str, why: str) -> Check:
    return Check(name=name, why=why)


def _read(directory: Path, name: str, present: Mapping[str, FileDigest]) -> bytes:
    if name not in present:
        raise EvidenceInvalid(f"there is no {bundle.EVIDENCE}/{name}", expected="evidence beside the adapter")
    if present[name].size > LARGEST:
        raise EvidenceInvalid(f"{bundle.EVIDENCE}/{name} has {present[name].size} bytes", expected=f"at most {LARGEST}")
    return (directory / bundle.EVIDENCE / name).read_bytes()


def _adapter(files: tuple[FileDigest, ...], signed: Statement) -> str:
    """Exactly the signed files, and the manifest (with sizes) that was evaluated."""
    _same("adapter", {entry.path: entry.sha256 for entry in files}, signed.subjects)
    if manifest_digest(files) != signed.predicate.decision.manifest:
        raise EvidenceInvalid(
            f"the adapter's manifest is {manifest_digest(files)}",
            expected=f"{signed.predicate.decision.manifest}, which was decided on",
        )
    return f"{len(files)} files, exactly as signed"


def _evidence(files: Mapping[str, FileDigest], signed: Statement) -> str:
    stored = {name: entry.sha256 for name, entry in files.items() if name != bundle.ENVELOPE}
    _same("evidence", stored, signed.evidence)
    expected = {bundle.POLICY, bundle.DATA, bundle.ADAPTER, bundle.EVALUATION}
    signed_stages = set(map(bundle.stage_file, bundle.SIGNED))
    if set(stored) not in (expected, expected | signed_stages):
        raise EvidenceInvalid(f"the evidence is {sorted(stored)}", expected=f"exactly {sorted(expected)}")
    return f"{len(stored)} files, exactly as signed"


def _same(what: str, stored: Mapping[str, str], signed: Mapping[str, str]) -> None:
    missing, extra = sorted(set(signed) - set(stored)), sorted(set(stored) - set(signed))
    changed = sorted(name for name in set(stored) & set(signed) if stored[name] != signed[name])
    problems = [
        f"{word}: {', '.join(names)}"
        for word, names in (("missing", missing), ("not signed", extra), ("changed", changed))
        if names
    ]
    if problems:
        raise EvidenceInvalid(
            f"the {what} files differ from what was signed ({'; '.join(problems)})", expected="exactly the signed files"
        )


def _policy(data: bytes, decision: Decision) -> str:
    if sha256(data) != decision.policy:
        raise EvidenceInvalid(f"the stored policy is {sha256(data)}", expected=f"{decision.policy}, as decided under")
    return f"{decision.policy_name}, sha256 {decision.policy}"


def _record(kind: type[AnyRecord], raw: Mapping[str, bytes], name: str, expected: str) -> AnyRecord:
    if sha256(raw[name]) != expected:
        raise EvidenceInvalid(f"the record {name} is {sha256(raw[name])}", expected=f"{expected}, as decided on")
    try:
        record = kind.model_validate_json(raw[name])
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise EvidenceInvalid(f"the record {name} cannot be read: {first['loc']}: {first['msg']}") from error
    if canonical(record) != raw[name]:
        raise EvidenceInvalid(f"the record {name} is not in its canonical form")
    return record


def _loaded(policy: bytes) -> LoadedPolicy:
    try:
        return load_policy_bytes(policy, bundle.POLICY)
    except GuardrailError as error:
        raise EvidenceInvalid(f"the decision cannot be made again from the evidence: {error}") from error


def _decided_again(policy: LoadedPolicy, records: Evidence, decision: Decision, stages: Mapping[str, bytes]) -> str:
    """The same policy on the same records must give the same decision; only wording may have changed since.

    Decisions of earlier releases did not end with the first of their stages' statements.
    """
    try:
        again = decide(policy, records, inputs=decision.inputs, now=decision.decided_at, attempt=decision.attempt)
    except GuardrailError as error:
        raise EvidenceInvalid(f"the decision cannot be made again from the evidence: {error}") from error
    bounded = again.model_copy(update={"valid_until": earliest(again.valid_until, stages.values())})
    if _gist(decision) not in (_gist(bounded), _gist(again)) or not _same_comparisons(decision, again):
        raise EvidenceInvalid(
            f"the stored policy and records give {again.verdict}, the signed decision says {decision.verdict}"
            if again.verdict != decision.verdict
            else "the stored policy and records give a decision that differs from the signed one",
            expected="the same decision when it is made again",
        )
    return f"made again from the records: {again.verdict}, {len(again.findings)} rules"


def _same_comparisons(decision: Decision, again: Decision) -> bool:
    """What was signed of comparisons is what the records give; decisions of earlier releases say nothing of them.

    Bounds may differ in their last digits, where another machine computes them.
    """
    pairs = zip(decision.findings, again.findings, strict=True)
    return all(not signed.compared or _close(signed.compared, made.compared) for signed, made in pairs)


def _close(signed: tuple[Compared, ...], made: tuple[Compared, ...]) -> bool:
    if len(signed) != len(made):
        return False
    pairs = [(one.model_dump(), other.model_dump()) for one, other in zip(signed, made, strict=True)]
    return all(_same_value(one[name], other[name]) for one, other in pairs for name in one)


def _same_value(signed: object, made: object) -> bool:
    if isinstance(signed, float) and isinstance(made, float):
        return abs(signed - made) <= TOLERANCE
    return signed == made


def _gist(decision: Decision) -> dict[str, object]:
    findings = [(finding.rule, finding.sli, finding.verdict) for finding in decision.findings]
    return {**decision.model_dump(exclude={"findings"}), "findings": findings}
