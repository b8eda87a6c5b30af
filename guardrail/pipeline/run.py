"""A run is a directory: every stage reads the records before it and writes exactly one, atomically.

``journal`` lists the digest of every record that a stage wrote, appended before the record appears: a record that is
not in it was not written by a stage, and is refused, never repaired. A stage whose ``inputs`` have not changed is not
run again, so a run that was killed at any point resumes. Two processes in one run are refused by a lock.

The journal catches accidents, not attackers: whoever can write the directory can write the journal too. What is
signed, and verified by others, is made from the records at promotion. That nothing here leads elsewhere is seen to: a
run that holds a link, a pipe or a device is refused before anything in it is read or written (``nofollow.py``).
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from guardrail import nofollow
from guardrail.atomic import write_atomically
from guardrail.errors import EvidenceInvalid, EvidenceMissing, InvalidInput, ServiceUnavailable
from guardrail.evidence.digest import canonical, sha256
from guardrail.policy.load import LoadedPolicy, load_policy_bytes
from guardrail.records import Frozen, Record

R = TypeVar("R", bound=Record)
JOURNAL, LOCK, POLICY, CONFIG = "journal", ".lock", "policy.yaml", "run.json"
IN_PLACE = (JOURNAL, LOCK, "work", "adapter.partial")
"""What is written to without being replaced, by us or by the libraries that train."""
STAGES = {
    "data-report": "guardrail data validate",
    "adapter": "guardrail train",
    "evaluation-report": "guardrail evaluate",
    "decision": "guardrail promote",
}


class RunConfig(Frozen):
    """What the stages of a run share: which base, where the policy came from, which extra tasks, and where suites lie
    that the policy withholds (``NAME=FILE``)."""

    policy_source: str
    base: str
    revision: str | None = None
    tasks: tuple[str, ...] = ()
    suites: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """The records and artifacts of one run below ``path``."""

    path: Path

    def write(self, name: str, record: Record) -> None:
        """Store ``record`` as ``name``.json: journal first, then the file, atomically."""
        data = canonical(record)
        with _disk(self.path):
            _append(self.path / JOURNAL, f"{sha256(data)}  {name}\n")
            write_atomically(self.path / f"{name}.json", data)

    def render(self, name: str, text: str) -> None:
        """Store something for people to read: made from records, no evidence itself, in no journal."""
        with _disk(self.path):
            write_atomically(self.path / name, text.encode())

    def read(self, name: str, kind: type[R]) -> R | None:
        """The record called ``name``, or None where its stage has not run.

        Raises:
            EvidenceInvalid: it is unreadable, or not what a stage wrote here.
        """
        path = self.path / f"{name}.json"
        data = nofollow.read(path)
        if data is None:
            return None
        if f"{sha256(data)}  {name}" not in self._journal():
            raise EvidenceInvalid(
                f"{path} is not the record that its stage wrote (its digest is not in the journal)",
                next_step=f"delete it to run the stage again: {STAGES.get(name, name)}",
            )
        try:
            return kind.model_validate_json(data)
        except ValidationError as error:
            raise EvidenceInvalid(f"{path} is no {name}: {error.error_count()} errors") from error

    def kept(self, name: str, kind: type[R], inputs: str, intact: Callable[[R], bool] = lambda _: True) -> R | None:
        """The record called ``name`` where its stage need not run again: of these inputs, and its artifacts intact.

        Raises:
            EvidenceInvalid: see :meth:`read`.
        """
        record = self.read(name, kind)
        return record if record is not None and record.inputs == inputs and intact(record) else None

    def require(self, name: str, kind: type[R]) -> R:
        """Like :meth:`read`, but a missing record is an error that names the command to run."""
        record = self.read(name, kind)
        if record is None:
            raise EvidenceMissing(f"{self.path} holds no {name}", next_step=f"run {STAGES[name]} first")
        return record

    def config(self) -> RunConfig | None:
        """What the run was started with."""
        path = self.path / CONFIG
        try:
            data = nofollow.read(path)
            return None if data is None else RunConfig.model_validate_json(data)
        except ValidationError as error:
            raise EvidenceInvalid(
                f"{path} is not a run's configuration", next_step="start in a new directory"
            ) from error

    def require_config(self) -> RunConfig:
        """Like :meth:`config`, of a run that was started.

        Raises:
            InvalidInput: it was not.
        """
        config = self.config()
        if config is None:
            raise InvalidInput(f"{self.path} is not a run", next_step="give --policy and --base")
        return config

    def policy(self) -> LoadedPolicy:
        """The policy that the run was started with (its own copy)."""
        config, policy = self.config(), nofollow.read(self.path / POLICY)
        if config is None or policy is None:
            raise EvidenceMissing(
                f"{self.path} is not a run", next_step="start one with guardrail data validate --run DIR"
            )
        return load_policy_bytes(policy, config.policy_source)

    def start(self, policy: LoadedPolicy, config: RunConfig) -> None:
        """Note policy and configuration; stages whose inputs changed will run again."""
        with _disk(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path / POLICY, policy.bytes)
            write_atomically(self.path / CONFIG, json.dumps(config.model_dump(mode="json"), indent=2).encode() + b"\n")

    def adopt(self, policy: LoadedPolicy) -> None:
        """Go on under another policy; the records stay, each stage that reads what changed will run again."""
        config = self.require_config()
        if policy.digest != self.policy().digest:
            self.start(policy, config.model_copy(update={"policy_source": str(Path(policy.source).resolve())}))

    def require_plain(self) -> None:
        """Refuse a run that holds something that leads elsewhere: a link, a pipe, a device.

        Raises:
            EvidenceInvalid: it does.
        """
        nofollow.require_regular(self.path, single=IN_PLACE)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process.

        Raises:
            EvidenceInvalid: it holds something that leads elsewhere: a link, a pipe, a device.
            InvalidInput: another process is working in it.
        """
        self.require_plain()
        with _disk(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            lock = nofollow.open_to_lock(self.path / LOCK)
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise InvalidInput(f"another process is working in {self.path}", next_step="wait for it") from error
            yield

    def _journal(self) -> set[str]:
        return set((nofollow.read(self.path / JOURNAL) or b"").decode("ascii", errors="replace").splitlines())


def _append(journal: Path, line: str) -> None:
    with nofollow.open_to_append(journal) as stream:
        end = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, end - 1))
        # a process that was killed while it appended leaves a torn line, which must not swallow this one
        torn = stream.read(1) not in (b"", b"\n")
        stream.write(b"\n" * torn + line.encode("ascii"))


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ServiceUnavailable(
            f"cannot write to {path}: {error.strerror}", next_step="free space or choose another directory"
        ) from error
