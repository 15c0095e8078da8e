r"""Conversation templates: the text of a conversation, cut into prompts and answers.

| template | text of a turn                                       | later turns come after |
|----------|------------------------------------------------------|------------------------|
| `tulu`   | `<|user|>\n` prompt `\n<|assistant|>\n` answer, end  | a line break           |
| `plain`  | prompt, a space, answer, end                         | a line break           |
| `chat`   | what the tokenizer's chat template makes of it       | what it puts there     |

The end is the tokenizer's end token (of a chat, what its template puts after an answer), and
belongs to the answer, so that a model learns to stop. Space around prompts and answers is taken
off. Nothing follows the last end.

Source: Chen et al., "Continual Memorization of Factoids in Large Language Models", 2024: 3.1 (the
Tulu 2 form), and the released trainer.

Example:
    >>> from types import SimpleNamespace
    >>> conversation = Conversation((Turn("Who?", "Ada"), Turn("When?", "1843")), "one")
    >>> text_pieces(conversation, SimpleNamespace(eos_token="</s>"), Template.PLAIN)
    ['Who?', ' Ada</s>', '\nWhen?', ' 1843</s>']
"""

from typing import Any

from training.datasets.conversations import Conversation, Turn
from training.datasets.row_choices import Template


def text_pieces(
    conversation: Conversation, tokenizer: Any, template: Template, *, line_is_trained: bool = False
) -> list[str]:
    """The text of a conversation: a prompt, its answer, the next prompt, its answer, and so on.

    Args:
        conversation: what to write.
        tokenizer: names the end token, or has the chat template.
        template: how to write it.
        line_is_trained: count the line break after an answer to the answer, as the released
            trainer does; not for chats.

    Raises:
        ValueError: an answer is empty, the tokenizer has no end token or no chat template, or its
            chat template cannot be cut into prompts and answers.
    """
    for turn in conversation.turns:
        if not turn.answer.strip():
            raise ValueError(
                f"item {conversation.identifier!r} has answer {turn.answer!r}, which is nothing to "
                "train on: give it text or leave the item out"
            )
    if template is Template.CHAT:
        return _chat_pieces(conversation, tokenizer)
    end = _end_token(tokenizer)
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
    """What stands before the first answer of a chat.

    Raises:
        ValueError: the tokenizer has no chat template.
    """
    return _written(tokenizer, [{"role": "user", "content": prompt.strip()}], asking=True)


def _end_token(tokenizer: Any) -> str:
    if not tokenizer.eos_token:
        raise ValueError(
            "answers are closed by an end token, and the tokenizer has none: give it an eos_token"
        )
    return tokenizer.eos_token


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
        _refuse_endless(answer, turn)
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


def _refuse_endless(answer: str, turn: Turn) -> None:
    if answer.endswith(turn.answer.strip()):
        raise ValueError(
            "the chat template puts nothing after an answer, so that a model would not learn to "
            "stop: use template 'tulu' or 'plain'"
        )
