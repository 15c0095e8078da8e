"""What `training.ckl` does: a model, edits of it, a corpus with injections, and the loop."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import probes
from probes.hooked_model import HookedModel
from probes.prompts import encoded_items, set_bos_habit
from probes.scoring import PaddedMean, TargetReduction
from probes.tables import print_tables
from training.choices import Exposure, ProbeKind
from training.ckl_config import CklConfig, ProbeReduction
from training.data.fictional import GENERATED, load_knowledge
from training.data.fictional_generator import generate_knowledge
from training.data.packed_rows import CorpusSource, corpus_source
from training.data.passages import Exposures, KnowledgeSet, assign_exposures
from training.edit_settings import edits_of
from training.injection import InjectedSource, InjectionSchedule, encode_passages
from training.observers import Cadence, ProbeObserver
from training.processes import this_process
from training.recall import RecallItem, RecallObserver
from training.runs.directory import tokenizer_hash
from training.runs.records import BASELINE_FILE, Record, ScoresRecord, from_line
from training.runs.tables import Row, items_of, nats, observations, observed, rows_table
from training.settings import Misfits
from training.single_run import ObserverSet, PreparedRun, make_run, try_run
from training.start_models import CLOZE, Start, find_base


@dataclass(frozen=True)
class CklData:
    """What a run trains on.

    Attributes:
        source: the batches.
        steps: updates of the run.
        knowledge: passages and probes.
        exposures: how each passage is met.
        schedule: when.
    """

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


def ckl_data(config: CklConfig, model: HookedModel) -> CklData:
    """Read and encode what a run trains on."""
    misfits, planned, host = Misfits(), None, None
    with misfits.noted():
        planned = _planned(config)
    with misfits.noted():
        host = _host(config, model)
    if host is not None and planned is not None:
        knowledge, exposures, schedule = planned
        steps = _steps(config, host)
        with misfits.noted():
            _refuse_short(config, host, steps)
        with misfits.noted():
            source = InjectedSource(
                host,
                schedule,
                encode_passages(knowledge, model.tokenizer),
                config.injection_mode,
                document_mask=config.document_mask,
                steps=steps,
            )
    if misfits.found and host is not None and planned is not None:
        # Observers check the lags, but for data that are not there.
        with misfits.noted():
            schedule.evaluation_steps(config.lags, steps)
    misfits.refuse()
    return CklData(source, steps, knowledge, exposures, schedule)


def _planned(config: CklConfig) -> tuple[KnowledgeSet, Exposures, InjectionSchedule]:
    knowledge = _knowledge(config)
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


def _host(config: CklConfig, model: HookedModel) -> CorpusSource:
    """The corpus that passages are injected into."""
    assert config.corpus is not None
    return corpus_source(
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


def _steps(config: CklConfig, host: CorpusSource) -> int:
    assert host.steps_available is not None
    return host.steps_available if config.steps is None else config.steps


def _refuse_short(config: CklConfig, host: CorpusSource, steps: int) -> None:
    assert host.steps_available is not None
    if host.steps_available < steps:
        each = host.steps_available // config.epochs
        raise ValueError(
            f"{config.corpus} fills {host.steps_available} of the {steps} steps; give more text, "
            f"--epochs {-(-steps // each)} or more, or --steps of at most {host.steps_available}"
        )


def _knowledge(config: CklConfig) -> KnowledgeSet:
    """So many passages as there are exposures for."""
    if config.knowledge == (GENERATED,):
        paraphrases = max(config.injection_rounds - 1, 1)
        return generate_knowledge(
            config.passages,
            paraphrases=paraphrases,
            words=config.passage_words,
            seed=config.knowledge_seed,
        )
    one = config.knowledge[0] if len(config.knowledge) == 1 else list(config.knowledge)
    return load_knowledge(one, limit=config.passages)


PROBES = "knowledge"
"""What the list of knowledge probes is called."""
GENERATED_PROBES = "probes"
"""What the list of their targets is called, entry by entry the same probes, that are generated."""


def ckl_observers(
    config: CklConfig, model: HookedModel, data: CklData, start: Start
) -> ObserverSet:
    """The observers of a run."""
    misfits, found = Misfits(), ObserverSet()
    at: tuple[int, ...] = ()
    with misfits.noted():
        at = data.schedule.evaluation_steps(config.lags, data.steps)
    often = Cadence(every=config.probe_every, at=at, last=data.steps)
    seldom = Cadence(every=config.evaluate_every, at=at, last=data.steps)
    found.observers.append(
        ProbeObserver(
            data.knowledge,
            often,
            reduction=_reduction(config.probe_reduction),
            exposures=data.exposures,
            name=PROBES,
        )
    )
    if config.generate_every is not None:
        with misfits.noted():
            injected = data.schedule.evaluation_steps((0, *config.lags), data.steps)
            when = Cadence(every=config.generate_every, at=injected, last=data.steps)
            asked = _to_generate(model, data.knowledge)
            found.observers.append(RecallObserver(GENERATED_PROBES, asked, when))
    with misfits.noted():
        found.add_evaluation(config, model.tokenizer, start, seldom, row_length=config.row_length)
    misfits.refuse()
    return found


def _to_generate(model: HookedModel, knowledge: KnowledgeSet) -> list[RecallItem]:
    """The probes as items to answer, token for token the targets that are scored."""
    probes = knowledge.probes
    encoded = encoded_items(model, [probe.pair for probe in probes])
    return [
        RecallItem(
            f"passage {probe.passage}, probe {probe.probe}",
            PROBES,
            item.prompt_ids,
            item.target_ids,
            probe.prompt,
            (probe.target,),
        )
        for probe, item in zip(probes, encoded, strict=True)
    ]


def _reduction(name: ProbeReduction) -> TargetReduction | PaddedMean:
    if name == ProbeReduction.PADDED_MEAN:
        return PaddedMean()
    return TargetReduction(name.value)


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
