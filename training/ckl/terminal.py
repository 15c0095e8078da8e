"""What `training.ckl` prints: what it begins with, what was learnt, and what was lost.

K is the mean score of the knowledge probes of all passages that are met, every passage counting the
same; scores are log-probabilities in nats. How K and P become acquisition and forgetting is defined
in `analysis.metrics`, which reads the run.

Example:
    >>> print_ckl(Path("runs/ckl"), data, result)                             # doctest: +SKIP
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console

from probes.hooked_model import HookedModel
from training.choices import Exposure, ProbeKind
from training.ckl.config import CklConfig
from training.ckl.data import CklData
from training.ckl.looks import PROBES
from training.loop import TrainingResult
from training.runs.records import BASELINE_FILE, Record, ScoresRecord, from_line
from training.runs.tables import Row, items_of, nats, observations, observed, shown_table
from training.start_models import CLOZE

_UNEDITED = -1
"""Where the baseline stands among the steps."""
_LEARNT = "what the passages say: log-probability ({}), nats"
_KEPT = "everything else: losses and entropies in nats"
_ALL_MET = "K, passages met"


def print_beginning(config: CklConfig, model: HookedModel, data: CklData) -> None:
    """Say what is about to be trained."""
    parameters = sum(parameter.numel() for parameter in model.hf_model.parameters())
    tokens = data.steps * config.batch_size * config.row_length
    print(f"model: {model.name}, {parameters:,} parameters, on {model.device}")
    print(
        f"texts: {tokens:,} tokens of {config.corpus} in {data.steps:,} steps; "
        f"{len(data.knowledge)} passages, {len(data.knowledge.probes):,} probes"
    )


def print_ckl(
    folder: Path, config: CklConfig, result: TrainingResult | None, console: Console | None = None
) -> None:
    """Print scores before and after, and where everything is.

    Args:
        folder: of the run.
        config: what it is.
        result: how this piece of the run ended; None where it had ended before.
        console: where to; None for the standard output.
    """
    console = console or Console()
    seen = [*_baseline(folder), *observations(folder)]
    items = items_of(folder, seen, [CLOZE, PROBES])
    columns, last = _columns(seen, config), max(record.step for record in seen)
    others = observed(seen, {name: rows for name, rows in items.items() if name == CLOZE})
    learnt = _LEARNT.format(config.probe_reduction)
    for rows, title in ((_knowledge_rows(seen, items[PROBES]), learnt), (others, _KEPT)):
        if rows:
            console.print(shown_table(rows, columns, title, change=(0, last)))
    injected = config.last_injection + 1
    if injected in columns:
        print(f"the last injection is in update {injected}")
    if result is None:
        print("this run was over already; nothing was done")
    elif not result.finished:
        print(f"stopped after {result.steps_done:,} steps; go on with --resume")
    print(f"run: {folder}")


def _baseline(folder: Path) -> list[Record]:
    """What the start scored before it was edited, where it was."""
    path = folder / BASELINE_FILE
    if not path.is_file():
        return []
    found = map(from_line, path.read_text(encoding="utf-8").splitlines())
    return [_moved(record) for record in found if isinstance(record, Record)]


def _moved(record: Record) -> Record:
    from dataclasses import replace

    return replace(record, step=_UNEDITED)


def _columns(seen: Sequence[Record], config: CklConfig) -> dict[int, str]:
    """The steps worth showing: the start, right after the last injection, and the end."""
    steps = {record.step for record in seen}
    wanted = {_UNEDITED: "unedited", 0: "edited" if _UNEDITED in steps else "before"}
    for step in (config.last_injection + 1, max(steps)):
        wanted.setdefault(step, f"step {step:,}")
    return {step: heading for step, heading in wanted.items() if step in steps}


def _knowledge_rows(seen: Iterable[Record], probes: Sequence[Mapping[str, Any]]) -> list[Row]:
    """K, and its parts by exposure and, of passages met, by kind of probe."""
    parts: dict[str, list[int]] = {_ALL_MET: []}
    for exposure in Exposure:
        parts[f"  {exposure.replace('_', ' ')}"] = _places(probes, "exposure", exposure)
    for kind in ProbeKind:
        parts[f"  {kind}"] = [
            place
            for place in _places(probes, "kind", kind)
            if probes[place]["exposure"] != Exposure.HELD_OUT
        ]
    parts[_ALL_MET] = [
        place for place, probe in enumerate(probes) if probe["exposure"] != Exposure.HELD_OUT
    ]
    rows = {label: Row(label, nats) for label, places in parts.items() if places}
    for record in seen:
        if isinstance(record, ScoresRecord) and record.items == PROBES:
            for label, row in rows.items():
                row.values[record.step] = _score(record.log_probs, parts[label], probes)
    return list(rows.values())


def _places(probes: Sequence[Mapping[str, Any]], field: str, value: str) -> list[int]:
    return [place for place, probe in enumerate(probes) if probe[field] == value]


def _score(
    log_probs: Sequence[float], places: Sequence[int], probes: Sequence[Mapping[str, Any]]
) -> float:
    """Mean over passages of the means over their probes."""
    of_passage: dict[int, list[float]] = defaultdict(list)
    for place in places:
        of_passage[probes[place]["passage"]].append(log_probs[place])
    return fmean(fmean(scores) for scores in of_passage.values())
