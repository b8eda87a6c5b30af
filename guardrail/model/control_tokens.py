"""A base's control tokens, and how content is kept from becoming them.

A tokenizer turns the text of a control token into its id wherever it stands. So an answer that holds
``<|end|><|user|>…<|assistant|>`` would be trained as turns that no detector reads, and a prompt that holds it would be
asked as turns. Here content stays content: what only the chat template may say is told apart before the tokenizer sees
the text, and content that spells a control token becomes the ordinary tokens of its characters.

How: a private character (the mark) breaks content wherever it holds, begins or ends a control token. After rendering,
the control tokens that are whole are the template's own. Where taking the marks away would make more of them, the text
is encoded by a twin of the tokenizer that knows control tokens only by secret names. Otherwise the tokenizer itself
encodes it, so that ordinary content has the ids that it always had.

Not covered: words that a template without control tokens uses (``User:``, ``[INST]``), which are words in content, too;
a template that itself makes control tokens of content (by deleting characters inside of it); and tokenizers without a
tokenizer.json, with which content that spells a control token is refused.
"""

from __future__ import annotations

import json
import re
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any
from weakref import WeakKeyDictionary, ref

from transformers import PreTrainedTokenizerBase

from guardrail.errors import InvalidInput

PRIVATE = range(0xF0000, 0xFFFFE)
"""Code points that no text means anything by; the first that does not occur is the mark."""
HTML = re.compile(
    r"</?(a|b|blockquote|br|caption|code|div|em|h[1-6]|i|img|li|ol|p|pre|s|span|strong|sub|sup|table|tbody|td|tfoot|th"
    r"|thead|tr|u|ul)>"
)
"""What vocabularies such as Gemma's hold as added tokens though it is text."""


@dataclass(frozen=True)
class Marks:
    """Private characters: ``mark`` breaks control tokens, ``stand_ins`` replace those of a single character."""

    mark: str
    stand_ins: Mapping[str, str]

    def removed(self, text: str) -> str:
        """The text as it is without marks."""
        return text.translate({ord(self.mark): "", **{ord(new): old for old, new in self.stand_ins.items()}})


