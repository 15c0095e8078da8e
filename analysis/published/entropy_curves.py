"""Entropy curves: published ranges of entropies against curves over checkpoints.

The value of a curve is the one that lies farthest from the middle of the published range, so that
it is within only where the whole curve is. Its change is from the first checkpoint to the last one;
where a figure shows several curves (layers, two readings of one variant) the one that goes the
published way least counts. Checkpoints younger than the first one that the paper shows are left
out: an untrained model is no beginning of these curves.
"""

from collections.abc import Iterator

import pandas as pd

from analysis.claims.choices import Extreme
from analysis.claims.measurements import NONE, Table
from analysis.claims.selection import Arm, matched
from analysis.numbers import shown_path
from analysis.published.comparing import Measured
from analysis.published.knowledge_entropy import FIRST_CURVE_STEP, LAST_STEP
from analysis.published.records import Published
from analysis.published.result_names import novelty_of
from analysis.published.result_rows import ResultRows, measured, usual
from analysis.statistics.tests import ScaleError

_KNOWLEDGE = ("|c|",)
_MEASURES = {
    "knowledge entropy": _KNOWLEDGE,
    "knowledge entropy of a layer": _KNOWLEDGE,
    "knowledge entropy, ReLU": ("max(c, 0)", "|max(gate, 0) · up|"),
    "attention entropy": ("attention",),
    "next-token entropy": ("next-token",),
}
_BY_LAYER = "knowledge entropy of a layer"
_LAST, _FIRST = (
    Arm(f"{name} checkpoint", {"step": place})
    for name, place in (("last", Extreme.LARGEST), ("first", Extreme.SMALLEST))
)


def measure_curve(published: Published, rows: ResultRows) -> Measured:
    """What results say of a published range."""
    frame = rows.having(
        Table.PRETRAINING, {"measure": _MEASURES[published.measure]}, published.measure
    )
    has_layer = frame["layer"] != NONE
    frame = _on_corpus(
        frame[has_layer if published.measure == _BY_LAYER else ~has_layer], published
    )
    frame = frame[frame["step"] >= FIRST_CURVE_STEP / LAST_STEP * frame["step"].max()]
    if frame["step"].nunique() == 1:
        raise ScaleError(f"one checkpoint of {published.measure}, a change needs two")
    corpus = str(frame["corpus"].iloc[0])
    first, last = (f"{int(place):,}" for place in (frame["step"].min(), frame["step"].max()))
    return measured(
        _farthest(frame, published),
        _weakest(frame, published),
        conditions=_conditions(published, corpus, rows),
        rows=f"{shown_path(corpus)}, steps {first} to {last}",
    )


def _on_corpus(frame: pd.DataFrame, published: Published) -> pd.DataFrame:
    """Rows on the corpus itself, else on the one that most rows with text of its kind are on."""
    wanted = published.conditions["corpus"]
    same = frame[frame["corpus"].astype(str).str.casefold() == wanted.casefold()]
    if len(same):
        return same
    alike = frame[[novelty_of(str(name)) == novelty_of(wanted) for name in frame["corpus"]]]
    if alike.empty:
        raise ScaleError(f"no {published.measure} over {novelty_of(wanted)} text")
    return usual(alike, "corpus")


def _curves(frame: pd.DataFrame) -> Iterator[pd.DataFrame]:
    for _, curve in frame.groupby(["measure", "layer"], sort=False):
        yield curve


def _farthest(frame: pd.DataFrame, published: Published) -> pd.Series:
    """Values by seed at the point of the curves that is farthest from the published range."""
    assert published.low is not None
    assert published.high is not None
    middle = (published.low + published.high) / 2
    points = [
        point.groupby("seed")["value"].mean()
        for curve in _curves(frame)
        for _, point in curve.groupby("step")
    ]
    return max(points, key=lambda values: abs(float(values.mean()) - middle))


def _weakest(frame: pd.DataFrame, published: Published) -> pd.Series:
    """Changes by seed of the curve that goes the published way least."""
    assert published.told is not None
    sign = published.told.sign
    changes = []
    for curve in _curves(frame):
        both = matched(curve, Table.PRETRAINING, [_LAST, _FIRST])
        changes.append(both[0] - both[1])
    return min(changes, key=lambda change: sign * float(change.mean()))


def _conditions(published: Published, corpus: str, rows: ResultRows) -> dict[str, str]:
    wanted = published.conditions["corpus"]
    same = corpus.casefold() == wanted.casefold()
    return {"corpus": wanted if same else shown_path(corpus), **rows.conditions(Table.PRETRAINING)}
