"""``guardrail policy``: check a promotion policy before anything is trained, show one, and name a base to pin in it.

None loads torch, transformers or mlflow. Deciding under a policy is ``guardrail promote``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from guardrail.commands import _options as options
from guardrail.commands._output import quiet_hub, say, say_file, say_json

if TYPE_CHECKING:
    from guardrail.model.files import Fingerprint
    from guardrail.pipeline.exam.pinned_contents import Content
    from guardrail.policy.load import LoadedPolicy
    from guardrail.policy.rules import Limits
    from guardrail.policy.vacuous import Warned


@click.group(name="policy")
def command() -> None:
    """Check and show promotion policies."""


@command.command()
@click.argument("policy", metavar="FILE")
@click.option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="How to print.")
@click.option("--strict", is_flag=True, help="Exit with 2 where something promises nothing (the warnings).")
def check(policy: str, output: str, strict: bool) -> None:
    """Check FILE: every key, every name, every promise.

    Whether each promise can be proven, too. FILE may be the name of a built-in policy.

    Prints what will be measured, the fewest items that could prove each limit, and the digest of each suite and task
    that can be read here. Exits with 2 if the policy is invalid, promises what its sample size can never show, asks for
    more items than there are, pins other contents than there are, or names anchors that cannot be read. Warns of every
    promise that any adapter keeps, and of what is left open: the base, say. With --strict a warning is an error.
    """
    import json

    from guardrail.errors import InvalidInput
    from guardrail.pipeline.base import TESTBED
    from guardrail.pipeline.exam.exam import Exam
    from guardrail.pipeline.exam.leakage import check_anchors
    from guardrail.pipeline.exam.pinned_contents import contents, require_pinned
    from guardrail.pipeline.exam.sizes import require_enough
    from guardrail.pipeline.prompts import anchors
    from guardrail.pipeline.run import RunConfig
    from guardrail.policy.load import find_policy
    from guardrail.policy.needed import needs
    from guardrail.policy.soundness import require_sound
    from guardrail.policy.vacuous import warnings

    loaded = find_policy(policy)
    require_sound(loaded)
    known = anchors(loaded)
    found, warned = contents(loaded), warnings(loaded)
    if output == "json":
        told = {
            "policy": loaded.policy.name,
            "digest": loaded.digest,
            "bases": [pin.model_dump(mode="json") for pin in loaded.policy.bases],
            "measures": [need.model_dump(mode="json") for need in needs(loaded.policy)],
            "contents": [asdict(one) for one in found],
            "warnings": [asdict(one) for one in warned],
        }
        say_json(json.dumps(told, indent=2))
    else:
        say(*_summary(loaded, found, warned))
    require_pinned(loaded, found)
    exam = Exam(loaded, RunConfig(policy_source=loaded.source, base=TESTBED))
    if all(one.sha256 for one in found if not one.withheld):
        check_anchors(exam, known)
        require_enough(exam)
    if strict and warned:
        raise InvalidInput(
            f"{loaded.source}: {len(warned)} of its promises promise nothing",
            expected="no warning (--strict)",
            next_step="change what the warnings name",
        )


@command.command("test")
@click.argument("policy", metavar="NAME|FILE")
@options.RUN
@options.OUTPUT
def test_run(policy: str, run_dir: Path, output: str) -> None:
    """Say what POLICY would decide on a run; write nothing.

    Exits as promote would: 0 if the policy holds, 10 if it denies, 3 if the evidence is inconclusive. With 11 it names
    the stage that must run again first, because it reads something that the policy changes.
    """
    from datetime import UTC, datetime

    from guardrail.commands import _output as show
    from guardrail.pipeline.promotion import judged
    from guardrail.pipeline.run import Run

    run = Run(run_dir)
    run.require_plain()
    decision, _ = judged(run, datetime.now(UTC), options.sound_policy(policy))
    show.emit(decision, output, show.decision_lines(decision))
    show.raise_unless_passed(decision)


@command.command()
@click.argument("base", metavar="DIRECTORY|HUB_ID|testbed")
@options.REVISION
@click.option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="How to print.")
def base(base: str, revision: str | None, output: str) -> None:
    """Print the section of a policy that pins BASE.

    With the digests of its parts.

    Reads every file that can shape the model, and loads none. The comments show what differs where two bases do:
    weights, configuration, tokenizer or chat template. A trust file takes the sha256 alone (models.bases).
    """
    import json

    from guardrail.pipeline.base import fingerprint

    quiet_hub()
    found = fingerprint(base, revision)
    if output == "json":
        say_json(json.dumps(asdict(found), indent=2))
    else:
        say(*_block(found))


@command.command()
@click.argument("policy", metavar="NAME|FILE", default="default")
def show(policy: str) -> None:
    """Print a policy as it is written, comments and all.

    Start your own from it.
    """
    from guardrail.policy.load import find_policy

    say_file(find_policy(policy).bytes)


def _summary(loaded: LoadedPolicy, found: Sequence[Content], warned: Sequence[Warned]) -> list[str]:
    from guardrail.policy.bases import pins_described
    from guardrail.policy.needed import needs

    policy = loaded.policy
    return [
        f"{loaded.source}: the policy {policy.name!r} {_state(found)} ({len(policy.rules)} rules)",
        f"  digest    {loaded.digest}",
        f"  target    {policy.target.model}@{policy.target.alias}, evidence valid {policy.evidence.valid_days} days",
        f"  base      {pins_described(policy) if policy.bases else 'NOT PINNED: whoever trains chooses it'}",
        "  measures",
        *(f"    - {need}" for need in needs(policy)),
        "  promises",
        *(f"    - {_promise(limits)}" for limits in policy.rules),
        *(["  contents"] if found else []),
        *(f"    - {_content(one)}" for one in found),
        *(["  warnings (promises that promise nothing)"] if warned else []),
        *(f"    - {one.where}: {one.text} [{one.code}]" for one in warned),
    ]


def _block(found: Fingerprint) -> list[str]:
    """What to paste into a policy; the comments say what the digest is made of."""
    from guardrail.policy.bases import block

    parts = [f"    # {part.name:<14}{part.sha256}  ({', '.join(part.files) or 'none'})" for part in found.parts]
    return [*block(found.name, found.revision, found.sha256).split("\n"), *parts]


def _state(found: Sequence[Content]) -> str:
    missing = sum(one.sha256 is None and not one.withheld for one in found)
    return f"is well formed, but {missing} of its suites and tasks cannot be read here" if missing else "holds together"


def _content(one: Content) -> str:
    """``suites.harmful: sha256 5f3a…, as pinned``."""
    place = f"{one.place}: withheld," if one.withheld else f"{one.place}:"
    if one.sha256 is None:
        return f"{place} {f'pinned: {one.pinned}; ' if one.pinned else ''}{one.problem}"
    state = "not pinned" if one.pinned is None else "as pinned" if one.fits else f"OTHER than pinned: {one.pinned}"
    return f"{place} sha256 {one.sha256}, {state}"


def _promise(limits: Limits) -> str:
    """``coherence: suite=benign min=0.9 min_n=300 (provable from n = 29)``."""
    shown = limits.model_dump(mode="json", exclude_none=True, exclude={"rule"})
    text = f"{limits.rule}: " + " ".join(
        f"{key}={_plain(value)}" for key, value in shown.items() if value not in ("", [])
    )
    least = _least_n(limits)
    return f"{text} (provable from n = {least})" if least else text


def _plain(value: object) -> str:
    return ",".join(str(item) for item in value) if isinstance(value, list) else str(value)


def _least_n(limits: Limits) -> int:
    """The fewest items with which the rule finds its own limits provable; 0 for a rule without a sample."""
    from guardrail.policy.rules import load_rule

    rule = load_rule(limits.rule)
    low, high = 1, getattr(limits, "min_n", 0)
    while low < high:
        middle = (low + high) // 2
        if rule.unprovable(limits.model_copy(update={"min_n": middle})):
            low = middle + 1
        else:
            high = middle
    return int(high)
