r"""Layer spread: do the same items lie in more layers here than there?

The spread of items over layers is the effective number of layers: exp of the entropy of the
histogram, 1 where all share one, `n_layers` where they spread evenly (`probes.localization`). It is
no mean over items, so that what holds for means cannot be used:

- interval of the difference: the delete-one jackknife over items, which also takes off most of what
  few items make both numbers too low by;
- test: the two layers of an item change places, and the difference is taken anew. All \(2^n\) ways
  are gone through where there are no more of them than `replicates`, else so many random ones.

Example:
    >>> one, other = np.array([0, 1, 3, 4, 5, 6]), np.array([2, 2, 2, 2, 2, 2])
    >>> found = compare_spread(one, other, 7, np.random.default_rng(0))
    >>> found.effect, found.p_value
    (6.0, 0.03125)
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from analysis.bootstrap import BATCH_VALUES, LEVEL, REPLICATES
from analysis.statistics.results import Comparison
from probes.intervals import Interval, jackknife_interval


def compare_spread(
    a: Int[np.ndarray, "item"],
    b: Int[np.ndarray, "item"],
    n_layers: int,
    generator: np.random.Generator,
    *,
    level: float = LEVEL,
    replicates: int = REPLICATES,
) -> Comparison:
    """Whether the same items lie in more layers in one measurement than in another.

    Args:
        a: the layer of each item in one.
        b: in the other.
        n_layers: of the model.
        generator: source of random ways to change places.
        level: of the interval.
        replicates: most ways to take.

    Returns:
        The effective layers of `a` less those of `b`, less the bias of few items, which is what
        the interval is of; and the p-value of both being alike.

    Raises:
        ValueError: there are fewer than two items, or a layer is out of range.
    """
    _check(a, b, n_layers)
    difference = float(_differences(a[None], b[None], n_layers)[0])
    interval = jackknife_interval(
        difference, (_without_each(a, n_layers) - _without_each(b, n_layers)).tolist(), level
    )
    assert interval is not None
    # The correction for few items can go beyond what there are layers for.
    most = float(n_layers - 1)
    low, effect, high = np.clip([interval.low, interval.centre, interval.high], -most, most)
    interval = Interval(float(low), float(high), level)
    p_value, done = _p_value(a, b, n_layers, generator, replicates)
    return Comparison(float(effect), interval, p_value, len(a), f"paired permutation, {done}")


def _p_value(
    a: Int[np.ndarray, "item"],
    b: Int[np.ndarray, "item"],
    n_layers: int,
    generator: np.random.Generator,
    replicates: int,
) -> tuple[float, str]:
    ways = 2 ** len(a)
    exact = ways <= replicates
    seen = abs(_differences(a[None], b[None], n_layers)[0])
    as_large = 0
    for swapped in _swaps(len(a), generator, None if exact else replicates):
        drawn = _differences(np.where(swapped, b, a), np.where(swapped, a, b), n_layers)
        # Ways that are the same up to rounding count as equal.
        as_large += int((abs(drawn) >= seen - 1e-9).sum())
    if exact:
        return as_large / ways, f"exact, {ways} ways"
    # The way that was measured is one of them.
    return (as_large + 1) / (replicates + 1), f"{replicates} random ways"


def _swaps(
    n: int, generator: np.random.Generator, replicates: int | None
) -> Iterator[Bool[np.ndarray, "way item"]]:
    """Which items change places, some ways at a time; None for every way there is."""
    total = 2**n if replicates is None else replicates
    size = max(1, BATCH_VALUES // n)
    for start in range(0, total, size):
        count = min(size, total - start)
        if replicates is None:
            yield (np.arange(start, start + count)[:, None] >> np.arange(n)) & 1 == 1
        else:
            yield generator.random((count, n)) < 0.5


def _differences(
    a: Int[np.ndarray, "way item"], b: Int[np.ndarray, "way item"], n_layers: int
) -> Float[np.ndarray, " way"]:
    return _effective(_counts(a, n_layers)) - _effective(_counts(b, n_layers))


def _without_each(layers: Int[np.ndarray, "item"], n_layers: int) -> Float[np.ndarray, "item"]:
    """Effective number of layers without each item."""
    return _effective(_counts(layers[None], n_layers) - np.eye(n_layers)[layers])


def _counts(layers: Int[np.ndarray, "way item"], n_layers: int) -> Int[np.ndarray, "way layer"]:
    places = layers + n_layers * np.arange(len(layers))[:, None]
    counts = np.bincount(places.ravel(), minlength=n_layers * len(layers))
    return counts.reshape(len(layers), n_layers)


def _effective(counts: Num[np.ndarray, "way layer"]) -> Float[np.ndarray, " way"]:
    from scipy.special import entr

    return np.exp(entr(counts / counts.sum(axis=1, keepdims=True)).sum(axis=1))


def _check(a: np.ndarray, b: np.ndarray, n_layers: int) -> None:
    if len(a) < 2:
        raise ValueError(f"found {len(a)} items: a test over items needs two or more")
    both = np.concatenate([a, b])
    if both.min() < 0 or both.max() >= n_layers:
        raise ValueError(
            f"layers run from {both.min()} to {both.max()}: give 0 to {n_layers - 1}, and leave "
            "out items that have none"
        )
