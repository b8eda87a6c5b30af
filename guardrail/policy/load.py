"""From bytes to a policy: every mistake at once, each with file:line:column and, where one is near, the right name.

A policy is named by the SHA-256 of its raw bytes, comments and all: what people reviewed is what is bound.
Does not cover whether the policy makes sense on this installation (``policy/soundness.py``).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

import guardrail
from guardrail.document_mistakes import Mistake, from_pydantic, hint, known_keys, mistake_lines, one_of
from guardrail.errors import InvalidInput
from guardrail.plugins import names, suggestion
from guardrail.policy.rules import PACKAGE, Limits, load_rule
from guardrail.policy.schema import SECTIONS, Policy, SuitePlan, TaskPlan
from guardrail.yaml_document import MAX_BYTES, Document, Plain, read_document
from guardrail.yaml_document import Path as Place


@dataclass(frozen=True)
class LoadedPolicy:
    """A policy with the digest that names it, and where it came from.

    ``digest`` is the SHA-256 of ``bytes``; ``source`` is what error messages call the file; ``directory`` is where
    relative paths of the policy start.
    """

    policy: Policy
    digest: str
    bytes: bytes
    source: str
    document: Document = field(repr=False)

    @property
    def directory(self) -> Path:
        """The folder of the policy file."""
        return Path(self.source).parent

    @property
    def unpinned_files(self) -> tuple[str, ...]:
        """What it names by a path in its folder, and not by contents."""
        plans: list[SuitePlan | TaskPlan] = [*self.policy.suites.values(), *self.policy.tasks.values()]
        named = [plan.path for plan in plans if plan.path and not plan.sha256]
        return tuple(path for path in (*named, self.policy.data.anchors) if path and not Path(path).is_absolute())

    def path(self, text: str) -> Path:
        """A path written in the policy, relative to the policy's own folder."""
        return self.directory / text


def load_policy(path: str | Path) -> LoadedPolicy:
    """Read and check a policy file.

    Raises:
        InvalidInput: it cannot be read or is not a policy; every line of the message names file:line:column.
    """
    try:
        with Path(path).open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidInput(
            f"cannot read the policy {path}: {reason}",
            expected=f"a YAML file, or one of the built-in policies: {', '.join(builtin_names())}",
        ) from error
    return load_policy_bytes(data, str(path))


def load_policy_bytes(data: bytes, source: str) -> LoadedPolicy:
    """Check a policy given as bytes; ``source`` is what messages call it."""
    document = read_document(data, source)
    policy, mistakes = _policy(document)
    if policy is None or mistakes:
        raise InvalidInput(
            mistake_lines(document, mistakes),
            next_step="see `guardrail policy show default` for a commented policy",
        )
    return LoadedPolicy(policy, hashlib.sha256(data).hexdigest(), data, source, document)


def builtin_names() -> tuple[str, ...]:
    """The policies that come with guardrail."""
    return tuple(sorted(path.stem for path in _shipped().glob("*.yaml")))


def builtin(name: str) -> Path:
    """The file of a policy that comes with guardrail.

    Raises:
        InvalidInput: there is none of that name.
    """
    if name not in builtin_names():
        raise InvalidInput(
            f"no built-in policy {name!r}",
            expected="one of " + ", ".join(builtin_names()),
            next_step=suggestion(name, builtin_names()),
        )
    return _shipped() / f"{name}.yaml"


def find_policy(name_or_file: str) -> LoadedPolicy:
    """A policy by file name, else by the name of a built-in one. A name with a dot or a slash is a file."""
    is_file = any(mark in name_or_file for mark in "./\\") or Path(name_or_file).is_file()
    return load_policy(name_or_file if is_file else builtin(name_or_file))


def _shipped() -> Path:
    """Inside the package when installed from a wheel, beside it in a checkout."""
    package = Path(guardrail.__file__).parent
    return package / "policies" if (package / "policies").is_dir() else package.parent / "policies"


def _policy(document: Document) -> tuple[Policy | None, list[Mistake]]:
    """The policy, or every mistake found in the document (in its rules and elsewhere)."""
    raw = dict(document.data)
    rules, mistakes = _rules(raw.get("rules"))
    if isinstance(raw.get("rules"), tuple) and raw["rules"]:
        # the rules have been read; broken ones are among the mistakes already and must not be reported twice
        read: dict[str, object] = {**raw, "rules": rules or (Limits(rule="none"),)}
    else:
        read = dict(raw)
    policy = None
    try:
        policy = Policy.model_validate(read)
    except ValidationError as error:
        details = error.errors(include_url=False)
        mistakes += [from_pydantic(detail, (), known_keys(detail["loc"], SECTIONS)) for detail in details]
    if policy is not None and not mistakes:
        mistakes += _loose_ends(policy)
    return policy, mistakes


def _rules(raw: Plain) -> tuple[tuple[Limits, ...], list[Mistake]]:
    if not isinstance(raw, tuple):
        return (), []  # not a list: the schema says so
    limits: list[Limits] = []
    mistakes: list[Mistake] = []
    for index, item in enumerate(raw):
        try:
            limits.append(_rule(item, ("rules", index)))
        except _BadRuleError as error:
            mistakes += error.mistakes
    return tuple(limits), mistakes


class _BadRuleError(Exception):
    def __init__(self, *mistakes: Mistake) -> None:
        super().__init__()
        self.mistakes = mistakes


def _rule(item: Plain, place: Place) -> Limits:
    if not isinstance(item, dict):
        raise _BadRuleError(Mistake(place, "a rule must be a mapping that begins with 'rule: NAME'"))
    name = item.get("rule")
    if not isinstance(name, str):
        raise _BadRuleError(Mistake(place, "'rule' is missing: " + one_of(names(PACKAGE))))
    if name not in names(PACKAGE):
        raise _BadRuleError(Mistake((*place, "rule"), f"unknown rule {name!r}: {hint(name, names(PACKAGE))}"))
    model = load_rule(name).Limits
    try:
        return model.model_validate(item)
    except ValidationError as error:
        details = error.errors(include_url=False)
        raise _BadRuleError(*(from_pydantic(detail, place, tuple(model.model_fields)) for detail in details)) from error


def _loose_ends(policy: Policy) -> list[Mistake]:
    """Rules that speak of suites or tasks which the policy does not describe."""
    mistakes = []
    for index, limits in enumerate(policy.rules):
        for need in load_rule(limits.rule).needs(limits):
            key = "task" if need.sli == "utility" else "suite"
            declared = tuple(policy.tasks if key == "task" else policy.suites)
            if need.suite and need.suite not in declared:
                text = f"{key} {need.suite!r} is not described under '{key}s': {hint(need.suite, declared)}"
                mistakes.append(Mistake(("rules", index, key), text))
            wrong = _wrong_kind(policy, need.sli.value, need.suite)
            if wrong:
                mistakes.append(Mistake(("rules", index, key), wrong))
    return mistakes


def _wrong_kind(policy: Policy, sli: str, suite: str) -> str:
    wanted = {"attack_success_rate": "harmful", "over_refusal_rate": "benign"}.get(sli)
    plan = policy.suites.get(suite)
    if wanted is None or plan is None or plan.kind == wanted:
        return ""
    return f"{sli} needs a {wanted} suite, {suite!r} is {plan.kind}"
