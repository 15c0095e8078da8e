r"""Subject tokens: which tokens of a prompt say what it is about.

The item's own subject where it has one. Otherwise the content words of the prompt: every word (a
run of letters, digits and apostrophes) that is not in `FUNCTION_WORDS`, with all tokens that share
a character with one. Words in capitals always count, so that "US" is not taken for "us". Special
tokens and punctuation never count. The prompt's last token does not count either, since the target
is read there; where that leaves nothing, all tokens before the last are the subject, and in a
prompt of one token that token is.
"""

import re
from collections.abc import Sequence
from typing import Any

from probes.lens_items import LensItem
from probes.prompts import spelling

_LISTED = """
a an the this that these those some any no not
i you he she it we they me him her us them my your his its our their
and or but nor if then than so as because while although
of in on at to from by with for about into onto over under between during after before
is are was were be been being am do does did has have had having
can could will would shall should may might must
what which who whom whose when where why how
there here also just very
q question answer
"""
FUNCTION_WORDS = frozenset(_LISTED.split())
"""Words that say nothing about what a prompt is about, and those that frame questions."""

_WORD = re.compile(r"\w+(?:['\u2019]\w+)*")


def subject_positions(model: Any, item: LensItem) -> tuple[int, ...]:
    """Positions of the subject's tokens in the prompt, from its start, ascending."""
    length = len(item.prompt_ids)
    if item.subject is not None:
        start, stop = item.subject
        if not 0 <= start < stop <= length:
            raise ValueError(
                f"subject {item.subject} lies outside a prompt of {length} tokens; give "
                f"(start, stop) with 0 <= start < stop <= {length}"
            )
        return tuple(range(start, stop))
    if model.tokenizer is None:
        raise ValueError(
            f"{model.name} has no tokenizer to find the content words of a prompt with; give every "
            "item its subject, or load the model with a tokenizer"
        )
    ordinary = _ordinary_positions(model.tokenizer, item.prompt_ids)
    if not ordinary:
        raise ValueError(
            f"the prompt {item.prompt or item.prompt_ids!r} has only special tokens, so nothing in "
            "it can be its subject; give one with words"
        )
    content = _content_positions(model.tokenizer, item.prompt_ids, ordinary)
    for candidates in (content, ordinary):
        if earlier := tuple(position for position in candidates if position != length - 1):
            return earlier
    return ordinary


def _ordinary_positions(tokenizer: Any, ids: Sequence[int]) -> tuple[int, ...]:
    added = tokenizer.added_tokens_decoder
    special = {*tokenizer.all_special_ids, *(i for i, token in added.items() if token.special)}
    return tuple(position for position, token in enumerate(ids) if token not in special)


def _content_positions(
    tokenizer: Any, ids: Sequence[int], ordinary: Sequence[int]
) -> tuple[int, ...]:
    text, spans = spelling(tokenizer, [ids[position] for position in ordinary])
    words = [word.span() for word in _WORD.finditer(text) if _is_content(word[0])]
    return tuple(
        position
        for position, (low, high) in zip(ordinary, spans, strict=True)
        if any(low < stop and high > start for start, stop in words)
    )


def _is_content(word: str) -> bool:
    in_capitals = len(word) > 1 and word.isupper()
    return in_capitals or word.lower() not in FUNCTION_WORDS
