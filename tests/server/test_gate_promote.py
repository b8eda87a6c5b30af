"""What the gated server admits, and the honest-looking forgeries that it does not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from gate_chains import drawn, proven, staged
from gate_fixtures import Pair, gate_of, promoted
from gate_trust import person
from gated_servers import bytes_of, pointing
from moto_servers import Remote
from registry_bundles import POLICY, resealed, sealed
from signed_runs import SIGNERS, held_ticket, record, started

from guardrail.errors import EvidenceInvalid
from guardrail.evidence.bundle import Bundle, seal, write
from guardrail.evidence.envelope import unverified_payload
from guardrail.evidence.keys.key_pairs import PrivateKey
from guardrail.evidence.ledger.signed_ledger import LEDGER_TYPE
from guardrail.evidence.statements.tickets import Ticket
from guardrail.pipeline.gate.run_ticket import Asking, take
from guardrail.pipeline.gate.signing import bind, sign_stage
from guardrail.pipeline.promotion import promote_run
from guardrail.pipeline.run import Run
from guardrail.records import Verdict
from guardrail.registry.mlflow.mlflow_client import GATE
from guardrail.registry.verify.evidence_checks import examine
from guardrail.registry.verify.verify import verify

if TYPE_CHECKING:
    from mlflow import MlflowClient

pytestmark = pytest.mark.slow
LAX = POLICY.replace("max: 0.05", "max: 0.99")


@pytest.mark.every_cell
def test_the_command_promotes_twice_to_one_version_and_verify_accepts(pair: Pair, tmp_path: Path) -> None:
    from guardrail.commands.promote import command as promote_command
    from guardrail.commands.verify import command as verify_command

    run = _run_directory(tmp_path, "proposed", pair)
    arguments = ["--run", str(run), "--key", str(pair.people.decider.private_file), "--tracking-uri", pair.gated.uri]
    said = [
        CliRunner().invoke(promote_command, [*arguments, "--output", "json"], catch_exceptions=False) for _ in range(2)
    ]
    assert [result.exit_code for result in said] == [0, 0]
    assert said[0].output == said[1].output
    assert json.loads(said[0].output)["version"] == "1"
    key = str(pair.people.decider.public_file)
    checked = CliRunner().invoke(
        verify_command, ["proposed@production", "--key", key, "--tracking-uri", pair.gated.uri], catch_exceptions=False
    )
    assert checked.exit_code == 0
    assert "ok  tags" in checked.output


def test_the_command_hands_a_denial_to_the_gate_which_spends_the_ticket(pair: Pair, tmp_path: Path) -> None:
    run = _run_directory(tmp_path, "waiting", pair)
    record(Run(run), "evaluate", safe=False)
    sign_stage(Run(run), "evaluate", pair.people.decider.private, datetime.now(UTC))
    for _ in range(2):
        decision, _ = promote_run(
            run, tracking_uri=pair.gated.uri, key=pair.people.decider.private, now=datetime.now(UTC)
        )
        assert decision.verdict is Verdict.FAILED
    nonce = held_ticket(Run(run)).nonce
    entries = [json.loads(unverified_payload(line, payload_type=LEDGER_TYPE)) for line in gate_of(pair.gated).ledger()]
    assert [entry["kind"] for entry in entries if entry["nonce"] == nonce] == ["proposal", "proposal", "denial"]


@pytest.mark.every_cell
def test_a_stock_client_downloads_exactly_what_was_sealed(pair: Pair, client: MlflowClient, tmp_path: Path) -> None:
    import mlflow

    version = promoted(pair.gated, pair.people, tmp_path / "a", "guarded", seed=11)
    (tmp_path / "got").mkdir()
    with pointing(pair.gated):
        found = mlflow.artifacts.download_artifacts("models:/guarded@production", dst_path=str(tmp_path / "got"))
    assert examine(Path(found), [pair.people.decider.public]).decision.model == "guarded"
    source = str(client.get_model_version("guarded", version).source)
    assert bytes_of(Path(found)) == pair.gated.files(source.removeprefix("mlflow-artifacts:/"))
    place = pair.gated.destination / source.removeprefix("mlflow-artifacts:/")
    modes = {oct(path.stat().st_mode & 0o777) for path in place.rglob("*") if path.is_file()}
    assert modes == (set() if pair.gated.remote else {"0o444"})


def test_the_candidate_may_change_afterwards_and_the_sealed_adapter_does_not(
    pair: Pair, client: MlflowClient, tmp_path: Path
) -> None:
    version = promoted(pair.gated, pair.people, tmp_path / "a", "guarded", seed=12)
    tags = client.get_model_version("guarded", version).tags
    (tmp_path / "adapter_model.safetensors").write_bytes(b"evil")
    client.log_model_artifact(tags["guardrail.model_id"], str(tmp_path / "adapter_model.safetensors"))
    spec, public = f"guarded/{version}", [pair.people.decider.public]
    assert verify(spec, tracking_uri=pair.gated.uri, public_keys=public, now=datetime.now(UTC)).version == version


@pytest.mark.every_cell
def test_promotions_at_the_same_time_give_one_version(pair: Pair, client: MlflowClient, tmp_path: Path) -> None:
    bundle = _good(tmp_path / "a", pair, model="twice")
    ids = [_propose(client, bundle, tmp_path / str(n), "twice", create=False) for n in range(4)]
    client.create_registered_model("twice")
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda i: client.create_model_version("twice", f"models:/{i}", model_id=i).version, ids))
    assert {str(version) for version in made} == {"1"}
    assert len(client.search_model_versions("name = 'twice'")) == 1


@dataclass(frozen=True)
class Forgery:
    """What is proposed, and how the server answers."""

    make: Callable[[Path, Pair], Bundle]
    answer: str
    model: str = "guarded"
    change: Callable[[Path], object] = lambda _: None


def _good(path: Path, pair: Pair, key: PrivateKey | None = None, **more: Any) -> Bundle:
    """Proven evidence; its decision signed by another ``key`` where one is given."""
    signers = pair.people.signers | ({"decide": key} if key else {})
    return proven(path, gate_of(pair.gated), signers, **more)


def _staged(path: Path, pair: Pair, **more: Any) -> Bundle:
    return staged(path, gate_of(pair.gated), pair.people.signers, **more)


def _pickle(directory: Path) -> None:
    (directory / "adapter_model.bin").write_bytes(b"\x80\x04N.")


def _auto_mapping(directory: Path) -> None:
    config = json.loads((directory / "adapter_config.json").read_text())
    config["auto_mapping"] = {"base_model_class": "Evil", "parent_library": "evil"}
    (directory / "adapter_config.json").write_text(json.dumps(config))


def _megatron(directory: Path) -> None:
    config = json.loads((directory / "adapter_config.json").read_text())
    config |= {"megatron_config": {"a": 1}, "megatron_core": "evil"}
    (directory / "adapter_config.json").write_text(json.dumps(config))


def _other_base(directory: Path) -> None:
    config = json.loads((directory / "adapter_config.json").read_text())
    config |= {"base_model_name_or_path": "attacker/backdoored-base", "revision": "main"}
    (directory / "adapter_config.json").write_text(json.dumps(config))


def _pyfunc(directory: Path) -> None:
    (directory / "MLmodel").write_text("flavors: {python_function: {loader_module: evil}}")


def _unsafe_but_passed(path: Path, pair: Pair) -> Bundle:
    denied = _staged(path, pair, safe=False)
    return resealed(denied, pair.people.decider.private, lambda d: d.model_copy(update={"verdict": Verdict.PASSED}))


def _laxer(path: Path, pair: Pair) -> Bundle:
    lax = _staged(path, pair, safe=False, policy_text=LAX)
    assert lax.decision.verdict is Verdict.PASSED
    return seal(lax, pair.people.decider.private)


def _namesake(path: Path, pair: Pair) -> Bundle:
    """The same name says nothing: only the key counts."""
    return _good(path, pair, person(path.parent / "k", pair.people.decider.name).private)


def _at(days: float) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)


def _ticket(pair: Pair, model: str = "guarded") -> Ticket:
    return drawn(gate_of(pair.gated), pair.people.signers, model)


def _as(stage: str, who: str) -> Callable[[Path, Pair], Bundle]:
    """A chain in which somebody else signed one stage."""

    def make(path: Path, pair: Pair) -> Bundle:
        signers = pair.people.signers | {stage: getattr(pair.people, who).private}
        return proven(path, gate_of(pair.gated), signers, ticket=_ticket(pair))

    return make


def _unstaged(path: Path, pair: Pair) -> Bundle:
    return sealed(path, pair.people.decider.private, now=datetime.now(UTC))


def _invented(path: Path, pair: Pair) -> Bundle:
    return _good(path, pair, ticket=_ticket(pair).model_copy(update={"nonce": "ab" * 32}), bind=False)


def _second_adapter(path: Path, pair: Pair) -> Bundle:
    ticket = _ticket(pair)
    _good(path.parent / "first", pair, ticket=ticket, seed=91)
    return _good(path, pair, ticket=ticket, seed=92, bind=False)


def _after_denial(path: Path, pair: Pair) -> Bundle:
    ticket = _ticket(pair)
    denied = _good(path.parent / "denied", pair, ticket=ticket, safe=False, seed=93)
    gate_of(pair.gated).submit(denied.envelope)
    return _good(path, pair, ticket=ticket, seed=93)


def _one_of_many(path: Path, pair: Pair) -> Bundle:
    """As if it were the first attempt: each one more is judged more strictly."""
    return _good(path, pair, attempt=0)


def _before_bound(path: Path, pair: Pair) -> Bundle:
    ticket = _ticket(pair)
    return _good(path, pair, ticket=ticket, ledger=ticket.ledger)


FORGERIES = {
    "metrics that violate the pinned policy": Forgery(_unsafe_but_passed, "made again|give FAILED"),
    "an honest denial": Forgery(lambda d, p: _good(d, p, safe=False), "is FAILED"),
    "a laxer policy": Forgery(_laxer, "trust file pins"),
    "a foreign signer": Forgery(lambda d, p: _good(d, p, p.people.stranger.private), "not given"),
    "a new key under an old name": Forgery(_namesake, "not given"),
    "expired evidence": Forgery(lambda d, p: _good(d, p, now=_at(-31), bind=False), "expired"),
    "evidence from the future": Forgery(lambda d, p: _good(d, p, now=_at(0.003), bind=False), "after now"),
    "another model's evidence": Forgery(lambda d, p: _good(d, p, model="second"), "for the model"),
    "another alias": Forgery(lambda d, p: _good(d, p, alias="staging", ticket=_ticket(p)), "not in the trust file"),
    "no stage has signed": Forgery(_unstaged, "no statements of its stages"),
    "the trainer signed as evaluator": Forgery(_as("evaluate", "root"), "who may not evaluate"),
    "a stranger signed as evaluator": Forgery(_as("evaluate", "stranger"), "a stranger"),
    "the evaluator signed the data": Forgery(_as("data", "decider"), "who may not data"),
    "a nonce that nobody issued": Forgery(_invented, "did not issue"),
    "the ticket of another model": Forgery(
        lambda d, p: _good(d, p, ticket=_ticket(p, "second"), bind=False), "did not issue"
    ),
    "an adapter that was measured before the server knew of it": Forgery(
        lambda d, p: _good(d, p, bind=False), "bound to no adapter"
    ),
    "an evaluation from before the adapter was bound": Forgery(_before_bound, "names entry"),
    "the better of two adapters under one ticket": Forgery(_second_adapter, "bound to the adapter"),
    "a second try after a denial": Forgery(_after_denial, "was spent by"),
    "an attempt that calls itself another": Forgery(_one_of_many, "made as attempt"),
    "prompts in an order of one's own": Forgery(lambda d, p: _good(d, p, order="00" * 32), "was seeded with"),
    "a stage that has expired": Forgery(lambda d, p: _good(d, p, expires=_at(-0.0001)), "evidence expired"),
    "a stage that is not valid yet": Forgery(lambda d, p: _good(d, p, not_before=_at(0.1)), "holds only from"),
    "signed pickles": Forgery(lambda d, p: _good(d, p, prepare=_pickle), "adapter_model.bin"),
    "signed auto_mapping": Forgery(lambda d, p: _good(d, p, prepare=_auto_mapping), "auto_mapping"),
    "an adapter for another base": Forgery(lambda d, p: _good(d, p, prepare=_other_base), "names the base"),
    "a module to import as megatron": Forgery(lambda d, p: _good(d, p, prepare=_megatron), "megatron_config"),
    "a signed pyfunc loader": Forgery(lambda d, p: _good(d, p, prepare=_pyfunc), "MLmodel"),
    "no evidence": Forgery(_good, "there is no evidence/", change=lambda d: shutil.rmtree(d / "evidence")),
    "a changed byte": Forgery(
        _good, "changed", change=lambda d: (d / "adapter_model.safetensors").write_bytes(b"evil")
    ),
    "an extra file": Forgery(
        _good, "not signed", change=lambda d: (d / "chat_template.jinja").write_text("{{ evil }}")
    ),
    "a missing record": Forgery(_good, "missing", change=lambda d: (d / "evidence/data.json").unlink()),
    "a missing stage": Forgery(_good, "missing", change=lambda d: (d / "evidence/train.dsse.json").unlink()),
    "a policy changed after signing": Forgery(
        _good,
        "changed: policy.yaml",
        change=lambda d: (d / "evidence/policy.yaml").write_text(LAX.format(model="guarded", alias="production")),
    ),
}


@pytest.mark.parametrize("name", list(FORGERIES))
def test_a_forgery_is_refused_and_nothing_is_sealed(
    pair: Pair, client: MlflowClient, tmp_path: Path, name: str
) -> None:
    forgery = FORGERIES[name]
    with _unchanged(pair, client, forgery.model):
        assert GATE in (said := _refused(client, forgery.make(tmp_path / "a", pair), tmp_path / "laid", forgery))
    assert any(part in said for part in forgery.answer.split("|")), said


def test_tags_other_than_the_servers_own_are_refused(pair: Pair, client: MlflowClient, tmp_path: Path) -> None:
    from mlflow.exceptions import MlflowException

    bundle = _good(tmp_path / "a", pair, seed=13)
    model_id = _propose(client, bundle, tmp_path / "laid", "guarded", create=False)
    with _unchanged(pair, client, "guarded", sealed_too=False), pytest.raises(MlflowException, match="a tag"):
        client.create_model_version(
            "guarded", f"models:/{model_id}", model_id=model_id, tags={"guardrail.verdict": "PASSED", "approved": "yes"}
        )


@pytest.mark.every_cell
@pytest.mark.parametrize("spoil", ["missing", "changed", "extra"])
def test_a_sealed_adapter_that_was_touched_behind_the_server_gets_no_alias(
    pair: Pair, client: MlflowClient, tmp_path: Path, spoil: str
) -> None:
    from mlflow.exceptions import MlflowException

    version = promoted(pair.gated, pair.people, tmp_path / "a", "guarded", seed=20 + len(spoil))
    source = str(client.get_model_version("guarded", version).source)
    path = source.removeprefix("mlflow-artifacts:/")
    if pair.gated.remote:
        _spoil_objects(pair.gated.remote, path, spoil)
    else:
        _spoil(pair.gated.destination / path, spoil)
    with pytest.raises(MlflowException, match="sealed adapter"):
        client.set_registered_model_alias("guarded", "production", version)
    spec, public = f"guarded/{version}", [pair.people.decider.public]
    with pytest.raises(EvidenceInvalid):
        verify(spec, tracking_uri=pair.gated.uri, public_keys=public, now=datetime.now(UTC))


def test_an_alias_that_is_not_protected_is_free(pair: Pair, client: MlflowClient, tmp_path: Path) -> None:
    version = promoted(pair.gated, pair.people, tmp_path / "a", "guarded", seed=14)
    client.set_registered_model_alias("guarded", "candidate", version)
    assert client.get_registered_model("guarded").aliases["candidate"] == version
    client.delete_registered_model_alias("guarded", "candidate")
    assert "candidate" not in client.get_registered_model("guarded").aliases


def test_a_refused_promotion_is_invalid_evidence_to_the_client(pair: Pair, tmp_path: Path) -> None:
    from guardrail.registry.record.promote import promote

    now, key = datetime.now(UTC), pair.people.stranger.private
    with pytest.raises(EvidenceInvalid, match="not given"):
        promote(sealed(tmp_path / "a", key, now=now), tracking_uri=pair.gated.uri, private_key=key, now=now)


def _refused(client: MlflowClient, bundle: Bundle, folder: Path, forgery: Forgery) -> str:
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException) as caught:
        _propose(client, bundle, folder, forgery.model, change=forgery.change)
    return str(caught.value)


def _propose(
    client: MlflowClient,
    bundle: Bundle,
    folder: Path,
    model: str,
    *,
    create: bool = True,
    change: Callable[[Path], object] = lambda _: None,
) -> str:
    """What a client that checks nothing would send."""
    folder.mkdir()
    write(bundle, folder)
    change(folder)
    logged = client.create_logged_model("0", name="forged")
    client.log_model_artifacts(logged.model_id, str(folder))
    client.finalize_logged_model(logged.model_id, "READY")
    if create:
        client.create_model_version(model, f"models:/{logged.model_id}", model_id=logged.model_id)
    return str(logged.model_id)


@contextmanager
def _unchanged(pair: Pair, client: MlflowClient, model: str, *, sealed_too: bool = True) -> Iterator[None]:

    def seen() -> object:
        versions = sorted(str(v.version) for v in client.search_model_versions(f"name = '{model}'"))
        return versions, pair.gated.files("sealed") if sealed_too else None

    before = seen()
    yield
    assert seen() == before
    assert not list(pair.gated.destination.parent.rglob(".staging-*"))


def _spoil(place: Path, how: str) -> None:
    place.chmod(0o755)
    weights = place / "adapter_model.safetensors"
    if how == "missing":
        weights.unlink()
    elif how == "changed":
        weights.chmod(0o644)
        weights.write_bytes(b"evil")
    else:
        (place / "chat_template.jinja").write_text("{{ evil }}")


def _spoil_objects(remote: Remote, path: str, how: str) -> None:
    client, weights = remote.s3.client(), f"{remote.place.prefix}/{path}/adapter_model.safetensors"
    if how == "missing":
        client.delete_object(Bucket=remote.place.bucket, Key=weights)
    else:
        key = weights if how == "changed" else f"{remote.place.prefix}/{path}/chat_template.jinja"
        client.put_object(Bucket=remote.place.bucket, Key=key, Body=b"evil")


def _run_directory(folder: Path, model: str, pair: Pair) -> Path:
    """A run whose stages have run and signed under a ticket of the gated server, as they leave it."""
    run, now, keys = started(folder / "run", attempt=0, model=model), datetime.now(UTC), pair.people.signers
    take(run, pair.gated.uri, Asking(pair.people.root.private), now)
    for stage in SIGNERS:
        record(run, stage)
        sign_stage(run, stage, keys[stage], now)
        if stage == "train":
            bind(run, pair.gated.uri, now)
    return run.path
