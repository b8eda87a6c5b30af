"""Suites that a policy withholds from whoever trains: where they lie here, if they do.

An evaluator has such a suite at the policy's path or names its file (``evaluate --suite NAME=FILE``); the policy pins
its contents. Whoever trains does without it. Not covered: that nobody else has the file; whoever keeps it answers for
that.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from guardrail.errors import InvalidInput
from guardrail.pipeline.run import RunConfig
from guardrail.plugins import suggestion
from guardrail.policy.load import LoadedPolicy


def named(policy: LoadedPolicy) -> tuple[str, ...]:
    """The suites that the policy withholds."""
    return tuple(name for name, plan in policy.policy.suites.items() if plan.withheld)


def given(policy: LoadedPolicy, specs: Sequence[str]) -> tuple[str, ...]:
    """What ``--suite NAME=FILE`` says, with paths that hold wherever the next stage is run from.

    Raises:
        InvalidInput: not of this form, a name twice, or no suite that the policy withholds.
    """
    found: dict[str, str] = {}
    for text in specs:
        name, equals, file = text.partition("=")
        if not equals or not file or name in found:
            raise InvalidInput(f"--suite {text!r}", expected="NAME=FILE, each name once")
        if name not in named(policy):
            kind = "is not withheld" if name in policy.policy.suites else "is none of its suites"
            raise InvalidInput(
                f"--suite {text!r}: {name!r} {kind} in {policy.source}",
                expected="a suite that the policy withholds: " + (", ".join(named(policy)) or "it withholds none"),
                next_step=suggestion(name, named(policy)),
            )
        found[name] = str(Path(file).resolve())
    return tuple(f"{name}={file}" for name, file in found.items())


def file_of(policy: LoadedPolicy, config: RunConfig, name: str) -> Path | None:
    """Where a withheld suite should lie: the file that was given, else the policy's path; None where there is none."""
    files = {suite: file for suite, _, file in (spec.partition("=") for spec in config.suites)}
    plan = policy.policy.suites[name]
    if name in files:
        return Path(files[name])
    return policy.path(plan.path) if plan.path else None


def require_readable(policy: LoadedPolicy, name: str, file: Path | None) -> None:
    """Refuse a withheld suite that cannot be read here.

    Raises:
        InvalidInput: it cannot.
    """
    if not opens(file):
        raise InvalidInput(
            f"the suite {name!r} is withheld, and cannot be read here: {file or 'the policy names no file'}",
            expected=f"a file whose contents have the digest {policy.policy.suites[name].sha256}",
            next_step=f"evaluate where the file is: guardrail evaluate --suite {name}=FILE",
        )


def opens(file: Path | None) -> bool:
    """Whether there is such a file, and it is ours to read."""
    if file is None:
        return False
    try:
        with file.open("rb"):
            return True
    except OSError:  # not there, a directory, or not ours to read
        return False
