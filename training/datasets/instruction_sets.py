"""Instruction sets by name or from a file: `load_instructions`.

They are the stages between which factoids are to be kept: mathematics, code and conversation, none
of which has to be learned by heart. Names are those of `training.datasets.instruction_sources`; a
file is `.jsonl`, `.json` or `.parquet` in one of the layouts of
`training.datasets.instruction_layouts`.

`limit`, `offset` and `seed` choose items as they do for factoids
(`training.datasets.chosen_items`), before anything is mixed in.

Example:
    >>> load_instructions("gsm8k", limit=1)[0].turns[0].answer[-6:]             # doctest: +SKIP
    '#### 8'
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probes.assets.table import nearest_names
from probes.corpus.sources import NO_LICENCE
from training.datasets.chosen_items import check_numbers, chosen
from training.datasets.conversations import Conversation
from training.datasets.instruction_layouts import Layout, UnusableItem, layout_of
from training.datasets.instruction_sources import BUILT_IN_INSTRUCTIONS, HUB_INSTRUCTIONS
from training.datasets.item_sets import ItemSet
from training.datasets.row_files import Row, read_rows

INSTRUCTION_SUFFIXES = (".jsonl", ".json", ".parquet")


@dataclass(frozen=True)
class InstructionSet(ItemSet[Conversation]):
    """Conversations in order, and where they are from; see `ItemSet`.

    Attributes:
        conversations: the items.
        left_out: items of the whole source without a prompt or an answer.
    """

    conversations: tuple[Conversation, ...]
    left_out: int = 0

    @property
    def items(self) -> tuple[Conversation, ...]:
        """The conversations."""
        return self.conversations

    @property
    def settings(self) -> dict[str, Any]:
        """How many items were left out."""
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
    if revision is not None and known not in HUB_INSTRUCTIONS:
        raise ValueError(f"revision was given, but {name} is no set of the hub: leave it out")
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
    found = hub_set.hub.read(revision)
    rows = (
        (place, row)
        for place, row in found.rows
        if all(row.get(column) in values for column, values in hub_set.only.items())
    )
    items, left_out = _conversations(name, hub_set.layout, rows)
    source = f"data set {hub_set.hub.dataset}, commit {found.commit}"
    return InstructionSet(name, hub_set.hub.licence, source, items, left_out)


def _conversations(
    name: str, layout: Layout, rows: Iterable[tuple[str, Row]]
) -> tuple[tuple[Conversation, ...], int]:
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
        raise ValueError(_not_found(name))
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


def _not_found(name: str) -> str:
    if name.endswith(INSTRUCTION_SUFFIXES):
        return f"no file of instructions at {name}: check the path"
    nearest = nearest_names(name, instruction_names())
    return (
        f"no instruction set {name!r} ({nearest}), and no file of that name; accepted files are "
        f"{', '.join(INSTRUCTION_SUFFIXES)}"
    )
