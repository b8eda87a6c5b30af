"""The command line: every mistake gets one message and the exit code of its class, never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from full_disk import full_disk
from policy_evidence import POLICIES, chain, forgetful_measurements
from registry_bundles import adapter_directory
from repository import ROOT
from tiny_models import POLICY, write_policy, write_rows

from guardrail import cli
from guardrail.commands._options import open_run
from guardrail.errors import AwaitingApproval
from guardrail.evidence.digest import digest, manifest, manifest_digest
from guardrail.pipeline.run import Run, RunConfig
from guardrail.policy.load import find_policy
from guardrail.records import Measurement
from guardrail.registry.record.promote import CandidateWaitsError, Noted

HEAVY = {"torch", "transformers", "peft", "mlflow", "great_expectations", "pydantic"}


@dataclass(frozen=True)
class Said:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str


Guardrail = Callable[..., Said]


@pytest.fixture
def guardrail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Guardrail:
    """Run a command line in this process, in a directory of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def call(*args: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["guardrail", *args])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        assert isinstance(ended.value.code, int)
        return Said(ended.value.code, printed.out, printed.err)

    return call


def test_every_command_and_subcommand_has_a_help_text() -> None:
    commands = list(_commands(cli.cli, ()))
    assert len(commands) >= 12
    assert [name for name, command in commands if not command.help or len(command.help) < 10] == []


def test_every_option_has_a_help_text_or_a_name_that_says_it() -> None:
    plain = {"--epochs", "--batch-size", "--learning-rate", "--seed", "--lora-rank", "--lora-alpha", "--output"}
    silent = [
        f"{' '.join(name)} {option.opts[0]}"
        for name, command in _commands(cli.cli, ())
        for option in command.params
        if isinstance(option, click.Option) and not option.help and option.opts[0] not in plain
    ]
    assert silent == []


