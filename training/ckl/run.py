"""What `training.ckl` does: a model, edits of it, a corpus with injections, and the loop."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import probes
from probes.hooked_model import HookedModel
from probes.prompts import set_bos_habit
from probes.tables import print_tables
from training.choices import Exposure, ProbeKind
from training.ckl.config import CklConfig
from training.ckl.data import PROBES, CklData, ckl_data, ckl_observers
from training.commands.edit_settings import edits_of
from training.commands.observers import ObserverSet
from training.commands.single_run import PreparedRun, make_run, try_run
from training.misfits import Misfits
from training.observers import Cadence
from training.processes import this_process
from training.runs.directory import tokenizer_hash
from training.runs.records import BASELINE_FILE, Record, ScoresRecord, from_line
from training.runs.tables import Row, items_of, nats, observations, observed, rows_table
from training.start_models import CLOZE, find_base

_UNEDITED = -1
"""Where the baseline stands among the steps."""
_LEARNT = "what the passages say: log-probability ({}), nats"
_KEPT = "everything else: losses and entropies in nats"
_ALL_MET = "K, passages met"


def run_ckl(config: CklConfig, out: Path, *, recipe: str = "smoke", **how: Any) -> None:
    """Train, and print what was learnt and what was lost."""
    if missing := config.missing():
        raise ValueError(f"recipe {recipe!r} leaves to be given: {'; '.join(missing)}")
    make_run("training.ckl", prepare, print_ckl, config, out, recipe=recipe, **how)


def try_ckl(config: CklConfig, out: Path | None) -> None:
    """Try all that a run needs, up to a checkpoint, without training."""
    try_run(prepare, config, out)


def prepare(config: CklConfig) -> PreparedRun:
    """Load the model, measure what edits need, and read the texts."""
    start = find_base(config.model, config.revision)
    model = probes.load_model(
        start.model, revision=start.revision, device=config.device, dtype="float32"
    )
    set_bos_habit(model.tokenizer, config.prepend_bos)
    misfits, data, observed = Misfits(), None, ObserverSet()
    with misfits.noted():
        data = ckl_data(config, model)
    with misfits.noted():
        if data is not None:
            observed = ckl_observers(config, model, data, start)
        else:
            observed.add_evaluation(
                config, model.tokenizer, start, Cadence(), row_length=config.row_length
            )
    misfits.refuse()
    assert data is not None
    edits = edits_of(
        config,
        model,
        seed=config.seed,
        row_length=config.row_length,
        watched=this_process().is_first,
    )
    return PreparedRun(
        model=model,
        source=data.source,
        settings=config.settings(data.steps),
        observed=observed,
        edits=edits,
        inputs={
            "start_sha256": model.content_hash(),
            "tokenizer_sha256": tokenizer_hash(model.tokenizer),
            "edits": edits.describe(),
            **data.inputs(),
            **observed.inputs,
        },
        sentences=_sentences(config, model, data),
    )


def _sentences(config: CklConfig, model: HookedModel, data: CklData) -> Sequence[str]:
    """What is about to be trained."""
    parameters = sum(parameter.numel() for parameter in model.hf_model.parameters())
    tokens = data.steps * config.batch_size * config.row_length
    return (
        f"model: {model.name}, {parameters:,} parameters, on {model.device}",
        f"texts: {tokens:,} tokens of {config.corpus} in {data.steps:,} steps; "
        f"{len(data.knowledge)} passages, {len(data.knowledge.probes):,} probes",
    )


def print_ckl(folder: Path, config: CklConfig) -> None:
    """Print scores before and after."""
    seen = [*_baseline(folder), *observations(folder)]
    items = items_of(folder, seen, [CLOZE, PROBES])
    columns, last = _columns(seen, config), max(record.step for record in seen)
    others = observed(seen, {name: rows for name, rows in items.items() if name == CLOZE})
    learnt = _LEARNT.format(config.probe_reduction)
    print_tables(
        rows_table(rows, columns, title, change=(0, last))
        for rows, title in ((_knowledge_rows(seen, items[PROBES]), learnt), (others, _KEPT))
        if rows
    )
    injected = config.last_injection + 1
    if injected in columns:
        print(f"the last injection is in update {injected}")


def _baseline(folder: Path) -> list[Record]:
    """What the model scored before it was edited, where it was."""
    path = folder / BASELINE_FILE
    if not path.is_file():
        return []
    found = map(from_line, path.read_text(encoding="utf-8").splitlines())
    return [replace(record, step=_UNEDITED) for record in found if isinstance(record, Record)]


def _columns(seen: Sequence[Record], config: CklConfig) -> dict[int, str]:
    """The steps worth showing: the first, right after the last injection, and the end."""
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
