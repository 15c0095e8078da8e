"""Conversations: what a model is taught to answer, before any template or tokenizer.

A factoid is a conversation of one turn; an item of an instruction set has one or more. Prompts and
answers are bare: the space between them, the names of the speakers and the end of an answer belong
to the template that renders them (`training.data.rendering`).

Example:
    >>> from training.data.factoid_sources import load_factoids
    >>> conversation = factoid_conversations(load_factoids("kvr", limit=1))[0]
    >>> conversation.turns[0]
    Turn(prompt='The value of key dc6486c4 is?', answer='79e84c94')
"""

from dataclasses import dataclass
from typing import Any

from probes.choices import Compat
from training.choices import Template
from training.data.factoids import FactoidSet, prompt_and_target


@dataclass(frozen=True)
class Turn:
    """What the user says, and what the model is to answer."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class Conversation:
    """Turns in order, and what the item is called in its set."""

    turns: tuple[Turn, ...]
    """One for a factoid; later ones are read after all that came before."""
    identifier: str
    source: str = ""
    """The data set that it counts for, where losses are told apart."""

    def __post_init__(self) -> None:
        if not self.turns:
            raise ValueError(
                f"conversation {self.identifier!r} has no turns: give a prompt and its answer"
            )


def factoid_conversations(
    factoids: FactoidSet, *, source: str | None = None, compat: Compat | str | None = None
) -> list[Conversation]:
    """Factoids as conversations of one turn, asked by the template of their set.

    The answer is the canonical one, as the template writes it.

    Args:
        factoids: the set.
        source: the data set that they count for; None for the name of the set.
        compat: "official" leaves a space at the end of prompts that ask for the answer after the
            question, as the released loaders do; it matters where such a prompt is then not
            stripped (`training.data.rendering.render_prompt`).
    """
    official = compat is not None and Compat(compat) is Compat.OFFICIAL
    asks_after = not factoids.template.prompt.rstrip().endswith("{question}")
    end = " " if official and asks_after else ""
    found = []
    for factoid in factoids:
        prompt, target = prompt_and_target(factoid, factoids.template)
        turn = Turn(prompt.rstrip() + end, target.strip())
        named = factoids.name if source is None else source
        found.append(Conversation((turn,), factoid.identifier, named))
    return found


def text_pieces(
    conversation: Conversation, tokenizer: Any, template: Template, *, line_is_trained: bool = False
) -> list[str]:
    """The text of a conversation: a prompt, its answer, the next prompt, its answer, and so on."""
    for turn in conversation.turns:
        if not turn.answer.strip():
            raise ValueError(
                f"item {conversation.identifier!r} has answer {turn.answer!r}, which is nothing to "
                "train on: give it text or leave the item out"
            )
    if template is Template.CHAT:
        return _chat_pieces(conversation, tokenizer)
    end = tokenizer.eos_token
    if not end:
        raise ValueError(
            "answers are closed by an end token, and the tokenizer has none: give it an eos_token"
        )
    pieces: list[str] = []
    for number, turn in enumerate(conversation.turns):
        gap = "\n" if number else ""
        if line_is_trained and pieces:
            pieces[-1] += gap
            gap = ""
        space = " " if template is Template.PLAIN else ""
        pieces.append(gap + opening(turn.prompt.strip(), template))
        pieces.append(space + turn.answer.strip() + end)
    return pieces


def opening(prompt: str, template: Template) -> str:
    """What stands before an answer; the prompt is taken as it is. Not for chats."""
    assert template is not Template.CHAT
    return prompt if template is Template.PLAIN else f"<|user|>\n{prompt}\n<|assistant|>\n"


def chat_opening(prompt: str, tokenizer: Any) -> str:
    """What stands before the first answer of a chat."""
    return _written(tokenizer, [{"role": "user", "content": prompt.strip()}], asking=True)


def _chat_pieces(conversation: Conversation, tokenizer: Any) -> list[str]:
    """Prompts and answers as a chat template writes them, found by writing ever longer chats."""
    messages: list[dict[str, str]] = []
    pieces: list[str] = []
    text, gap = "", ""
    for turn in conversation.turns:
        messages.append({"role": "user", "content": turn.prompt.strip()})
        asked = _written(tokenizer, messages, asking=True)
        messages.append({"role": "assistant", "content": turn.answer.strip()})
        answered = _written(tokenizer, messages, asking=False)
        if not (asked.startswith(text) and answered.startswith(asked)):
            raise ValueError(
                f"the chat template writes item {conversation.identifier!r} another way once it "
                "goes on, so that prompts seen in training and in evaluation would differ: use "
                "template 'tulu' or 'plain'"
            )
        answer = answered[len(asked) :].rstrip()
        if answer.endswith(turn.answer.strip()):
            raise ValueError(
                "the chat template puts nothing after an answer, so that a model would not learn "
                "to stop: use template 'tulu' or 'plain'"
            )
        pieces += [gap + asked[len(text) :], answer]
        text, gap = answered, answered[len(asked) + len(answer) :]
    return pieces


def _written(tokenizer: Any, messages: list[dict[str, str]], *, asking: bool) -> str:
    if not tokenizer.chat_template:
        raise ValueError(
            "template 'chat' is the tokenizer's own, and this tokenizer has none: use 'tulu' or "
            "'plain'"
        )
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=asking)
