"""Every token that the tokenizer makes has a row in the model's embedding; without one the model ends in an IndexError.

A tokenizer is longer than the embedding where tokens were added and the model was not resized: that base is refused.
Gemma 3 1B is published with one special token too many (for images, which it cannot see), and transformers adds some
that the files never had: a special token that has no part in any chat is taken out, so that its name is read as the
plain text that it is. Not covered: an embedding that is
longer, which many models have so that its size is a round number.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from guardrail.errors import InvalidInput


def require_embedded(tokenizer: Any, rows: int) -> None:
    """Refuse a tokenizer that makes ids of ``rows`` or more; special tokens that nothing uses are taken out of it.

    Raises:
        InvalidInput: naming the tokens, and both numbers.
    """
    outside = {token: id_ for token, id_ in tokenizer.get_vocab().items() if id_ >= rows}
    needed = sorted(token for token in outside if _used(tokenizer, token))
    if needed or (outside and not tokenizer.is_fast):
        raise _refusal(needed or outside, max(outside.values()), rows)
    if outside:
        _take_out(tokenizer, outside)


def _used(tokenizer: Any, token: str) -> bool:
    """Whether a text or a chat may hold the token: it is no special one, has a part, or the template writes it."""
    special = {str(known) for known in tokenizer.added_tokens_decoder.values() if known.special}
    template = json.dumps(tokenizer.chat_template, ensure_ascii=False)
    begins = token == tokenizer.bos_token and "bos_token" in template
    named = {tokenizer.eos_token, tokenizer.pad_token, _of_unknown(tokenizer)}
    return token not in special or token in named or begins or token in template


def _of_unknown(tokenizer: Any) -> object:
    """What the vocabulary itself writes for what it does not know; transformers may name another, which is not used."""
    return json.loads(tokenizer.backend_tokenizer.to_str())["model"].get("unk_token") if tokenizer.is_fast else None


def _take_out(tokenizer: Any, tokens: Iterable[str]) -> None:
    from tokenizers import Tokenizer

    said = json.loads(tokenizer.backend_tokenizer.to_str())
    gone = set(tokens)
    said["added_tokens"] = [one for one in said["added_tokens"] if one["content"] not in gone]
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(said))
    for role in ("bos_token", "unk_token"):  # transformers would look for the number of one that is not there
        if getattr(tokenizer, role) in gone:
            setattr(tokenizer, role, None)


def _refusal(tokens: Iterable[str], highest: int, rows: int) -> InvalidInput:
    shown = ", ".join(repr(token) for token in sorted(tokens)[:5])
    return InvalidInput(
        f"the base's tokenizer makes ids up to {highest}, such as for {shown}, and its embedding has {rows} rows",
        expected=f"ids below {rows}",
        next_step="give the tokenizer that belongs to these weights, or resize the model's embedding "
        "(resize_token_embeddings) and save both again",
    )
