"""Results: what a test found, alike for all tests, so that a table can hold any of them."""

from dataclasses import dataclass

from probes.intervals import Interval


@dataclass(frozen=True)
class Tested:
    """An effect, how sure it is, and whether it is more than chance.

    Attributes:
        effect: in the units of what was tested.
        interval: where it would be with other items, seeds or checkpoints.
        p_value: chance of data as extreme if there were no effect.
        n: how many independent ones the result rests on: what they are is said in `test`.
        test: what was done, in words.
    """

    effect: float
    interval: Interval
    p_value: float
    n: int
    test: str


@dataclass(frozen=True)
class Comparison(Tested):
    """Two measurements of the same items: the effect is the first less the second."""


@dataclass(frozen=True)
class Correlation(Tested):
    """How far two things rise together: the effect is from -1 to 1."""
