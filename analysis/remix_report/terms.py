r"""The two terms of what mixing saves of the loss on A, at the first step of stage B.

\(\Delta_1\) is how much lower the loss on A is where stage B begins, \(\Delta_2\) what mixing does
to the first step from there (`training.forgetting_terms` derives both). Each run with a mix is
compared with the plain run of the same seed. The share of the mix in the loss of stage B is read
off the records: a batch's loss is the mean of the losses on its sources, weighted by their shares,
so that the shares are the least-squares solution over all batches.

Example:
    >>> term_table(arms)[["arm", "seed", "delta_1", "delta_2", "sign"]]      # doctest: +SKIP
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.remix_report.arms import RemixArm, base_of
from analysis.remix_report.chains import Chain
from training.forgetting_terms import delta_1, delta_2
from training.remix.fields import NO_MIX
from training.remix.looks import MIX_SAMPLE
from training.runs.records import GradientAlignmentRecord, StepRecord, records_of
from training.stage_choices import Replay

_TERMS = (
    *("arm", "seed", "mix_share", "delta_1", "delta_2", "low", "high", "sign"),
    "near_zero",
)


def term_table(arms: Sequence[RemixArm], base: RemixArm | None = None) -> pd.DataFrame:
    """Both terms of every run that mixes.

    Args:
        arms: the runs.
        base: whose runs they are compared with; None for the plain arm of each.

    Returns:
        Columns `arm`, `seed`, `mix_share` (of the loss of stage B), `delta_1` in nats a token,
        `delta_2` in nats a token for a learning rate of 1, with `low` and `high` over items, its
        `sign` (missing where it cannot be told), and `near_zero`, the gradients too small to have a
        direction. Empty where no gradients were looked at.
    """
    rows = [
        (arm.name, chain.seed, *found)
        for arm in arms
        if (plain := base_of(arm, arms, base)) is not None
        for chain in arm.chains
        for other in plain.chains
        if other.seed == chain.seed
        for found in _terms(chain, other)
    ]
    return pd.DataFrame(rows, columns=list(_TERMS)).astype({"sign": "Int64"})


def loss_share(chain: Chain, stage: str, source: str) -> float:
    """Which share of the loss of a stage one of its sources makes up.

    Args:
        chain: the run.
        stage: its letter.
        source: as the records call it.
    """
    records = records_of(chain.stages[stage].run.path, StepRecord)
    losses = pd.DataFrame([record.loss_by_source for record in records])
    whole = losses.notna().all(axis=1)
    values = losses[whole].to_numpy()
    loss = np.array([record.loss for record in records])[whole.to_numpy()]
    # The shares sum to 1: the last one is what the others leave.
    others = values[:, :-1] - values[:, -1:]
    found = np.linalg.lstsq(others, loss - values[:, -1], rcond=None)[0]
    shares = dict(zip(losses.columns, [*found, 1 - found.sum()], strict=True))
    return float(np.clip(shares[source], 0.0, 1.0))


def _terms(chain: Chain, plain: Chain) -> Iterator[tuple[Any, ...]]:
    if chain.configuration["replay"] != Replay.NONE or "B" not in chain.stages:
        return
    alone, mixed = _first(plain), _first(chain)
    if alone is None or mixed is None:
        return
    at_a, at_b = (_mix(chain, stage) for stage in ("A", "B"))
    share = 0.0
    if at_b is not None and MIX_SAMPLE in mixed.samples:
        share = loss_share(chain, "B", at_b)
    if at_a is None and not share:
        return
    start = alone if at_a is not None else mixed
    found = delta_2(start, mixed, mix_share=share)
    first = delta_1(alone, mixed) if at_a is not None else 0.0
    yield (
        *(share, first, found.value, found.interval.low, found.interval.high, found.sign),
        ", ".join(found.near_zero),
    )


def _first(chain: Chain) -> GradientAlignmentRecord | None:
    """What was seen at the start of stage B."""
    if "B" not in chain.stages:
        return None
    records = records_of(chain.stages["B"].run.path, GradientAlignmentRecord)
    return next((record for record in records if record.step == 0), None)


def _mix(chain: Chain, stage: str) -> str | None:
    """What is mixed into a stage; None for nothing, or where a control leaves it out."""
    configuration = chain.configuration
    names = configuration["mix"]
    name = names[0] if len(names) == 1 else names[list(chain.stages).index(stage)]
    return None if name == NO_MIX or configuration["no_mix_control"] is not None else str(name)
