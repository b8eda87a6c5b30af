"""Options and small helpers that several commands share. Imports click alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from guardrail.commands._output import ask_secret
from guardrail.errors import InvalidInput

if TYPE_CHECKING:
    from datetime import datetime

    from guardrail.evidence.keys.key_pairs import PrivateKey
    from guardrail.pipeline.run import Run, RunConfig
    from guardrail.policy.load import LoadedPolicy

F = TypeVar("F", bound=Callable[..., Any])
FILE = click.Path(dir_okay=False, path_type=Path)


class Renamed(click.Option):
    """An option that had other names: those still work, and are shown nowhere.

    Args:
        former: the other names.
    """

    def __init__(self, *args: Any, former: tuple[str, ...], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.former = former

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """With the other names."""
        super().add_to_parser(parser, ctx)
        action = "append" if self.multiple else "store"
        parser.add_option(obj=self, opts=self.former, dest=self.name, action=action, nargs=self.nargs)


class Finite(click.FloatRange):
    """A range of numbers; ``nan`` and ``inf`` are none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Like click's, but finite."""
        number = float(super().convert(value, param, ctx))
        if not isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


RUN = click.option(
    "--run",
    "run_dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("run"),
    show_default=True,
    help="The run's directory: records, data, adapter.",
)
POLICY = click.option("--policy", default=None, help="Policy: a built-in name or a file.  [default: default]")
BASE = click.option("--base", default=None, help="Base model: a Hub id, a directory, or 'testbed'.  [default: testbed]")
REVISION = click.option("--revision", default=None, help="Commit of a Hub base to pin (default: the newest, recorded).")
TASK = click.option(
    "--task",
    "tasks",
    multiple=True,
    help="Task for utility: one of the testbed's, or NAME=FORMAT:PATH. May be repeated.",
)
SUITE = click.option(
    "--suite",
    "suites",
    multiple=True,
    metavar="NAME=FILE",
    help="Where a suite lies here that the policy withholds from whoever trains. May be repeated.",
)
OUTPUT = click.option(
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="json prints the record as it is stored.",
)
KEY = click.option(
    "--key",
    metavar="FILE|URI",
    default=".guardrail/keys/guardrail.key",
    show_default=True,
    help="Private key that signs: a file (guardrail keys init), or awskms:, gcpkms:, azurekms:, hsm:, hv:.",
)
PUBLIC_KEY = click.option(
    "--public-key",
    type=FILE,
    default=None,
    help="Public key of a --key that stays in a service (guardrail keys show URI --out FILE).",
)
SIGN_KEY = click.option(
    "--sign-key",
    metavar="FILE|URI",
    default=None,
    help="Key that signs this stage's statement, in a run that has a ticket (see --gate of data validate).",
)
SIGN_PUBLIC_KEY = click.option(
    "--public-key",
    type=FILE,
    default=None,
    help="Public key of a --sign-key that stays in a service (guardrail keys show URI --out FILE).",
)
TRAIN_KEY = click.option(
    "--train-key",
    "train_keys",
    type=FILE,
    multiple=True,
    help="Public key of whoever trains with the ticket, where that is not who asks for it (--sign-key). Repeat it.",
)
GATE = click.option(
    "--gate",
    metavar="URI",
    envvar="GUARDRAIL_GATE",
    show_envvar=True,
    default=None,
    help="Gated server to take a ticket from, and to tell which adapter it is for. A run keeps the ticket it has.",
)
TRACKING_URI = click.option(
    "--tracking-uri",
    envvar="MLFLOW_TRACKING_URI",
    default="sqlite:///mlflow.db",
    show_default=True,
    help="The MLflow server or store.",
)
ARTIFACT_LOCATION = click.option(
    "--artifact-location",
    metavar="PREFIX",
    envvar="GUARDRAIL_ARTIFACT_LOCATION",
    show_envvar=True,
    default=None,
    help="Where artifacts may be written besides through the server (or beside a SQLite store), such as s3://BUCKET/ML.",
)


