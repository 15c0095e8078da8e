r"""How the items of instruction sets are written, and how each becomes turns.

| layout        | columns                                      | prompt             | answer      |
|---------------|----------------------------------------------|--------------------|-------------|
| `QUESTION`    | `question`, `answer`                         | the question       | the answer  |
| `PROBLEM`     | `problem`, `solution`                        | the problem        | `solution`  |
| `TASK`        | `text`, `code`                               | the text           | the code    |
| `INSTRUCTION` | `instruction`, `output`; `input`             | instruction, input | the output  |
| `PROGRAM`     | `question`, `solutions`; `starter_code`, ... | see below          | the first   |
| `DIALOGUE`    | `data`: texts of user and model in turn      | every other text   | the next    |
| `MESSAGES`    | `messages`: objects of `role` and `content`  | of "user"          | "assistant" |

These are the columns of GSM8K, MATH, MBPP, Evol-Instruct-Code, APPS and UltraChat, and the form of
messages that chat templates take. Columns after a semicolon may be missing or empty; others are
ignored.

`PROGRAM` asks as the released loader of REMIX does: "Question:", the question, the starter code if
there is any, "Use Call-Based format" where the tests name a function and "Use Standard Input
format" elsewhere, "Answer:". `solutions` is a list, as such or written as JSON.

White space around texts is taken off and line ends are made "\n". A dialogue ends before its first
empty text, and a last text of the user that nobody answers is left out.

Source: Cobbe et al. 2021 (GSM8K); Hendrycks et al. 2021 (MATH, APPS); Austin et al. 2021 (MBPP);
Luo et al. 2023 (Evol-Instruct-Code); Ding et al. 2023 (UltraChat).

Example:
    >>> row = {"data": ["Hello", "Good day.", "Who are you?", "A model.", "And I?"]}
    >>> [turn.answer for turn in Layout.DIALOGUE.turns(row, "row 1")]
    ['Good day.', 'A model.']
"""

import json
from enum import Enum
from itertools import takewhile
from typing import Any

from training.datasets.conversations import Turn
from training.datasets.row_files import Row, parsed, text_of


class UnusableItem(ValueError):
    """An item without a prompt or without an answer; large sets have a few, and leave them out."""


class Layout(Enum):
    """The columns that an item of a layout must have."""

    QUESTION = ("question", "answer")
    PROBLEM = ("problem", "solution")
    TASK = ("text", "code")
    INSTRUCTION = ("instruction", "output")
    PROGRAM = ("question", "solutions")
    DIALOGUE = ("data",)
    MESSAGES = ("messages",)

    def fits(self, row: Row) -> bool:
        """Whether a row has the columns."""
        return all(row.get(column) is not None for column in self.value)

    def turns(self, row: Row, place: str) -> tuple[Turn, ...]:
        """The turns of an item.

        Args:
            row: the item.
            place: where it stands, for errors.

        Raises:
            UnusableItem: it has no prompt or no answer.
            ValueError: a column is missing, or holds something else than it should.
        """
        if not self.fits(row):
            found = ", ".join(map(repr, row)) or "nothing"
            wanted = " and ".join(map(repr, self.value))
            raise ValueError(f"{place}: needs {wanted}; found {found}: add what is missing")
        match self:
            case Layout.INSTRUCTION:
                return (Turn(_instruction(row, place), _text(row["output"], "output", place)),)
            case Layout.PROGRAM:
                return (Turn(_program(row, place), _first_solution(row, place)),)
            case Layout.DIALOGUE:
                return _dialogue(row["data"], place)
            case Layout.MESSAGES:
                return _dialogue(_contents(row["messages"], place), place)
        prompt, answer = (_text(row[column], column, place) for column in self.value)
        return (Turn(prompt, answer),)


def layout_of(row: Row, place: str) -> Layout:
    """The layout of a row.

    Raises:
        ValueError: it has that of none, or of several.
    """
    found = [layout for layout in Layout if layout.fits(row)]
    if len(found) == 1:
        return found[0]
    columns = ", ".join(map(repr, row)) or "nothing"
    known = "; ".join(" and ".join(layout.value) for layout in found or Layout)
    problem = "fits several layouts" if found else "fits no layout of instructions"
    raise ValueError(f"{place}: {problem}, found {columns}: give the columns of one ({known})")


def _text(value: Any, column: str, place: str) -> str:
    if isinstance(value, str) and not value.strip():
        raise UnusableItem(f"{place}: {column!r} holds an empty text: give text")
    return text_of(value, column, place).replace("\r\n", "\n")


def _instruction(row: Row, place: str) -> str:
    instruction = _text(row["instruction"], "instruction", place)
    given = row.get("input") or ""
    return f"{instruction}\n\n{_text(given, 'input', place)}" if given.strip() else instruction


def _program(row: Row, place: str) -> str:
    question = _text(row["question"], "question", place)
    starter = (row.get("starter_code") or "").strip()
    given = f"\n\nSTARTER CODE:\n{_text(starter, 'starter_code', place)}" if starter else ""
    form = "Call-Based" if _names_a_function(row.get("input_output")) else "Standard Input"
    return f"Question:\n {question}{given}\nUse {form} format\nAnswer:"


def _names_a_function(tests: Any) -> bool:
    """Whether the tests of a program call a function; tests that cannot be read do not."""
    try:
        # Numbers stay text: some tests hold more digits than an integer may have.
        value = json.loads(tests or "{}", parse_int=str)
    except json.JSONDecodeError:
        return False
    return isinstance(value, dict) and bool(value.get("fn_name"))


def _first_solution(row: Row, place: str) -> str:
    solutions = row["solutions"]
    if isinstance(solutions, str) and solutions.strip():
        solutions = parsed(solutions.encode(), f"{place}, column 'solutions'")
    if not solutions:
        raise UnusableItem(f"{place}: 'solutions' holds none: give at least one")
    if not isinstance(solutions, list):
        raise ValueError(f"{place}: 'solutions' holds {type(solutions).__name__}: give a list")
    return _text(solutions[0], "solutions", place)


def _dialogue(texts: Any, place: str) -> tuple[Turn, ...]:
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{place}: the dialogue holds something else than texts: give texts")
    spoken = [_text(text, "data", place) for text in takewhile(str.strip, texts)]
    turns = tuple(Turn(*pair) for pair in zip(spoken[::2], spoken[1::2], strict=False))
    if not turns:
        raise UnusableItem(f"{place}: the dialogue has no answer: give at least one")
    return turns


def _contents(messages: Any, place: str) -> list[str]:
    """The texts of messages whose roles take turns, the user first."""
    if not isinstance(messages, list) or not all(isinstance(one, dict) for one in messages):
        raise ValueError(f"{place}: 'messages' is no list of objects: give role and content")
    roles = [one.get("role") for one in messages]
    wanted = ["user", "assistant"] * len(roles)
    if roles != wanted[: len(roles)]:
        raise ValueError(
            f"{place}: roles are {', '.join(map(str, roles))}: give user and assistant in turn"
        )
    return [one.get("content") or "" for one in messages]
