"""The chain of stages: whoever is not allowed, whatever does not fit, and whatever is late is refused."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_evidence import BASE
from stage_chains import BOUND, NONCE, TARGET, chain, check_chain, statement
from trust_files import CAST, MODEL, NOW, entries, guarded, ids, trust

from guardrail.errors import (
    AwaitingApproval,
    EvidenceInvalid,
    EvidenceMissing,
    GuardrailError,
    InvalidInput,
    PolicyDenied,
)
from guardrail.evidence.chain.stage_chain import Chain, ChainTarget
from guardrail.evidence.digest import sha256
from guardrail.evidence.statements.stage_statement import STAGES, Approval, Binding, Stage, SuiteDigest
from guardrail.evidence.trust.trust_file import Trust

GOOD = chain()
EVALUATED = sha256(GOOD["evaluate"])


def check(
    envelopes: Iterable[bytes], given_trust: Trust | None = None, target: ChainTarget = TARGET, **given: Any
) -> Chain:
    return check_chain(envelopes, given_trust or trust(), target, **{"now": NOW, **given})


def test_an_honest_chain_holds_in_any_order() -> None:
    found = check(GOOD.values())
    assert found == check(reversed(GOOD.values()))
    assert found.bound == BOUND
    assert found.approved_by == ("Ana Ruiz",)
    assert found.expires == NOW + timedelta(days=30)
    assert not found.one_person_may_train_evaluate_and_approve


def test_the_stages_before_may_state_all_that_the_evaluation_does() -> None:
    told = {name: getattr(BOUND, name) for name in ("manifest", "suites", "judges")}
    assert check(chain("data", **told).values()).bound == BOUND
    assert check(chain("train", **told).values()).bound == BOUND


OTHER: dict[str, Any] = {
    "model": "another",
    "alias": "staging",
    "policy": sha256(b"laxer"),
    "nonce": "f" * 64,
    "dataset": sha256(b"other"),
    "manifest": sha256(b"other"),
    "judges": sha256(b"other"),
    "waivers": sha256(b"other"),
    "suites": (SuiteDigest(name="harmful", digest=sha256(b"easier")),),
    "base": BASE.model_copy(update={"revision": "other"}),
}


def test_every_binding_has_another_value_in_these_tests() -> None:
    assert set(OTHER) == set(Binding.model_fields)


@pytest.mark.parametrize("name", OTHER)
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_binds_something_else_is_refused(stage: Stage, name: str) -> None:
    with pytest.raises(EvidenceInvalid):
        check(chain(stage, **{name: OTHER[name]}).values())


@pytest.mark.parametrize("part", ["name", "revision", "digest", "architecture", "dtype", "template"])
def test_every_part_of_the_base_is_bound(part: str) -> None:
    value = {"digest": "0" * 64, "template": "fallback"}.get(part, "other")
    with pytest.raises(EvidenceInvalid, match="binds another base"):
        check(chain("train", base=BASE.model_copy(update={part: value})).values())


@pytest.mark.parametrize("name", ["model", "alias", "policy", "nonce"])
def test_a_whole_chain_for_another_target_is_refused(name: str) -> None:
    """A replay: well signed, agreeing with itself, but for another model, alias, policy or candidate."""
    made: dict[Stage, bytes] = {}
    after: str | None = None
    for stage in STAGES:
        made[stage] = statement(stage, after, **{name: OTHER[name]})
        after = sha256(made[stage])
    with pytest.raises(EvidenceInvalid, match=f"made for another {name}"):
        check(made.values())


@pytest.mark.parametrize("stage", ["data", "train", "evaluate"])
def test_a_stage_that_is_missing_is_not_invalid_but_missing(stage: Stage) -> None:
    with pytest.raises(EvidenceMissing, match=f"no {stage} statement"):
        check(data for name, data in GOOD.items() if name != stage)


@pytest.mark.parametrize("stage", ["data", "train", "evaluate"])
def test_two_statements_of_a_stage_leave_nothing_to_choose_from(stage: Stage) -> None:
    with pytest.raises(EvidenceInvalid, match=f"2 {stage} statements"):
        check([*GOOD.values(), chain(stage, expires=NOW + timedelta(days=90))[stage]])


@pytest.mark.parametrize("stage", ["train", "evaluate", "approve"])
def test_a_stage_that_follows_another_is_refused(stage: Stage) -> None:
    with pytest.raises(EvidenceInvalid, match=f"the {stage} statement follows another"):
        check(chain(stage, after="0" * 64).values())


def test_an_approval_of_another_report_is_refused() -> None:
    with pytest.raises(EvidenceInvalid, match="another evaluation report"):
        check(chain("approve", record="0" * 64).values())


NOBODY: dict[Stage, tuple[str, ...]] = {
    "data": ("evaluate", "ana", "server", "stranger"),
    "train": ("evaluate", "ana", "server", "stranger"),
    "evaluate": ("train", "ana", "server", "stranger"),
    "approve": ("train", "evaluate", "cem", "server", "stranger"),
}


@pytest.mark.parametrize(("stage", "name"), [(stage, name) for stage, names in NOBODY.items() for name in names])
def test_only_a_key_of_the_role_signs_a_stage(stage: Stage, name: str) -> None:
    """The trainer's key as evaluator among them; a good signature beside it does not help."""
    honest = {"data": "train", "train": "train", "evaluate": "evaluate", "approve": "ana"}[stage]
    for signer in ((name,), (name, honest)):
        with pytest.raises(EvidenceInvalid, match=f"the {stage} statement is signed by"):
            check(chain(stage, signer=signer).values())


