"""The data of a run of continual knowledge learning: a corpus with passages injected into it.

Everything that the released trainers leave to chance is checked here before anything is trained:
that passages fit the rows, rounds fit the run, and the corpus fills it.
"""

from dataclasses import dataclass
from typing import Any

import probes
from probes.hooked_model import HookedModel
from training.ckl.config import CklConfig
from training.datasets.fictional_exposures import Exposures, assign_exposures
from training.datasets.fictional_generator import generate_knowledge
from training.datasets.fictional_knowledge import GENERATED, load_knowledge
from training.datasets.packed_rows import CorpusSource, corpus_source, model_positions
from training.datasets.passages import KnowledgeSet
from training.injection import InjectedSource, encode_passages
from training.injection_schedule import InjectionSchedule
from training.misfits import Misfits


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
    """Read and encode what a run trains on.

    Args:
        config: the run.
        model: whose tokenizer encodes it, and whose positions rows must fit.

    Raises:
        ValueError: a text is not there, or passages, rows and steps do not go together.
    """
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
        # Whoever looks checks the lags, but for data that are not there.
        with misfits.noted():
            schedule.evaluation_steps(config.lags, steps)
    misfits.refuse()
    return CklData(source, steps, knowledge, exposures, schedule)


def _planned(config: CklConfig) -> tuple[KnowledgeSet, Exposures, InjectionSchedule]:
    """What is injected, and when."""
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
        positions=model_positions(model),
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
