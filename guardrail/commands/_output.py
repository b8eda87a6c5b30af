"""The one door through which guardrail prints, and the exit code that a verdict owns. Imports click alone.

Whatever is printed goes through ``printable.py`` here: no other module calls ``click.echo``, ``print`` or a prompt (a
test asks). Text comes as lines, one argument each, so that a value within a line can never add another.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from io import StringIO, TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from guardrail.errors import EvidenceMissing, PolicyDenied
from guardrail.printable import block, joined, json_text, one_line, quoted
from guardrail.progress import Progress

if TYPE_CHECKING:
    from rich.table import Table

    from guardrail.pipeline.answer_errors import AnswerError
    from guardrail.records import Decision, Frozen, RegistryRecord
    from guardrail.registry.record.promote import CandidateWaitsError

MINUTE = 60.0
COLUMNS = 80


def escape_what_cannot_be_written() -> None:
    """Standard output and error write an escape for a character that their encoding lacks, whoever prints."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _fitting(text: str, *, err: bool = False) -> str:
    """The text in the characters that the stream's encoding has; click would write UTF-8 to a stream of ASCII."""
    encoding = _encoding(err=err)
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _encoding(*, err: bool = False) -> str:
    return getattr(sys.stderr if err else sys.stdout, "encoding", None) or "utf-8"


