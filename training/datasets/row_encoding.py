"""Row encoding: the text of a conversation as tokens, cut where prompts end and answers end.

The whole text is encoded at once, by `probes.prompts`. Where the tokenizer joins characters across
a border, the parts between borders are encoded apart from each other with nothing added between
them, so that the tokens of a prompt do not depend on its answer.

Example:
    >>> from training.datasets.conversations import Turn
    >>> encoder = RowEncoder(tokenizer, "plain")                                 # doctest: +SKIP
    >>> encoder.parts(Conversation((Turn("2 + 2 =", "4"),), "one"))              # doctest: +SKIP
    [[34, 1232, 216, 34, 446], [216, 36, 2]]
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

from probes.choices import Compat
from probes.prompts import Ids, Prompts
from training.datasets.conversation_templates import chat_opening, opening, text_pieces
from training.datasets.conversations import Conversation
from training.datasets.row_choices import Template


class RowEncoder:
    """A tokenizer and a template, looked at once.

    Args:
        tokenizer: a Hugging Face tokenizer.
        template: "tulu", "plain", or "chat" for the tokenizer's own.
        compat: "official" for the borders of the released trainer and the prompts of its
            evaluation; "tulu" alone.

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
        """The tokens of a prompt, its answer, the next prompt, its answer, and so on.

        What the tokenizer puts before any text is the beginning of the first prompt.

        Raises:
            ValueError: a prompt or an answer has no tokens; tokenizer and template do not go
                together.
        """
        pieces = text_pieces(
            conversation, self._tokenizer, self._template, line_is_trained=self._official
        )
        self._refuse_empty(conversation)
        parts = self._split(pieces)
        parts[0] = list(self._prompts.begun(parts[0]))
        _refuse_nothing(parts[0], f"the prompt of item {conversation.identifier!r}")
        if self._template is not Template.CHAT:
            self._check_end(parts[-1])
        return parts

    def opened(self, prompt: str) -> Ids:
        """The tokens of what stands before the answer to a first prompt.

        Raises:
            ValueError: there are none, or tokenizer and template do not go together.
        """
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

    def _refuse_empty(self, conversation: Conversation) -> None:
        answers = [turn.answer.strip() for turn in conversation.turns]
        for answer, ids in zip(answers, self._prompts.plain(answers), strict=True):
            _refuse_nothing(ids, f"answer {answer!r} of item {conversation.identifier!r}")

    def _check_end(self, answer: list[int]) -> None:
        if answer[-1:] != [self._tokenizer.eos_token_id]:
            raise ValueError(
                f"the tokenizer splits its own end token {self._tokenizer.eos_token!r}: load it "
                "without split_special_tokens"
            )


def _refuse_nothing(ids: Sequence[int], what: str) -> None:
    if not ids:
        raise ValueError(f"{what} has no tokens: give text that the tokenizer turns into some")