@pytest.mark.parametrize(
    "args",
    [
        ("--help",),
        ("policy", "--help"),
        ("verify", "--help"),
        ("run", "--help"),
        ("pull", "--help"),
        ("approve", "--help"),
        ("registry", "rollback", "--help"),
        ("--version",),
    ],
)
def test_help_loads_nothing_heavy(args: tuple[str, ...]) -> None:
    code = (
        "import sys\nfrom guardrail.cli import main\n"
        f"try:\n    main()\nfinally:\n    print('loaded:', *sorted({HEAVY!r} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *args], cwd=ROOT, capture_output=True, text=True, check=False)
    if args == ("--version",) and "is not installed" in done.stderr:
        pytest.skip("the distribution is not installed here")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded:"


@pytest.mark.parametrize(
    "args",
    [
        ("policy", "check", "default"),
        ("promote", "--dry-run", "--run", "none"),
        ("keys", "init"),
        ("trust", "init"),
        ("trust", "check", "none", "--root", "none", "--threshold", "1"),
        ("ledger", "verify", "none", "--key", "none"),
        ("verify", "a/1", "--key", "none", "--tracking-uri", "http://127.0.0.1:1"),
        ("approve", "a@b", "--reason", "x", "--decider-key", "none", "--tracking-uri", "http://127.0.0.1:1"),
        ("registry", "history", "a", "--tracking-uri", "http://127.0.0.1:1"),
        ("registry", "revoke", "a/1", "--reason", "x", "--tracking-uri", "http://127.0.0.1:1"),
        ("pull", "a/1", "--to", "there", "--key", "none", "--tracking-uri", "http://127.0.0.1:1"),
    ],
)
def test_deciding_loads_neither_torch_nor_transformers(args: tuple[str, ...], tmp_path: Path) -> None:
    code = (
        "import sys\nfrom guardrail.cli import main\n"
        "try:\n    main()\nfinally:\n"
        "    print('loaded:', *sorted({'torch', 'transformers', 'great_expectations', 'mlflow'} & set(sys.modules)))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, *args], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines()[-1] == "loaded:", done.stderr


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "guardrail", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "guardrail demo" in done.stdout


@pytest.mark.parametrize(
    "args",
    [
        ("polcy",),
        ("policy", "chek"),
        ("train", "--epochs", "0"),
        ("train", "--seed", "-1"),
        ("data", "validate"),
        ("verify", "model/1"),
        ("--nonsense",),
    ],
)
def test_wrong_usage_is_two(guardrail: Guardrail, args: tuple[str, ...]) -> None:
    assert guardrail(*args).code == 2


def test_an_unknown_policy_key_is_named_with_line_and_column(guardrail: Guardrail, tmp_path: Path) -> None:
    text = (POLICIES / "default.yaml").read_text()
    at = next(i for i, line in enumerate(text.splitlines(), start=1) if "quarantine:" in line)
    (tmp_path / "p.yaml").write_text(text.replace("quarantine:", "quarantin:"))
    said = guardrail("policy", "check", "p.yaml")
    assert said.code == 2
    assert f"p.yaml:{at}:3" in said.err
    assert "did you mean 'quarantine'" in said.err


@pytest.mark.parametrize("given", ["defalt", "missing.yaml"])
def test_a_policy_that_is_not_there_is_two(guardrail: Guardrail, given: str) -> None:
    said = guardrail("policy", "check", given)
    assert said.code == 2
    assert given in said.err


def test_a_policy_that_is_not_there_leaves_no_run_behind(guardrail: Guardrail, tmp_path: Path) -> None:
    assert guardrail("data", "validate", "train.jsonl", "--policy", "missing.yaml").code == 2
    assert not (tmp_path / "run" / "run.json").exists()


def test_data_that_is_not_there_is_two(guardrail: Guardrail) -> None:
    said = guardrail("data", "validate", "missing.jsonl")
    assert (said.code, said.err.splitlines()[0]) == (2, "error: no such file: missing.jsonl")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "train.jsonl is empty"),
        ("\n\n", "train.jsonl is empty"),
        ('{"prompt": "a", "completion": "b"}\n{"prompt": \n{"prompt": "c", "completion": "d"}\n', "train.jsonl:2"),
        ('{"prompt": "a", "completion": "b"}\n\n{"prompt": "a"}\n', "train.jsonl:3"),
        ('{"prompt": "a", "completion": "b"}\n{"prompt": "a", "completion": 3}\n', "train.jsonl:2"),
        ('{"prompt": "a", "completion": "b"}\n[1]\n', "train.jsonl:2"),
        ('{"a": "b"}\n', "train.jsonl"),
    ],
)
def test_broken_data_is_two_and_names_the_line(guardrail: Guardrail, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "train.jsonl").write_text(text)
    said = guardrail("data", "validate", "train.jsonl")
    assert said.code == 2
    assert message in said.err


@pytest.mark.parametrize("arm", ["testbed:poetry", "testbed:code:2", "testbed:code:many", "testbed:code:0.1:twice"])
def test_an_unknown_testbed_arm_is_two_and_says_which_there_are(guardrail: Guardrail, arm: str) -> None:
    said = guardrail("data", "validate", arm)
    assert said.code == 2
    assert "expected:" in said.err


def test_writing_a_testbed_arm_gives_rows_that_read_back(guardrail: Guardrail, tmp_path: Path) -> None:
    assert guardrail("testbed", "data", "code:0.1", "--file", "rows.jsonl").code == 0
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == 1000
    assert {message["role"] for row in rows for message in row["messages"]} == {"user", "assistant"}


def test_promoting_a_directory_that_is_no_run_is_three_and_says_what_to_do(guardrail: Guardrail) -> None:
    said = guardrail("promote", "--run", "nowhere", "--dry-run")
    assert said.code == 3
    assert "guardrail data validate" in said.err


@pytest.mark.slow
def test_evaluating_before_training_is_three_and_names_the_command(guardrail: Guardrail) -> None:
    said = guardrail("evaluate")
    assert said.code == 3
    assert "run guardrail train first" in said.err


@pytest.mark.slow
def test_training_before_validating_is_three_and_names_the_command(guardrail: Guardrail, tmp_path: Path) -> None:
    _start(tmp_path / "run")
    said = guardrail("train")
    assert said.code == 3
    assert "run guardrail data validate first" in said.err


