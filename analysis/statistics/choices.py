"""Choices: what the tests of this package can be asked to do, as strings.

Example:
    >>> Direction("falls").sign
    -1
"""

from enum import StrEnum
from typing import TypeVar

Choice = TypeVar("Choice", bound=StrEnum)


class CorrelationKind(StrEnum):
    """What rises together."""

    PEARSON = "pearson"
    """The values: along a line."""
    SPEARMAN = "spearman"
    """Their ranks: along any rising or falling curve, and one stray value counts no more than
    another."""


class CheckpointCluster(StrEnum):
    """What is drawn anew when the correlation over checkpoints is asked of other data."""

    CHECKPOINT = "checkpoint"
    """Other checkpoints of the same pretraining run: seeds are averaged first, and add no number.
    For seeds that share their checkpoints."""
    SEED = "seed"
    """Other pretraining runs: each seed has its own checkpoints and a correlation of its own."""


class Direction(StrEnum):
    """Which way something is expected to go; a test of it is one-sided."""

    RISES = "rises"
    FALLS = "falls"

    @property
    def sign(self) -> int:
        """1 where it rises, -1 where it falls."""
        return 1 if self is Direction.RISES else -1


class SeedTest(StrEnum):
    """Where the p-value of a test over seeds comes from."""

    EXACT = "exact"
    """From all ways to put in another order what one seed gave: needs no distribution, but three
    seeds have few orders, and steps of one seed must not drift."""
    T = "t"
    """A t-test of one number for each seed: whatever happens within a seed, as long as the numbers
    of seeds are near normal."""


def chosen(kind: type[Choice], value: str, what: str) -> Choice:
    """The member of an enum that a string names.

    Raises:
        ValueError: there is none.
    """
    if value not in list(kind):
        raise ValueError(f"{what} is {str(value)!r}: choose from {', '.join(kind)}")
    return kind(value)
