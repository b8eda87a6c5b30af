"""Generation in this process with transformers: the base, or the base with an adapter attached.

Greedy and batched. A batch that fails (out of memory, a token out of range) is asked again row by row; a row that
fails alone becomes an error, and so does a prompt that leaves no room for the longest answer: a shorter room would cut
off a refusal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from guardrail.evaluate.engines import Reply, Request
from guardrail.model.chat import encode_prompt, user
from guardrail.model.generate import GeneratedAnswer, generate, lacks_room
from guardrail.model.load import BaseModel
from guardrail.progress import Tick


@dataclass(frozen=True)
class TransformersEngine:
    """``model`` is the base with an adapter, or None for the base itself."""

    base: BaseModel
    model: Any = None
    max_new_tokens: int = 48
    batch_size: int = 64
    name: str = "transformers"

    def answer(self, requests: Sequence[Request], progress: Tick | None = None) -> list[Reply]:
        """One reply per request; prompts that leave no room for ``max_new_tokens`` are errors."""
        encoded = [encode_prompt(self.base.tokenizer, user(r.text, r.system), r.prefill) for r in requests]
        replies = [Reply(text="", error=lacks_room(self.base, prompt, self.max_new_tokens)) for prompt in encoded]
        fitting = [index for index, reply in enumerate(replies) if not reply.error]
        fitting.sort(key=lambda index: len(encoded[index]))
        if progress and len(fitting) < len(replies):
            progress(len(replies) - len(fitting))
        for start in range(0, len(fitting), self.batch_size):
            indices = fitting[start : start + self.batch_size]
            for index, reply in zip(indices, self._batch([encoded[i] for i in indices]), strict=True):
                replies[index] = reply
            if progress:
                progress(len(indices))
        return replies

    def _batch(self, prompts: list[tuple[int, ...]]) -> list[Reply]:
        try:
            return [_reply(answer) for answer in self._generate(prompts)]
        except (RuntimeError, IndexError, ValueError) as error:
            if len(prompts) == 1:
                return [Reply(text="", error=f"{type(error).__name__}: {str(error)[:200]}")]
            return [reply for prompt in prompts for reply in self._batch([prompt])]

    def _generate(self, prompts: list[tuple[int, ...]]) -> list[GeneratedAnswer]:
        return generate(
            self.base, prompts, max_new_tokens=self.max_new_tokens, batch_size=len(prompts), model=self.model
        )


def _reply(answer: GeneratedAnswer) -> Reply:
    return Reply(text=answer.text, finished=answer.finished)
