"""What a run of continual knowledge learning looks at: probes often, everything else at times.

Everything is looked at before the first step, at the lags after the last injection, and after the
last step. Whether a model generates the target of each probe is looked at where that is asked for,
and then right after the last injection too, whatever the lags.
"""

from pathlib import Path

from probes.hooked_model import HookedModel
from probes.lens_items import encoded_items
from probes.target_reduction import PaddedMean, TargetReduction
from training.ckl.config import CklConfig
from training.ckl.data import CklData
from training.ckl.fields import ProbeReduction
from training.commands.observers import Looks
from training.datasets.fact_corpus import ClozeItem, read_cloze
from training.datasets.passages import KnowledgeSet
from training.misfits import Misfits
from training.observers import Cadence, ProbeObserver
from training.recall_items import RecallItem
from training.recall_observer import RecallObserver
from training.start_models import Start

AUTO = "auto"
PROBES = "knowledge"
"""What the list of knowledge probes is called."""
GENERATED = "probes"
"""What the list of their targets is called, entry by entry the same probes, that are generated."""


def ckl_looks(config: CklConfig, model: HookedModel, data: CklData, start: Start) -> Looks:
    """The observers of a run.

    Args:
        config: the run.
        model: its start.
        data: what it trains on.
        start: where the model is from, which knows what it was asked before.

    Raises:
        ValueError: a task, a corpus or a list of facts is not there, or a lag is too long.
    """
    misfits, looks = Misfits(), Looks()
    at: tuple[int, ...] = ()
    with misfits.noted():
        at = data.schedule.evaluation_steps(config.lags, data.steps)
    often = Cadence(every=config.probe_every, at=at, last=data.steps)
    seldom = Cadence(every=config.evaluate_every, at=at, last=data.steps)
    looks.observers.append(
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
            looks.observers.append(RecallObserver(GENERATED, asked, when))
    with misfits.noted():
        add_others(looks, config, model, start, seldom)
    misfits.refuse()
    return looks


def add_others(
    looks: Looks, config: CklConfig, model: HookedModel, start: Start, seldom: Cadence
) -> None:
    """Add what is looked at beside the knowledge: text, entropies, earlier facts and tasks.

    Raises:
        ValueError: a task, a corpus or a list of facts is not there; names all that are not.
    """
    misfits = Misfits()
    with misfits.noted():
        looks.at_text(
            config.evaluation_corpora,
            model.tokenizer,
            seldom,
            tokens=config.evaluation_tokens,
            entropy_tokens=config.entropy_tokens,
            row_length=config.row_length,
        )
    with misfits.noted():
        looks.at_facts(_earlier_facts(config.cloze, start), seldom)
    with misfits.noted():
        looks.at_tasks(config.tasks, config.task_limit, seldom)
    misfits.refuse()


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


def _earlier_facts(cloze: str | None, start: Start) -> tuple[ClozeItem, ...]:
    path = start.cloze if cloze == AUTO else None if cloze is None else Path(cloze)
    return () if path is None else read_cloze(path)