def training_options(command: F) -> F:
    """What ``train`` and ``run`` can be told about training."""
    for option in reversed(
        (
            click.option(
                "--method",
                default="der",
                show_default=True,
                help="Continual-learning method; auto tries those that the policy allows and keeps the best.",
            ),
            click.option(
                "--set",
                "hyperparameters",
                multiple=True,
                metavar="NAME=VALUE",
                help="A hyperparameter of the method, such as alpha=10. May be repeated.",
            ),
            click.option("--epochs", type=Finite(min=0, min_open=True), default=3.0, show_default=True),
            click.option("--batch-size", type=click.IntRange(min=1), default=16, show_default=True),
            click.option(
                "--learning-rate",
                type=Finite(min=0, min_open=True),
                default=None,
                help="Peak rate of AdamW.  [default: 0.0002; for the testbed, which is small, 0.002]",
            ),
            click.option("--seed", type=click.IntRange(min=0, max=2**32 - 1), default=0, show_default=True),
            click.option("--lora-rank", type=click.IntRange(min=1), default=16, show_default=True),
            click.option("--lora-alpha", type=Finite(min=0, min_open=True), default=32.0, show_default=True),
            click.option(
                "--lora-target",
                "lora_targets",
                multiple=True,
                help="Module to adapt (default: every linear layer but the head). May be repeated.",
            ),
            click.option(
                "--replay",
                type=click.Path(dir_okay=False),
                default=None,
                help="JSONL of prompts to replay (field 'prompt'); the testbed brings its own.",
            ),
            click.option(
                "--adapter",
                "adapters",
                type=click.Path(file_okay=False, path_type=Path),
                multiple=True,
                metavar="RUN_DIR",
                help="Another run, whose adapter a merge takes in place of replay. May be repeated.",
            ),
            click.option(
                "--accumulation",
                type=click.IntRange(min=1),
                default=1,
                show_default=True,
                help="Micro-batches that a step is cut into (doubled where memory runs out).",
            ),
            click.option(
                "--passes",
                type=click.Choice(["joint", "separate"]),
                default="joint",
                show_default=True,
                help="User and replay rows in one forward pass, or one after the other in less memory.",
            ),
            click.option(
                "--packing",
                type=click.IntRange(min=0),
                metavar="TOKENS",
                default=0,
                show_default=True,
                help="Put several rows into one sequence of at most so many tokens; 0 pads each row instead.",
            ),
            click.option("--gradient-checkpointing", is_flag=True, help="Recompute activations: slower, less memory."),
            click.option(
                "--checkpoint-steps",
                type=click.IntRange(min=0),
                default=100,
                show_default=True,
                help="Steps between checkpoints that a killed training goes on from; 0 for none.",
            ),
            click.option(
                "--validate-steps",
                type=click.IntRange(min=0),
                default=0,
                show_default=True,
                help="Early stopping: steps between scores on the validation split; the best adapter is kept. 0: off.",
            ),
            click.option(
                "--patience",
                type=click.IntRange(min=1),
                default=3,
                show_default=True,
                help="Stop after so many validations in a row that did not beat the best.",
            ),
            click.option(
                "--live-uri",
                default=None,
                help="MLflow server or store to show the training in while it runs; no evidence.  [default: none]",
            ),
            click.option(
                "--baseline", is_flag=True, help="Allow a method that the policy forbids; it cannot be promoted."
            ),
        )
    ):
        command = option(command)
    return command


def train_request(base: str, **given: Any) -> Any:
    """The training request that the options of :func:`training_options` describe, for a base of this name."""
    from guardrail.pipeline.request import TrainRequest, usual_settings
    from guardrail.train.stage import Lora

    usual = usual_settings(base)
    return TrainRequest(
        method=given["method"],
        hyperparameters=parse_settings(given["hyperparameters"]),
        replay=given["replay"],
        adapters=given["adapters"],
        settings=replace(
            usual,
            epochs=given["epochs"],
            batch_size=given["batch_size"],
            learning_rate=given["learning_rate"] or usual.learning_rate,
            seed=given["seed"],
            accumulation=given["accumulation"],
            passes=given["passes"],
            packing=given["packing"],
            gradient_checkpointing=given["gradient_checkpointing"],
            checkpoint_steps=given["checkpoint_steps"],
            validate_steps=given["validate_steps"],
            patience=given["patience"],
        ),
        lora=Lora(given["lora_rank"], given["lora_alpha"], 0.0, tuple(given["lora_targets"])),
        baseline=given["baseline"],
        live_uri=given["live_uri"],
    )


