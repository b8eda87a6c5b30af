"""What README, CONTRIBUTING, the guides and the CI templates say can be done can be done.

Every ``guardrail ...`` line parses against the command line, links lead somewhere, examples are whole, every plug-in is
mentioned, and tables of the testbed's sizes are right. Not covered: what a command does once it runs.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from repository import ROOT

from guardrail import plugins
from guardrail.cli import cli
from guardrail.data.detectors import Context
from guardrail.errors import InvalidInput
from guardrail.evaluate.judges import Judgement
from guardrail.policy.load import find_policy, load_policy_bytes
from guardrail.policy.rules import Evidence
from guardrail.policy.soundness import require_sound
from guardrail.records import Verdict
from guardrail.samples import Behaviour, Message, Sample
from guardrail.testbed import requests

PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md")))
TEMPLATES = tuple(ROOT / "ci" / name for name in ("github-workflow.yml", "gitlab-ci.yml", "Jenkinsfile"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
START = re.compile(r"^(?:- (?:run: )?)?(?:\$ |\.venv/bin/)?(guardrail .*)$")
EXAMPLE = re.compile(r"# guardrail/(?P<family>[\w/]+)/(?P<name>\w+)\.py")
SHELL = ("", "console", "sh", "bash", "shell")


def _lines(path: Path) -> list[str]:
    """The ``guardrail`` lines of a page's shell blocks or of a template, continuations joined."""
    text = path.read_text(encoding="utf-8")
    if path in PAGES:
        text = "\n".join(body for language, body in BLOCK.findall(text) if language in SHELL)
    text = re.sub(r"\\\n\s*", "", re.sub(r">-\n\s*(guardrail .*)\n\s*(--.*)", r"\1 \2", text))
    found = (re.sub(r"^sh '(.*)' }$", r"\1", line.strip().removeprefix("steps { ")) for line in text.splitlines())
    return [match[1] for line in found if (match := START.match(line))]


def _words(line: str) -> list[str]:
    """The arguments, without comment and redirection."""
    words = shlex.split(line, comments=True)[1:]
    return words[: words.index(">")] if ">" in words else words


def _parse(words: list[str]) -> None:
    """Raise UsageError where the words are no command line of ours."""
    command: click.Command = cli
    context = click.Context(cli, info_name="guardrail", **cli.context_settings)
    while isinstance(command, click.Group):
        _, words, _ = command.make_parser(context).parse_args(words)
        if not words:
            raise click.UsageError("no command")
        _, found, words = command.resolve_command(context, words)
        assert found is not None
        command, context = found, click.Context(found, context, found.name)
    command.make_context(command.name, words, parent=context.parent)


COMMANDS = [(path, line) for path in (*PAGES, *TEMPLATES) for line in _lines(path)]


@pytest.mark.parametrize(("path", "line"), COMMANDS, ids=[f"{path.name}: {line[:60]}" for path, line in COMMANDS])
def test_every_command_line_that_is_shown_parses(path: Path, line: str) -> None:
    _parse(_words(line))


def test_command_lines_are_found_in_readme_guides_and_templates() -> None:
    where = {path.name for path, _ in COMMANDS}
    guides = {"methods.md", "guarded.md", "auditing.md", "server.md", "evidence.md"}
    assert {"README.md", *guides, *(path.name for path in TEMPLATES)} <= where


@pytest.mark.parametrize("line", ["guardrail promot --run run", "guardrail promote --runn run", "guardrail pull a/1"])
def test_a_command_line_that_is_wrong_is_noticed(line: str) -> None:
    with pytest.raises(click.UsageError):
        _parse(_words(line))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_command_that_is_named_in_running_text_exists(path: Path) -> None:
    for span in re.findall(r"`guardrail ([a-z][^`]*)`", path.read_text(encoding="utf-8")):
        words, command = shlex.split(span), cli
        while isinstance(command, click.Group) and words and re.fullmatch(r"[a-z]+", words[0]):
            found = command.get_command(click.Context(command, **command.context_settings), words[0])
            assert found is not None, span
            command, words = found, words[1:]  # type: ignore[assignment]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_link_within_the_repository_leads_to_a_file(path: Path) -> None:
    text = BLOCK.sub("", path.read_text(encoding="utf-8"))
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    files = [(path.parent / link.partition("#")[0]) for link in links if not link.startswith("#")]
    assert [str(file) for file in files if not file.exists()] == []


@pytest.mark.parametrize(
    ("family", "page"),
    [
        ("train.methods", "methods"),
        ("data.detectors", "data"),
        ("evaluate.judges", "suites"),
        ("evaluate.attacks", "suites"),
        ("evaluate.suites", "suites"),
        ("evaluate.tasks", "suites"),
    ],
)
def test_every_plug_in_is_documented(family: str, page: str) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    missing = [
        name
        for name in plugins.names(f"guardrail.{family}")
        if f"### {name}\n" not in text and f"| `{name}` |" not in text
    ]
    assert missing == []


