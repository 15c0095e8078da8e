"""The data of a run of continual knowledge learning: a corpus with passages injected into it.

Everything that the released trainers leave to chance is checked here before anything is trained:
that passages fit the rows, rounds fit the run, and the corpus fills it.
"""

from dataclasses import dataclass
from typing import Any

import probes
from probes.hooked_model import HookedModel
from probes.prompts import encoded_items
from probes.scoring import PaddedMean, TargetReduction
from training.ckl.config import CklConfig, ProbeReduction
from training.commands.observers import ObserverSet
from training.data.fictional import GENERATED, load_knowledge
from training.data.fictional_generator import generate_knowledge
from training.data.packed_rows import CorpusSource, corpus_source
from training.data.passages import Exposures, KnowledgeSet, assign_exposures
from training.injection import InjectedSource, InjectionSchedule, encode_passages
from training.misfits import Misfits
from training.observers import Cadence, ProbeObserver
from training.recall import RecallItem, RecallObserver
from training.start_models import Start


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