def signer(key: str, public_key: Path | None) -> PrivateKey:
    """What signs with the options ``--key`` and ``--public-key``."""
    from guardrail.evidence.keys.signers import load_signer

    return load_signer(key, public_key, secret)


def stage_signer(key: str | None, public_key: Path | None) -> PrivateKey | None:
    """What signs a stage with the options ``--sign-key`` and ``--public-key``; None where neither was given."""
    if key is None and public_key is not None:
        raise InvalidInput("--public-key is given without a key", next_step="give --sign-key, too")
    return None if key is None else signer(key, public_key)


def take_ticket(
    run: Run, gate: str | None, signer: PrivateKey | None, now: datetime, train_keys: tuple[Path, ...] = ()
) -> None:
    """With ``--gate``: see that the run has a ticket (call it while the run is locked, after its policy is noted)."""
    if gate:
        from guardrail.evidence.keys.key_pairs import load_public
        from guardrail.pipeline.gate.run_ticket import Asking, take

        take(run, gate, Asking(signer, [load_public(path).keyid for path in train_keys]), now)


def secret(name: str) -> str:
    """A secret that a key's service asks for: ``GUARDRAIL_PIN`` and the like, or typed without an echo."""
    return os.environ.get(f"GUARDRAIL_{name.upper()}") or ask_secret(f"{name} of the key")


def parse_settings(pairs: tuple[str, ...]) -> dict[str, float | str]:
    """``("alpha=5",)`` to ``{"alpha": 5.0}``."""
    result: dict[str, float | str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise InvalidInput(f"--set {pair!r}", expected="NAME=VALUE, such as alpha=5")
        try:
            result[name] = float(value)
        except ValueError:
            result[name] = value
    return result


def sound_policy(name: str) -> LoadedPolicy:
    """The policy of this name or file.

    Raises:
        InvalidInput: there is none, or it cannot work.
    """
    from guardrail.policy.load import find_policy
    from guardrail.policy.soundness import require_sound

    loaded = find_policy(name)
    require_sound(loaded)
    return loaded


@dataclass(frozen=True)
class OpenedRun:
    """A run as a command was told to work on it; nothing is written before :meth:`start`."""

    run: Run
    policy: LoadedPolicy
    config: RunConfig

    def start(self) -> None:
        """Note what the run works with (call it while the run is locked)."""
        if self.run.config() != self.config or self.run.policy().digest != self.policy.digest:
            self.run.start(self.policy, self.config)


def open_run(
    path: Path,
    policy: str | None,
    base: str | None,
    revision: str | None,
    tasks: tuple[str, ...],
    suites: tuple[str, ...] = (),
) -> OpenedRun:
    """The run at ``path``: with what is given, and else with what it was started with."""
    from guardrail.pipeline.exam import withheld_suites
    from guardrail.pipeline.run import Run, RunConfig
    from guardrail.policy.load import find_policy
    from guardrail.policy.soundness import require_sound

    run = Run(path)
    known = run.config()
    loaded = find_policy(policy or "default") if policy or known is None else run.policy()
    require_sound(loaded)
    source = str(Path(loaded.source).resolve())  # suites lie relative to it, wherever the next stage is run from
    start = known or RunConfig(policy_source=source, base="testbed")
    config = RunConfig(
        policy_source=source,
        base=base or start.base,
        revision=revision or (None if base else start.revision),
        tasks=tasks or start.tasks,
        suites=withheld_suites.given(loaded, suites) or start.suites,
    )
    return OpenedRun(run, loaded, config)
