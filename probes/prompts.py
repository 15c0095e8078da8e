"""Prompts: text as a model's token ids, and where a prompt ends and its target begins.

**Borders.** A prompt and its continuation are split together and cut where the prompt ends, since
many tokenizers put a space before any text of its own: split by itself, " Paris" becomes "▁", "▁P",
"ar", "is" where "▁Paris" is meant. Where the prompt's own tokens do not come back, the two are
split apart. `compat="official"` splits every continuation by itself, as OLMo's evaluation does.

**The beginning.** `prepend_bos` is TransformerLens's word: None for the tokenizer's own habit, True
for a BOS token in any case, False for none. A text that begins with it gets no second one. An end
that a tokenizer would add is never there: nothing can follow an end.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from numbers import Integral
from operator import index
from typing import Any

from probes.choices import Compat
from probes.refusals import shown
from probes.shown import Shown

Ids = tuple[int, ...]
Text = str | Sequence[int]
_SPACES = " ▁Ġ"
_ANCHORS = ("\n", ")", "0")  # what rarely joins with the text after it; tried in turn
_UNFINISHED = "\ufffd"
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Split:
    """The tokens of texts that follow each other."""

    parts: tuple[Ids, ...]
    apart: bool
    """Whether they were split by themselves: the tokenizer joins characters across a border, or one
    was given as token ids."""


class Prompts:
    """A tokenizer, and how texts begin."""

    def __init__(
        self,
        tokenizer: Any | None,
        *,
        prepend_bos: bool | None = None,
        name: str = "the model",
        d_vocab: int | None = None,
    ) -> None:
        if prepend_bos not in (None, True, False):
            raise ValueError(f"prepend_bos is {shown(prepend_bos)}; give True, False or None")
        self._given, self._prepend_bos = tokenizer, prepend_bos
        self._name, self._d_vocab = name, d_vocab

    @classmethod
    def of(cls, model: Any, prepend_bos: bool | None = None) -> "Prompts":
        return cls(model.tokenizer, prepend_bos=prepend_bos, name=model.name, d_vocab=model.d_vocab)

    @property
    def tokenizer(self) -> Any:
        if self._given is None:
            raise ValueError(
                f"{self._name} has no tokenizer; give token ids, or load the model with one"
            )
        return self._given

    @cached_property
    def front(self) -> Ids:
        """What is put before a text."""
        if self._prepend_bos is False:
            return ()
        habit = own_front(self.tokenizer)
        if habit or self._prepend_bos is None:
            return habit
        if self.tokenizer.bos_token_id is None:
            raise ValueError(
                f"prepend_bos is True, but the tokenizer of {self._name} has no BOS token; set "
                "tokenizer.bos_token, or leave prepend_bos out"
            )
        return (self.tokenizer.bos_token_id,)

    @property
    def puts_bos(self) -> bool | None:
        """Whether something is put before a text; None where there is no tokenizer."""
        return None if self._given is None else bool(self.front)

    def begun(self, ids: Sequence[int]) -> Ids:
        """Token ids with what stands before a text, unless they begin with it."""
        front = self.front
        return tuple(ids) if tuple(ids[: len(front)]) == front else front + tuple(ids)

    def plain(self, texts: Iterable[str]) -> list[Ids]:
        listed = list(texts)
        if not listed:
            return []
        try:
            rows = self.tokenizer(
                listed, add_special_tokens=False, return_attention_mask=False, verbose=False
            )["input_ids"]
        except TypeError as error:
            if halves := [text for text in listed if _SURROGATE.search(text)]:
                raise ValueError(
                    f"text {halves[0]!a:.40} holds half a character (a lone surrogate), which no "
                    "tokenizer takes; read the text as UTF-8"
                ) from error
            raise
        return [tuple(row) for row in rows]

    def ids(self, texts: Sequence[Text], what: str = "prompt") -> list[Ids]:
        """Token ids of prompts, those of texts begun; checked."""
        written = [text for text in texts if isinstance(text, str)]
        rows = iter(self.plain(written))
        found = [self.begun(next(rows)) if isinstance(t, str) else _as_ids(t) for t in texts]
        for number, (text, ids) in enumerate(zip(texts, found, strict=True)):
            self._check(ids, text, what, number)
        return found

    def single(self, text: str) -> int:
        if not isinstance(text, str):
            raise ValueError(f"found {shown(text)} where the text of one token is wanted; give one")
        (ids,) = self.ids([text], "text")
        if len(ids) != 1:
            pieces = [self.tokenizer.decode([token]) for token in ids]
            raise ValueError(
                f"{text!r} is {len(ids)} tokens, {pieces}; give a text that is one, which often "
                "begins with a space"
            )
        return ids[0]

    def split(self, pieces: Sequence[str]) -> Split:
        """Texts that follow each other, the first one not begun."""
        heads = self.plain(accumulate(pieces))
        return self._cut_at_borders(pieces, heads)

    def pairs(
        self,
        pairs: Sequence[tuple[Text, Text]],
        *,
        what: tuple[str, str] = ("prompt", "target"),
        compat: Compat | None = None,
    ) -> list[Split]:
        """Prompts and what follows them, the prompts begun; checked."""
        texts: dict[str, None] = {}
        for prompt, continuation in pairs:
            if isinstance(prompt, str):
                texts[prompt] = None
            if isinstance(continuation, str):
                joined = compat is None and isinstance(prompt, str)
                texts[f"{prompt}{continuation}" if joined else continuation] = None
        rows = dict(zip(texts, self.plain(texts), strict=True))
        found = [self._pair(pair, rows, compat) for pair in pairs]
        for number, (pair, split) in enumerate(zip(pairs, found, strict=True)):
            for name, text, ids in zip(what, pair, split.parts, strict=True):
                self._check(ids, text, name, number)
        return found

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Which characters, `(start, stop)`, each token of a text that is not begun stands for."""
        if self.tokenizer.is_fast:
            found = self.tokenizer(
                text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
            )
            return [(start, stop) for start, stop in found["offset_mapping"]]
        spelt, spans = spelling(self.tokenizer, self.plain([text])[0])
        if spelt.strip() != text.strip():
            raise ValueError(
                f"the tokenizer of {self._name} gives no offsets, and its tokens spell "
                f"{spelt[:40]!r} for {text[:40]!r}; give token ids, and places in tokens"
            )
        shift = (len(text) - len(text.lstrip())) - (len(spelt) - len(spelt.lstrip()))
        return [(max(0, start + shift), stop + shift) for start, stop in spans]

    def telling(self, ids: Ids) -> int:
        """The first of some tokens that is more than a space; 0 where none is, or none is known."""
        if self._given is None:
            return 0
        pieces = enumerate(_pieces(self._given, ids))
        return next((place for place, piece in pieces if piece.strip(_SPACES)), 0)

    def _pair(self, pair: tuple[Text, Text], rows: dict[str, Ids], compat: Compat | None) -> Split:
        prompt, continuation = pair
        if not isinstance(prompt, str) or not isinstance(continuation, str):
            before = self.begun(rows[prompt]) if isinstance(prompt, str) else _as_ids(prompt)
            if isinstance(continuation, str):
                return Split((before, self._continuation_alone(continuation)), True)
            return Split((before, _as_ids(continuation)), False)
        if compat is not None:
            return Split((self.begun(rows[prompt]), rows[continuation]), True)
        found = self._cut_at_borders(
            (prompt, continuation), [rows[prompt], rows[prompt + continuation]]
        )
        return Split((self.begun(found.parts[0]), found.parts[1]), found.apart)

    def _cut_at_borders(self, pieces: Sequence[str], heads: Sequence[Ids]) -> Split:
        whole = heads[-1]
        joins = any(whole[: len(head)] != head for head in heads)
        if joins or not heads[0]:
            return Split((heads[0], *map(self._continuation_alone, pieces[1:])), joins)
        return Split(tuple(whole[a:b] for a, b in pairwise([0, *map(len, heads)])), False)

    def _continuation_alone(self, text: str) -> Ids:
        """A text as it is after another one: without the space that is put before any text."""
        (ids,) = self.plain([text])
        pieces = "".join(_pieces(self.tokenizer, ids))
        if len(pieces) - len(pieces.lstrip(_SPACES)) <= len(text) - len(text.lstrip(" ")):
            return ids
        for anchor in _ANCHORS:
            head, both = self.plain([anchor, anchor + text])
            if head and both[: len(head)] == head != both:
                return both[len(head) :]
        return ids

    def _check(self, ids: Ids, text: Text, what: str, number: int) -> None:
        if not ids:
            short = text if not isinstance(text, str) or len(text) <= 40 else f"{text[:40]}..."
            raise ValueError(
                f"{what} {short!r} has no tokens (item {number}); give one that the "
                "tokenizer turns into some"
            )
        if self._d_vocab is None:
            return
        if wrong := [token for token in ids if not 0 <= token < self._d_vocab]:
            raise ValueError(
                f"{what} has token id {wrong[0]} (item {number}); {self._name} has ids 0 to "
                f"{self._d_vocab - 1}"
            )