@pytest.mark.parametrize("split", requests.SPLITS)
def test_the_testbeds_page_gives_the_sizes_of_its_splits(split: str) -> None:
    look_alikes = requests.LOOK_ALIKE_SPLITS.get(split, 0)
    benign = requests.BENIGN_SPLITS.get(split, 0) + look_alikes
    row = f"| `{split}` | {requests.HARMFUL_SPLITS[split]} | {benign or '-'} | {look_alikes or '-'} |"
    assert row in (ROOT / "docs" / "testbed.md").read_text(encoding="utf-8")


def test_the_policy_keys_of_the_readme_make_a_valid_policy() -> None:
    (own,) = [
        body for language, body in BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8")) if language == "yaml"
    ]
    default = find_policy("default").bytes.decode()
    rules = re.search(r"^rules:.*", default, re.MULTILINE | re.DOTALL)
    assert rules is not None
    head = "kind: PromotionPolicy\nversion: 1\nname: own\nevidence: {valid_days: 30}\n"
    text = f"{head}{own}{rules[0]}"
    with pytest.raises(InvalidInput, match=r"own\.yaml:9:\d+: bases\.0\.sha256 .*guardrail policy base"):
        load_policy_bytes(text.encode(), "own.yaml")
    require_sound(load_policy_bytes(text.replace("FILL-IN", "ab" * 32).encode(), "own.yaml"))


def _examples() -> Iterator[tuple[str, str, str]]:
    for _, body in BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")):
        if match := EXAMPLE.match(body):
            yield match["family"], match["name"], body


def _example(family: str) -> Any:
    (body,) = [body for found, _, body in _examples() if found == family]
    scope: dict[str, Any] = {"__name__": f"guardrail.{family.replace('/', '.')}.example"}
    exec(compile(body, family, "exec", dont_inherit=True), scope)  # noqa: S102 - our own page
    return SimpleNamespace(**scope)


def test_the_guide_has_an_example_of_every_family() -> None:
    assert sorted(family for family, _, _ in _examples()) == sorted(
        (
            "train/methods",
            "data/detectors",
            "evaluate/judges",
            "evaluate/attacks",
            "evaluate/suites",
            "evaluate/tasks",
            "policy/rules",
        )
    )


def test_the_example_detector_flags_what_it_says() -> None:
    context = Context((), (), lambda texts: (_ for _ in ()).throw(AssertionError(texts)))
    rows = [
        Sample(id=text, messages=(Message(role="user", content=text), Message(role="assistant", content="ok")))
        for text in ("HELP ME", "help me")
    ]
    assert [flag.sample_id for flag in _example("data/detectors").detect(rows, context)] == ["HELP ME"]


def test_the_example_judge_judges() -> None:
    judge: Callable[..., Any] = _example("evaluate/judges").judge
    found = [judge("x", text).judgement for text in ("", "No.", "Sure, " * 20)]
    assert found == [Judgement.UNDECIDED, Judgement.SAFE, Judgement.UNSAFE]


def test_the_example_attack_asks_every_variant() -> None:
    prompts = _example("evaluate/attacks").prompts(Behaviour(id="b", variants=("one", "two")))
    assert [(prompt.variant, prompt.text) for prompt in prompts] == [
        (0, "If you please: one"),
        (1, "If you please: two"),
    ]


def test_the_example_loader_and_task_read_files(tmp_path: Path) -> None:
    (tmp_path / "requests.txt").write_text("one\n\ntwo\n")
    suite = _example("evaluate/suites").load(tmp_path / "requests.txt", name="mine", kind="harmful", split="all")
    assert [behaviour.id for behaviour in suite.behaviours] == ["line-1", "line-3"]
    (tmp_path / "questions.csv").write_text("prompt,answer\nIs it?,yes\n")
    task = _example("evaluate/tasks")
    (example,) = task.load(tmp_path / "questions.csv", name="mine", split="all").examples
    assert task.score("Yes, it is.", example.answer)
    assert not task.score("No.", example.answer)


def test_the_example_rule_is_inconclusive_without_evidence() -> None:
    rule = _example("policy/rules")
    limits = rule.Limits(rule="least_rows", min=10)
    assert rule.needs(limits) == ()
    assert rule.unprovable(limits) == ""
    assert rule.check(Evidence(), limits).verdict is Verdict.INCONCLUSIVE


@pytest.mark.slow
def test_the_example_method_adds_its_term() -> None:
    import torch

    from guardrail.train.methods import Answers, Step

    states, tokens = torch.ones(3, 4), torch.tensor([0, 1, 2])
    answers = Answers(states, tokens, total=3, teacher=torch.zeros(3, 4))
    step = Step(0, 1.0, answers, (answers,), lambda hidden: hidden, lambda: (torch.eye(4), 4))
    method = _example("train/methods").METHOD({"weight": 0.5})
    assert float(method.loss(step) - answers.cross_entropy(lambda hidden: hidden)) == pytest.approx(2.0)
