"""Gradient reading: what a record of gradients says about one pair of them.

The sign of a product is claimed only where neither gradient is near zero, and the product's
interval over items leaves out zero.

Example:
    >>> record = GradientAlignmentRecord(
    ...     0, ["A", "B"], [2.0, 3.0], [2.0, 3.0], [11, 13], [7, 7], ["embedding"],
    ...     [["A", "A"], ["A", "B"], ["B", "B"], ["A@start", "A@start"], ["B@start", "B@start"]],
    ...     [[4.0], [-3.0], [9.0], [4.0], [9.0]], [0.1, 0.2, 0.3, None, None],
    ... )
    >>> found = alignment(record, "A", "B")
    >>> found.cosine, found.sign
    (-0.5, -1)
"""

import math
from dataclasses import dataclass

from probes.intervals import Interval
from training.runs.records import GradientAlignmentRecord

MOVED = "moved"
"""What records call the weights now less those at the start."""
NEAR_ZERO = 1e-3
"""A gradient is near zero if its norm is at most this share of the largest in the record: then no
step along another one could move its sample's loss by more than a thousandth of what it may move
its own."""
START = "@start"
"""What stands after the name of a sample for its gradient at the start."""


def at_start(sample: str) -> str:
    """What records call the gradient that a sample had at the start."""
    return sample + START


@dataclass(frozen=True)
class Alignment:
    """How two vectors of a record lie to each other.

    Attributes:
        product: their inner product.
        norms: of each.
        cosine: of the angle between them; None where a norm is 0.
        interval: of the product, over items; None unless both are gradients of now.
        near_zero: which of the two are gradients too small to have a direction.
        sign: of the product, 1 or -1; None where it cannot be told.
    """

    product: float
    norms: tuple[float, float]
    cosine: float | None
    interval: Interval | None
    near_zero: tuple[str, ...]
    sign: int | None


def alignment(
    record: GradientAlignmentRecord,
    first: str,
    second: str,
    *,
    part: str | None = None,
    level: float = 0.95,
    near_zero: float = NEAR_ZERO,
) -> Alignment:
    """How two vectors lie to each other.

    Args:
        record: what was seen.
        first: a sample, `at_start` of one, or `MOVED`.
        second: another.
        part: in this part of the model, such as `3.mlp_out`, for which there is no interval and no
            sign; None for the whole.
        level: share of intervals that should cover the truth.
        near_zero: share of the record's largest gradient norm at which there is no direction.

    Raises:
        ValueError: the record has no such vector or part.
    """
    product = _product(record, first, second, part)
    norms = (vector_norm(record, first, part), vector_norm(record, second, part))
    whole = [vector_norm(record, name) for name in _gradients(record)]
    small = tuple(
        name
        for name in dict.fromkeys((first, second))
        if name != MOVED and vector_norm(record, name) <= near_zero * max(whole)
    )
    error = None if part is not None else record.errors[_place(record, first, second)]
    interval = None
    if error is not None:
        count = min(record.blocks[record.samples.index(name)] for name in (first, second))
        interval = _interval_around(product, error, count, level)
    return Alignment(
        product=product,
        norms=norms,
        cosine=product / math.prod(norms) if all(norms) else None,
        interval=interval,
        near_zero=small,
        sign=None if small or interval is None else sign_of(interval),
    )


def vector_norm(record: GradientAlignmentRecord, name: str, part: str | None = None) -> float:
    """The norm of a vector of a record, in one part or in the whole."""
    return math.sqrt(_product(record, name, name, part))


def _interval_around(product: float, error: float, blocks: int, level: float) -> Interval:
    """The t interval of a product whose standard error is from so many blocks."""
    from scipy.stats import t

    half = float(t.ppf((1 + level) / 2, blocks - 1)) * error
    return Interval(product - half, product + half, level)


def sign_of(interval: Interval) -> int | None:
    """1 or -1 for an interval on one side of 0; None for one that holds it."""
    if interval.low <= 0 <= interval.high:
        return None
    return 1 if interval.low > 0 else -1


def _gradients(record: GradientAlignmentRecord) -> list[str]:
    return [*record.samples, *map(at_start, record.samples)]


def _product(record: GradientAlignmentRecord, first: str, second: str, part: str | None) -> float:
    by_part = record.products[_place(record, first, second)]
    if part is None:
        return math.fsum(by_part)
    if part not in record.parts:
        raise ValueError(f"there is no part {part!r}; the record has {', '.join(record.parts)}")
    return by_part[record.parts.index(part)]


def _place(record: GradientAlignmentRecord, first: str, second: str) -> int:
    for pair in ([first, second], [second, first]):
        if pair in record.pairs:
            return record.pairs.index(pair)
    there = dict.fromkeys(name for pair in record.pairs for name in pair)
    raise ValueError(f"there are no {first!r} and {second!r}; the record has {', '.join(there)}")
