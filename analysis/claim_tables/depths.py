"""Depths: in which layer each fact of stage A becomes readable, for the table `MEMORIZATION`.

The model of the start and of every stage's end is loaded, one at a time, and the first token of
each answer is read through the lens (`analysis.remix_report.depths`). A fact has no first layer
where its answer is never among the `k` top tokens, and is left out there. Runs whose edits are
hooks are left out: their checkpoints hold the weights without them.

Example:
    >>> depths = fact_depths([read_chain("runs/remix")], 64)                 # doctest: +SKIP
    >>> memorization_table(chains, depths=depths)                            # doctest: +SKIP
"""

from collections.abc import Iterator, Sequence

import pandas as pd

from analysis.remix_report.arms import arms_of
from analysis.remix_report.chains import Chain
from analysis.remix_report.depths import TOP_K, is_hooked, model_keys, ranks_by_model
from probes.localization import NEVER, Localization, localize

FIRST = "A"
FIRST_LAYER, EFFECTIVE_LAYERS = "first layer", "effective layers"
_COLUMNS = ("run", "moment", "measure", "cluster", "value")


def fact_depths(
    chains: Sequence[Chain], items: int, *, device: str | None = None, k: int = TOP_K
) -> pd.DataFrame:
    """Where facts of stage A are readable after each stage, in layers.

    Args:
        chains: finished runs; their checkpoints must be where they were written.
        items: how many facts of stage A to look at, the first ones.
        device: cpu or cuda; None for cuda where there is one.
        k: how near the top an answer counts as readable.

    Returns:
        Columns `run` (its folder), `moment`, `measure` ("first layer" of a fact, "effective layers"
        of a run), `cluster` (the fact; missing for numbers of a run), `value`.

    Raises:
        ValueError: a checkpoint is not there, the items of stage A are others than were learnt, or
            a run is there twice.
    """
    arms = [arm for arm in arms_of(chains) if not is_hooked(arm)] if chains else []
    read = ranks_by_model(arms, items, device)
    rows = [
        (str(chain.path), moment, *found)
        for arm in arms
        for chain in arm.chains
        for moment, key in model_keys(chain).items()
        if moment in chain.moments[1:]
        for found in _rows(chain, localize(read[key].ranks, k, read[key].d_vocab))
    ]
    return pd.DataFrame(rows, columns=list(_COLUMNS))


def _rows(chain: Chain, found: Localization) -> Iterator[tuple[str, str | None, float]]:
    answers = chain.answers(FIRST, chain.moments[-1])
    assert answers is not None, "items of all stages are asked for at the end of each"
    for fact, layer in zip(answers.index, found.first_layer.tolist(), strict=False):
        if layer != NEVER:
            yield FIRST_LAYER, fact, float(layer)
    if (found.first_layer != NEVER).any():
        yield EFFECTIVE_LAYERS, None, found.effective_layers