@settings(max_examples=200)
@given(st.data())
def test_changing_any_byte_is_refused(data: st.DataObject) -> None:
    stage = data.draw(st.sampled_from(STAGES))
    old = GOOD[stage]
    position = data.draw(st.integers(0, len(old) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda value: value != old[position]))
    changed = {**GOOD, stage: old[:position] + bytes([value]) + old[position + 1 :]}
    with pytest.raises(EvidenceInvalid):
        check(changed.values())


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_out_of_its_time_is_refused(stage: Stage) -> None:
    with pytest.raises(EvidenceInvalid, match="expired"):
        check(chain(stage, expires=NOW).values())
    with pytest.raises(EvidenceInvalid, match="holds only from"):
        check(chain(stage, not_before=NOW + timedelta(minutes=6)).values())
    assert check(chain(stage, not_before=NOW + timedelta(minutes=4)).values())


def test_the_chain_expires_with_the_first_of_its_statements() -> None:
    assert check(chain("data", expires=NOW + timedelta(days=2)).values()).expires == NOW + timedelta(days=2)


@pytest.mark.parametrize(
    "target",
    [
        ChainTarget("another", "production", NONCE),
        ChainTarget(MODEL, "staging", NONCE),
        ChainTarget(MODEL.upper(), "production", NONCE),
        ChainTarget(MODEL, "Production", NONCE),
        ChainTarget(MODEL + " ", "production", NONCE),
    ],
)
def test_only_a_guarded_target_under_its_own_spelling_is_checked(target: ChainTarget) -> None:
    with pytest.raises(InvalidInput, match="is not guarded"):
        check(GOOD.values(), target=target)


# persons


def test_a_trainer_who_evaluates_is_refused_even_where_the_trust_file_was_not_asked() -> None:
    """As a second line: the trust file itself refuses such roles."""
    both = trust(keys=entries(**{**CAST, "evaluate": "Training Pipeline"}))
    with pytest.raises(EvidenceInvalid, match="signed both train and evaluate"):
        check(GOOD.values(), both)
    approver = trust(keys=entries(**{**CAST, "ana": CAST["train"]}))
    with pytest.raises(EvidenceInvalid, match="signed both train and approve"):
        check(GOOD.values(), approver)


def test_the_single_person_mode_is_passed_on_to_be_shown() -> None:
    alone = trust(keys=entries(**dict.fromkeys(CAST, "Ana Ruiz")), one_person_may_train_evaluate_and_approve=True)
    assert check(GOOD.values(), alone).one_person_may_train_evaluate_and_approve


# approvals


def votes(*names: str, **changes: Any) -> list[bytes]:
    made = [GOOD[stage] for stage in ("data", "train", "evaluate")]
    return made + [statement("approve", EVALUATED, (name,), **changes) for name in names]


@pytest.mark.parametrize(
    ("names", "needed", "waits"),
    [
        ((), 0, False),
        (("ana",), 0, False),
        ((), 1, True),
        (("ben",), 1, False),
        (("ana",), 2, True),
        (("ana", "ana"), 2, True),
        (("ana", "ben"), 2, False),
    ],
)
def test_approvals_count_different_persons(names: tuple[str, ...], needed: int, waits: bool) -> None:
    value = trust(models=(guarded(approvals=needed),))
    if waits:
        with pytest.raises(AwaitingApproval):
            check(votes(*names), value)
    else:
        assert len(check(votes(*names), value).approved_by) == len(set(names))


def test_two_keys_of_one_person_approve_once() -> None:
    value = trust(
        models=(guarded(approvals=2),),
        keys=entries(**CAST, ana2=CAST["ana"]),
        roles=trust().roles.model_copy(update={"approve": ids("ana", "ana2", "ben")}),
    )
    with pytest.raises(AwaitingApproval):
        check(votes("ana", "ana2"), value)


def test_one_no_outweighs_every_yes() -> None:
    no = statement("approve", EVALUATED, ("ben",), approval=Approval(approved=False, reason="not on a Friday"))
    with pytest.raises(PolicyDenied, match="Ben Otieno rejected it: 'not on a Friday'"):
        check([*votes("ana"), no], trust(models=(guarded(approvals=1),)))


def test_what_is_wrong_is_told_before_what_is_awaited() -> None:
    for wrong in ({"expires": NOW}, {"nonce": "f" * 64}):
        made = chain("train", **wrong)
        del made["approve"]
        with pytest.raises(EvidenceInvalid):
            check(made.values())


@settings(max_examples=60)
@given(st.lists(st.sampled_from(STAGES), max_size=6))
def test_any_mixture_of_statements_ends_in_a_chain_or_an_error_of_ours(stages: list[Stage]) -> None:
    try:
        found = check(GOOD[stage] for stage in stages)
    except GuardrailError:
        return
    assert set(stages) == set(STAGES)
    assert found.approved_by == ("Ana Ruiz",)
