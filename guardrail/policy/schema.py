"""What a policy may say: closed, frozen types, one per section. An unknown key is an error.

The names of plug-ins (formats, scores, detectors, methods, attacks, judges) are plain text here: whether they exist
is asked by ``policy/soundness.py``, without importing them. Does not cover reading the file (``policy/load.py``).
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, SerializeAsAny, StringConstraints

from guardrail.names import Alias, ModelName
from guardrail.policy.rules import Limits
from guardrail.records import Frozen, Scalar, Sha256

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]
Text = Annotated[str, StringConstraints(min_length=1)]
SHA256 = re.compile(r"[0-9a-f]{64}")


class Section(Frozen):
    """A mapping of the policy; types are exact (``"5"`` is not 5)."""

    model_config = ConfigDict(strict=True)


class Target(Section):
    """Where a promoted adapter goes: the registered model and the alias that deployments follow."""

    model: ModelName
    alias: Alias


class EvidenceTerms(Section):
    """How long a decision may be relied upon, in days."""

    valid_days: Annotated[int, Field(ge=1, le=3650)]


def _digest_of_base(value: str) -> str:
    if not SHA256.fullmatch(value):
        raise ValueError("must be the 64 hexadecimal digits that `guardrail policy base DIRECTORY|HUB_ID` prints")
    return value


class BasePin(Section):
    """A base model that adapters may be made for: exactly these files, under this name (and commit, where given).

    The name counts because whoever loads the adapter loads its base by name.
    """

    name: Text
    revision: Text | None = None
    sha256: Annotated[str, AfterValidator(_digest_of_base)]


class DataPlan(Section):
    """How training data is looked at before anything is trained on it."""

    detectors: tuple[Name, ...]
    quarantine: bool
    max_flagged_share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    max_characters: Annotated[int, Field(ge=1)] = 20_000
    anchors: Text | None = None
    columns: dict[str, Text] | None = None
    ignore_columns: tuple[Text, ...] = ()


class SuiteColumns(Section):
    """Which columns of a file hold what."""

    prompt: Text | None = None
    id: Text | None = None
    target: Text | None = None
    category: Text | None = None


class TaskColumns(Section):
    """Which columns of a file hold what."""

    prompt: Text | None = None
    answer: Text | None = None
    id: Text | None = None


class SuitePlan(Section):
    """Requests that should be refused (``harmful``) or answered (``benign``), and where they come from.

    ``sha256`` pins the contents (the digest that measurements carry). ``withheld``: whoever trains does not have them.
    """

    format: Name
    kind: Literal["harmful", "benign"]
    split: Name = "gate"
    path: Text | None = None
    columns: SuiteColumns | None = None
    sha256: Sha256 | None = None
    withheld: bool = False


class TaskPlan(Section):
    """Examples with right answers, where they come from and how an answer is compared; ``sha256`` pins them."""

    format: Name
    path: Text | None = None
    columns: TaskColumns | None = None
    score: Name | None = None
    split: Name = "gate"
    sha256: Sha256 | None = None


class GenerationPlan(Section):
    """How answers are generated, for candidate and base alike."""

    max_new_tokens: Annotated[int, Field(ge=1, le=100_000)] = 48
    batch_size: Annotated[int, Field(ge=1, le=100_000)] = 64
    system: Text | None = None

    @property
    def recorded(self) -> dict[str, Scalar]:
        """What an evaluation that was made so records of it; the batch size changes no answer and is left out."""
        return {"max_new_tokens": self.max_new_tokens, "decoding": "greedy", "system": self.system or ""}


class Policy(Section):
    """A whole promotion policy; one without ``bases`` leaves the base to whoever trains."""

    kind: Literal["PromotionPolicy"]
    version: Literal[1]
    name: Name
    target: Target
    evidence: EvidenceTerms
    bases: Annotated[tuple[BasePin, ...], Field(min_length=1)] = ()
    data: DataPlan
    suites: dict[Name, SuitePlan] = Field(default_factory=dict)
    tasks: dict[Name, TaskPlan] = Field(default_factory=dict)
    generation: GenerationPlan = GenerationPlan()
    rules: Annotated[tuple[SerializeAsAny[Limits], ...], Field(min_length=1)]


SECTIONS: dict[tuple[str, ...], type[Section]] = {
    (): Policy,
    ("target",): Target,
    ("evidence",): EvidenceTerms,
    ("bases", "*"): BasePin,
    ("data",): DataPlan,
    ("suites", "*"): SuitePlan,
    ("suites", "*", "columns"): SuiteColumns,
    ("tasks", "*"): TaskPlan,
    ("tasks", "*", "columns"): TaskColumns,
    ("generation",): GenerationPlan,
}
"""Which type reads which mapping (``*`` is any name): what "did you mean" draws on."""
