"""What a run of continual knowledge learning looks at: probes often, everything else at times.

Everything is looked at before the first step, at the lags after the last injection, and after the
last step.
"""

from pathlib import Path

from probes.hooked_model import HookedModel
from probes.target_reduction import PaddedMean, TargetReduction
from training.ckl.config import CklConfig
from training.ckl.data import CklData
from training.ckl.fields import ProbeReduction
from training.commands.observers import Looks
from training.datasets.fact_corpus import ClozeItem, read_cloze
from training.observers import Cadence, ProbeObserver
from training.start_models import Start

AUTO = "auto"
PROBES = "knowledge"
"""What the list of knowledge probes is called."""


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
    at = data.schedule.evaluation_steps(config.lags, data.steps)
    often = Cadence(every=config.probe_every, at=at, last=data.steps)
    seldom = Cadence(every=config.evaluate_every, at=at, last=data.steps)
    looks = Looks()
    looks.observers.append(
        ProbeObserver(
            data.knowledge,
            often,
            reduction=_reduction(config.probe_reduction),
            exposures=data.exposures,
            name=PROBES,
        )
    )
    looks.at_text(
        config.evaluation_corpora,
        model.tokenizer,
        seldom,
        tokens=config.evaluation_tokens,
        entropy_tokens=config.entropy_tokens,
        row_length=config.row_length,
    )
    looks.at_facts(_earlier_facts(config.cloze, start), seldom)
    looks.at_tasks(config.tasks, config.task_limit, seldom)
    return looks


def _reduction(name: ProbeReduction) -> TargetReduction | PaddedMean:
    if name == ProbeReduction.PADDED_MEAN:
        return PaddedMean()
    return TargetReduction(name.value)


def _earlier_facts(cloze: str | None, start: Start) -> tuple[ClozeItem, ...]:
    path = start.cloze if cloze == AUTO else None if cloze is None else Path(cloze)
    return () if path is None else read_cloze(path)