def quiet() -> None:
    """Keep other libraries' progress bars and chatter off the terminal; our own warnings stay."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    quiet_hub()
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import warnings

    warnings.simplefilter("ignore")
    from guardrail.logs import PrintableFormatter

    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter("%(message)s"))
    logging.basicConfig(level=logging.ERROR, handlers=[handler])
    logging.getLogger("guardrail").setLevel(logging.WARNING)
    from guardrail.model.silence_transformers import silence_transformers

    silence_transformers()


def quiet_hub() -> None:
    """The Hub's downloads without bars and without telling on anybody."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Progress on standard error: a bar in a terminal; elsewhere a line for each stage, and one each minute."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield ProgressLines(partial(say, err=True))
        return
    columns = (
        TextColumn("{task.description:<16}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(one_line(stage), total=total)
            bar.update(tasks[stage], completed=done, total=total, visible=done < total)

        yield report


@dataclass
class ProgressLines:
    """Progress for a log: how a stage begins and ends, and how far it is each minute, with the time that is left."""

    say: Callable[[str], object]
    clock: Callable[[], float] = time.monotonic
    _began: dict[str, float] = field(default_factory=dict)
    _said: float = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        """``done`` of ``total`` are done."""
        now, new = self.clock(), stage not in self._began
        took = now - self._began.setdefault(stage, now)
        if done >= total:
            self._tell(f"{stage}: {total} of {total}, {_duration(took)}", now)
            del self._began[stage]
        elif new:
            self._tell(f"{stage}: {done} of {total}", now)
        elif now - self._said >= MINUTE and done:
            self._tell(f"{stage}: {done} of {total}, about {_duration(took / done * (total - done))} left", now)

    def _tell(self, line: str, now: float) -> None:
        self._said = now
        self.say(line)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 2 * MINUTE else f"{seconds / MINUTE:.0f} min"


def say(*lines: str, err: bool = False) -> None:
    """Print lines."""
    click.echo(_fitting(joined(lines), err=err), err=err)


def shout(line: str, *, colour: str | None = None, err: bool = False) -> None:
    """Print a line that nobody should miss."""
    click.secho(_fitting(joined([line]), err=err), bold=True, fg=colour, err=err)


def say_json(text: str) -> None:
    """Print JSON: the same value, and the same bytes wherever every character of it is shown."""
    click.echo(json_text(text, _encoding()))


def say_file(data: bytes) -> None:
    """Print a text file byte by byte, unless it holds what a terminal would obey."""
    text = data.decode("utf-8", errors="surrogateescape")
    shown = _fitting(block(text))
    click.echo(shown, nl=False)
    if shown != text:
        say("characters that are not shown, or would be obeyed, are written out; copy the file itself", err=True)


def say_table(table: Table) -> None:
    """Print a table of rich, whose cells must have been made with :func:`cell`, in the width of any terminal."""
    from rich.console import Console

    Console(width=COLUMNS).print(table)


def cell(text: str) -> str:
    """A value as a table of rich shows it: its square brackets are not markup."""
    from rich.markup import escape

    return str(escape(one_line(text)))


def at_terminal() -> bool:
    """Whether somebody sits at standard input."""
    return sys.stdin is not None and sys.stdin.isatty()


def confirm(question: str) -> bool:
    """Ask on standard error; no where nobody answers."""
    return bool(click.confirm(_fitting(one_line(question), err=True), err=True))


def ask_secret(name: str) -> str:
    """What is typed, without an echo."""
    return str(click.prompt(_fitting(one_line(name), err=True), hide_input=True, err=True))


def fail(message: str, error: BaseException | None = None) -> None:
    """Print an error, and where it came from if ``error`` is given."""
    if error is not None:
        click.echo(_fitting(block("".join(traceback.format_exception(error))), err=True), err=True)
    click.secho("error: ", fg="red", bold=True, nl=False, err=True)
    click.echo(_fitting(block(message), err=True), err=True)


def fail_unexpected(kind: str, error: BaseException, *, next_step: str = "", debug: bool = False) -> None:
    """Print an error that is none of ours, whose text may come from anywhere."""
    advice = f"\n  next: {next_step}" if next_step else ""
    fail(quoted(f"{kind}{type(error).__name__}: {error}") + advice, error if debug else None)


def fail_usage(error: click.ClickException) -> None:
    """Print what click says of wrong options; it repeats what was typed."""
    text = StringIO()
    error.show(file=text)
    click.echo(_fitting(block(text.getvalue()), err=True), nl=False, err=True)


def emit(record: Frozen, output: str, lines: Iterable[str]) -> None:
    """Print a record as it is stored, or lines about it."""
    from guardrail.evidence.digest import canonical

    if output == "json":
        say_json(canonical(record).decode())
    else:
        say(*lines)


def decision_lines(decision: Decision) -> list[str]:
    """The decision and its findings."""
    from guardrail.policy.bases import NOT_PINNED, pins_base

    attempt = f", attempt {decision.attempt} at this gate" if decision.attempt else ""
    target = f"{decision.model}@{decision.alias} under policy {decision.policy_name!r}"
    lines = [f"{decision.verdict.value}  {target}{attempt}"]
    lines += [] if pins_base(decision) else [f"  DANGER  {NOT_PINNED}"]
    for finding in decision.findings:
        lines += [f"  {finding.verdict.value:<12}  {finding.rule}: {finding.objective}", f"{'':16}{finding.reason}"]
    return lines


def registered_lines(decision: Decision, record: RegistryRecord, run_dir: Path) -> list[str]:
    """The decision, what became of it in the registry, and where to read on."""
    from guardrail.registry.record.decision_run import PAGE

    lines = decision_lines(decision)
    if record.version:
        alias = f", alias {record.alias}" if record.alias else f"; alias {decision.alias} points at a later version"
        lines.append(f"registered  {record.model} version {record.version}{alias}")
    else:
        lines.append(f"registered  nothing: it is recorded as {decision.verdict.value}")
    where = f"mlflow run  {record.run_id} in experiment {record.experiment!r}"
    return [*lines, where, f"report      {run_dir / PAGE}"]


def waiting_lines(decision: Decision, waits: CandidateWaitsError, run_dir: Path) -> list[str]:
    """Who must do what now, and what they should read."""
    from guardrail.registry.record.decision_run import PAGE

    return [
        f"waits       for persons to approve it: guardrail approve {decision.model}@{decision.alias}",
        f"adapter     {decision.manifest}",
        f"mlflow run  {waits.run_id} in experiment {waits.experiment!r}",
        *([f"            {waits.run_page}"] if waits.run_page else []),
        f"report      {run_dir / PAGE}",
    ]


def error_lines(errors: Iterable[AnswerError]) -> list[str]:
    """Why answers are missing."""
    return [f"errors      {error}" for error in errors]


def raise_unless_passed(decision: Decision, errors: Sequence[AnswerError] = ()) -> None:
    """Turn a verdict into the exit code that it owns; missing answers are mended before a training is blamed."""
    from guardrail.records import Verdict

    mend = f"{errors[0]}; {errors[0].next_step}" if errors else ""

    broken = [finding.rule for finding in decision.findings if finding.verdict is not Verdict.PASSED]
    if decision.verdict is Verdict.FAILED:
        raise PolicyDenied(
            "the policy denies this adapter: " + ", ".join(broken),
            next_step="; then ".join(filter(None, [mend, _against(decision)])),
        )
    if decision.verdict is not Verdict.PASSED:
        raise EvidenceMissing(
            "the evidence does not prove the policy: " + ", ".join(broken),
            next_step=mend or "measure more behaviours, or what was not measured",
        )


def _against(decision: Decision) -> str:
    """What helps against the rules that were broken."""
    from guardrail.records import Verdict

    broken = {finding.rule for finding in decision.findings if finding.verdict is Verdict.FAILED}
    advice = {
        "flagged_samples": "let the policy quarantine (data.quarantine), or take out the rows of data/quarantine.jsonl",
        "training_method": "train with a method that the policy allows (guardrail policy show)",
    }
    fitting = [advice[rule] for rule in advice if rule in broken]
    trained = ["train again with another method or cleaner data"] if broken - set(advice) else []
    return "; ".join([*fitting, *trained])
