"""Replay: some of what an earlier stage taught, shown again in a later one.

Of the items of the earlier stage a share r is drawn without replacement, the **replay ratio**; the
paper has 0.01, 0.05 and 0.1 (`replayed`). The items of a small ratio are among those of a larger
one with the same seed. Without access to the earlier items or their answers, a model can write what
it replays by itself: `self_generated`.

Items of a replay count for a source of their own, so that their loss is told from that of new items
of the same data set.

Source: Chen et al., "Continual Memorization of Factoids in Large Language Models", 2024: section
3.2, A.2 and table 4.

Example:
    >>> from training.data.conversations import factoid_conversations
    >>> from training.data.factoid_sources import load_factoids
    >>> earlier = factoid_conversations(load_factoids("kvr", limit=128))
    >>> len(replayed(earlier, 0.05, seed=0))
    6
"""

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import takewhile
from typing import Any

import torch

from probes.generation import generate
from probes.hooked_model import HookedModel
from training.choices import Template
from training.data.conversations import Conversation, Turn, chat_opening, opening
from training.data.items import share_of
from training.data.rendering import Ids, render, render_prompt

REPLAY_SOURCE = "replay"


def replay_size(earlier: int, ratio: float) -> int:
    """How many of `earlier` items to show again, rounded down (`training.data.items`).

    Raises:
        ValueError: the ratio is not above 0 and at most 1, or comes to less than one item.
    """
    if ratio > 1:
        raise ValueError(
            f"the replay ratio is {ratio:g}: give at most 1, which shows every earlier item again"
        )
    return share_of(earlier, ratio, "the replay ratio")


def replayed(earlier: Sequence[Conversation], ratio: float, seed: int) -> list[Conversation]:
    """A share of the items of an earlier stage.

    Args:
        earlier: all that the earlier stage taught.
        ratio: which share of them, above 0 and at most 1.
        seed: decides which.

    Returns:
        The items in an order drawn by the seed, under source "replay".

    Raises:
        ValueError: the ratio is out of range, or comes to less than one item.
    """
    size = replay_size(len(earlier), ratio)
    return [replace(item, source=REPLAY_SOURCE) for item in in_drawn_order(earlier, seed)[:size]]


def in_drawn_order(items: Sequence[Conversation], seed: int) -> list[Conversation]:
    """Items in an order drawn by a seed; their first ones are a fair sample."""
    drawn = list(items)
    random.Random(seed).shuffle(drawn)
    return drawn


# They begin in different ways: what their renderings share is the template's.
_DIFFERENT_PROMPTS = ("a", "B", "7", "(", "é")


def prompt_beginning(tokenizer: Any, template: Template) -> Ids:
    """The tokens that every prompt of a template begins with."""
    rows = [render_prompt(prompt, tokenizer, template) for prompt in _DIFFERENT_PROMPTS]
    shared = takewhile(lambda tokens: len(set(tokens)) == 1, zip(*rows, strict=False))
    found = tuple(tokens[0] for tokens in shared)
    if len(found) == min(map(len, rows)):
        raise ValueError(
            f"the tokenizer writes prompts {', '.join(map(repr, _DIFFERENT_PROMPTS))} alike, so "
            "where a prompt begins is unknown: give earlier items to be answered"
        )
    if not found:
        raise ValueError(
            f"nothing stands before a prompt in template {str(template)!r} with this tokenizer: "
            "give earlier items to be answered"
        )
    return found


def prompt_closing(tokenizer: Any, template: Template) -> str:
    """The text that ends a prompt: what parts it from its answer, up to an end token in it."""
    if template is Template.PLAIN:
        raise ValueError(
            "template 'plain' has nothing that ends a prompt, so none can be made up: give earlier "
            "items to be answered, or use 'tulu' or 'chat'"
        )
    mark = "MARK"
    is_chat = template is Template.CHAT
    text = chat_opening(mark, tokenizer) if is_chat else opening(mark, template)
    closing = text.rpartition(mark)[2]
    end = tokenizer.eos_token
    # Writing stops at an end token, so nothing after one is ever seen.
    return closing.partition(end)[0] + end if end in closing else closing


SELF_REPLAY_SOURCE = "self-replay"


@dataclass(frozen=True, kw_only=True)
class Writing:
    """How a model writes its replay."""

    max_prompt_tokens: int = 64
    """Of a prompt that it makes up, the end of the prompt included."""
    max_answer_tokens: int = 64
    """Of an answer, its end included."""
    prompt_temperature: float = 1.0
    answer_temperature: float | None = None
    """None for greedily."""
    attempts: int = 8
    """Prompts it may make up for each item wanted."""

    def __post_init__(self) -> None:
        for name in ("max_prompt_tokens", "max_answer_tokens", "attempts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give 1 or more")


@dataclass
class Rejected:
    """How much was written and not taken, and why."""

    endless_prompts: int = 0
    repeated_prompts: int = 0
    """Made-up prompts that are empty or were there before."""
    endless_answers: int = 0
    empty_answers: int = 0


@dataclass(frozen=True)
class SelfReplay:
    """Items that a model wrote, what was not taken beside them, and how they were written."""

    conversations: tuple[Conversation, ...] = field(repr=False)
    """As many as were asked for, of one turn each, under source "self-replay"."""
    rejected: Rejected
    configuration: dict[str, Any]


