"""``guardrail keys``: pairs of either type, and the public half of what is there."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from guardrail.commands.keys import command
from guardrail.errors import InvalidInput
from guardrail.evidence.keys import key_pairs


def invoke(*args: str) -> Result:
    return CliRunner().invoke(command, args)


@pytest.mark.parametrize(("kind", "scheme"), [("ed25519", "ed25519"), ("ecdsa", "ecdsa-sha2-nistp256")])
def test_a_new_key_shows_its_type_and_the_id_that_it_was_made_with(tmp_path: Path, kind: str, scheme: str) -> None:
    made = invoke("init", "--directory", str(tmp_path), "--type", kind)
    assert made.exit_code == 0, made.output
    public = key_pairs.load_public(tmp_path / "guardrail.pub")
    for half in ("guardrail.key", "guardrail.pub"):
        shown = invoke("show", str(tmp_path / half))
        assert shown.output == f"type    {scheme}\nkey id  {public.keyid}\n"
    assert public.keyid in made.output


def test_the_public_half_is_written_once(tmp_path: Path) -> None:
    pair = key_pairs.init(tmp_path)
    out = tmp_path / "copy.pub"
    assert invoke("show", str(pair.private), "--out", str(out)).exit_code == 0
    assert out.read_bytes() == pair.public.read_bytes()
    again = invoke("show", str(pair.private), "--out", str(out))
    assert isinstance(again.exception, InvalidInput)


def test_a_pin_comes_from_the_environment_or_is_typed_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    from guardrail.commands._options import secret

    monkeypatch.setenv("GUARDRAIL_PIN", "1234")
    assert secret("pin") == "1234"
