"""Rendering: conversations as rows of tokens, for training and for evaluation alike.

A **conversation** is what a model is taught to answer; its prompts and answers are bare, and the
space between them, the names of the speakers and the end of an answer belong to the template. A
**row** is its text as tokens. Trained are the answers and the ends that close them, nothing else.

What a model is asked in evaluation is, token for token, the beginning of the row that it was
trained on: where a tokenizer joins characters across the border of a prompt and its answer, the
text is split at all such borders first.

`compat="official"` trains what the released trainer trains: the line break between an answer and
the next prompt too, with borders where the tokens of the text before them end, joined or not. Its
prompts in evaluation are not stripped, though those in training are.

Example:
    >>> from training.data.factoids import load_factoids
    >>> factoid_conversations(load_factoids("kvr", limit=1))[0].turns[0]
    Turn(prompt='The value of key dc6486c4 is?', answer='79e84c94')
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain, pairwise
from typing import Any

from probes.choices import Compat, as_choice
from probes.corpus.sources import ContentHash
from probes.prompts import Ids, Prompts
from probes.refusals import tokenizer as a_tokenizer
from training.choices import Template
from training.data.factoids import FactoidSet, prompt_and_target
from training.data.items import Listed


@dataclass(frozen=True)
class Turn:
    """What the user says, and what the model is to answer."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class Conversation:
    """Turns in order, and what the item is called in its set."""

    turns: tuple[Turn, ...]  # one for a factoid; later ones are read after all that came before
    identifier: str
    source: str = ""
    """The data set that it counts for, where losses are recorded by source."""

    def __post_init__(self) -> None:
        if not self.turns:
            raise ValueError(
                f"conversation {self.identifier!r} has no turns: give a prompt and its answer"
            )


def factoid_conversations(
    factoids: FactoidSet, *, source: str | None = None, compat: Compat | str | None = None
) -> list[Conversation]:
    """Factoids as conversations of one turn: the template's prompt, and the canonical answer.

    They count for `source`, or for the name of the set. `compat="official"` leaves a space at the
    end of prompts that ask for the answer after the question, as the released loaders do; it
    matters where such a prompt is then not stripped (`render_prompt`).
    """
    asks_after = not factoids.template.prompt.rstrip().endswith("{question}")
    end = " " if asks_after and _is_official(compat) else ""
    name = factoids.name if source is None else source
    found = []
    for factoid in factoids:
        prompt, target = prompt_and_target(factoid, factoids.template)
        turn = Turn(prompt.rstrip() + end, target.strip())
        found.append(Conversation((turn,), factoid.identifier, name))
    return found


def _is_official(compat: Compat | str | None) -> bool:
    return compat is not None and as_choice(Compat, compat, "compat") is Compat.OFFICIAL


