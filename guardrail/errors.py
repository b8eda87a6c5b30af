"""The exceptions of guardrail: one tree, each class owns its exit code.

A message always answers three questions: what we got, what we expected, and what to do next. The command line
prints exactly that and exits with the class's code; the library never prints and never exits. Being *denied* by a
policy is not an exception inside the library (it is a :class:`~guardrail.records.Decision`); the commands turn it
into an exit code through the classes below.

What an exception says may quote a server, a file or a person: it is made printable here, once, so that whoever shows
it, or puts it into another message, shows no control character and no line that could pass for one of ours.
"""

from __future__ import annotations

from guardrail.printable import quoted


class GuardrailError(Exception):
    """Base of everything guardrail raises on purpose.

    Args:
        got: what happened, naming the file and line where there is one.
        expected: what would have been right.
        next_step: what the reader can do about it.
    """

    exit_code = 1

    def __init__(self, got: str, *, expected: str = "", next_step: str = "") -> None:
        self.got, self.expected, self.next_step = quoted(got), quoted(expected), quoted(next_step)
        super().__init__(self.message())

    def message(self) -> str:
        """The whole message, one line per question."""
        lines = [self.got]
        if self.expected:
            lines.append(f"  expected: {self.expected}")
        if self.next_step:
            lines.append(f"  next: {self.next_step}")
        return "\n".join(lines)


class InternalError(GuardrailError):
    """A bug in guardrail, or a plug-in that broke its contract."""

    exit_code = 1


class InvalidInput(GuardrailError):
    """What the user gave cannot be read or does not make sense (usage, policy, data, model)."""

    exit_code = 2


class EvidenceMissing(GuardrailError):
    """Something needed for a decision was never measured, or was measured too little (not checked)."""

    exit_code = 3


class AwaitingApproval(GuardrailError):
    """The policy holds, but a person still has to sign."""

    exit_code = 4


class ServiceUnavailable(GuardrailError):
    """A service (MLflow server, Hub, disk) did not answer; trying again may help."""

    exit_code = 5


class PolicyDenied(GuardrailError):
    """The measurements violate the policy."""

    exit_code = 10


class EvidenceInvalid(GuardrailError):
    """Evidence that does not verify: bad signature, changed bytes, expired, for something else."""

    exit_code = 11
