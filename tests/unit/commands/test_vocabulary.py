"""One name for one thing, everywhere: flags, their variables, what commands are for in a line, and verdicts."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest
from decisions import passing
from every_command import every_command
from gate_cast import cast, trust_file
from gate_world import say, world

from guardrail.cli import cli
from guardrail.commands import _output as output
from guardrail.commands import demo
from guardrail.commands._options import Renamed
from guardrail.demo import SCENARIOS, TAMPERED, ScenarioOutcome, ShownRate, Summary
from guardrail.records import Verdict

COLUMNS = 80
VARIABLES = {
    "--trust": "GUARDRAIL_TRUST",
    "--root-key": "GUARDRAIL_ROOT_KEYS",
    "--root-threshold": "GUARDRAIL_ROOT_THRESHOLD",
    "--decider-key": "GUARDRAIL_DECIDER_KEYS",
    "--server-key": "GUARDRAIL_SERVER_PUBLIC_KEY",
    "--tracking-uri": "MLFLOW_TRACKING_URI",
    "--gate": "GUARDRAIL_GATE",
}
FORMER = {"--root": "--root-key", "--threshold": "--root-threshold"}


def options() -> Iterator[tuple[tuple[str, ...], click.Option]]:
    for words, found in every_command(cli):
        yield from ((words, param) for param in found.params if isinstance(param, click.Option))


def groups(context: click.Context) -> Iterator[click.Context]:
    yield context
    assert isinstance(context.command, click.Group)
    for name in context.command.list_commands(context):
        found = context.command.get_command(context, name)
        if isinstance(found, click.Group):
            yield from groups(click.Context(found, context, name, terminal_width=COLUMNS, max_content_width=COLUMNS))


def test_no_summary_of_a_command_is_cut_at_80_columns() -> None:
    whole = click.Context(cli, info_name="guardrail", terminal_width=COLUMNS, max_content_width=COLUMNS)
    cut = [
        (context.command_path, line)
        for context in groups(whole)
        for line in context.command.get_help(context).partition("Commands:")[2].splitlines()
        if line.endswith("...")
    ]
    assert cut == []


def test_every_command_takes_whom_to_believe_by_the_same_flags_and_variables() -> None:
    others = {
        (*words, name): option.envvar
        for words, option in options()
        for name in option.opts
        if name in VARIABLES and option.envvar != VARIABLES[name]
    }
    assert others == {}
    assert not [(words, name) for words, option in options() for name in option.opts if name in FORMER]


def test_key_is_a_private_key_wherever_it_is_shown() -> None:
    private = {(*words, option.help or "") for words, option in options() if "--key" in option.opts}
    assert private
    assert [given for given in private if not given[-1].startswith("Private key that signs")] == []


def test_former_names_are_taken_and_shown_nowhere() -> None:
    renamed = {
        (words, name): option for words, option in options() if isinstance(option, Renamed) for name in option.former
    }
    assert {name for _, name in renamed} == {"--root", "--threshold", "--key"}
    for (words, name), option in renamed.items():
        command = dict(every_command(cli))[words]
        context = click.Context(command, info_name=words[-1])
        value = "2" if name == "--threshold" else "a.pub"
        given, _, _ = command.make_parser(context).parse_args([name, value])
        assert given[option.name] in (["a.pub"], "2")
        assert f" {name} " not in command.get_help(context)


def test_variables_say_whom_to_believe_and_options_count_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    who = cast(tmp_path)
    file = trust_file(tmp_path, who, who.trust(datetime.now(UTC)))
    monkeypatch.setenv("GUARDRAIL_ROOT_KEYS", f"{who['root'].public_file}:{who['root'].public_file}")
    monkeypatch.setenv("GUARDRAIL_ROOT_THRESHOLD", "1")
    assert say("trust", "check", file).code == 0
    assert say("trust", "check", file, "--root-key", who["stranger"].public_file).code == 11


@pytest.mark.slow
def test_variables_serve_whoever_reads_a_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with world(tmp_path) as made:
        made.admit()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", made.gate.uri)
        assert "NOT CHECKED" in say("registry", "list").out
        monkeypatch.setenv("GUARDRAIL_TRUST", str(made.folder / "trust.json"))
        assert say("registry", "list").code == 2  # a trust file that nobody vouches for
        monkeypatch.setenv("GUARDRAIL_ROOT_KEYS", str(made.who["root"].public_file))
        assert "each signed by the server" in say("registry", "list").out
        assert say("verify", "guarded@production").code == 0
        both = say("verify", "guarded@production", "--decider-key", made.who["decider"].public_file)
        assert both.code == 2
        assert "GUARDRAIL_TRUST" in both.out


def test_findings_are_told_in_the_words_of_the_records() -> None:
    decision, _ = passing()
    for verdict in Verdict:
        finding = decision.findings[0].model_copy(update={"verdict": verdict})
        told = output.decision_lines(decision.model_copy(update={"findings": (finding,)}))
        assert f"  {verdict.value:<12}  {finding.rule}: {finding.objective}" in told


def test_the_demos_table_fits_into_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    share = ShownRate(value=1.0, hits=320, n=320, lower=1.0, upper=1.0, base=1.0)
    told = {
        "task": "arithmetic",
        "method": "der",
        "poison_fraction": 0.1,
        "flagged": 1,
        "quarantined": 1,
        "asr": share,
        "over_refusal": share,
        "utility": share,
        "model_version": "1",
        "seconds": 1234.5,
    }
    outcomes = [
        ScenarioOutcome(name=name, title=title, decision="INCONCLUSIVE", reasons=(), **told)
        for name, title in (*((one.name, one.title) for one in SCENARIOS), (TAMPERED, "one byte of it changed"))
    ]
    demo._table(Summary(tracking_uri="sqlite:///x.db", model="m", scenarios=tuple(outcomes)))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= COLUMNS
    assert "…" not in "".join(lines)
    assert sum("INCONCLUSIVE" in line and "100.0%" in line for line in lines) == len(outcomes)
