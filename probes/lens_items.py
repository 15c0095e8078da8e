"""Lens items: a prompt, the target that should follow it, and where the subject stands, as tokens.

Text is split into tokens by `probes.prompts`: prompt and target together, cut where the prompt
ends, as the model will see it. Token ids are taken as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from probes.prompts import Ids, Prompts, Split, Text, texts_of


@dataclass(frozen=True)
class LensItem:
    """One prompt and its target.

    Attributes:
        prompt_ids: token ids of the prompt, special tokens in front included.
        target_ids: token ids of the target.
        prompt: the prompt as text; None where it was given as token ids.
        target: the target as text; None where it was given as token ids.
        subject: first token of the subject in the prompt and the one after its last, or None.
        first: place of the first token in the target that tells it apart: 1 where a tokenizer
            writes a space as a token of its own ("▁" before a byte, say), otherwise 0.
        split_apart: whether the target was split by itself (`probes.prompts.Split`).
    """

    prompt_ids: Ids
    target_ids: Ids
    prompt: str | None = None
    target: str | None = None
    subject: tuple[int, int] | None = None
    first: int = 0
    split_apart: bool = False

    @property
    def read_ids(self) -> Ids:
        """The prompt, and what of the target comes before the token that tells it apart."""
        return self.prompt_ids + self.target_ids[: self.first]

    @property
    def first_id(self) -> int:
        """The first token that tells the target apart."""
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
    pairs = list(zip(prompts, targets, strict=True))
    splits = encoder.pairs(pairs)
    items = [_item(encoder, *four) for four in zip(prompts, targets, spans, splits, strict=True)]
    _refuse_too_long(model, items)
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
        if isinstance(pair, str) or len(pair) != 2:
            raise ValueError(f"an item is a prompt and a target; found {pair!r}")
    prompts, targets = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return lens_items(model, prompts, targets, prepend_bos=prepend_bos)


def _item(
    encoder: Prompts, prompt: Text, target: Text, subject: tuple[int, int] | None, split: Split
) -> LensItem:
    prompt_ids, target_ids = split.parts
    return LensItem(
        prompt_ids,
        target_ids,
        prompt if isinstance(prompt, str) else None,
        target if isinstance(target, str) else None,
        _subject(encoder, prompt, prompt_ids, subject),
        encoder.telling(target_ids),
        split.apart,
    )


def _subject(
    encoder: Prompts, prompt: Text, prompt_ids: Ids, subject: tuple[int, int] | None
) -> tuple[int, int] | None:
    """The subject as a span of the prompt's tokens: all that share a character with it."""
    if subject is None:
        return None
    start, stop = subject
    if isinstance(prompt, str):
        offsets = encoder.offsets(prompt)
        touched = [i for i, (low, high) in enumerate(offsets) if low < stop and high > start]
        begun = len(prompt_ids) - len(offsets)
        start, stop = (touched[0] + begun, touched[-1] + 1 + begun) if touched else (0, 0)
    if not 0 <= start < stop <= len(prompt_ids):
        raise ValueError(f"subject {subject} lies outside its prompt {prompt!r}")
    return start, stop


def _refuse_too_long(model: Any, items: Sequence[LensItem]) -> None:
    longest = max(items, key=lambda item: len(item.prompt_ids) + len(item.target_ids))
    length = len(longest.prompt_ids) + len(longest.target_ids)
    limit = model.n_positions
    # The last token of a target is predicted and not run.
    if limit is not None and length - 1 > limit:
        start = (longest.prompt or str(longest.prompt_ids[:8]))[:60]
        raise ValueError(
            f"the item that starts {start!r} has {length} tokens with its target; {model.name} "
            f"takes {limit}"
        )