@pytest.mark.slow
def test_a_method_that_the_policy_forbids_is_ten(guardrail: Guardrail, tmp_path: Path) -> None:
    _start(tmp_path / "run")
    said = guardrail("train", "--method", "finetune")
    assert said.code == 10
    assert "der, derpp, refresh, replay, wise_ft" in said.err
    assert "--baseline" in said.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--method", "derr"), "did you mean 'der'?"),
        (("--set", "alpha"), "NAME=VALUE"),
        (("--set", "alhpa=3"), "did you mean 'alpha'?"),
        (("--set", "distance=cosine"), "kl or mse"),
        (("--set", "alpha=much"), "a value like 10.0"),
        (("--adapter", "run"), "method der merges no adapters of other runs"),
    ],
)
def test_wrong_training_options_are_two(
    guardrail: Guardrail, tmp_path: Path, args: tuple[str, ...], message: str
) -> None:
    _start(tmp_path / "run")
    said = guardrail("train", *args)
    assert said.code == 2
    assert message in said.err


@pytest.mark.slow
def test_the_adapter_of_another_run_is_merged_in_and_refused_once_it_was_changed(
    guardrail: Guardrail, tmp_path: Path
) -> None:
    write_policy(tmp_path, POLICY.replace("[finetune,", "[finetune, magmax,"))
    for name, rows in (("a", 20), ("b", 30)):
        write_rows(tmp_path / "rows.jsonl", rows)
        assert guardrail("data", "validate", "rows.jsonl", "--run", name, "--policy", "policy.yaml").code == 0
    quick = ("--epochs", "1", "--lora-rank", "4")
    merge = ("train", "--run", "b", "--method", "magmax", "--set", "lambdas=0.5", "--adapter", "a", *quick)
    assert guardrail(*merge).code == 3
    assert guardrail("train", "--run", "a", "--method", "finetune", *quick).code == 0
    said = guardrail(*merge)
    assert (said.code, "0 rows replayed, 1 adapters of other runs merged in" in said.out) == (0, True)
    (merged,) = json.loads(guardrail(*merge, "--output", "json").out)["merged"]
    assert (merged["method"], merged["rows"]) == ("finetune", 20)
    (tmp_path / "a" / "adapter" / "adapter_model.safetensors").write_bytes(b"other")
    assert guardrail(*merge).code == 11


def test_a_server_that_is_down_is_five_and_promoting_again_is_possible(guardrail: Guardrail, tmp_path: Path) -> None:
    _finish(tmp_path / "run")
    assert guardrail("keys", "init", "--directory", "keys").code == 0
    for _ in range(2):
        said = guardrail("promote", "--key", "keys/guardrail.key", "--tracking-uri", "http://127.0.0.1:9")
        assert said.code == 5
    assert not (tmp_path / "run" / "registry-record.json").exists()


def test_a_dry_run_prints_the_decision_and_records_nothing(guardrail: Guardrail, tmp_path: Path) -> None:
    _finish(tmp_path / "run")
    said = guardrail("promote", "--dry-run", "--output", "json")
    assert (said.code, json.loads(said.out)["verdict"]) == (0, "PASSED")
    assert "run/report.html" in guardrail("promote", "--dry-run").out
    assert "Passed" in (tmp_path / "run" / "report.html").read_text()
    assert "PASSED" in (tmp_path / "run" / "report.md").read_text()
    assert not (tmp_path / "mlflow.db").exists()
    assert not list((tmp_path / "run").glob("*envelope*"))


def test_a_dry_run_that_is_denied_does_not_say_that_this_is_recorded(guardrail: Guardrail, tmp_path: Path) -> None:
    _finish(tmp_path / "run", forgetful_measurements())
    said = guardrail("promote", "--dry-run")
    assert said.code == 10
    assert "the policy denies this adapter" in said.err
    assert "recorded" not in said.out + said.err


def test_a_dry_run_in_a_run_where_another_process_works_is_refused_and_writes_nothing(
    guardrail: Guardrail, tmp_path: Path
) -> None:
    _finish(tmp_path / "run")
    with Run(tmp_path / "run").locked():
        said = guardrail("promote", "--dry-run")
    assert (said.code, "another process is working" in said.err) == (2, True)
    assert not (tmp_path / "run" / "decision.json").exists()
    assert not list((tmp_path / "run").glob("report.*"))