def texts_of(given: Any, what: str = "prompts") -> list[Text]:
    """One text or several, as several: a text or a row of token ids by itself is one."""
    if isinstance(given, str):
        return [given]
    listed = given.tolist() if hasattr(given, "tolist") else given
    if not isinstance(listed, Iterable) or isinstance(listed, bytes | Mapping):
        raise ValueError(f"{what} must be texts or lists of token ids, found {shown(given)}")
    listed = list(listed)
    if listed and all(isinstance(entry, Integral) for entry in listed):
        return [_as_ids(listed)]
    found = [entry.tolist() if hasattr(entry, "tolist") else entry for entry in listed]
    for entry in found:
        if not isinstance(entry, str | list | tuple):
            raise ValueError(f"{what} must be texts or lists of token ids, found {shown(entry)}")
    return found


def one_prompt(model: Any, prompt: Any, prepend_bos: bool | None = None) -> Ids:
    """One prompt as token ids, begun; checked."""
    texts = texts_of(prompt, "a prompt")
    if len(texts) != 1:
        raise ValueError(f"prompt is {len(texts)} texts; give one at a time")
    return Prompts.of(model, prepend_bos).ids(texts)[0]


def token_id(model: Any, token: str | int) -> int:
    """A token that is given as text or as its id; checked."""
    encoder = Prompts.of(model, False)
    if isinstance(token, str):
        return encoder.single(token)
    if not hasattr(token, "__index__"):
        raise ValueError(f"a token is a text or an id, found {shown(token)}; give one")
    return encoder.ids([[token]], "token")[0][0]