class RowEncoder:
    """A tokenizer and a template, looked at once."""

    def __init__(
        self, tokenizer: Any, template: Template | str, compat: Compat | str | None = None
    ) -> None:
        if tokenizer is None:
            raise ValueError(
                "rows are made by a tokenizer, and there is none: load the model with one"
            )
        if wrong := a_tokenizer(tokenizer):
            raise ValueError(f"tokenizer is {wrong}")
        self._tokenizer, self._template = tokenizer, as_choice(Template, template, "template")
        self._is_chat = self._template is Template.CHAT
        # A chat template has the beginning of a text written out.
        self._prompts = Prompts(tokenizer, prepend_bos=False if self._is_chat else None)
        self._official = _is_official(compat)
        if self._official and self._template is not Template.TULU:
            raise ValueError(
                f"compat 'official' knows the template 'tulu' alone, not {str(template)!r}: leave "
                "one of them out"
            )

    def row(self, conversation: Conversation) -> "Rendered":
        item = f"item {conversation.identifier!r}"
        for turn in conversation.turns:
            if not turn.answer.strip():
                raise ValueError(
                    f"{item} has answer {turn.answer!r}, which is nothing to train on: give it "
                    "text or leave the item out"
                )
        pieces = self._chat(conversation) if self._is_chat else self._pieces(conversation)
        answers = [turn.answer.strip() for turn in conversation.turns]
        for answer, ids in zip(answers, self._prompts.plain(answers), strict=True):
            _refuse_nothing(ids, f"answer {answer!r} of {item}")
        if self._official:
            heads = self._prompts.plain(accumulate(pieces))
            borders = pairwise([0, *map(len, heads)])
            parts = [list(heads[-1][start:stop]) for start, stop in borders]
        else:
            parts = [list(part) for part in self._prompts.split(pieces).parts]
        parts[0] = list(self._prompts.begun(parts[0]))
        _refuse_nothing(parts[0], f"the prompt of {item}")
        if not self._is_chat and parts[-1][-1:] != [self._tokenizer.eos_token_id]:
            raise ValueError(
                f"the tokenizer splits its own end token {self._tokenizer.eos_token!r}: load it "
                "without split_special_tokens"
            )
        trained = [number % 2 == 1 for number, part in enumerate(parts) for _ in part]
        ids = tuple(chain.from_iterable(parts))
        return Rendered(ids, tuple(trained), conversation.identifier, conversation.source)

    def opened(self, prompt: str) -> Ids:
        """The tokens of what stands before the answer to a first prompt."""
        ids = self._prompts.begun(self._prompts.plain([self.opening(prompt)])[0])
        _refuse_nothing(ids, f"prompt {prompt!r}")
        return ids

    def opening(self, prompt: str) -> str:
        """The text that stands before the answer to a first prompt."""
        if self._is_chat:
            return self._written([{"role": "user", "content": prompt.strip()}], asking=True)
        prompt = prompt if self._official else prompt.strip()
        if self._template is Template.PLAIN:
            return prompt
        return f"<|user|>\n{prompt}\n<|assistant|>\n"

    def _pieces(self, conversation: Conversation) -> list[str]:
        """A prompt, its answer, the next prompt, its answer, and so on."""
        end = self._tokenizer.eos_token
        if not end:
            raise ValueError(
                "answers are closed by an end token, and the tokenizer has none: give it an "
                "eos_token"
            )
        space = " " if self._template is Template.PLAIN else ""
        pieces: list[str] = []
        for turn in conversation.turns:
            gap = "\n" if pieces else ""
            if self._official and pieces:
                pieces[-1] += gap
                gap = ""
            opening = self.opening(turn.prompt.strip())
            pieces += [gap + opening, space + turn.answer.strip() + end]
        return pieces

    def _chat(self, conversation: Conversation) -> list[str]:
        """The same as a chat template writes it, found by writing ever longer chats."""
        messages: list[dict[str, str]] = []
        pieces: list[str] = []
        text, gap = "", ""
        for turn in conversation.turns:
            messages.append({"role": "user", "content": turn.prompt.strip()})
            asked = self._written(messages, asking=True)
            messages.append({"role": "assistant", "content": turn.answer.strip()})
            answered = self._written(messages, asking=False)
            if not (asked.startswith(text) and answered.startswith(asked)):
                raise ValueError(
                    f"the chat template writes item {conversation.identifier!r} another way once "
                    "it goes on, so that prompts seen in training and in evaluation would differ: "
                    "use template 'tulu' or 'plain'"
                )
            answer = answered[len(asked) :].rstrip()
            if answer.endswith(turn.answer.strip()):
                raise ValueError(
                    "the chat template puts nothing after an answer, so that a model would not "
                    "learn to stop: use template 'tulu' or 'plain'"
                )
            pieces += [gap + asked[len(text) :], answer]
            text, gap = answered, answered[len(asked) + len(answer) :]
        return pieces

    def _written(self, messages: list[dict[str, str]], *, asking: bool) -> str:
        if not self._tokenizer.chat_template:
            raise ValueError(
                "template 'chat' is the tokenizer's own, and this tokenizer has none: use 'tulu' "
                "or 'plain'"
            )
        return self._tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=asking
        )


def _refuse_nothing(ids: Sequence[int], what: str) -> None:
    if not ids:
        raise ValueError(f"{what} has no tokens: give text that the tokenizer turns into some")


