"""What `training.ckl` does: a model, edits of it, a corpus with injections, and what comes of it.

Everything that the released trainers leave to chance is checked here before anything is trained:
that passages fit the rows, rounds fit the run, and the corpus fills it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

import probes
from probes.hooked_model import HookedModel
from probes.prompts import encoded_items
from probes.scoring import PaddedMean, TargetReduction
from probes.shown import print_tables
from training.choices import Exposure, ProbeKind
from training.ckl_config import CklConfig, ProbeReduction
from training.data.fictional_generator import generate_knowledge
from training.data.packed_rows import corpus_source
from training.data.passages import (
    GENERATED,
    Exposures,
    KnowledgeSet,
    assign_exposures,
    load_knowledge,
)
from training.edit_settings import edits_of
from training.injection import InjectedSource, InjectionSchedule, encode_passages
from training.observers import Cadence, ProbeObserver
from training.processes import this_process
from training.recall import RecallItem, RecallObserver
from training.runs.directory import tokenizer_hash
from training.runs.records import BASELINE_FILE, Record, ScoresRecord, from_line
from training.runs.tables import Row, items_of, nats, observations, observed, rows_table
from training.settings import Misfits
from training.single_run import ObserverSet, PreparedRun
from training.start_or_resume import CLOZE, Start, find_base

PROBES = "knowledge"  # the list of knowledge probes
GENERATED_PROBES = "probes"
"""The list of their targets, entry by entry the same probes, that are generated."""
_UNEDITED = -1  # the step under which the baseline is shown


@dataclass(frozen=True)
class CklData:
    """What a run trains on: its batches and updates, passages, how and when each is met."""

    source: InjectedSource
    steps: int
    knowledge: KnowledgeSet
    exposures: Exposures
    schedule: InjectionSchedule

    def inputs(self) -> dict[str, Any]:
        """What identifies all of it, as plain values for a manifest."""
        return {
            "data": self.source.describe(),
            "knowledge": self.knowledge.configuration,
            "exposures": {str(index): str(kind) for index, kind in self.exposures.items()},
        }


def prepare(config: CklConfig) -> PreparedRun:
    """Load the model, measure what edits need, and read the texts."""
    start = find_base(config.model, config.revision)
    model = start.load(config)
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
    parameters = sum(parameter.numel() for parameter in model.hf_model.parameters())
    tokens = data.steps * config.batch_size * config.row_length
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
        sentences=(
            f"model: {model.name}, {parameters:,} parameters, on {model.device}",
            f"texts: {tokens:,} tokens of {config.corpus} in {data.steps:,} steps; "
            f"{len(data.knowledge)} passages, {len(data.knowledge.probes):,} probes",
        ),
    )


def ckl_data(config: CklConfig, model: HookedModel) -> CklData:
    """Read and encode what a run trains on."""
    misfits, planned, host = Misfits(), None, None
    with misfits.noted():
        planned = _planned(config)
    with misfits.noted():
        assert config.corpus is not None
        host = corpus_source(
            probes.load_corpus(config.corpus, column=config.column),
            model.tokenizer,
            config.row_length,
            config.batch_size,
            epochs=config.epochs,
            shuffle_seed=config.seed if config.shuffle else None,
            max_rows=config.rows_needed(),
            positions=model.n_positions,
            document_mask=config.document_mask,
        )
    if host is None or planned is None:
        misfits.refuse()
    assert host is not None
    assert planned is not None
    available = host.steps_available
    assert available is not None
    knowledge, exposures, schedule = planned
    steps = available if config.steps is None else config.steps
    with misfits.noted():
        if available < steps:
            raise ValueError(
                f"{config.corpus} fills {available} of the {steps} steps; give more text, --epochs "
                f"{-(-steps // (available // config.epochs))} or more, or --steps of at most "
                f"{available}"
            )
    with misfits.noted():
        source = InjectedSource(
            host,
            schedule,
            encode_passages(knowledge, model.tokenizer),
            config.injection_mode,
            document_mask=config.document_mask,
            steps=steps,
        )
    if misfits.found:
        # Observers check the lags, but for data that are not there.
        with misfits.noted():
            schedule.evaluation_steps(config.lags, steps)
    misfits.refuse()
    return CklData(source, steps, knowledge, exposures, schedule)


def _planned(config: CklConfig) -> tuple[KnowledgeSet, Exposures, InjectionSchedule]:
    """As many passages as there are exposures for, and how and when each is met."""
    if config.knowledge == (GENERATED,):
        knowledge = generate_knowledge(
            config.passages,
            paraphrases=max(config.injection_rounds - 1, 1),
            words=config.passage_words,
            seed=config.knowledge_seed,
        )
    else:
        one = config.knowledge[0] if len(config.knowledge) == 1 else list(config.knowledge)
        knowledge = load_knowledge(one, limit=config.passages)
    exposures = assign_exposures(
        knowledge,
        paraphrase=config.paraphrase,
        duplication=config.duplication,
        once=config.once,
        held_out=config.held_out,
    )
    schedule = InjectionSchedule.regular(
        exposures,
        interval=config.injection_interval,
        rounds=config.injection_rounds,
        first=config.first_injection,
        once=config.once_placement,
        cycles=config.injection_cycles,
    )
    return knowledge, exposures, schedule


def ckl_observers(
    config: CklConfig, model: HookedModel, data: CklData, start: Start
) -> ObserverSet:
    """The observers of a run."""
    misfits, found, knowledge = Misfits(), ObserverSet(), data.knowledge
    at: tuple[int, ...] = ()
    with misfits.noted():
        at = data.schedule.evaluation_steps(config.lags, data.steps)
    often = Cadence(every=config.probe_every, at=at, last=data.steps)
    seldom = Cadence(every=config.evaluate_every, at=at, last=data.steps)
    padded = config.probe_reduction == ProbeReduction.PADDED_MEAN
    found.observers.append(
        ProbeObserver(
            knowledge,
            often,
            reduction=PaddedMean() if padded else TargetReduction(config.probe_reduction),
            exposures=data.exposures,
            name=PROBES,
        )
    )
    if config.generate_every is not None:
        with misfits.noted():
            injected = data.schedule.evaluation_steps((0, *config.lags), data.steps)
            when = Cadence(every=config.generate_every, at=injected, last=data.steps)
            # Token for token the targets that are scored.
            encoded = encoded_items(model, [probe.pair for probe in knowledge.probes])
            asked = [
                RecallItem(
                    f"passage {probe.passage}, probe {probe.probe}",
                    PROBES,
                    item.prompt_ids,
                    item.target_ids,
                    probe.prompt,
                    (probe.target,),
                )
                for probe, item in zip(knowledge.probes, encoded, strict=True)
            ]
            found.observers.append(RecallObserver(GENERATED_PROBES, asked, when))
    with misfits.noted():
        found.add_evaluation(config, model.tokenizer, start, seldom, row_length=config.row_length)
    misfits.refuse()
    return found


def print_ckl(folder: Path, config: CklConfig) -> None:
    """Print scores before and after."""
    seen, baseline = observations(folder), folder / BASELINE_FILE
    if baseline.is_file():
        unedited = map(from_line, baseline.read_text(encoding="utf-8").splitlines())
        edited = (replace(one, step=_UNEDITED) for one in unedited if isinstance(one, Record))
        seen = [*edited, *seen]
    items = items_of(folder, seen, [CLOZE, PROBES])
    steps = {record.step for record in seen}
    # Worth showing: before, right after the last injection, and the end.
    wanted = {_UNEDITED: "unedited", 0: "edited" if _UNEDITED in steps else "before"}
    injected, last = config.last_injection + 1, max(steps)
    wanted |= {step: f"step {step:,}" for step in (injected, last) if step > 0}
    columns = {step: heading for step, heading in wanted.items() if step in steps}
    seen = [record for record in seen if record.step in columns]
    others = observed(seen, {name: rows for name, rows in items.items() if name == CLOZE})
    learnt = f"what the passages say: log-probability ({config.probe_reduction}), nats"
    kept = "everything else: losses and entropies in nats"
    print_tables(
        rows_table(rows, columns, title, change=(0, last))
        for rows, title in ((_knowledge_rows(seen, items[PROBES]), learnt), (others, kept))
        if rows
    )
    if injected in columns:
        print(f"the last injection is in update {injected}")


def _knowledge_rows(seen: Iterable[Record], probes: Sequence[Mapping[str, Any]]) -> list[Row]:
    """K and its parts: means over passages of the means over their probes."""
    table = pd.DataFrame(list(probes))
    met = table["exposure"] != Exposure.HELD_OUT
    parts = {"K, passages met": met}
    for exposure in Exposure:
        parts[f"  {exposure.replace('_', ' ')}"] = table["exposure"] == exposure
    for kind in ProbeKind:
        parts[f"  {kind}"] = met & (table["kind"] == kind)
    rows = {label: Row(label, nats) for label, chosen in parts.items() if chosen.any()}
    for record in seen:
        if isinstance(record, ScoresRecord) and record.items == PROBES:
            scores = table.assign(score=record.log_probs)
            for label, row in rows.items():
                of_passage = scores[parts[label]].groupby("passage")["score"]
                row.values[record.step] = float(of_passage.mean().mean())
    return list(rows.values())
