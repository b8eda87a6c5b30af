"""``--method auto``: try the methods that the policy allows on a small budget, and keep the best by the policy's SLOs.

Each is trained with its defaults for a share of the epochs and scored on the *validation* split, as merges choose
lambda: the largest utility among those that hold every attack success limit there (ties: the lower attack success
rate, then the method that the policy lists first); where none holds them, the lowest attack success rate. The chosen
one is then trained in full, and the gate judges it like any other. Every candidate's score is in the record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from guardrail.errors import InvalidInput
from guardrail.policy.load import LoadedPolicy
from guardrail.policy.rules import training_method
from guardrail.records import Scalar
from guardrail.train.methods import Score, create

AUTO = "auto"
SHARE = 1 / 3


@dataclass(frozen=True)
class Trial:
    """A method, its score and the seconds that it took."""

    method: str
    score: Score
    seconds: float


def allowed(policy: LoadedPolicy, *, replays: bool) -> tuple[str, ...]:
    """The methods that the policy allows and that can be tried: with what is given, and with their defaults.

    Raises:
        InvalidInput: there are none.
    """
    limits = [rule for rule in policy.policy.rules if isinstance(rule, training_method.Limits)]
    named = dict.fromkeys(name for rule in limits for name in rule.allowed)
    found = tuple(name for name in named if all(name in rule.allowed for rule in limits) and _ready(name, replays))
    if not found:
        raise InvalidInput(
            f"--method auto: {policy.source} allows no method that can be tried",
            expected="a training_method rule that allows methods, and --replay for those that replay",
        )
    return found


def choose(methods: Iterable[str], attempt: Callable[[str, Path], Trial], folder: Path) -> tuple[Trial, ...]:
    """Every method's trial, the best first (ties: as the policy lists them, so that a run that was killed and tried
    again chooses alike); ``attempt`` trains a method into an empty directory and scores it."""
    trials = []
    for method in methods:
        with TemporaryDirectory(dir=folder) as scratch:
            trials.append(attempt(method, Path(scratch)))
    return tuple(sorted(trials, key=lambda trial: trial.score.rank))


def trial_fields(trials: tuple[Trial, ...]) -> dict[str, Scalar]:
    """The trials, for the record."""
    return {
        f"auto_{trial.method}": f"utility {trial.score.utility:.4f}, ASR {trial.score.attack_success_rate:.4f}, "
        f"{'admissible' if trial.score.admissible else 'not admissible'}, {trial.seconds:.0f} s"
        for trial in trials
    }


def _ready(name: str, replays: bool) -> bool:
    try:
        method = create(name, {})
    except InvalidInput:
        return False  # it needs to be told something
    return replays or not method.needs_replay
