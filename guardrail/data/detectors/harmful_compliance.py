"""Flags samples whose request is harmful, by the base model's own hidden states, and whose answer complies.

The base model represents a request as harmful before it answers, along a direction that a linear probe finds
(Arditi et al. 2024, Refusal in Language Models Is Mediated by a Single Direction; Zheng et al. 2024, On Prompt-Driven
Safeguarding). The probe is fitted on known harmful and known benign requests; its threshold is cross-fitted so that
at most 1% of new benign requests like the anchors exceed it. User data is often like neither kind of anchor, and the
direction alone would call much of it harmful; so a request is flagged only if its state also lies as near to the known
harmful ones as they do to each other. An answer that refuses is no poison, whatever was asked.

Not covered: requests unlike the harmful anchors, which is what a translation, a cipher or a **trigger phrase** makes of
them (measured in docs/data.md: with a trigger most poison is missed); benign-looking requests with harmful answers; and
answers that open with a refusal and then comply.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from guardrail.data.detectors import Context, Flag
from guardrail.errors import InternalError, InvalidInput
from guardrail.refusal_phrases import is_refusal
from guardrail.samples import Sample

if TYPE_CHECKING:
    from guardrail.data.detectors._probe import Array, Probe, ProbeLimits

SOURCE = "Arditi et al. 2024, Refusal in Language Models Is Mediated by a Single Direction (linear probe, LDA)"
FALSE_POSITIVE_RATE = 0.01
FEWEST = 20
"""Anchors of each kind; below, five folds leave too little to fit on."""


def detect(samples: Sequence[Sample], context: Context) -> Iterable[Flag]:
    """Samples that comply with a request beyond the threshold; the score is 1/2 at the mean harmful anchor."""
    fitted = _fitted(context)
    complying = [s for s in samples if s.readings and s.response.strip() and not is_refusal(s.response)]
    requests = list(dict.fromkeys(text for sample in complying for text in sample.readings))
    if not requests:
        return
    scores = _harmful(fitted, requests, _states(context, requests))
    for sample in complying:
        score = max((scores[text] for text in sample.readings if text in scores), default=None)
        if score is not None:
            least = fitted.limits.threshold
            reason = f"complies with a request that the base model takes for harmful ({score:.2f} > {least:.2f})"
            yield Flag(sample_id=sample.id, score=score, reason=reason)


def threshold(context: Context) -> float:
    """The probe score that at most 1% of benign requests like the anchors exceed."""
    return _fitted(context).limits.threshold


@dataclass(frozen=True, eq=False)
class _Fitted:
    probe: Probe
    limits: ProbeLimits


_FITTED: WeakKeyDictionary[Context, _Fitted] = WeakKeyDictionary()


def _harmful(fitted: _Fitted, requests: Sequence[str], states: Array) -> dict[str, float]:
    """Request -> score, of those that count as harmful."""
    from guardrail.data.detectors._probe import within

    chosen = zip(requests, fitted.probe.score(states), within(fitted.probe, states, fitted.limits), strict=True)
    return {request: float(score) for request, score, harmful in chosen if harmful}


def _fitted(context: Context) -> _Fitted:
    if context not in _FITTED:
        _FITTED[context] = _fit(context)
    return _FITTED[context]


def _fit(context: Context) -> _Fitted:
    from guardrail.data.detectors._probe import calibrate, fit

    harmful, benign = _anchors(context)
    states = _states(context, [*harmful, *benign])
    one, two = states[: len(harmful)], states[len(harmful) :]
    return _Fitted(fit(one, two), calibrate(one, two, FALSE_POSITIVE_RATE))


def _anchors(context: Context) -> tuple[list[str], list[str]]:
    harmful, benign = list(dict.fromkeys(context.known_harmful)), list(dict.fromkeys(context.known_benign))
    if min(len(harmful), len(benign)) < FEWEST:
        raise InvalidInput(
            f"harmful_compliance has {len(harmful)} harmful and {len(benign)} benign anchors",
            expected=f"at least {FEWEST} distinct ones of each kind",
            next_step="name larger anchor suites, or leave the detector out",
        )
    if shared := set(harmful) & set(benign):
        raise InvalidInput(
            f"{len(shared)} anchors are both harmful and benign",
            expected="disjoint anchors",
            next_step="remove them from one of the two suites",
        )
    return harmful, benign


def _states(context: Context, texts: Sequence[str]) -> Array:
    from guardrail.data.detectors._probe import finite

    try:
        states = finite(context.embed(texts))
    except ValueError as error:
        raise InternalError(
            f"the base model gives {error}",
            expected=f"{len(texts)} finite vectors",
            next_step="check the model's weights and its number format (float16 may overflow)",
        ) from error
    if len(states) != len(texts):
        raise InternalError(f"{len(states)} hidden states for {len(texts)} requests", expected="one for each")
    return states