def place_in(position: Any, length: int) -> int:
    """A position of a prompt, counted from its start; below 0 it counts from its end."""
    if not isinstance(position, Integral) or not -length <= int(position) < length:
        raise ValueError(
            f"position is {position!r}, and the prompt has {length} tokens; give {-length} to "
            f"{length - 1}"
        )
    return int(position) % length


def shown_tokens(model: Any, ids: Iterable[int]) -> list[str]:
    """Tokens as text, or their ids where there is no tokenizer."""
    tokenizer = model.tokenizer
    listed = list(ids)
    if tokenizer is None:
        return list(map(str, listed))
    return [tokenizer.decode([i], clean_up_tokenization_spaces=False) for i in listed]


def spelling(tokenizer: Any, ids: Sequence[int]) -> tuple[str, list[tuple[int, int]]]:
    """The text of tokens, and which of its characters each of them stands for."""

    def decoded(stop: int) -> str:
        return tokenizer.decode(list(ids[:stop]), clean_up_tokenization_spaces=False)

    text = decoded(len(ids))
    # A character that a token has only some bytes of is not there yet.
    ends = [len(decoded(stop).rstrip(_UNFINISHED)) for stop in range(len(ids) + 1)]
    # Such a token stands for the character that is being put together.
    return text, [(low, max(high, low + 1)) for low, high in pairwise(ends)]


def own_front(tokenizer: Any) -> Ids:
    """What a tokenizer puts before a text, found on a token of its own."""
    if tokenizer("", verbose=False)["input_ids"] == _ids_without_specials(tokenizer, ""):
        return ()
    special = set(tokenizer.all_special_ids)
    for token in range(len(tokenizer)):
        text = "" if token in special else tokenizer.decode([token])
        if plain := _ids_without_specials(tokenizer, text):
            framed = tokenizer(text, verbose=False)["input_ids"]
            starts = range(len(framed) - len(plain) + 1)
            return tuple(framed[: next(i for i in starts if framed[i : i + len(plain)] == plain)])
    return ()


