r"""Rendering: conversations as rows of tokens, for training and for evaluation alike.

A row is the text of a conversation (`training.data.conversations`) as the tokenizer
splits it, after whatever it puts before any text. Trained are the tokens of the answers and of the
ends that close them, nothing else.

What a model is asked in evaluation is, token for token, the beginning of the row that it was
trained on. That takes care where a tokenizer joins characters across the border between a prompt
and its answer: then the conversation is split at all such borders first, and each part encoded by
itself.

`compat="official"` counts what the released trainer counts: the line break between an answer and
the next prompt is trained, and borders lie where the tokens of the text before them end, joined or
not. Its prompts in evaluation are not stripped, though those in training are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any, overload

from probes.choices import Compat
from probes.corpus.sources import ContentHash
from probes.prompts import Ids, Prompts
from training.choices import Template
from training.data.conversations import Conversation, chat_opening, opening, text_pieces


class RowEncoder:
    """A tokenizer and a template, looked at once.

    Raises:
        ValueError: there is no tokenizer, or compat is given with another template.
    """

    def __init__(
        self, tokenizer: Any, template: Template | str, compat: Compat | str | None = None
    ) -> None:
        if tokenizer is None:
            raise ValueError(
                "rows are made by a tokenizer, and there is none: load the model with one"
            )
        self._tokenizer = tokenizer
        # A chat template has the beginning of a text written out.
        is_chat = Template(template) is Template.CHAT
        self._prompts = Prompts(tokenizer, prepend_bos=False if is_chat else None)
        self._template = Template(template)
        self._official = compat is not None and Compat(compat) is Compat.OFFICIAL
        if self._official and self._template is not Template.TULU:
            raise ValueError(
                f"compat 'official' knows the template 'tulu' alone, not {str(template)!r}: leave "
                "one of them out"
            )

    def parts(self, conversation: Conversation) -> list[list[int]]:
        """The tokens of a prompt, its answer, the next prompt, its answer, and so on."""
        pieces = text_pieces(
            conversation, self._tokenizer, self._template, line_is_trained=self._official
        )
        answers = [turn.answer.strip() for turn in conversation.turns]
        for answer, ids in zip(answers, self._prompts.plain(answers), strict=True):
            _refuse_nothing(ids, f"answer {answer!r} of item {conversation.identifier!r}")
        parts = self._split(pieces)
        parts[0] = list(self._prompts.begun(parts[0]))
        _refuse_nothing(parts[0], f"the prompt of item {conversation.identifier!r}")
        ends = parts[-1][-1:] == [self._tokenizer.eos_token_id]
        if self._template is not Template.CHAT and not ends:
            raise ValueError(
                f"the tokenizer splits its own end token {self._tokenizer.eos_token!r}: load it "
                "without split_special_tokens"
            )
        return parts

    def opened(self, prompt: str) -> Ids:
        """The tokens of what stands before the answer to a first prompt."""
        if self._template is Template.CHAT:
            text = chat_opening(prompt, self._tokenizer)
        else:
            text = opening(prompt if self._official else prompt.strip(), self._template)
        ids = self._prompts.begun(self._prompts.plain([text])[0])
        _refuse_nothing(ids, f"prompt {prompt!r}")
        return ids

    def _split(self, pieces: Sequence[str]) -> list[list[int]]:
        """The tokens of each piece of a text."""
        if not self._official:
            return [list(part) for part in self._prompts.split(pieces).parts]
        heads = self._prompts.plain(accumulate(pieces))
        return [list(heads[-1][start:stop]) for start, stop in pairwise([0, *map(len, heads)])]


def _refuse_nothing(ids: Sequence[int], what: str) -> None:
    if not ids:
        raise ValueError(f"{what} has no tokens: give text that the tokenizer turns into some")


@dataclass(frozen=True)
class Rendered:
    """A conversation as tokens, and what the item is called in its set."""

    input_ids: Ids
    """The last one ends the last answer."""
    trained: tuple[bool, ...]
    """Whether each is trained on."""
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
class RenderedSet(Sequence[Rendered]):
    """Conversations as tokens, in order, but for those that are too long."""

    items: tuple[Rendered, ...]
    template: Template
    max_length: int | None
    """Tokens of the longest that is let in; None for any."""
    too_long: tuple[str, ...]
    """Identifiers of those that were left out."""

    @overload
    def __getitem__(self, index: int) -> Rendered: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Rendered, ...]: ...
    def __getitem__(self, index: int | slice) -> Rendered | tuple[Rendered, ...]:
        return self.items[index]

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 of the tokens, and of which are trained."""
        return rows_hash(self.items)

    @property
    def configuration(self) -> dict[str, Any]:
        """How the items were made and what identifies them, as plain values for a manifest."""
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
    max_length: int | None = None,
    compat: Compat | str | None = None,
) -> Rendered:
    """One conversation as tokens.

    Args:
        conversation: what to render.
        tokenizer: a Hugging Face tokenizer.
        template: "tulu", "plain", or "chat" for the tokenizer's own.
        max_length: refuse it if it has more tokens.
        compat: "official" for the borders of the released trainer; "tulu" alone.

    Raises:
        ValueError: it is longer than `max_length`; a prompt or an answer has no tokens; tokenizer
            and template do not go together.
    """
    row = _rendered(conversation, RowEncoder(tokenizer, template, compat))
    if max_length is not None and len(row.input_ids) > max_length:
        raise ValueError(
            f"item {conversation.identifier!r} has {len(row.input_ids)} tokens, more than "
            f"max_length {max_length}: allow more or leave it out"
        )
    return row


def render_all(
    conversations: Sequence[Conversation],
    tokenizer: Any,
    template: Template | str = Template.TULU,
    max_length: int | None = None,
    *,
    compat: Compat | str | None = None,
) -> RenderedSet:
    """Conversations as tokens; those that are too long are left out and named.

    Args:
        conversations: what to render.
        tokenizer: a Hugging Face tokenizer.
        template: "tulu", "plain", or "chat" for the tokenizer's own.
        max_length: tokens of the longest that is let in; None for any.
        compat: "official" for the borders of the released trainer; "tulu" alone.

    Raises:
        ValueError: as for `render`, or every conversation is too long, or there is none.
    """
    encoder = RowEncoder(tokenizer, template, compat)
    rows = [_rendered(conversation, encoder) for conversation in conversations]
    fits = [max_length is None or len(row.input_ids) <= max_length for row in rows]
    if not any(fits):
        shortest = min((len(row.input_ids) for row in rows), default=0)
        raise ValueError(
            f"none of {len(rows)} conversations is left to train on: the shortest has {shortest} "
            f"tokens, and max_length is {max_length}"
        )
    return RenderedSet(
        tuple(row for row, fit in zip(rows, fits, strict=True) if fit),
        Template(template),
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

    Args:
        prompt: what the user says.
        tokenizer: a Hugging Face tokenizer.
        template: "tulu", "plain", or "chat" for the tokenizer's own.
        compat: "official" leaves the space around the prompt, which the released evaluation does
            and the released training does not; "tulu" alone.

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


def _rendered(conversation: Conversation, encoder: RowEncoder) -> Rendered:
    parts = encoder.parts(conversation)
    flags = [number % 2 == 1 for number, part in enumerate(parts) for _ in part]
    ids = [token for part in parts for token in part]
    return Rendered(tuple(ids), tuple(flags), conversation.identifier, conversation.source)
