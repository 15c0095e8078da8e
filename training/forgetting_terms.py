r"""Forgetting terms: what one step of learning B does to A, with mixing data and without.

Write \(g_A(\theta)\) for the gradient of the mean loss on \(D_A\). From \(\theta_A\) stage 2 steps
to \(\theta_B = \theta_A - \eta\, g_B\), which by Taylor changes the loss on A by \(-\eta\, g_B
\cdot g_A\) and terms of second order. With mixing, stage 1 ends at \(\theta'_A\), and M has the
share s in the mean loss of stage 2, B the share 1 - s. To first order the loss that mixing saves on
A is \(\Delta_1 + \Delta_2\), primes standing for gradients at \(\theta'_A\):

\[ \Delta_1 = L_A(\theta_A) - L_A(\theta'_A), \qquad
   \Delta_2 = \eta\,\bigl[((1 - s)\, g'_B + s\, g'_M) \cdot g'_A - g_B \cdot g_A\bigr]. \]

Both are good where they are above zero. Mixing in stage 1 alone is s = 0; in stage 2 alone
\(\Delta_1 = 0\) and \(\Delta_2 = \eta\, s\, (g_M - g_B) \cdot g_A\): it helps as far as M lies
closer to A than B does. (The paper's appendix, with weights \(\beta_1\) of B and \(\beta_2\) of M,
has \(\beta_1 g_M - (1 - \beta_2) g_B\) there, right in sign only; takes the gradient of a union to
be the sum; and says that mixing lowers \(\Delta_2\) where raises is meant.)

Trained models take many steps, by an optimizer with a state: `change_of_loss` sets the first-order
term for the way that the weights have really moved beside what the loss really did.

Source: Chen et al., "Continual Memorization of Factoids in Large Language Models", 2024: section
3.2, appendices A.1 to A.3.
"""

import math
from dataclasses import dataclass

from probes.corpus_means import Interval
from training.runs.records import GradientAlignmentRecord

MOVED = "moved"  # the weights now less those at the start, in records
START = "@start"  # stands after the name of a sample for its gradient at the start
NEAR_ZERO = 1e-3
"""A gradient is near zero if its norm is at most this share of the largest in the record: then no
step along another one could move its sample's loss by more than a thousandth of what it may move
its own."""


def at_start(sample: str) -> str:
    """What records call the gradient that a sample had at the start."""
    return sample + START


@dataclass(frozen=True)
class Alignment:
    """How two vectors of a record lie to each other."""

    product: float
    norms: tuple[float, float]
    cosine: float | None  # None where a norm is 0
    interval: Interval | None  # of the product, over items; None unless both are gradients of now
    near_zero: tuple[str, ...]  # which of the two are gradients too small to have a direction
    sign: int | None  # of the product, 1 or -1; None where it is not known


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
    place, product = _product(record, first, second, part)

    def norm(name: str, part: str | None = None) -> float:
        return math.sqrt(_product(record, name, name, part)[1])

    norms = (norm(first, part), norm(second, part))
    largest = max(norm(name) for name in (*record.samples, *map(at_start, record.samples)))
    small = tuple(
        name
        for name in dict.fromkeys((first, second))
        if name != MOVED and norm(name) <= near_zero * largest
    )
    interval, error = None, record.errors[place]
    if part is None and error is not None:
        from scipy.stats import t

        blocks = min(record.blocks[record.samples.index(name)] for name in (first, second))
        half = float(t.ppf((1 + level) / 2, blocks - 1)) * error
        interval = Interval(product - half, product + half, level)
    return Alignment(
        product=product,
        norms=norms,
        cosine=product / math.prod(norms) if all(norms) else None,
        interval=interval,
        near_zero=small,
        sign=None if small or interval is None else sign_of(interval),
    )


def sign_of(interval: Interval) -> int | None:
    """1 or -1 for an interval on one side of 0; None for one that holds it."""
    if interval.low <= 0 <= interval.high:
        return None
    return 1 if interval.low > 0 else -1


def _product(
    record: GradientAlignmentRecord, first: str, second: str, part: str | None
) -> tuple[int, float]:
    """The place of a pair of vectors in a record, and their inner product."""
    pairs = [pair for pair in ([first, second], [second, first]) if pair in record.pairs]
    if not pairs:
        there = ", ".join(dict.fromkeys(name for pair in record.pairs for name in pair))
        raise ValueError(f"there are no {first!r} and {second!r}; the record has {there}")
    place = record.pairs.index(pairs[0])
    by_part = record.products[place]
    if part is None:
        return place, math.fsum(by_part)
    if part not in record.parts:
        raise ValueError(f"there is no part {part!r}; the record has {', '.join(record.parts)}")
    return place, by_part[record.parts.index(part)]