def _ids_without_specials(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def _pieces(tokenizer: Any, ids: Ids) -> list[str]:
    """Tokens as the vocabulary has them; a model may have more ids than its tokenizer."""
    known = len(tokenizer)
    return [tokenizer.convert_ids_to_tokens(i) if i < known else "?" for i in ids]


def _as_ids(ids: Sequence[int]) -> Ids:
    try:
        return tuple(map(index, ids))
    except TypeError:
        raise ValueError(
            f"token ids are whole numbers, found {shown(ids)} of others; give a text, or a list of "
            "whole numbers"
        ) from None


@dataclass(frozen=True)
class LensItem(Shown):
    """One prompt and its target, as tokens."""

    prompt_ids: Ids  # special tokens in front included
    target_ids: Ids
    prompt: str | None = None
    target: str | None = None  # as text; None where it was given as token ids
    subject: tuple[int, int] | None = None
    """First token of the subject in the prompt and the one after its last, or None."""
    first: int = 0
    """Place of the first token in the target that tells it apart: 1 where a tokenizer writes a
    space as a token of its own ("▁" before a byte, say), otherwise 0."""
    split_apart: bool = False  # whether the target was split by itself (`Split`)

    @property
    def read_ids(self) -> Ids:
        """The prompt, and what of the target comes before the token that tells it apart."""
        return self.prompt_ids + self.target_ids[: self.first]

    @property
    def first_id(self) -> int:
        return self.target_ids[self.first]


Item = LensItem | Sequence[Text]


def lens_items(
    model: Any,
    prompts: Text | Sequence[Text],
    targets: Text | Sequence[Text],
    *,
    subjects: Sequence[tuple[int, int] | None] | None = None,
    prepend_bos: bool | None = None,
) -> list[LensItem]:
    """Prompts and targets as tokens, checked."""
    prompts, targets = texts_of(prompts), texts_of(targets, "targets")
    if len(prompts) != len(targets) or not prompts:
        raise ValueError(
            f"each prompt needs a target: found {len(prompts)} prompts and {len(targets)} targets"
        )
    spans = [None] * len(prompts) if subjects is None else list(subjects)
    if len(spans) != len(prompts):
        raise ValueError(f"found {len(spans)} subjects for {len(prompts)} prompts; give None where")
    encoder = Prompts.of(model, prepend_bos)
    splits = encoder.pairs(list(zip(prompts, targets, strict=True)))
    items = [
        LensItem(
            split.parts[0],
            split.parts[1],
            prompt if isinstance(prompt, str) else None,
            target if isinstance(target, str) else None,
            _subject(encoder, prompt, split.parts[0], span),
            encoder.telling(split.parts[1]),
            split.apart,
        )
        for prompt, target, span, split in zip(prompts, targets, spans, splits, strict=True)
    ]
    longest = max(items, key=lambda item: len(item.prompt_ids) + len(item.target_ids))
    length, limit = len(longest.prompt_ids) + len(longest.target_ids), model.n_positions
    # The last token of a target is predicted and not run.
    if limit is not None and length - 1 > limit:
        start = (longest.prompt or str(longest.prompt_ids[:8]))[:60]
        raise ValueError(
            f"the item that starts {start!r} has {length} tokens with its target; {model.name} "
            f"takes {limit}"
        )
    return items


def encoded_items(
    model: Any, items: Sequence[Item], *, prepend_bos: bool | None = None
) -> list[LensItem]:
    """Pairs of prompt and target as tokens, to be scored again and again."""
    done = [item for item in items if isinstance(item, LensItem)]
    if done and len(done) == len(items):
        return done
    pairs = [(i.prompt_ids, i.target_ids) if isinstance(i, LensItem) else i for i in items]
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise ValueError(f"an item is a prompt and a target; found {pair!r}")
    prompts, targets = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return lens_items(model, prompts, targets, prepend_bos=prepend_bos)


def _subject(
    encoder: Prompts, prompt: Text, prompt_ids: Ids, subject: tuple[int, int] | None
) -> tuple[int, int] | None:
    """The subject as a span of the prompt's tokens: all that share a character with it."""
    if subject is None:
        return None
    if isinstance(subject, str) or len(subject) != 2:
        raise ValueError(
            f"a subject is where it starts and stops in its prompt, found {shown(subject)}; give "
            f"two numbers, or None"
        )
    start, stop = subject
    if isinstance(prompt, str):
        offsets = encoder.offsets(prompt)
        touched = [i for i, (low, high) in enumerate(offsets) if low < stop and high > start]
        begun = len(prompt_ids) - len(offsets)
        start, stop = (touched[0] + begun, touched[-1] + 1 + begun) if touched else (0, 0)
    if not 0 <= start < stop <= len(prompt_ids):
        raise ValueError(f"subject {subject} lies outside its prompt {prompt!r}")
    return start, stop
