"""What `training.remix` prints: what it begins with, each stage as it begins, and what was kept.

The table has a column for the start and one for the end of every stage. Exact match counts answers
whose tokens are all the most probable ones, each after the right ones before it, the end included;
log-probabilities are of whole answers, in nats, averaged over items.

Example:
    >>> print_remix(Path("runs/remix"), config, result)                       # doctest: +SKIP
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from rich.console import Console

from training.remix.config import RemixConfig
from training.remix.items import StageItems
from training.runs.records import (
    EntropyRecord,
    PerplexityRecord,
    RecallRecord,
    Record,
    ScoresRecord,
    TaskRecord,
    read_records,
)
from training.runs.tables import Row, items_of, nats, observed, share, shown_table
from training.stages import ChainResult, ReadyStage, stage_folder
from training.start_models import CLOZE

Overlap = Mapping[str, Mapping[str, Mapping[str, int]]]
TOKENS = "tokens"
"""The match of recall by teacher forcing."""
_RECALL = "items answered exactly, and log-probability of whole answers in nats"
_OTHERS = "everything else: losses and entropies in nats"
_LOOKS = (RecallRecord, PerplexityRecord, TaskRecord, ScoresRecord, EntropyRecord)


def print_beginning(
    config: RemixConfig, model: str, items: Sequence[StageItems], overlap: Overlap
) -> None:
    """Say what is about to be trained, and which of it the mixes hold."""
    print(f"model: {model}")
    for stage, one in zip(config.stages, items, strict=True):
        mix = "" if one.mix is None else f"; {one.mix.name}: {len(one.mix_rows):,} items"
        left_out = len(one.rows.too_long)
        too_long = f" ({left_out} too long and left out)" if left_out else ""
        print(f"stage {stage.name}: {len(one.rows):,} items of {stage.data}{too_long}{mix}")

    for name, found in overlap.items():
        for learnt, counts in found.items():
            if counts["answers"]:
                print(
                    f"the mix of stage {name} holds {counts['answers']} of the "
                    f"{counts['factoids']:,} answers of D_{learnt}, {counts['pairs']} of them "
                    "beside their subject"
                )


def print_stage(name: str, ready: ReadyStage) -> None:
    """Say that a stage begins."""
    most = "" if ready.stop is None else "at most "
    print(f"stage {name}: {most}{ready.settings.steps:,} steps")


def print_remix(
    out: Path, names: Sequence[str], result: ChainResult, console: Console | None = None
) -> None:
    """Print what was answered and scored after every stage, how each ended, and where it all is.

    Args:
        out: folder of the chain.
        names: of its stages, which their lists of items go by.
        result: how it ended.
        console: where to; None for the standard output.
    """
    console = console or Console()
    folders = {outcome.name: outcome.folder for outcome in result.outcomes}
    columns = {0: "start", **{n: f"after {name}" for n, name in enumerate(folders, start=1)}}
    if result.unfinished is not None and result.unfinished[1]:
        name = result.unfinished[0]
        columns[len(columns)] = f"in {name}"
        folders[name] = stage_folder(out, name)
    seen = [record for n, path in enumerate(folders.values()) for record in _moved(path, n)]
    console.print(shown_table(_recall_rows(seen, names), columns, _RECALL))
    items = items_of(next(iter(folders.values())), seen, [CLOZE])
    if rows := observed(seen, items):
        console.print(shown_table(rows, columns, _OTHERS))
    for outcome in result.outcomes:
        print(outcome.sentence)
    if result.unfinished is not None:
        name, steps = result.unfinished
        print(f"stopped in stage {name} after {steps:,} steps; go on with --resume")
    print(f"run: {out}")


def _moved(folder: Path, place: int) -> Iterator[Record]:
    """What was seen at the end of a stage, at the place after its own, and of the first its start.

    Looks in between come before the last one, which takes their place.
    """
    seen = [record for record in read_records(folder) if isinstance(record, _LOOKS)]
    last = max(record.step for record in seen)
    for record in seen:
        if record.step == 0 and place == 0:
            yield replace(record, step=0)
        if record.step == last:
            yield replace(record, step=place + 1)


def _recall_rows(seen: Iterable[Record], names: Sequence[str]) -> list[Row]:
    """Exact match, by teacher forcing and otherwise, and log-probabilities of every list."""
    rows: dict[str, Row] = {}
    for record in seen:
        if not isinstance(record, RecallRecord):
            continue
        what = f"D_{record.items}" if record.items in names else record.items
        about = what if record.match == TOKENS else f"  {what}, {record.match}"
        rows.setdefault(about, Row(about, share)).values[record.step] = fmean(record.correct)
        if record.log_probs is not None:
            row = rows.setdefault(f"{what} log p", Row("  log p", nats))
            row.values[record.step] = fmean(record.log_probs)
    return list(rows.values())