@dataclass(frozen=True)
class MixingTerm:
    r"""\(\Delta_2\), and how sure its sign is.

    The interval is over items. Its errors are added as if all went the same way, so that it is too
    wide rather than too narrow.
    """

    value: float  # nats per token; above zero where mixing saves loss on A
    interval: Interval
    near_zero: tuple[str, ...]
    sign: int | None


@dataclass(frozen=True)
class LossChange:
    """What became of the loss of a sample since the start, in nats per token."""

    measured: float  # the loss now less that at the start
    first_order: float  # the way that the weights have moved times the gradient at the start


def delta_1(
    alone: GradientAlignmentRecord, mixed: GradientAlignmentRecord, *, earlier: str = "A"
) -> float:
    r"""\(\Delta_1\): how much lower the loss on A is where mixed training starts stage 2.

    Args:
        alone: seen at the start of stage 2, after a stage 1 without mixing.
        mixed: the same, after a stage 1 with mixing.
        earlier: the sample of what was learnt in stage 1.

    Returns:
        Nats per token.

    Raises:
        ValueError: a record has no such sample.
    """
    return _loss(alone, earlier) - _loss(mixed, earlier)


def delta_2(
    alone: GradientAlignmentRecord,
    mixed: GradientAlignmentRecord,
    *,
    mix_share: float,
    learning_rate: float = 1.0,
    earlier: str = "A",
    later: str = "B",
    mix: str = "M",
    level: float = 0.95,
    near_zero: float = NEAR_ZERO,
) -> MixingTerm:
    r"""\(\Delta_2\): what mixing does to the first step of stage 2.

    Args:
        alone: seen at the start of stage 2, after a stage 1 without mixing.
        mixed: the same after a stage 1 with mixing; the same record where only stage 2 mixes.
        mix_share: share of the mixing data in the loss of stage 2: of its trained tokens where
            these count alike; 0 where stage 2 does not mix.
        learning_rate: of the one step; 1 gives the term per unit of it.
        earlier: the sample of what was learnt in stage 1.
        later: that of what is learnt in stage 2.
        mix: that of the mixing data of stage 2.
        level: share of intervals that should cover the truth.
        near_zero: as for `alignment`.

    Raises:
        ValueError: the share or the rate is out of range, nothing was mixed, or a record lacks a
            sample.
    """
    if not (0 <= mix_share <= 1 and learning_rate > 0):
        raise ValueError(
            f"mix_share is {mix_share} and learning_rate {learning_rate}: give a share from 0 to 1 "
            "and a positive rate"
        )
    if mixed == alone and not mix_share:
        raise ValueError("both records are of one start, and mix_share is 0: nothing was mixed")
    # The gradients whose products with A's make up the term, and how much each counts.
    counted = [(mixed, later, 1 - mix_share), (mixed, mix, mix_share), (alone, later, -1.0)]
    if mixed == alone:
        counted = [(alone, mix, mix_share), (alone, later, -mix_share)]
    found = [
        (weight, alignment(record, name, earlier, level=level, near_zero=near_zero))
        for record, name, weight in counted
        if weight
    ]
    value = learning_rate * sum(weight * pair.product for weight, pair in found)
    error = 0.0
    for weight, pair in found:
        assert pair.interval is not None
        error += abs(weight) * (pair.interval.width / 2) * learning_rate
    interval = Interval(value - error, value + error, level)
    small = tuple(dict.fromkeys(name for _, pair in found for name in pair.near_zero))
    return MixingTerm(value, interval, small, None if small else sign_of(interval))


def change_of_loss(record: GradientAlignmentRecord, sample: str) -> LossChange:
    """What became of a sample's loss since the start, and what first order makes of it.

    Raises:
        ValueError: the record has no such sample.
    """
    return LossChange(
        _loss(record, sample) - record.start_losses[record.samples.index(sample)],
        alignment(record, MOVED, at_start(sample)).product,
    )


def _loss(record: GradientAlignmentRecord, sample: str) -> float:
    if sample not in record.samples:
        raise ValueError(f"there is no sample {sample!r}; found {', '.join(record.samples)}")
    return record.losses[record.samples.index(sample)]
