"""Results: what a test found, alike for all tests, so that a table can hold any of them.

Example:
    >>> from probes.intervals import Interval
    >>> Equivalence(0.1, Interval(-0.2, 0.4, 0.9), 0.01, 12, "two one-sided", 0.5).equivalent
    True
"""

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


@dataclass(frozen=True)
class Equivalence(Tested):
    r"""Whether a difference is too small to matter.

    The p-value is the chance of a difference so near 0 if the true one were at the margin or
    beyond. The interval has level \(1 - 2\alpha\) for a test at \(\alpha\), so that it lies
    within the margins where the test finds equivalence.

    Attributes:
        margin: the least difference that would matter, either way.
    """

    margin: float

    @property
    def equivalent(self) -> bool:
        """Whether the test finds the two the same at its level."""
        return self.p_value < (1 - self.interval.level) / 2
