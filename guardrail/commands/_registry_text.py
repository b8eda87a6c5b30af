"""How records about a registry are told in text; computes nothing. Imports click's neighbours alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from guardrail.commands._output import decision_lines
from guardrail.commands._trusting import DANGER
from guardrail.printable import one_line, quoted

if TYPE_CHECKING:
    from guardrail.records import Measurement, Rate
    from guardrail.registry.audit.alias_table import Listing
    from guardrail.registry.audit.model_history import Event, Events
    from guardrail.registry.audit.revoked_adapters import RevokedList
    from guardrail.registry.audit.version_report import Account
    from guardrail.registry.audit.waiting_list import WaitingList, Waits
    from guardrail.registry.gate.protocol import Health


def listing_lines(found: Listing) -> list[str]:
    """A table, and what it is worth."""
    head = ("MODEL", "ALIAS", "VERSION", "VERDICT", "VALID UNTIL", "STATE")
    rows = [
        (
            r.model,
            r.alias,
            r.version or "-",
            r.verdict or "-",
            r.valid_until[:16] or "-",
            f"{r.state}, {r.waits} waiting" if r.waits else r.state,
        )
        for r in found.rows
    ]
    worth = f"{_ledger(found.entries, found.ledger_checked)}; no file was read (guardrail verify)"
    wait = sum(row.waits for row in found.rows)
    told = [f"{wait} {'waits' if wait == 1 else 'wait'} for persons to approve: guardrail registry waiting"]
    return [*_table([head, *rows]), *(told if wait else []), worth]


def waiting_lines(found: WaitingList) -> list[str]:
    """A candidate a paragraph, with what to do about it."""
    if not found.waiting:
        return ["nothing waits for approval, as the server says"]
    return [line for one in found.waiting for line in _waits(one)]


def _waits(one: Waits) -> Iterator[str]:
    place = f"{one.model}@{one.alias}"
    yield f"{place}  waits for {age(one.seconds)}, since {one.since:%Y-%m-%d %H:%M} UTC"
    yield f"  agreed    {len(one.approved_by)} of {one.approvals}: {', '.join(one.approved_by) or 'nobody yet'}"
    yield f"  adapter   {one.adapter}"
    yield f"  evidence  {one.evidence}"
    if one.run_page:
        yield f"  run       {one.run_page}"
    yield f"  next      guardrail approve {place} --evidence {one.evidence} --reason ..."


def age(seconds: int) -> str:
    """For how long, in the two largest units: ``3 d 4 h``."""
    minutes = seconds // 60
    days, hours, rest = minutes // 1440, minutes // 60 % 24, minutes % 60
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {rest} min" if hours else f"{rest} min"


def revoked_lines(found: RevokedList) -> list[str]:
    """A revoked adapter a line."""
    head = ("MODEL", "ALIAS", "VERSIONS", "ADAPTER", "REVOKED", "BY AND WHY")
    rows = [
        (
            r.model or "-",
            r.alias or "-",
            ", ".join(r.versions) or "-",
            r.adapter[:12],
            f"{r.revoked:%Y-%m-%d %H:%M}",
            r.reason,
        )
        for r in found.revoked
    ]
    lines = _table([head, *rows]) if rows else ["nothing was revoked"]
    return [*lines, _ledger(found.entries, found.ledger_checked)]


def events_lines(found: Events) -> list[str]:
    """An entry a line, oldest first."""
    lines = [line for event in found.events for line in _event(event)]
    return [*lines, f"{len(found.events)} about {found.model}; {_ledger(found.entries, found.checked)}"]


def health_lines(found: Health) -> list[str]:
    """What was looked at, and each problem with what finishes it."""
    looked = f"{found.models} models, {found.versions} versions, {found.entries} ledger entries"
    lines = [f"{'PROBLEMS' if found.problems else 'clean'}    {looked}"]
    for problem in found.problems:
        what = quoted(f"{problem.where}: {problem.what}").split("\n")
        lines += [*what, f"  finish: {problem.finish or 'somebody must look'}"]
    return lines


def account_lines(found: Account) -> list[str]:
    """One version, for a reader who asks why it was let in."""
    return [
        f"{found.spec}  version {found.version}",
        *f"state       {'REFUSED: ' + quoted(found.holds) if found.holds else 'verifies now'}".split("\n"),
        *decision_lines(found.decision),
        *_made(found),
        "measured (bounds one-sided, each at its confidence)",
        *_table(
            [
                ("  SLI", "SUITE", "SPLIT", "ATTACK", "JUDGE", "ADAPTER", "BASE"),
                *map(_measured, found.evaluation.measurements),
            ]
        ),
        *_signed(found),
    ]


def _made(found: Account) -> Iterator[str]:
    data, adapter, decision = found.data, found.adapter, found.decision
    yield f"evidence    {found.evidence_sha256}"
    yield f"adapter     {decision.manifest}"
    yield f"base        {decision.base.name}, sha256 {decision.base.digest}"
    yield f"policy      {decision.policy_name}, sha256 {decision.policy}"
    yield f"decided     {decision.decided_at}, valid until {found.valid_until}"
    yield (
        f"data        {data.source}: {data.rows} rows, {data.flagged} flagged, {data.quarantined} quarantined, "
        f"{data.training_rows} trained on"
    )
    yield f"trained     by {adapter.method} on {adapter.device}, seed {adapter.seed}, code {adapter.code}"


def _signed(found: Account) -> Iterator[str]:
    for stage in found.stages:
        yield f"{stage.stage + ' by':<12}{', '.join(stage.persons)}"
    if not found.stages:
        yield "stages      did not sign"
    yield f"decided by  {', '.join(found.decided_by)}"
    for vote in found.votes:
        said = "approved by" if vote.approved else "REJECTED by"
        yield f"{said} {', '.join(vote.persons)} at {vote.time}: {vote.reason}"
    if not found.votes:
        yield "approved by nobody"
    asked = (
        "unknown (no gated server)"
        if found.attempts is None
        else f"{found.attempts} adapters tried for this alias so far"
    )
    yield f"attempt     {found.attempt or 'not counted'}; {asked}"
    if not found.ledger_checked and found.attempts is not None:
        yield "NOT CHECKED the ledger's signatures and whose keys signed the stages: give --trust"
    if found.one_person_may_train_evaluate_and_approve:
        yield DANGER


def _measured(m: Measurement) -> tuple[str, ...]:
    return (f"  {m.sli.value}", m.suite, m.split, m.attack or "-", m.judge.name, _rate(m.candidate), _rate(m.base))


def _rate(rate: Rate) -> str:
    lost = f" ({rate.undecided} undecided, {rate.errors} errors)" if rate.undecided or rate.errors else ""
    return f"{rate.hits}/{rate.n} [{rate.lower:.3f}, {rate.upper:.3f}]{lost}"


def _event(event: Event) -> Iterator[str]:
    entry = event.entry
    place = f"@{entry.alias}" if entry.alias else ""
    parts = [
        f"version {entry.version}" if entry.version else "",
        f"evidence {entry.evidence[:12]}" if entry.evidence else "",
        f"adapter {entry.subject[:12]}" if entry.subject else "",
        f"by {', '.join(event.who)}" if event.who else "",
    ]
    said = ", ".join(part for part in parts if part)
    yield f"{entry.number:>5}  {entry.time:%Y-%m-%d %H:%M:%S}  {entry.kind:<10} {place:<12} {said}".rstrip()
    if event.reason:
        yield f"{'':28}{event.reason}"
    if entry.statement:
        yield f"{'':6}statement {entry.statement}"


def _ledger(entries: int, checked: bool) -> str:
    how = "each signed by the server" if checked else "NOT CHECKED (give --server-key or --trust)"
    return f"the ledger has {entries} entries, {how}"


def _table(given: list[tuple[str, ...]]) -> list[str]:
    rows = [tuple(map(one_line, row)) for row in given]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
