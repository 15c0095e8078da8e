"""What a stage teaches, by one name: a factoid set or an instruction set (`load_primary`).

Names are those of `load_factoids` and of `load_instructions`; no two share one. What a file holds
is read off its first item: the columns of `training.data.instructions` make it an
instruction set, anything else is factoids. A question with one answer is a factoid, unless `kind`
says otherwise.

The REMIX paper takes 2,000 items of each set (`PAPER_ITEMS`), and for a second set of the same kind
the 2,000 after them: the same name with that offset.

Example:
    >>> first = load_primary("kvr", limit=3)
    >>> second = load_primary("kvr", limit=3, offset=3)
    >>> first.conversations[0].turns[0].prompt
    'The value of key dc6486c4 is?'
    >>> {c.identifier for c in first.conversations} & {c.identifier for c in second.conversations}
    set()
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from probes.choices import as_choice
from training.data.conversations import Conversation, factoid_conversations
from training.data.factoid_sources import SUFFIXES, factoid_names, load_factoids
from training.data.factoids import FactoidSet, KeyValues, PromptTemplate
from training.data.files import read_rows
from training.data.instructions import (
    INSTRUCTION_SUFFIXES,
    InstructionSet,
    Layout,
    instruction_names,
    load_instructions,
)
from training.data.items import not_found

PAPER_ITEMS = 2000
"""Items that the REMIX paper takes of each set."""


class PrimaryKind(StrEnum):
    """What a set is made of."""

    FACTOIDS = "factoids"
    """Questions with short answers, to be known by heart."""
    INSTRUCTIONS = "instructions"
    """Conversations of one turn or more."""


@dataclass(frozen=True)
class PrimarySet:
    """What a stage teaches."""

    kind: PrimaryKind
    items: FactoidSet | InstructionSet
    conversations: tuple[Conversation, ...]
    """Its items as the user asks and the model is to answer, in order."""

    @property
    def name(self) -> str:
        """What was asked for: a name or a path."""
        return self.items.name

    @property
    def factoids(self) -> FactoidSet | None:
        """The factoids with their accepted answers; None for instructions."""
        return self.items if isinstance(self.items, FactoidSet) else None

    @property
    def content_hash(self) -> str:
        """SHA-256 of the items in order."""
        return self.items.content_hash

    @property
    def configuration(self) -> dict[str, Any]:
        """Where the items are from and what identifies them, as plain values for a manifest."""
        return {"kind": self.kind.value, **self.items.configuration}


def primary_names() -> list[str]:
    """The names that `load_primary` knows."""
    return [*factoid_names(), *instruction_names()]


def load_primary(
    source: str | Path,
    *,
    kind: PrimaryKind | str | None = None,
    limit: int | None = None,
    offset: int = 0,
    seed: int | None = 0,
    key_values: KeyValues | None = None,
    template: PromptTemplate | None = None,
    revision: str | None = None,
) -> PrimarySet:
    """Load what a stage teaches.

    Args:
        source: one of `primary_names()`, or a file. A name wins over a file of that name: write
            `./kvr` for the file. A `Path` is always a file.
        kind: "factoids" or "instructions", of a file whose columns leave it open; a name has its
            own.
        limit: at most so many items; None for all, and for 2,000 of key-value recall.
        offset: leave out so many items first.
        seed: of the order, and of the pairs of key-value recall; None for the source's own order.
        key_values: charset and length of keys and values, for key-value recall alone.
        template: how factoids are asked; None for the template of the set.
        revision: branch, tag or commit of a set of the hub, where not the pinned one.

    Raises:
        ValueError: the set is unknown, cannot be read or had, or has too few items; an option is
            out of range or does not apply.
    """
    found = _kind(source, kind)
    if found is PrimaryKind.INSTRUCTIONS:
        options = {"key_values": key_values, "template": template}
        if given := [name for name, value in options.items() if value is not None]:
            raise ValueError(
                f"{', '.join(given)} was given, but {source} is no set of factoids: leave it out"
            )
        instructions = load_instructions(
            source, limit=limit, offset=offset, seed=seed, revision=revision
        )
        return PrimarySet(found, instructions, instructions.conversations)
    factoids = load_factoids(
        source, limit=limit, offset=offset, seed=seed, key_values=key_values, revision=revision
    )
    if template is not None:
        factoids = replace(factoids, template=template)
    label = Path(source).name
    return PrimarySet(found, factoids, tuple(factoid_conversations(factoids, source=label)))


def _kind(source: str | Path, asked: PrimaryKind | str | None) -> PrimaryKind:
    """What a set is made of, as its name or its file says."""
    kind = None if asked is None else as_choice(PrimaryKind, asked, "kind")
    if source in primary_names():
        is_factoids = source in factoid_names()
        own = PrimaryKind.FACTOIDS if is_factoids else PrimaryKind.INSTRUCTIONS
        if kind not in (None, own):
            raise ValueError(f"{source} is a set of {own}, not of {asked}: leave kind out")
        return own
    path = Path(source).expanduser()
    if not path.is_file():
        name, known = str(source), f"set of factoids or instructions is called {str(source)!r}"
        raise ValueError(not_found(name, "file", known, primary_names(), SUFFIXES))
    if kind is not None or path.suffix not in INSTRUCTION_SUFFIXES:
        return kind or PrimaryKind.FACTOIDS
    first = next(read_rows(path), None)
    layouts = [layout for layout in Layout if layout is not Layout.QUESTION]
    is_instruction = first is not None and any(layout.fits(first[1]) for layout in layouts)
    return PrimaryKind.INSTRUCTIONS if is_instruction else PrimaryKind.FACTOIDS
