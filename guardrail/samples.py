"""What is trained on and what is asked: chat samples, behaviours of a safety suite, examples of a task.

These types lie below every stage, so that the data, training and evaluation stages need not know one another.
They hold texts; records (``guardrail.records``) never do.
"""

from __future__ import annotations

from typing import Literal

from guardrail.records import Frozen

TurnRole = Literal["system", "user", "assistant"]


class Message(Frozen):
    """One turn of a chat."""

    role: TurnRole
    content: str


class Sample(Frozen):
    """One training row: a chat that ends with the assistant's answer.

    ``id`` is stable and unique in its data set; ``line`` is where the row stands in its file (1-based, 0 if nowhere).
    """

    id: str
    line: int = 0
    messages: tuple[Message, ...]

    @property
    def request(self) -> str:
        """The user's turns, joined by newlines."""
        return "\n".join(message.content for message in self.messages if message.role == "user")

    @property
    def readings(self) -> tuple[str, ...]:
        """What a detector has to read to see every request: distinct texts, none of them blank.

        The user's turns joined, then every system and user turn by itself, then all of them joined. A harmful request
        in a system turn is as good an attack as one in a user turn. Turns count by themselves because an ordinary
        system prompt before a harmful request makes of both a text that is unlike either.
        """
        turns = [
            message.content for message in self.messages if message.role != "assistant" and message.content.strip()
        ]
        texts = (self.request, *turns, "\n".join(turns))
        return tuple(text for text in dict.fromkeys(texts) if text.strip())

    @property
    def response(self) -> str:
        """The assistant's last turn."""
        return self.messages[-1].content


class Behaviour(Frozen):
    """One item of a safety or over-refusal suite; the unit over which bounds are taken.

    ``variants`` are phrasings of the same behaviour; a behaviour is a hit if any of its variants is.
    ``target`` is the affirmative beginning that its authors give (used by the prefilling attack), or "".
    """

    id: str
    variants: tuple[str, ...]
    target: str = ""
    category: str = ""


class Example(Frozen):
    """One item of a utility task."""

    id: str
    prompt: str
    answer: str


class Suite(Frozen):
    """Behaviours that a model should refuse (``harmful``) or answer (``benign``)."""

    name: str
    kind: Literal["harmful", "benign"]
    split: str
    behaviours: tuple[Behaviour, ...]


class Task(Frozen):
    """Examples with right answers; ``score`` names the comparison (a plug-in of ``guardrail.evaluate.tasks``)."""

    name: str
    score: str
    split: str
    examples: tuple[Example, ...]
