"""What a stage teaches, by name or from a file: factoids or instructions (`load_primary`).

Instructions are the stages between which factoids are to be kept: mathematics, code and
conversation, none of which has to be learned by heart. What a file holds is read off its first
item: the columns of a layout make it an instruction set; anything else, and a question with one
answer, is factoids. The REMIX paper takes 2,000 items of each set, and for a second set of the same
kind the 2,000 after them: the same name with that offset.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from itertools import takewhile
from pathlib import Path
from typing import Any

from probes.corpus.files import parsed
from training.data import factoids as factoid_sets
from training.data.factoids import FactoidSet, KeyValues, factoid_names, load_factoids
from training.data.items import (
    ItemSet,
    NamedSet,
    Read,
    Row,
    Rows,
    files_of,
    found_file,
    load_items,
    read_rows,
    text_of,
)
from training.data.rendering import Conversation, Turn, factoid_conversations

SUFFIXES = (".jsonl", ".json", ".parquet")
Turns = tuple[Turn, ...]


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
        return all(row.get(column) is not None for column in self.value)

    def turns(self, row: Row, place: str) -> Turns:
        if not self.fits(row):
            found = ", ".join(map(repr, row)) or "nothing"
            wanted = " and ".join(map(repr, self.value))
            raise ValueError(f"{place}: needs {wanted}; found {found}: add what is missing")
        match self:
            case Layout.DIALOGUE:
                return _dialogue(row["data"], place)
            case Layout.MESSAGES:
                return _dialogue(_contents(row["messages"], place), place)
            case Layout.PROGRAM:
                return (Turn(_program(row, place), _first_solution(row, place)),)
        prompt, answer = (_text(row[column], column, place) for column in self.value)
        given = (row.get("input") or "") if self is Layout.INSTRUCTION else ""
        if given.strip():
            prompt = f"{prompt}\n\n{_text(given, 'input', place)}"
        return (Turn(prompt, answer),)


def layout_of(row: Row, place: str) -> Layout:
    """The layout of a row."""
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


def _program(row: Row, place: str) -> str:
    """The prompt of the released loader, which says whether the tests call a function."""
    question = _text(row["question"], "question", place)
    starter = (row.get("starter_code") or "").strip()
    given = f"\n\nSTARTER CODE:\n{_text(starter, 'starter_code', place)}" if starter else ""
    try:
        # Numbers stay text: some tests hold more digits than an integer may have.
        tests = json.loads(row.get("input_output") or "{}", parse_int=str)
    except json.JSONDecodeError:
        tests = {}
    calls = isinstance(tests, dict) and bool(tests.get("fn_name"))
    form = "Call-Based" if calls else "Standard Input"
    return f"Question:\n {question}{given}\nUse {form} format\nAnswer:"


def _first_solution(row: Row, place: str) -> str:
    solutions = row["solutions"]
    if isinstance(solutions, str) and solutions.strip():
        solutions = parsed(solutions.encode(), f"{place}, column 'solutions'")
    if not solutions:
        raise UnusableItem(f"{place}: 'solutions' holds none: give at least one")
    if not isinstance(solutions, list):
        raise ValueError(f"{place}: 'solutions' holds {type(solutions).__name__}: give a list")
    return _text(solutions[0], "solutions", place)


def _dialogue(texts: Any, place: str) -> Turns:
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
    if roles != (["user", "assistant"] * len(roles))[: len(roles)]:
        raise ValueError(
            f"{place}: roles are {', '.join(map(str, roles))}: give user and assistant in turn"
        )
    return [one.get("content") or "" for one in messages]


def _named(
    name: str, layout: Layout, only: Mapping[str, tuple[str, ...]] | None = None
) -> NamedSet[Conversation]:
    """A set, of which only items with such values in some columns may be taken."""

    def usable(rows: Rows) -> Read[Conversation]:
        taken = (
            (place, row)
            for place, row in rows
            if all(row.get(column) in values for column, values in (only or {}).items())
        )
        items, left_out = [], 0
        for index, (place, row) in enumerate(taken):
            try:
                items.append(Conversation(layout.turns(row, place), f"{name}-{index}", name))
            except UnusableItem:
                left_out += 1
        return items, {"left_out": left_out}

    return NamedSet(files_of(name), usable)


BUILT_IN_INSTRUCTIONS = {
    "gsm8k": _named("gsm8k", Layout.QUESTION),
    "math": _named("math", Layout.PROBLEM),
    "mbpp": _named("mbpp", Layout.TASK),
}
HUB_INSTRUCTIONS = {
    "gsm8k-train": _named("gsm8k-train", Layout.QUESTION),
    "math-train": _named("math-train", Layout.PROBLEM),
    "evolcode": _named("evolcode", Layout.INSTRUCTION),
    "apps": _named("apps", Layout.PROGRAM, {"difficulty": ("interview", "introductory")}),
    "ultrachat": _named("ultrachat", Layout.DIALOGUE),
}


def instruction_names() -> list[str]:
    """The names that `load_instructions` knows."""
    return [*BUILT_IN_INSTRUCTIONS, *HUB_INSTRUCTIONS]


def load_instructions(
    source: str | Path,
    *,
    limit: int | None = None,
    offset: int = 0,
    seed: int | None = 0,
    revision: str | None = None,
) -> ItemSet[Conversation]:
    """Load an instruction set: one of `instruction_names()`, or a file; options are those of
    `load_factoids`, and so are refusals. `settings` says how many items of the whole were left out,
    for want of a prompt or an answer.
    """
    sets = {**BUILT_IN_INSTRUCTIONS, **HUB_INSTRUCTIONS}
    which: dict[str, Any] = {"limit": limit, "offset": offset, "seed": seed, "revision": revision}
    return load_items(source, sets, _read_file, **which)


def _read_file(name: str) -> Read[Conversation]:
    """A file, each of whose items must be usable: its owner can mend it."""
    known = f"instruction set {name!r}"
    path = found_file(name, "file of instructions", known, instruction_names(), SUFFIXES)
    layout: Layout | None = None
    items = []
    for index, (place, row) in enumerate(read_rows(path)):
        layout = layout or layout_of(row, place)
        items.append(Conversation(layout.turns(row, place), f"{path.name}-{index}", path.name))
    if not items:
        raise ValueError(f"{path} holds no item: give items with a prompt and an answer")
    return items, {"left_out": 0}


class PrimaryKind(StrEnum):
    """What a set is made of."""

    FACTOIDS = "factoids"  # questions with short answers, to be known by heart
    INSTRUCTIONS = "instructions"  # conversations of one turn or more


@dataclass(frozen=True)
class PrimarySet:
    """What a stage teaches."""

    kind: PrimaryKind
    items: FactoidSet | ItemSet[Conversation]
    conversations: tuple[Conversation, ...]
    """The items as the user asks and the model is to answer, in order."""

    @property
    def factoids(self) -> FactoidSet | None:
        """The factoids with their accepted answers; None for instructions."""
        return self.items if isinstance(self.items, FactoidSet) else None

    @property
    def configuration(self) -> dict[str, Any]:
        """What identifies the items and where they are from, as plain values for a manifest."""
        return {"kind": self.kind.value, **self.items.configuration}


def primary_names() -> list[str]:
    """The names that `load_primary` knows."""
    return [*factoid_names(), *instruction_names()]


def load_primary(
    source: str | Path,
    *,
    limit: int | None = None,
    offset: int = 0,
    seed: int | None = 0,
    key_values: KeyValues | None = None,
    revision: str | None = None,
) -> PrimarySet:
    """Load what a stage teaches: one of `primary_names()`, or a file; options are those of
    `load_factoids`, and so are refusals.
    """
    which: dict[str, Any] = {"limit": limit, "offset": offset, "seed": seed, "revision": revision}
    if not _holds_instructions(source):
        factoids = load_factoids(source, key_values=key_values, **which)
        conversations = factoid_conversations(factoids, source=Path(source).name)
        return PrimarySet(PrimaryKind.FACTOIDS, factoids, tuple(conversations))
    if key_values is not None:
        raise ValueError(f"key_values was given, but {source} is no set of factoids: leave it out")
    items = load_instructions(source, **which)
    return PrimarySet(PrimaryKind.INSTRUCTIONS, items, items.items)


def _holds_instructions(source: str | Path) -> bool:
    if source in primary_names():
        return source in instruction_names()
    known = f"set of factoids or instructions is called {str(source)!r}"
    what = "file of factoids or instructions"
    path = found_file(str(source), what, known, primary_names(), factoid_sets.SUFFIXES)
    if path.suffix not in SUFFIXES or (first := next(read_rows(path), None)) is None:
        return False
    return any(layout.fits(first[1]) for layout in Layout if layout is not Layout.QUESTION)
