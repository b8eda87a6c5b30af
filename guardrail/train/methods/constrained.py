"""Token-weighted constrained fine-tuning: hold the first tokens of an answer, where refusing is decided, near the base.

L = mean over answer tokens of (2 / beta_t) softplus(beta_t (log p_base(y_t) - log p(y_t))), t the token's place in its
answer. For small beta_t it is cross-entropy (up to a constant); for large beta_t a token that has become likelier than
the base finds it is hardly trained any further. beta is ``first`` for the first token, ``early`` for the next four and
``rest`` for the others, with the source's values.

Source: Qi et al., "Safety Alignment Should Be Made More Than Just a Few Tokens Deep", ICLR 2025 (arXiv 2406.05946).
Needs no replay; the base's states on the user's rows are cached, and projected to the vocabulary again in every epoch
(one log-probability a token would do).
"""

from __future__ import annotations

from types import MappingProxyType

import torch
import torch.nn.functional as F  # noqa: N812

from guardrail.train.distillation import summed, wide
from guardrail.train.methods import Answers, Method, Step, teacher_of

EARLY = 5  # the place of the last token that counts as early, from 1


class Constrained(Method):
    """L = (2 / beta_t) softplus(beta_t (log p_base - log p))."""

    user_teacher = True
    defaults = MappingProxyType({"first": 0.5, "early": 2.0, "rest": 0.1})
    positive = frozenset(defaults)

    def user_loss(self, step: Step, user: Answers) -> torch.Tensor:
        """See the class."""
        teacher, weights = teacher_of(user), self._weights(user.places)

        def loss(states: torch.Tensor, at: slice) -> torch.Tensor:
            ahead = _log_p(step, teacher[at].to(states.dtype), user.tokens[at]) - _log_p(step, states, user.tokens[at])
            beta = weights[at].to(ahead.dtype)
            return (2.0 / beta * F.softplus(beta * ahead)).sum()

        return summed(user.states, loss) / user.total

    def _weights(self, places: torch.Tensor) -> torch.Tensor:
        """beta of each token."""
        betas = torch.full(places.shape, self.number("rest"), dtype=torch.float64, device=places.device)
        return betas.masked_fill(places < EARLY, self.number("early")).masked_fill(places == 0, self.number("first"))


def _log_p(step: Step, states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    logits = wide(step.project(states))
    return -F.cross_entropy(logits, tokens, reduction="none")


METHOD = Constrained
