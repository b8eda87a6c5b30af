"""Attempts that use evidence the gate has admitted already, or a version it knows, to be answered without a look.

Not a test file. The gate refuses much from its ledger and from the evidence alone; these try to profit from that.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from bypass import EVIL, WEIGHTS, Target
from bypass_moves import A, Move, ajax, api, client

Change = Callable[[Path], object]


def copied(change: Change, version: str = "2", by: str = "api") -> Move:
    """A version of a logged model that holds a changed copy of an admitted version, evidence and all."""

    def attack(t: Target) -> None:
        with tempfile.TemporaryDirectory() as name:
            lay(t, Path(name), version)
            change(Path(name))
            model = t.client.create_logged_model("0", name="copy")
            t.client.log_model_artifacts(model.model_id, name)
            t.client.finalize_logged_model(model.model_id, "READY")
        source = f"models:/{model.model_id}"
        if by == "client":
            t.client.create_model_version(t.name, source, model_id=model.model_id)
        else:
            ask = {"api": api, "ajax": ajax}[by]
            ask("POST", "model-versions/create", source=source, model_id=model.model_id)(t)

    return attack


def lay(t: Target, folder: Path, version: str) -> None:
    """The files of a version, as anybody may download them."""
    root = t.client.get_model_version_download_uri(t.name, version).removeprefix("mlflow-artifacts:/")
    for path in t.running.files(root):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        answer = t.session.get(f"{t.running.uri}/api/2.0/mlflow-artifacts/artifacts/{root}/{path}", timeout=60)
        answer.raise_for_status()
        (folder / path).write_bytes(answer.content)


def same_size(folder: Path) -> None:
    weights = folder / WEIGHTS
    weights.write_bytes(bytes(weights.stat().st_size))


def last_byte(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def one_more(folder: Path) -> None:
    (folder / "more.safetensors").write_bytes(EVIL)


def one_less(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def shorter(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(EVIL)


def configured(folder: Path) -> None:
    path = folder / "adapter_config.json"
    path.write_bytes(path.read_bytes().replace(b"LORA", b"LOHA"))


def moved_inside(folder: Path) -> None:
    (folder / "adapter").mkdir()
    (folder / WEIGHTS).rename(folder / "adapter" / WEIGHTS)


MOVES: dict[str, Move] = {
    "alias moved back, a version with a leading zero": client("set_registered_model_alias", A, "01"),
    "alias moved back, a version with many zeros": api("POST", "registered-models/alias", alias=A, version="0001"),
    "version of admitted evidence with other weights of the same size": copied(same_size),
    "version of admitted evidence with one bit of the weights changed, ajax-api": copied(last_byte, by="ajax"),
    "version of older evidence with other weights of the same size, client": copied(same_size, "1", "client"),
    "version of admitted evidence with shorter weights": copied(shorter),
    "version of admitted evidence with a file more": copied(one_more),
    "version of admitted evidence with a file less": copied(one_less),
    "version of admitted evidence with another configuration of the same size": copied(configured),
    "version of admitted evidence with the weights in another directory": copied(moved_inside),
}