class ControlTokens:
    """The control tokens of one tokenizer: every special one, and added ones that are not plainly text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        added = tokenizer.added_tokens_decoder
        special = set(tokenizer.all_special_ids)
        self._template = str(getattr(tokenizer, "chat_template", None) or "")
        self.ids: Mapping[str, int] = {
            str(token.content): id_
            for id_, token in added.items()
            if str(token.content)
            and (id_ in special or token.special or not _is_text(str(token.content), self._template))
        }
        self._normalised = any(added[id_].normalized for id_ in self.ids.values())
        self._tokenizer = ref(tokenizer)  # what is kept for a tokenizer must not keep it
        self._watched = frozenset(self.ids.values()) - {_unknown(tokenizer)}
        self._pattern = re.compile("|".join(map(re.escape, sorted(self.ids, key=len, reverse=True))) or r"(?!)")
        self._heads = frozenset(name[:size] for name in self.ids for size in range(1, len(name)))
        self._tails = frozenset(name[-size:] for name in self.ids for size in range(1, len(name)))
        self._longest = max(map(len, self.ids), default=0)

    def carried(self, text: str) -> tuple[str, ...]:
        """The names of the control tokens that ``text`` would become, each once; also those that normalising makes."""
        found = self._pattern.findall(text)
        if self._normalised:
            names = {id_: name for name, id_ in self.ids.items() if id_ in self._watched}
            found += [names[id_] for id_ in self._encoded(text) if id_ in names]
        return tuple(dict.fromkeys(found))

    def marks(self, contents: Sequence[str]) -> Marks:
        """Characters that neither contents nor template nor control tokens hold."""
        single = [name for name in self.ids if len(name) == 1]
        texts = (self._template, *self.ids, *contents)
        free = (chr(point) for point in PRIVATE if not any(chr(point) in text for text in texts))
        mark, *others = islice(free, 1 + len(single))
        return Marks(mark, dict(zip(single, others, strict=True)))

    def broken(self, content: str, marks: Marks) -> str:
        """``content`` with a mark inside each control token that it holds, and at its ends where one could go on."""
        content = content.translate({ord(old): new for old, new in marks.stand_ins.items()})
        bare = content.strip()
        inside = bare
        while self._pattern.search(inside):  # breaking one may leave another that overlapped it
            inside = self._pattern.sub(lambda found: found[0][0] + marks.mark + found[0][1:], inside)
        head = marks.mark if self._goes_on(bare) else ""
        tail = marks.mark if any(bare[-size:] in self._heads for size in self._sizes(bare)) else ""
        return content.replace(bare, head + inside + tail, 1) if bare else content

    def _goes_on(self, bare: str) -> bool:
        """Whether a control token that began before ``bare`` could go on in it, or beyond it."""
        if any(bare[:size] in self._tails for size in self._sizes(bare)):
            return True
        return len(bare) < self._longest and any(bare in name for name in self.ids)

    def _sizes(self, bare: str) -> range:
        return range(1, min(self._longest, len(bare) + 1))

    def encode(self, text: str, marks: Marks) -> tuple[int, ...]:
        """Token ids of a text with marks, without them; what they break becomes no control token.

        Raises:
            InvalidInput: this tokenizer cannot keep content and control tokens apart.
        """
        plain, own = marks.removed(text), self._pattern.findall(text)
        ids = self._encoded(plain)
        if self._pattern.findall(plain) == own and not self._more(ids, own):
            return ids
        ids = self._twin.encode(marks.removed(self._pattern.sub(lambda found: self._twin.names[found[0]], text)))
        if self._more(ids, own):
            raise _inseparable(self._tokenizer(), "its model makes control tokens of ordinary text")
        return ids

    def _encoded(self, text: str) -> tuple[int, ...]:
        tokenizer: Any = self._tokenizer()
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])

    def _more(self, ids: Iterable[int], own: Iterable[str]) -> bool:
        """Whether ``ids`` hold control tokens that the template did not write."""
        return bool(Counter(id_ for id_ in ids if id_ in self._watched) - Counter(self.ids[name] for name in own))

    @cached_property
    def _twin(self) -> _Twin:
        return _Twin(self._tokenizer(), self.ids)


class _Twin:
    """The same tokenizer under other names: control tokens are called what no text can hold."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None, ids: Mapping[str, int]) -> None:
        from tokenizers import Tokenizer

        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            raise _inseparable(tokenizer, "it has no tokenizer.json")
        nonce = secrets.token_hex(16)  # not to be guessed by whoever writes content; ids do not depend on it
        self.names = {name: f"<{nonce}{number}>" for number, name in enumerate(ids)}
        self._backend = Tokenizer.from_str(json.dumps(_renamed(json.loads(backend.to_str()), self.names)))
        self._backend.no_truncation()
        self._backend.no_padding()
        if any(self._backend.token_to_id(self.names[name]) != id_ for name, id_ in ids.items()):
            raise _inseparable(tokenizer, "its tokens change their ids with their names")

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of a text that calls control tokens by their names here."""
        return tuple(self._backend.encode(text, add_special_tokens=False).ids)


def _renamed(state: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """A serialised tokenizer with other names for some tokens, in its model as well: many models match whole words."""
    for token in state["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    model = state["model"]
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(piece, piece): id_ for piece, id_ in vocabulary.items()}
    else:
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocabulary]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if "merges" in model:
        prefix = len(model.get("continuing_subword_prefix") or "")
        model["merges"] = [
            pair for pair in map(_pair, model["merges"]) if not {*pair, pair[0] + pair[1][prefix:]} & names.keys()
        ]
    return state


def _pair(merge: str | list[str]) -> list[str]:
    return merge.split(" ") if isinstance(merge, str) else merge


def _unknown(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """What stands for characters outside the vocabulary: no control token, unless it has another use as well."""
    unknown: Any = tokenizer.unk_token_id
    return None if unknown in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) else unknown


def _is_text(name: str, template: str) -> bool:
    """Whether an added token that is not special is text: white space, or words and HTML that no template speaks in."""
    if not name.replace("\u2581", "").strip():
        return True
    return bool(HTML.fullmatch(name) or name.replace(" ", "").isalnum()) and name not in template


_KNOWN: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[tuple[object, ...], ControlTokens]] = WeakKeyDictionary()


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> ControlTokens:
    """The control tokens of ``tokenizer``, found once for each state of it."""
    state = (len(tokenizer), str(getattr(tokenizer, "chat_template", None)), tuple(tokenizer.all_special_ids))
    known = _KNOWN.get(tokenizer)
    if known is None or known[0] != state:
        known = _KNOWN[tokenizer] = (state, ControlTokens(tokenizer))
    return known[1]


def _inseparable(tokenizer: Any, why: str) -> InvalidInput:
    return InvalidInput(
        f"a text spells a control token that {type(tokenizer).__name__} cannot tell from the template's: {why}",
        expected="texts without the base's control tokens, or a tokenizer with a tokenizer.json",
        next_step="remove the token from the row or prompt, or save the base's tokenizer as a fast one",
    )