@dataclass(frozen=True)
class Rendered:
    """A conversation as tokens, and what the item is called in its set."""

    input_ids: Ids  # the last one ends the last answer
    trained: tuple[bool, ...]  # whether each is trained on
    identifier: str
    source: str = ""
    """The data set that it counts for."""

    @property
    def prompt_ids(self) -> Ids:
        """All that comes before the last answer."""
        return self.input_ids[: self._answer_start]

    @property
    def answer_ids(self) -> Ids:
        """The last answer, and what ends it."""
        return self.input_ids[self._answer_start :]

    @property
    def trained_tokens(self) -> int:
        """How many tokens are trained on."""
        return sum(self.trained)

    @property
    def _answer_start(self) -> int:
        return len(self.trained) - self.trained[::-1].index(False)


@dataclass(frozen=True)
class RenderedSet(Listed[Rendered]):
    """Conversations as tokens, in order, but for those that are too long."""

    items: tuple[Rendered, ...]
    template: Template
    max_length: int | None  # tokens of the longest that is let in; None for any
    too_long: tuple[str, ...]  # identifiers of those that were left out

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 of the tokens, and of which are trained."""
        return rows_hash(self.items)

    @property
    def configuration(self) -> dict[str, Any]:
        return {
            "template": str(self.template),
            "max_length": self.max_length,
            "items": len(self),
            "too_long": list(self.too_long),
            "content_hash": self.content_hash,
        }


def render(
    conversation: Conversation,
    tokenizer: Any,
    template: Template | str = Template.TULU,
    *,
    compat: Compat | str | None = None,
) -> Rendered:
    """One conversation as tokens.

    Args:
        conversation: what to render.
        tokenizer: a Hugging Face tokenizer.
        template: "tulu", "plain", or "chat" for the tokenizer's own.
        compat: "official" for the borders of the released trainer; "tulu" alone.

    Raises:
        ValueError: a prompt or an answer has no tokens; tokenizer and template do not go together.
    """
    return RowEncoder(tokenizer, template, compat).row(conversation)


def render_all(
    conversations: Sequence[Conversation],
    tokenizer: Any,
    template: Template | str = Template.TULU,
    max_length: int | None = None,
    *,
    compat: Compat | str | None = None,
) -> RenderedSet:
    """Conversations as tokens; those of more than `max_length` are left out and named.

    Raises:
        ValueError: as for `render`, or every conversation is too long, or there is none.
    """
    encoder = RowEncoder(tokenizer, template, compat)
    rows = [encoder.row(conversation) for conversation in conversations]
    fits = [max_length is None or len(row.input_ids) <= max_length for row in rows]
    if not any(fits):
        shortest = min((len(row.input_ids) for row in rows), default=0)
        raise ValueError(
            f"none of {len(rows)} conversations is left to train on: the shortest has {shortest} "
            f"tokens, and max_length is {max_length}"
        )
    return RenderedSet(
        tuple(row for row, fit in zip(rows, fits, strict=True) if fit),
        as_choice(Template, template, "template"),
        max_length,
        tuple(row.identifier for row, fit in zip(rows, fits, strict=True) if not fit),
    )


def render_prompt(
    prompt: str,
    tokenizer: Any,
    template: Template | str = Template.TULU,
    *,
    compat: Compat | str | None = None,
) -> Ids:
    """What a model is given to answer a prompt: the beginning of every row with this first prompt.

    Arguments are those of `render`. `compat="official"` leaves the space around the prompt, which
    the released evaluation does and the released training does not.

    Raises:
        ValueError: the prompt has no tokens; tokenizer and template do not go together.
    """
    return RowEncoder(tokenizer, template, compat).opened(prompt)


def rows_hash(rows: Sequence[Rendered]) -> str:
    """SHA-256 of rows in order: their tokens, which are trained, and which set they count for."""
    content = ContentHash()
    for row in rows:
        trained = "".join(map(str, map(int, row.trained)))
        content.add_text(f"{row.source}\n{' '.join(map(str, row.input_ids))}\n{trained}")
    return content.value


def decoded(tokenizer: Any, ids: Sequence[int], *, with_special: bool = False) -> str:
    """The text of tokens as they are written, with or without special tokens."""
    return tokenizer.decode(
        list(ids), skip_special_tokens=not with_special, clean_up_tokenization_spaces=False
    )
