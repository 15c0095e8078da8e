"""What a run has seen, as a table: one row for each thing that was evaluated, one column a step.

Made from the records alone, so of a run that is not over as well. Losses, entropies and
log-probabilities are in nats.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from probes.shown import Table
from training.runs.records import (
    EntropyRecord,
    PerplexityRecord,
    RecallRecord,
    Record,
    ScoresRecord,
    TaskRecord,
    read_items,
    read_records,
)
from training.start_or_resume import CLOZE
from training.tasks import TASKS

_ENTROPIES = {
    "knowledge": "knowledge entropy",
    "contribution": "  by contribution",
    "attention": "attention entropy",
    "next_token": "next-token entropy",
}
_WORDINGS = {"seen": "  log p, seen wording", "unseen": "  log p, new wording"}
_KNOWN_FACTS = "facts recalled"
P = "P, mean of the six tasks"
TOKENS = "tokens"  # the match of recall by teacher forcing
Items = Mapping[str, Sequence[Mapping[str, Any]]]


@dataclass
class Row:
    """One thing that was evaluated: what, how a value is written, and its values by step."""

    label: str
    shown: Callable[[float], str]
    values: dict[int, float] = field(default_factory=dict)

    def change(self, first: int, last: int) -> str:
        """The change of the value between two steps, as text; empty if it is not known."""
        if first not in self.values or last not in self.values:
            return ""
        text = self.shown(self.values[last] - self.values[first])
        return f"+{text}" if text.strip("0.%") and not text.startswith("-") else text


def observed(records: Iterable[Record], items: Items) -> list[Row]:
    """The rows of records, in the order in which they first come up."""
    rows: dict[str, Row] = {}
    for record in records:
        about = ""
        for label, value, shown in _values(record, items):
            # Indented rows belong to the one before, and may be there several times.
            about = about if label.startswith(" ") else label
            rows.setdefault(about + label, Row(label, shown)).values[record.step] = value
    # Scores of facts stand after the share that is right, which is recorded later than they are.
    wordings = [row for row in rows.values() if row.label in _WORDINGS.values()]
    found = [row for row in rows.values() if row not in wordings]
    labels = [row.label for row in found]
    place = labels.index(_KNOWN_FACTS) + 1 if _KNOWN_FACTS in labels else len(found)
    found[place:place] = wordings
    tasks = {row.label: row.values for row in found if row.label in TASKS}
    if tasks.keys() == set(TASKS):
        steps = set.intersection(*map(set, tasks.values()))
        means = {step: fmean(values[step] for values in tasks.values()) for step in steps}
        last = max(place for place, row in enumerate(found) if row.label in TASKS)
        found.insert(last + 1, Row(P, share, means))
    return found


def observed_in(folder: Path) -> list[Row]:
    """The rows of a run directory."""
    seen = observations(folder)
    return observed(seen, items_of(folder, seen, [CLOZE]))


def observations(folder: Path) -> list[Record]:
    """The records of a run that observers have made."""
    kinds = (PerplexityRecord, TaskRecord, ScoresRecord, EntropyRecord)
    return [record for record in read_records(folder) if isinstance(record, kinds)]


def ends_of_stages(folders: Iterable[Path]) -> Iterator[Record]:
    """What was evaluated at the end of every stage, as steps 1, 2, ...; step 0 is the beginning."""
    kinds = (RecallRecord, PerplexityRecord, TaskRecord, ScoresRecord, EntropyRecord)
    for place, folder in enumerate(folders):
        seen = [record for record in read_records(folder) if isinstance(record, kinds)]
        last = max(record.step for record in seen)
        for record in seen:
            if record.step == 0 and place == 0:
                yield replace(record, step=0)
            if record.step == last:
                yield replace(record, step=place + 1)


def recall_rows(records: Iterable[Record], stages: Sequence[str]) -> list[Row]:
    """Exact match, by teacher forcing and otherwise, and log-probabilities of every list."""
    rows: dict[str, Row] = {}
    for record in records:
        if not isinstance(record, RecallRecord):
            continue
        what = f"D_{record.items}" if record.items in stages else record.items
        about = what if record.match == TOKENS else f"  {what}, {record.match}"
        rows.setdefault(about, Row(about, share)).values[record.step] = fmean(record.correct)
        if record.log_probs is not None:
            row = rows.setdefault(f"{what} log p", Row("  log p", nats))
            row.values[record.step] = fmean(record.log_probs)
    return list(rows.values())


def items_of(folder: Path, records: Iterable[Record], names: Sequence[str]) -> Items:
    """The lists, of these names, that records refer to."""
    there = {record.items for record in records if isinstance(record, ScoresRecord)}
    return {name: read_items(folder, name) for name in names if name in there}


def rows_table(
    rows: Sequence[Row],
    columns: Mapping[int, str],
    title: str,
    *,
    change: tuple[int, int] | None = None,
) -> Table:
    """Rows at some steps."""
    cells = (
        [
            row.label,
            *(row.shown(row.values[step]) if step in row.values else "" for step in columns),
            *([row.change(*change)] if change else []),
        ]
        for row in rows
        if columns.keys() & row.values.keys()
    )
    return Table.of_rows(title, ["", *columns.values(), *(["change"] if change else [])], cells)


def share(value: float) -> str:
    """A share as text."""
    # Adding zero takes the sign from what rounds to it.
    return f"{round(value, 3) + 0.0:.1%}"


def nats(value: float) -> str:
    """A number of nats as text."""
    return f"{round(value, 3) + 0.0:.3f}"


def _values(record: Record, items: Items) -> Iterable[tuple[str, float, Callable[[float], str]]]:
    match record:
        case PerplexityRecord():
            yield f"loss on {record.corpus}", record.mean_loss, nats
            if record.bits_per_byte is not None:
                yield "  bits per byte", record.bits_per_byte, nats
        case EntropyRecord():
            yield _ENTROPIES.get(record.kind, record.kind), record.total, nats
        case TaskRecord():
            yield (_KNOWN_FACTS if record.task == CLOZE else record.task), record.score, share
        case ScoresRecord() if record.items in items:
            for wording, label in _WORDINGS.items():
                pairs = zip(items[record.items], record.log_probs, strict=True)
                scores = [score for item, score in pairs if item.get("wording") == wording]
                if scores:
                    yield label, fmean(scores), nats
