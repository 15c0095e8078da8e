"""Over seeds: one number for each run, the mean of runs that differ in nothing but their seed, and
runs less those of a base.

Intervals are Student's t over seeds (`analysis.statistics.tests`): where other seeds would be.

Example:
    >>> runs = pd.DataFrame({"arm": "a", "seed": [0, 1, 2], "value": [1.0, 2.0, 3.0]})
    >>> found = over_seeds(runs, ["arm"])
    >>> found.round(2).to_dict("records")
    [{'arm': 'a', 'value': 2.0, 'low': -0.48, 'high': 4.48, 'seeds': 3}]
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.statistics.tests import is_constant, mean_over_seeds

LEAST_SEEDS = 2
"""Below it there is no interval."""
_DIGITS = 12
"""Of differences: what differs less is the rounding of sums."""
_NUMBERS = ("value", "low", "high", "seeds")


def run_means(rows: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """The mean of every run over its items."""
    return rows.groupby([*keys, "seed"], sort=False, as_index=False)["value"].mean()


def over_seeds(runs: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """The mean of runs over their seeds."""
    _refuse_repeated(runs, [*keys, "seed"])
    rows = [
        (*key, *_interval(found["value"].to_numpy(dtype=np.float64)))
        for key, found in runs.groupby(list(keys), sort=False)
    ]
    return pd.DataFrame(rows, columns=[*keys, *_NUMBERS]).astype({"low": float, "high": float})


def differences(runs: pd.DataFrame, base: pd.DataFrame) -> pd.DataFrame:
    """Every run less the run of a base that has the same seed and agrees
    in all else that is told.
    """
    agree = [name for name in base.columns if name != "value"]
    _refuse_repeated(base, agree)
    both = runs.merge(base, on=agree, suffixes=("", "_base"))
    apart = (both["value"] - both["value_base"]).round(_DIGITS)
    return both.assign(value=apart).drop(columns="value_base")


def rounded(values: pd.Series) -> list[float]:
    """Numbers with as many digits as a figure can show, so that pages stay small."""
    return [float(f"{value:.6g}") for value in values]


def _refuse_repeated(runs: pd.DataFrame, keys: Sequence[str]) -> None:
    repeated = runs[runs.duplicated(list(keys), keep=False)]
    if len(repeated):
        first = ", ".join(f"{name} {repeated.iloc[0][name]}" for name in keys)
        raise ValueError(
            f"found {len(repeated)} runs that nothing here tells apart, such as those of {first}; "
            "report them one by one"
        )


def _interval(values: np.ndarray) -> tuple[float, float | None, float | None, int]:
    mean, number = float(values.mean()), len(values)
    if number < LEAST_SEEDS or is_constant(values):
        return mean, None, None, number
    found = mean_over_seeds(values).interval
    return mean, found.low, found.high, number
