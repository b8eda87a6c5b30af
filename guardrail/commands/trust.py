"""``guardrail trust``: write, sign and check the file that says who may say what about which models.

Loads neither torch nor mlflow. Enforcing it is the gated server's work.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from guardrail.commands import _options as options
from guardrail.commands import _trusting as trusting
from guardrail.commands._output import emit, say
from guardrail.commands._trusting import DANGER, read_envelope

if TYPE_CHECKING:
    from guardrail.evidence.trust.trust_file import Least, Trust
    from guardrail.evidence.trust.trust_yaml import PolicyUse

EXAMPLE = Path(__file__).with_name("trust.example.yaml")


@click.group("trust")
def command() -> None:
    """Write, sign and check the file that says who may do what."""


@command.command("init")
@click.option("--out", type=options.FILE, default=Path("trust.yaml"), show_default=True, help="Where it goes.")
def init(out: Path) -> None:
    """Write a commented trust file to start from.

    An existing file is not overwritten.
    """
    from guardrail.errors import InvalidInput
    from guardrail.evidence.keys.key_files import create

    try:
        create(out, EXAMPLE.read_bytes(), 0o644)
    except FileExistsError as error:
        raise InvalidInput(f"{out} is already there and is never overwritten") from error
    say(f"{out}: put in your keys and models, then: guardrail trust sign {out} --key ROOT --out trust.json")


@command.command("sign")
@click.argument("file", type=options.FILE)
@options.KEY
@options.PUBLIC_KEY
@click.option(
    "--out", type=options.FILE, default=None, help="Where it goes.  [default: FILE itself; trust.json for a YAML FILE]"
)
def sign(file: Path, key: str, public_key: Path | None, out: Path | None) -> None:
    """Sign FILE with a root key.

    A YAML FILE is checked, built and signed for the first time; a signed FILE gets one signature more. Everyone who
    signs is shown what they sign.
    """
    from datetime import UTC, datetime

    from guardrail.atomic import write_atomically
    from guardrail.evidence.trust.trust_file import add_trust_signature, read_unverified_trust, sign_trust
    from guardrail.evidence.trust.trust_yaml import read_trust

    written = file.suffix in (".yaml", ".yml")
    if written:
        trust = read_trust(file, issued=datetime.now(UTC), pin=lambda use: _pin(use, file.parent))
        data = sign_trust(trust, options.signer(key, public_key))
    else:
        data = add_trust_signature(read_envelope(file), options.signer(key, public_key))
        trust = read_unverified_trust(data)
    target = out or (file.with_name("trust.json") if written else file)
    write_atomically(target, data)
    say(*_lines(trust, data))
    say(f"written     {target}")


@command.command("check")
@click.argument("file", type=options.FILE)
@trusting.root_keys(required=True)
@trusting.root_threshold(required=True)
@click.option(
    "--previous", type=options.FILE, default=None, help="The version in force: FILE must be signed by its root, too."
)
@click.option("--at-least", type=click.IntRange(min=0), default=0, help="The version that was seen before.")
@click.option(
    "--policy",
    "policies",
    multiple=True,
    metavar="FILE",
    help="A policy that FILE must pin, and that must promise what FILE asks of it. Repeat it.",
)
@options.OUTPUT
def check(
    file: Path,
    roots: tuple[Path, ...],
    root_threshold: int,
    previous: Path | None,
    at_least: int,
    policies: tuple[str, ...],
    output: str,
) -> None:
    """Check FILE: signatures, version, expiry, and whether it makes sense.

    With --previous the roots given are those of that version, and FILE must follow from it. With --policy, tells
    beforehand whether the gated server will admit anything under that policy. Exits with 11 if not.
    """
    from datetime import UTC, datetime

    from guardrail.evidence.keys.key_pairs import load_public
    from guardrail.evidence.trust.trust_file import load_successor, load_trust, read_unverified_trust

    data, now = read_envelope(file), datetime.now(UTC)
    known = [load_public(path) for path in roots]
    if previous is None:
        trust = load_trust(data, roots=known, threshold=root_threshold, now=now, at_least=at_least)
    else:
        old = read_envelope(previous)
        when = read_unverified_trust(old).issued  # a version may have expired before its successor came
        before = load_trust(old, roots=known, threshold=root_threshold, now=when, at_least=at_least)
        trust = load_successor(data, before, now=now)
    emit(trust, output, _lines(trust, data))
    for policy in policies:
        _require_admitting(trust, policy)


@command.command("show")
@click.argument("file", type=options.FILE)
@options.OUTPUT
def show(file: Path, output: str) -> None:
    """Print what FILE says WITHOUT checking who signed it."""
    from guardrail.evidence.trust.trust_file import read_unverified_trust

    data = read_envelope(file)
    trust = read_unverified_trust(data)
    if output == "text":
        say(f"{file}: NOT CHECKED (guardrail trust check)")
    emit(trust, output, _lines(trust, data))


def _require_admitting(trust: Trust, policy: str) -> None:
    """Refuse a policy under which the gated server would admit nothing."""
    from guardrail.errors import EvidenceInvalid
    from guardrail.policy.load import find_policy
    from guardrail.policy.promised import asked_of

    loaded = find_policy(policy)
    target = loaded.policy.target
    guarded = next((model for model in trust.models if model.name == target.model), None)
    protected = next((one for one in guarded.aliases if one.alias == target.alias), None) if guarded else None
    if guarded is None or protected is None or protected.policy != loaded.digest:
        raise EvidenceInvalid(
            f"the trust file does not pin the policy {loaded.source} for {target.model}@{target.alias}",
            expected=protected.policy if protected else "a guarded model and a protected alias",
        )
    if missing := asked_of(trust, guarded, loaded.policy):
        raise EvidenceInvalid(
            f"{loaded.source} promises less than the trust file asks: " + "; ".join(missing),
            next_step="change it, and have the root keys pin it",
        )


def _pin(use: PolicyUse, directory: Path) -> str:
    """The digest of a policy that is sound, meant for this model and alias, and promises what the file asks."""
    from guardrail.errors import InvalidInput
    from guardrail.policy.load import find_policy
    from guardrail.policy.promised import shortfalls
    from guardrail.policy.soundness import require_sound

    path = directory / use.policy
    loaded = find_policy(str(path) if path.is_file() else use.policy)
    require_sound(loaded)
    target = loaded.policy.target
    if (target.model, target.alias) != (use.model, use.alias):
        raise InvalidInput(
            f"{use.policy} is a policy for {target.model}@{target.alias}", expected=f"one for {use.model}@{use.alias}"
        )
    if missing := shortfalls(loaded.policy, use.bases, use.least):
        raise InvalidInput(
            f"{use.policy} promises less than this file asks, so nothing could be admitted: " + "; ".join(missing),
            expected="a pinned base (guardrail policy base), and every promise of 'least'",
        )
    return loaded.digest


def _asked(least: Least) -> str:
    """``confidence=0.95 attack_success_rate.max=0.05 …``."""
    shown = []
    for key, value in least.model_dump(mode="json").items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        shown += [f"{key}{'.' * bool(name)}{name}={one}" for name, one in inner if one != []]
    return " ".join(shown)


def _lines(trust: Trust, data: bytes) -> list[str]:
    from guardrail.evidence.trust.trust_file import ROLES, trust_signers

    signed = [trust.person_of(key) or f"a key that it does not name, {key}" for key in trust_signers(data)]
    lines = [
        f"trust file  version {trust.version}, issued {trust.issued:%Y-%m-%d}, expires {trust.expires:%Y-%m-%d} (UTC)",
        f"root        {trust.root.threshold} of {', '.join(trust.persons_of(trust.root.keys))}",
        f"signed by   {', '.join(signed)}",
        *(f"{role:<12}{', '.join(trust.persons_of(getattr(trust.roles, role))) or 'nobody'}" for role in ROLES),
    ]
    for model in trust.models:
        for entry in model.aliases:
            lines.append(
                f"guarded     {model.name}@{entry.alias}: policy {entry.policy}, {entry.approvals} approvals, "
                f"{entry.when_invalid} when invalid"
            )
        pinned = ", ".join(model.bases) or "those that its policies pin, and no other"
        lines.append(f"bases       {model.name}: {pinned}")
        lines += [f"least       {model.name}: {_asked(least)}" for least in trust.leasts(model)]
    if trust.one_person_may_train_evaluate_and_approve:
        lines.append(DANGER)
    return lines
