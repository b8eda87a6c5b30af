"""Whoever trains does not choose the base: a gated server admits adapters for pinned ones alone, and only under a
policy that promises what the trust file asks. Stock MLflow takes every one of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result
from gate_bases import AT_A_COMMIT, MODELS, RENAMED, changed
from gate_chains import staged
from gate_fixtures import Pair, client_of, gate_of
from gate_trust import signed
from policy_evidence import BASE, merged_adapter, merging
from registry_bundles import resealed, unsealed

from guardrail.cli import cli
from guardrail.errors import GuardrailError
from guardrail.evidence.bundle import Bundle, seal, write
from guardrail.evidence.digest import digest, sha256
from guardrail.evidence.envelope import sign
from guardrail.evidence.statements import orders
from guardrail.evidence.trust.trust_file import GuardedModel, Least, read_unverified_trust
from guardrail.policy.rules import Evidence
from guardrail.records import ModelRef, Verdict
from guardrail.registry.audit.ledger_reader import last
from guardrail.registry.mlflow.mlflow_client import GATE

if TYPE_CHECKING:
    from mlflow import MlflowClient

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Case:
    """An adapter that its stages and whoever decides signed in good order, on this base, and how the server answers."""

    model: str
    base: ModelRef
    answer: str
    forged: bool = True
    """Whoever decides signs PASSED, whatever the policy says."""


CASES = {
    "another template": Case("base-by-policy", changed("template"), "give FAILED"),
    "a template inside the tokenizer's configuration": Case("base-by-policy", changed("inner template"), "give FAILED"),
    "another tokenizer": Case("base-by-policy", changed("tokenizer"), "give FAILED"),
    "other weights, one bit": Case("base-by-policy", changed("weights"), "give FAILED"),
    "another way to generate": Case("base-by-policy", changed("generation"), "give FAILED"),
    "another template, honestly denied": Case("base-by-policy", changed("template"), "is FAILED", forged=False),
    "another name of the same files": Case("base-by-policy", RENAMED, "give FAILED"),
    "another commit with the same digest": Case("base-at-commit", AT_A_COMMIT, "give FAILED"),
    "no commit where one is pinned": Case("base-at-commit", BASE, "give FAILED"),
    "a policy without bases": Case("base-by-nobody", BASE, "neither it nor the trust file pins a base model"),
    "a policy without bases, another template": Case("base-by-nobody", changed("template"), "pins a base model"),
    "a base that the trust file does not name": Case("base-by-trust", changed("template"), "that the trust file pins"),
    "in the policy and not in the trust file": Case("base-narrowed", changed("template"), "that the trust file pins"),
    "in the trust file and not in the policy": Case("base-contradicted", changed("template"), "give FAILED"),
    "in the policy alone, the trust file names another": Case("base-contradicted", BASE, "that the trust file pins"),
    "a pinned policy that promises too little": Case("base-lax", BASE, "no rule attack_success_rate limits it"),
}


def made(folder: Path, pair: Pair, case: Case, seed: int = 0) -> Bundle:
    """What the trainer and whoever decides hand in."""
    bundle = staged(
        folder,
        gate_of(pair.gated),
        pair.people.signers,
        model=case.model,
        base=case.base,
        seed=seed,
        policy_text=MODELS[case.model].policy,
    )
    return _signed(bundle, pair, case.forged)


def _signed(bundle: Bundle, pair: Pair, forged: bool) -> Bundle:
    key = pair.people.decider.private
    if not forged:
        return seal(bundle, key)
    return resealed(bundle, key, lambda decision: decision.model_copy(update={"verdict": Verdict.PASSED}))


def propose(client: MlflowClient, bundle: Bundle, folder: Path, model: str) -> str:
    """What a client that checks nothing sends; the version."""
    folder.mkdir()
    write(bundle, folder)
    logged = client.create_logged_model("0", name="adapter")
    client.log_model_artifacts(logged.model_id, str(folder))
    client.finalize_logged_model(logged.model_id, "READY")
    return str(client.create_model_version(model, f"models:/{logged.model_id}", model_id=logged.model_id).version)


def promote(pair: Pair, folder: Path, model: str, seed: int = 0) -> str:
    """An honest promotion on the embedded base; the version that the alias points at."""
    client = client_of(pair.gated)
    _ensure(client, model)
    version = propose(client, made(folder / "a", pair, Case(model, BASE, ""), seed), folder / "laid", model)
    client.set_registered_model_alias(model, "production", version)
    return version


def _ensure(client: MlflowClient, model: str) -> None:
    if not client.search_registered_models(f"name = '{model}'"):
        client.create_registered_model(model)


@pytest.mark.parametrize("name", CASES)
def test_what_is_not_pinned_is_refused_and_nothing_is_sealed(
    pair: Pair, client: MlflowClient, tmp_path: Path, name: str
) -> None:
    from mlflow.exceptions import MlflowException

    case = CASES[name]
    _ensure(client, case.model)
    before = (pair.gated.files("sealed"), client.search_model_versions(f"name = '{case.model}'"))
    with pytest.raises(MlflowException, match=GATE) as caught:
        propose(client, made(tmp_path / "a", pair, case), tmp_path / "laid", case.model)
    assert case.answer in str(caught.value)
    assert (pair.gated.files("sealed"), client.search_model_versions(f"name = '{case.model}'")) == before


@pytest.mark.parametrize("name", CASES)
def test_stock_mlflow_takes_it_and_moves_the_alias(pair: Pair, tmp_path: Path, name: str) -> None:
    case, client = CASES[name], client_of(pair.stock)
    policy = MODELS[case.model].policy
    bundle = _signed(unsealed(tmp_path / "a", model=case.model, base=case.base, policy_text=policy), pair, case.forged)
    _ensure(client, case.model)
    version = propose(client, bundle, tmp_path / "laid", case.model)
    client.set_registered_model_alias(case.model, "production", version)
    assert client.get_model_version_by_alias(case.model, "production").version == version


def test_an_adapter_of_another_base_that_was_merged_in_is_refused(
    pair: Pair, client: MlflowClient, tmp_path: Path
) -> None:
    from mlflow.exceptions import MlflowException

    case = Case("base-by-policy", BASE, "a merged adapter's base model")
    good = made(tmp_path / "a", pair, case)
    other = merged_adapter(good.decision.policy).model_copy(update={"base": changed("template").digest})
    records = merging(Evidence(data=good.data, adapter=good.adapter, evaluation=good.evaluation), other)
    assert records.adapter
    assert records.evaluation
    changes = {"adapter": digest(records.adapter), "evaluation": digest(records.evaluation)}
    forged = Bundle(**{**good.__dict__, "adapter": records.adapter, "evaluation": records.evaluation})
    forged = resealed(forged, pair.people.decider.private, lambda decision: decision.model_copy(update=changes))
    _ensure(client, case.model)
    with pytest.raises(MlflowException, match=GATE) as caught:
        propose(client, forged, tmp_path / "laid", case.model)
    assert case.answer in str(caught.value)


@pytest.mark.parametrize("model", ["base-by-policy", "base-by-trust", "base-narrowed"])
def test_a_pinned_base_is_admitted_verified_and_pulled(pair: Pair, tmp_path: Path, model: str) -> None:
    version = promote(pair, tmp_path, model)
    spec = f"{model}@production"
    assert client_of(pair.gated).get_model_version_by_alias(model, "production").version == version
    verified = guardrail("verify", spec, *by_trust(pair))
    assert verified.exit_code == 0, verified.output
    assert "the policy and the base are pinned by version" in verified.output
    assert "DANGER" not in verified.output
    assert guardrail("pull", spec, "--to", str(tmp_path / "pulled"), *by_trust(pair)).exit_code == 0
    by_key = guardrail("verify", spec, "--key", str(pair.people.decider.public_file), *at(pair))
    assert by_key.exit_code == 0
    assert ("NOT PINNED" in by_key.output) == (model == "base-by-trust")  # a key says nothing of trust files


@pytest.fixture
def restored(pair: Pair) -> Iterator[Pair]:
    """Afterwards the usual trust file is there again, under a higher version."""
    yield pair
    now = read_unverified_trust(pair.people.trust_file.read_bytes())
    pair.people.write(pair.people.trust(version=now.version + 1))


def repin(pair: Pair, model: GuardedModel) -> None:
    """The next version of the trust file, which says this of the model."""
    now = read_unverified_trust(pair.people.trust_file.read_bytes())
    others = tuple(one for one in now.models if one.name != model.name)
    pair.people.write(
        signed(now.model_copy(update={"version": now.version + 1, "models": (*others, model)}), pair.people.root)
    )


def changes_of_mind() -> dict[str, GuardedModel]:
    """What the trust file may come to say of a model whose alias points at an adapter on the embedded base."""
    before = MODELS["base-moving"].guarded("base-moving")
    (alias,) = before.aliases
    another = before.model_copy(update={"bases": (changed("template").digest,)})
    policy = alias.model_copy(update={"policy": sha256(b"a newer policy")})
    return {"another base": another, "another policy": before.model_copy(update={"aliases": (policy,)})}


@pytest.mark.parametrize("how", changes_of_mind())
def test_what_is_not_pinned_any_more_is_not_handed_out_moved_to_or_verified(
    restored: Pair, tmp_path: Path, how: str
) -> None:
    from mlflow.exceptions import MlflowException

    model, spec, seed = "base-moving", "base-moving@production", 10 * len(how)
    first, second = (promote(restored, tmp_path / str(n), model, seed + n) for n in (1, 2))
    client = client_of(restored.gated)
    repin(restored, changes_of_mind()[how])
    for move in (
        lambda: client.get_model_version_by_alias(model, "production"),
        lambda: client.set_registered_model_alias(model, "production", second),
        lambda: propose(client, made(tmp_path / "b", restored, Case(model, BASE, "")), tmp_path / "c", model),
    ):
        with pytest.raises(MlflowException, match=GATE):
            move()
    for command in (("verify",), ("pull", "--to", str(tmp_path / "pulled"))):
        said = guardrail(command[0], spec, *command[1:], *by_trust(restored))
        assert isinstance(said.exception, GuardrailError)
        assert said.exception.exit_code == 11
    assert not (tmp_path / "pulled").exists()
    with pytest.raises(GuardrailError, match="trust file"):
        gate_of(restored.gated).submit(_rollback(restored, first, second))
    listed = guardrail("registry", "list", *by_trust(restored))
    assert [line for line in listed.output.splitlines() if "base-moving" in line and "unpinned" in line], listed.output


def test_a_policy_that_was_good_enough_is_not_any_more_where_the_trust_file_asks_more(
    restored: Pair, tmp_path: Path
) -> None:
    model = "base-by-policy"
    promote(restored, tmp_path, model, seed=77)
    repin(restored, MODELS[model].guarded(model).model_copy(update={"least": Least(max_valid_days=7)}))
    said = guardrail("verify", f"{model}@production", *by_trust(restored))
    assert isinstance(said.exception, GuardrailError)
    assert "valid for 30 days, at most 7 are allowed" in said.exception.message()


def _rollback(pair: Pair, to: str, from_: str) -> bytes:
    client, now = client_of(pair.gated), datetime.now(UTC)
    head, approver = last(gate_of(pair.gated)), pair.people.approvers[0]
    assert head
    manifest = client.get_model_version("base-moving", to).tags["guardrail.adapter_sha256"]
    order = orders.Rollback(
        model="base-moving",
        alias="production",
        from_version=from_,
        to_version=to,
        manifest=manifest,
        reason="it talks",
        ledger=head.digest,
        not_before=now,
        expires=now + timedelta(hours=1),
    )
    return sign(orders.build(order), approver.private)


def guardrail(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def at(pair: Pair) -> tuple[str, ...]:
    """Where the server is."""
    return ("--tracking-uri", pair.gated.uri)


def by_trust(pair: Pair) -> tuple[str, ...]:
    """The trust file, as commands take it."""
    return (*at(pair), "--trust", str(pair.people.trust_file), "--root", str(pair.people.root.public_file))
