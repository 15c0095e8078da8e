"""What `training.ckl` does: a start, edits of it, a corpus with injections, and the loop.

Everything is made again when a run goes on, from the same seeds; the manifest holds hashes of it
all. What an edited model scored before it was edited is kept in `baseline.jsonl`, whose lines are
records as in `records.jsonl`.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console

import probes
from probes.hooked_model import HookedModel
from probes.prompts import set_bos_habit
from training.choices import Exposure, ProbeKind
from training.ckl.config import CklConfig
from training.ckl.data import PROBES, CklData, add_others, ckl_data, ckl_looks
from training.ckl.recipes import TINY_RUN
from training.commands.edit_settings import RunEdits, edits_of, write_baseline
from training.commands.observers import Looks
from training.loop import TrainingResult, train
from training.observers import Cadence
from training.processes import Processes, joined_processes
from training.runs.directory import (
    RunDirectory,
    is_finished,
    opened_directory,
    refuse_taken,
    run_manifest,
    tokenizer_hash,
)
from training.runs.records import BASELINE_FILE, Record, ScoresRecord, from_line
from training.runs.tables import Row, items_of, nats, observations, observed, shown_table
from training.start_models import CLOZE, Start, find_start
from training.trial import Misfits, tried

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
    """Print scores before and after, and where everything is."""
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


@dataclass(frozen=True)
class Prepared:
    """Everything that a run starts from.

    Attributes:
        model: the start, not edited yet.
        data: batches, passages and schedule.
        edits: what is done to the start.
        looks: what is looked at.
        inputs: hashes and counts of all of it.
    """

    model: HookedModel
    data: CklData
    edits: RunEdits
    looks: Looks
    inputs: dict[str, Any]


def run_ckl(
    config: CklConfig,
    out: Path,
    *,
    recipe: str = "smoke",
    resume: bool = False,
    seconds: float | None = None,
) -> None:
    """Train, and print what was learnt and what was lost."""
    if missing := config.missing():
        raise ValueError(f"recipe {recipe!r} leaves to be given: {'; '.join(missing)}")
    with joined_processes() as here:
        if here.is_first:
            refuse_taken(out, resume=resume)
        # What can be told at once: settings. Then everything is made again, and compared.
        is_finished(out, config, resume=resume)
        prepared = prepare(config, here)
        manifest = run_manifest("training.ckl", recipe, config, prepared.inputs)
        directory = opened_directory(out, manifest, resume=resume)
        result = None
        if not directory.is_done:
            if here.is_first:
                print_beginning(config, prepared.model, prepared.data)
            result = _train(config, prepared, directory, resume, seconds)
        if here.is_first:
            print_ckl(out, config, result)


def prepare(config: CklConfig, here: Processes) -> Prepared:
    """Load the start, measure what edits need, and read the texts."""
    start = _found(config)
    model = probes.load_model(
        start.model, revision=start.revision, device=config.device, dtype="float32"
    )
    set_bos_habit(model.tokenizer, config.prepend_bos)
    misfits, data, looks = Misfits(), None, Looks()
    with misfits.noted():
        data = ckl_data(config, model)
    with misfits.noted():
        if data is not None:
            looks = ckl_looks(config, model, data, start)
        else:
            add_others(looks, config, model, start, Cadence())
    misfits.refuse()
    assert data is not None
    edits = edits_of(
        config, model, seed=config.seed, row_length=config.row_length, watched=here.is_first
    )
    inputs = {
        "start_sha256": model.content_hash(),
        "tokenizer_sha256": tokenizer_hash(model.tokenizer),
        "edits": edits.describe(),
        **data.inputs(),
        **looks.inputs,
    }
    return Prepared(model, data, edits, looks, inputs)


def try_ckl(config: CklConfig, out: Path | None) -> None:
    """Try all that a run needs, up to a checkpoint, without training."""
    with joined_processes() as here:
        prepared = prepare(config, here)
        prepared.edits.write(prepared.model)
        tried(
            prepared.model,
            prepared.data.source,
            config.settings(prepared.data.steps),
            out,
            edits=prepared.edits.hooks,
            optimizer_edits=prepared.edits.optimizer,
            observers=prepared.looks.observers,
        )


def _found(config: CklConfig) -> Start:
    if config.model == TINY_RUN and not Path(TINY_RUN).exists():
        raise ValueError(
            f"there is no {TINY_RUN}; make it with python -m training.pretrain --recipe tiny "
            f"--out {TINY_RUN}, or give another --model"
        )
    return find_start(config.model, config.revision)


def _train(
    config: CklConfig,
    prepared: Prepared,
    directory: RunDirectory,
    resume: bool,
    seconds: float | None,
) -> TrainingResult:
    if prepared.edits.all:
        write_baseline(prepared.model, prepared.looks.observers, directory)
    prepared.edits.write(prepared.model)
    return train(
        prepared.model,
        prepared.data.source,
        config.settings(prepared.data.steps),
        directory,
        edits=prepared.edits.hooks,
        observers=prepared.looks.observers,
        optimizer_edits=prepared.edits.optimizer,
        resume=resume,
        time_limit=seconds,
    )
