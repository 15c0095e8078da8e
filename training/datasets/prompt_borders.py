r"""Where the prompts of a template begin and end, so that a model can make some up.

A prompt begins after the tokens that all prompts of the template begin with, and ends at the text
that parts it from its answer.

Example:
    >>> from types import SimpleNamespace
    >>> prompt_closing(SimpleNamespace(eos_token="</s>"), Template.TULU)
    '\n<|assistant|>\n'
"""

from itertools import takewhile
from typing import Any

from training.datasets.conversation_templates import chat_opening, opening
from training.datasets.rendering import Ids, render_prompt
from training.datasets.row_choices import Template

# They begin in different ways: what their renderings share is the template's.
_DIFFERENT_PROMPTS = ("a", "B", "7", "(", "é")


def prompt_beginning(tokenizer: Any, template: Template) -> Ids:
    """The tokens that every prompt of a template begins with.

    Raises:
        ValueError: there are none, or the tokenizer does not tell prompts apart.
    """
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
    """The text that ends a prompt: what parts it from its answer, up to an end token in it.

    Raises:
        ValueError: the template has none.
    """
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