def self_generated(
    model: HookedModel,
    n: int,
    *,
    earlier: Sequence[Conversation] | None = None,
    template: Template | str,
    seed: int,
    writing: Writing | None = None,
) -> SelfReplay:
    """Items as the model remembers them.

    Args:
        model: the model as the earlier stage left it, with its tokenizer.
        n: how many items.
        earlier: items of the earlier stage, whose prompts are answered; None to make up prompts.
        template: how the earlier stage rendered its items.
        seed: of which prompts are answered, and of all that is drawn.
        writing: limits and temperatures; None for the defaults.

    Raises:
        ValueError: `n` is not positive, or more than there are earlier items; too few items were
            usable (says how many, and why not); the template does not say where a prompt ends, or
            does not go with the tokenizer; the model has none.
    """
    template, writing = Template(template), writing or Writing()
    _check_number(n, earlier)
    author = _Author(model, template, writing, seed)
    prompts: _MadeUp | _Earlier = (
        _MadeUp(author, n * writing.attempts)
        if earlier is None
        else _Earlier(in_drawn_order(earlier, seed))
    )
    kept: list[Conversation] = []
    while len(kept) < n:
        asked = prompts.take(n - len(kept))
        if not asked:
            raise ValueError(_too_few(n, len(kept), prompts.taken, author.rejected))
        kept += author.answered(asked)
    settings = {
        "items": n,
        "prompts": "made up" if earlier is None else "of the earlier stage",
        "template": str(template),
        "seed": seed,
        "model_sha256": model.content_hash(),
        **asdict(writing),
        "rejected": asdict(author.rejected),
    }
    return SelfReplay(tuple(kept), author.rejected, settings)


class _Author:
    """A model that writes prompts and answers in one template."""

    def __init__(self, model: HookedModel, template: Template, writing: Writing, seed: int) -> None:
        if model.tokenizer is None:
            raise ValueError(f"{model.name} has no tokenizer to write text with: load it with one")
        self._model, self._tokenizer = model, model.tokenizer
        self._template, self._writing = template, writing
        self._generator = torch.Generator().manual_seed(seed)
        shortest = Conversation((Turn("a", "b"),), "shortest")
        self._end = render(shortest, self._tokenizer, template).input_ids[-1]
        self.rejected = Rejected()

    def prompts(self, number: int) -> list[str]:
        """Made-up prompts: as many as were asked for, less those that do not end."""
        begin = prompt_beginning(self._tokenizer, self._template)
        closing = prompt_closing(self._tokenizer, self._template)
        rows = self._written(
            [begin] * number, self._writing.max_prompt_tokens, self._writing.prompt_temperature
        )
        texts = [self._text(row, with_special=True) for row in rows]
        ended = [text.partition(closing)[0].strip() for text in texts if closing in text]
        self.rejected.endless_prompts += number - len(ended)
        return ended

    def answered(self, prompts: Sequence[tuple[str, str]]) -> list[Conversation]:
        """Pairs of identifier and prompt with the model's answers, where those are usable."""
        asked = [render_prompt(text, self._tokenizer, self._template) for _, text in prompts]
        rows = self._written(
            asked, self._writing.max_answer_tokens, self._writing.answer_temperature
        )
        found = []
        for (identifier, prompt), row in zip(prompts, rows, strict=True):
            answer = self._text(row[:-1], with_special=False).strip()
            if row[-1] != self._end:
                self.rejected.endless_answers += 1
            elif not answer:
                self.rejected.empty_answers += 1
            else:
                turns = (Turn(prompt, answer),)
                found.append(Conversation(turns, identifier, SELF_REPLAY_SOURCE))
        return found

    def _text(self, row: Sequence[int], *, with_special: bool) -> str:
        return self._tokenizer.decode(
            row, skip_special_tokens=not with_special, clean_up_tokenization_spaces=False
        )

    def _written(
        self, prompts: Sequence[Ids], limit: int, temperature: float | None
    ) -> list[list[int]]:
        return generate(
            self._model,
            prompts,
            max_new_tokens=limit,
            stop_ids=[self._end],
            temperature=temperature,
            generator=None if temperature is None else self._generator,
        )


class _Earlier:
    """The prompts of earlier items, one after the other."""

    def __init__(self, items: Sequence[Conversation]) -> None:
        self._items = items
        self.taken = 0

    def take(self, number: int) -> list[tuple[str, str]]:
        """At most so many pairs of identifier and prompt; none when there are no more."""
        items = self._items[self.taken : self.taken + number]
        self.taken += len(items)
        return [(f"self-{item.identifier}", item.turns[0].prompt) for item in items]


class _MadeUp:
    """Prompts that a model makes up, each once."""

    def __init__(self, author: _Author, limit: int) -> None:
        self._author, self._limit = author, limit
        self._known = {""}
        self.taken = 0

    def take(self, number: int) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        while not found and self.taken < self._limit:
            asked = min(number, self._limit - self.taken)
            self.taken += asked
            for prompt in self._author.prompts(asked):
                if prompt in self._known:
                    self._author.rejected.repeated_prompts += 1
                    continue
                found.append((f"self-{len(self._known) - 1}", prompt))
                self._known.add(prompt)
        return found


def _check_number(n: int, earlier: Sequence[Conversation] | None) -> None:
    if n < 1:
        raise ValueError(f"{n} self-generated items were asked for: give 1 or more")
    if earlier is not None and n > len(earlier):
        raise ValueError(
            f"{n} self-generated items were asked for, but there are {len(earlier)} earlier items "
            "to answer: ask for fewer"
        )


def _too_few(n: int, kept: int, asked: int, rejected: Rejected) -> str:
    reasons = ", ".join(
        f"{count} {name.replace('_', ' ')}" for name, count in asdict(rejected).items() if count
    )
    return (
        f"{n} self-generated items were asked for, but of {asked} prompts {kept} are usable "
        f"({reasons}): ask for fewer, or allow longer prompts and answers"
    )
