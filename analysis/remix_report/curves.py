"""Curves over the stages: what was known, and the loss on each source, while training went on.

Arms take different numbers of updates (a mix makes an epoch longer, and rules end stages early), so
curves run over the **place**: 0 to 1 is stage A from its first to its last update, 1 to 2 stage B,
and so on. Of several seeds there is the mean, with the least and the most; a seed that was not
looked at in a place is interpolated linearly between its neighbours.

Example:
    >>> curve = recall_curves(arms)                                          # doctest: +SKIP
    >>> curve[(curve["place"] >= 1) & (curve["items"] == "A")]               # doctest: +SKIP
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from analysis.remix_report.arms import RemixArm
from analysis.remix_report.chains import TOKENS, StageRun
from analysis.remix_report.recalls import LOG_PROB, SHARE
from training.gradient_reading import alignment
from training.runs.records import GradientAlignmentRecord, StepRecord, records_of

_POINTS = 40
"""Of a curve of losses in a stage: each is the mean over a stretch of updates."""
_CURVE = ("arm", "stage", "place", "step", "value", "low", "high")
Curves = Mapping[tuple[str, ...], pd.Series]
"""By what they are of, values by step."""


def recall_curves(arms: Sequence[RemixArm]) -> pd.DataFrame:
    """How much of every list was known, at every look.

    Args:
        arms: the runs.

    Returns:
        Columns `arm`, `items`, `measure` (share right, or mean log-probability in nats), `stage`,
        `place`, `step` (mean over seeds), `value`, `low`, `high` (least and most of seeds).
    """
    return _curves(arms, _recalls, ("items", "measure"))


def source_curves(arms: Sequence[RemixArm]) -> pd.DataFrame:
    """The training loss on every source, in nats a token.

    Args:
        arms: the runs.

    Returns:
        Columns `arm`, `source`, and as `recall_curves`.
    """
    return _curves(arms, _sources, ("source",))


def alignment_curves(arms: Sequence[RemixArm]) -> pd.DataFrame:
    """Cosines between the gradients of samples, at every look.

    Args:
        arms: the runs.

    Returns:
        Columns `arm`, `pair` (`A and B` say), and as `recall_curves`.
    """
    return _curves(arms, _cosines, ("pair",))


def sign_table(arms: Sequence[RemixArm]) -> pd.DataFrame:
    """In how many looks the sign of a product of gradients could be told, and which it was.

    Args:
        arms: the runs.

    Returns:
        Columns `arm`, `stage`, `pair`, `looks`, `positive`, `negative`, `untold`, and `cosine`,
        its mean over looks and seeds.
    """
    rows = []
    for arm in arms:
        for stage in arm.stages:
            records = [
                record
                for chain in arm.chains
                for record in records_of(chain.stages[stage].run.path, GradientAlignmentRecord)
            ]
            for first, second in _pairs(records):
                found = [alignment(r, first, second) for r in records]
                signs = [one.sign for one in found]
                cosines = [one.cosine for one in found if one.cosine is not None]
                counts = (len(found), signs.count(1), signs.count(-1), signs.count(None))
                mean = float(np.mean(cosines)) if cosines else None
                rows.append((arm.name, stage, f"{first} and {second}", *counts, mean))
    columns = ["arm", "stage", "pair", "looks", "positive", "negative", "untold", "cosine"]
    return pd.DataFrame(rows, columns=columns)


def _recalls(stage: StageRun) -> Iterator[tuple[tuple[str, ...], pd.Series]]:
    for (items, match), looks in stage.recalls.items():
        if match == TOKENS:
            yield (items, SHARE), looks.correct.mean(axis=1)
            if looks.log_probs is not None:
                yield (items, LOG_PROB), looks.log_probs.mean(axis=1)


def _sources(stage: StageRun) -> Iterator[tuple[tuple[str, ...], pd.Series]]:
    records = records_of(stage.run.path, StepRecord)
    losses = pd.DataFrame([r.loss_by_source for r in records], [r.step for r in records])
    stretch = -(-len(losses) // _POINTS)
    for source in losses.columns:
        # A batch need not have all sources.
        there = losses[source].dropna()
        means = there.groupby((there.index - 1) // stretch).mean()
        middles = (np.asarray(means.index) + 0.5) * stretch
        yield (str(source),), pd.Series(means.to_numpy(), np.minimum(middles, len(losses)))


def _cosines(stage: StageRun) -> Iterator[tuple[tuple[str, ...], pd.Series]]:
    records = records_of(stage.run.path, GradientAlignmentRecord)
    for first, second in _pairs(records):
        cosines = {r.step: alignment(r, first, second).cosine for r in records}
        there = {step: cosine for step, cosine in cosines.items() if cosine is not None}
        if there:
            yield (f"{first} and {second}",), pd.Series(there, dtype=float)


def _pairs(records: Sequence[GradientAlignmentRecord]) -> list[tuple[str, str]]:
    """The pairs of different samples that all records have."""
    if not records:
        return []
    names = [name for name in records[0].samples if all(name in r.samples for r in records)]
    return [(one, other) for place, one in enumerate(names) for other in names[place + 1 :]]


def _curves(
    arms: Sequence[RemixArm],
    look: Callable[[StageRun], Iterator[tuple[tuple[str, ...], pd.Series]]],
    keys: tuple[str, ...],
) -> pd.DataFrame:
    tables = [
        pd.DataFrame(
            dict(zip(keys, key, strict=True)) | {"arm": arm.name, "stage": name}, [0]
        ).merge(_mean_over_seeds(seeds, place), how="cross")
        for arm in arms
        for place, name in enumerate(arm.stages)
        for key, seeds in _by_key(arm, name, look).items()
    ]
    columns = [_CURVE[0], *keys, *_CURVE[1:]]
    found = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)
    return found[columns]


def _by_key(
    arm: RemixArm,
    name: str,
    look: Callable[[StageRun], Iterator[tuple[tuple[str, ...], pd.Series]]],
) -> dict[tuple[str, ...], list[tuple[int, pd.Series]]]:
    """Of every seed that has them, the last step of the stage and the values by step."""
    found: dict[tuple[str, ...], list[tuple[int, pd.Series]]] = {}
    for chain in arm.chains:
        stage = chain.stages[name]
        for key, values in look(stage):
            found.setdefault(key, []).append((int(stage.outcome["steps"]), values))
    return found


def _mean_over_seeds(seeds: Sequence[tuple[int, pd.Series]], place: int) -> pd.DataFrame:
    """Mean, least and most of several series, on all places that any has."""
    parts = [np.asarray(values.index, dtype=float) / steps for steps, values in seeds]
    grid = np.unique(np.concatenate(parts).round(9))
    drawn = np.stack(
        [np.interp(grid, part, values) for part, (_, values) in zip(parts, seeds, strict=True)]
    )
    steps = np.mean([steps for steps, _ in seeds])
    return pd.DataFrame(
        {
            "place": place + grid,
            "step": grid * steps,
            "value": drawn.mean(axis=0),
            "low": drawn.min(axis=0),
            "high": drawn.max(axis=0),
        }
    )
