"""What else was seen at every moment: text, tasks, earlier facts, entropies, dormant neurons.

Text is what the model knew of language before: a rise of its bits per byte (of the loss, in nats a
token, where the bytes are not known) is forgetting too, and mixing may buy the one with the other.

Example:
    >>> table = level_table(arms)                                            # doctest: +SKIP
    >>> table[table["measure"] == "knowledge entropy"]                       # doctest: +SKIP
"""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from analysis.ckl_report.levels import ENTROPIES, RECALLED
from analysis.remix_report.arms import RemixArm
from analysis.remix_report.chains import Chain
from analysis.report_texts import shown_path

TEXT, TASKS, ENTROPY, NEURONS = "text", "tasks", "entropy", "neurons"
"""Groups of measures."""
DORMANT = "dormant neurons"
CLOZE = "cloze"
"""What records call earlier facts."""
_LEVELS = ("arm", "seed", "moment", "group", "measure", "value")
_MEANS = ("arm", "moment", "group", "measure", "value", "deviation", "change", "seeds")


def level_table(arms: Sequence[RemixArm]) -> pd.DataFrame:
    """Every measure at every moment.

    Args:
        arms: the runs.

    Returns:
        Columns `arm`, `moment`, `group`, `measure`, `value` (mean over seeds), `deviation` over
        seeds, `change` since the start (mean over seeds), `seeds`.
    """
    rows = [
        (arm.name, chain.seed, moment, *found)
        for arm in arms
        for chain in arm.chains
        for moment in arm.moments
        for found in _levels(chain, moment)
    ]
    single = pd.DataFrame(rows, columns=list(_LEVELS))
    if single.empty:
        return pd.DataFrame(columns=list(_MEANS))
    keys = ["arm", "seed", "group", "measure"]
    single["change"] = single["value"] - single.groupby(keys)["value"].transform("first")
    grouped = single.groupby(["arm", "moment", "group", "measure"], sort=False)
    means = grouped.agg(
        value=("value", "mean"),
        deviation=("value", "std"),
        change=("change", "mean"),
        seeds=("seed", "size"),
    )
    return means.reset_index()[list(_MEANS)]


def _levels(chain: Chain, moment: str) -> Iterator[tuple[Any, ...]]:
    """Group, measure and value."""
    stage, step = chain.step_of(moment)
    run = stage.run
    for row in run.perplexities[run.perplexities["step"] == step].itertuples():
        unit, value = ("bits per byte", row.bits_per_byte)
        if value is None or pd.isna(value):
            unit, value = "loss", row.mean_loss
        yield TEXT, f"{shown_path(str(row.corpus))}, {unit}", value
    for row in run.task_scores[run.task_scores["step"] == step].itertuples():
        yield TASKS, RECALLED if row.task == CLOZE else str(row.task), row.score
    totals = run.entropies[(run.entropies["step"] == step) & run.entropies["layer"].isna()]
    for row in totals.itertuples():
        yield ENTROPY, ENTROPIES[str(row.kind)], row.entropy
    dormant = run.neurons[run.neurons["step"] == step]["dormant_share"]
    if len(dormant):
        yield NEURONS, DORMANT, float(dormant.mean())