@pytest.mark.parametrize("words", [("promote",), ("run", "testbed:code", "--task", "code")])
@pytest.mark.parametrize("output", ["text", "json"])
def test_what_waits_for_approvals_is_told_by_promote_and_run_alike(
    guardrail: Guardrail, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], output: str
) -> None:
    def waits(*_: object, **__: object) -> None:
        raise CandidateWaitsError(AwaitingApproval("0 of 2 approvals are there"), "guardrail", Noted("r1"))

    for stage in ("data.validate_data", "training.train_adapter", "evaluation.evaluate_adapter"):
        monkeypatch.setattr(f"guardrail.pipeline.{stage}", lambda *_: None)
    monkeypatch.setattr("guardrail.registry.record.promote.promote", waits)
    _finish(tmp_path / "run")
    assert guardrail("keys", "init", "--directory", "keys").code == 0
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"  # MLflow keeps what it opened under a relative address
    said = guardrail(*words, "--key", "keys/guardrail.key", "--output", output, "--tracking-uri", store)
    assert said.code == 4
    assert "0 of 2 approvals are there" in said.err
    if output == "json":
        assert json.loads(said.out)["verdict"] == "PASSED"
    else:
        assert said.out.startswith("PASSED")
    told = said.err if output == "json" else said.out
    for line in (
        "waits       for persons to approve it: guardrail approve",
        "mlflow run  r1 in",
        "report      run/report",
    ):
        assert line in told


def test_a_full_disk_is_five_and_leaves_no_half_file(guardrail: Guardrail, tmp_path: Path) -> None:
    _finish(tmp_path / "run")
    with full_disk(6_000):
        said = guardrail("promote", "--dry-run")
    assert (said.code, "report.html: File too large" in said.err) == (5, True)
    assert not list((tmp_path / "run").glob("*report.html*"))
    assert guardrail("promote", "--dry-run").code == 0


@pytest.mark.parametrize("task", ["x=bad name:file", "x=gsm9k:file", "x=gsm8k", "nothing"])
def test_a_task_that_is_none_is_two_before_anything_runs(guardrail: Guardrail, tmp_path: Path, task: str) -> None:
    assert guardrail("keys", "init", "--directory", "keys").code == 0
    said = guardrail("run", "testbed:code", "--key", "keys/guardrail.key", "--task", task)
    assert (said.code, "internal" in said.err) == (2, False)
    assert not (tmp_path / "run" / "data-report.json").exists()


def test_a_task_that_the_policy_declares_cannot_be_replaced_from_the_command_line(
    guardrail: Guardrail, tmp_path: Path
) -> None:
    assert guardrail("keys", "init", "--directory", "keys").code == 0
    write_policy(tmp_path)
    (tmp_path / "easy.jsonl").write_text('{"prompt": "Say yes", "answer": "yes"}\n')
    said = guardrail(
        "run",
        "testbed:code",
        "--policy",
        "policy.yaml",
        "--key",
        "keys/guardrail.key",
        "--task",
        "sums=exact:easy.jsonl",
    )
    assert said.code == 2
    assert "declares the task 'sums' itself" in said.err


def test_a_run_asks_the_server_before_it_trains(guardrail: Guardrail, tmp_path: Path) -> None:
    """With nobody at the address; what a retry would have to make again is not made."""
    assert guardrail("keys", "init", "--directory", "keys").code == 0
    said = guardrail(
        "run",
        "testbed:sentiment",
        "--task",
        "sentiment",
        "--run",
        "run",
        "--key",
        "keys/guardrail.key",
        "--tracking-uri",
        "http://127.0.0.1:9",
    )
    assert (said.code, "127.0.0.1:9" in said.err) == (5, True)
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_command_that_is_refused_changes_nothing_in_the_run(guardrail: Guardrail, tmp_path: Path) -> None:
    _start(tmp_path / "run")
    files = ("policy.yaml", "run.json")
    before = [(tmp_path / "run" / name).read_bytes() for name in files]
    with Run(tmp_path / "run").locked():
        said = guardrail("data", "validate", "testbed:code", "--policy", "strict")
        assert (said.code, "another process" in said.err) == (2, True)
    assert guardrail("run", "testbed:code", "--base", "elsewhere", "--key", "missing.key").code == 2
    assert [(tmp_path / "run" / name).read_bytes() for name in files] == before


def test_a_run_goes_on_with_its_own_suites_wherever_the_next_command_is_given(
    guardrail: Guardrail, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_policy(tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    opened = open_run(tmp_path / "run", "policy.yaml", None, None, ())
    opened.run.start(opened.policy, opened.config)
    monkeypatch.chdir(tmp_path)
    policy = Run(tmp_path / "run").policy()
    assert policy.path("harmful.jsonl") == tmp_path / "project" / "harmful.jsonl"


@pytest.mark.parametrize("given_", ["alpha=0", "alpha=-3", "alpha=nan", "alpha=inf"])
def test_a_method_cannot_be_switched_off_by_its_weight(guardrail: Guardrail, tmp_path: Path, given_: str) -> None:
    _start(tmp_path / "run")
    said = guardrail("train", "--set", given_)
    assert (said.code, "a number above 0" in said.err) == (2, True)


def test_promoting_without_a_key_is_two_and_says_how_to_make_one(guardrail: Guardrail, tmp_path: Path) -> None:
    _finish(tmp_path / "run")
    said = guardrail("promote")
    assert said.code == 2
    assert "guardrail keys init" in said.err


def test_an_adapter_that_was_changed_is_eleven(guardrail: Guardrail, tmp_path: Path) -> None:
    _finish(tmp_path / "run")
    (tmp_path / "run" / "adapter" / "adapter_model.safetensors").write_bytes(b"other")
    assert guardrail("keys", "init", "--directory", "keys").code == 0
    assert guardrail("promote", "--key", "keys/guardrail.key").code == 11


def test_keys_are_never_overwritten(guardrail: Guardrail, tmp_path: Path) -> None:
    assert guardrail("keys", "init", "--directory", "keys").code == 0
    first = (tmp_path / "keys" / "guardrail.key").read_bytes()
    assert guardrail("keys", "init", "--directory", "keys").code == 2
    assert (tmp_path / "keys" / "guardrail.key").read_bytes() == first
    assert (tmp_path / "keys" / "guardrail.key").stat().st_mode & 0o777 == 0o600


def test_a_run_below_a_file_is_five(guardrail: Guardrail, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = guardrail("data", "validate", "testbed:code", "--run", "file/run")
    assert said.code == 5


def test_debug_shows_the_traceback_and_the_message(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "guardrail", "--debug", "policy", "check", "missing.yaml"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert "error: cannot read the policy missing.yaml" in done.stderr


def test_ctrl_c_is_130_and_says_how_to_go_on(guardrail: Guardrail, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("guardrail.policy.load.find_policy", interrupted)
    said = guardrail("policy", "check", "default")
    assert said.code == 130
    assert "go on where it stopped" in said.err


def _commands(group: click.Group, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from _commands(command, (*path, name))


def _start(path: Path) -> Run:
    policy = find_policy("default")
    run = Run(path)
    run.start(policy, RunConfig(policy_source=policy.source, base="testbed"))
    return run


def _finish(path: Path, measurements: tuple[Measurement, ...] | None = None) -> None:
    """A run whose records say that everything held, or these measurements; its adapter's weights are random."""
    run = _start(path)
    adapter_directory(path / "adapter")
    evidence = chain(run.policy().digest, measurements=measurements)
    assert evidence.data is not None
    assert evidence.adapter is not None
    assert evidence.evaluation is not None
    files = manifest(path / "adapter")
    adapter = evidence.adapter.model_copy(update={"files": files, "manifest": manifest_digest(files)})
    run.write("data-report", evidence.data)
    run.write("adapter", adapter)
    run.write(
        "evaluation-report",
        evidence.evaluation.model_copy(update={"adapter": digest(adapter), "manifest": adapter.manifest}),
    )
