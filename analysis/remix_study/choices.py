"""Choices of a study of continual memorization.

They stand apart from the code that acts on them, so that `--help` can name them at once.

Example:
    >>> Study("main-table") is Study.MAIN_TABLE
    True
"""

from dataclasses import dataclass
from enum import StrEnum


class Study(StrEnum):
    """Which arms there are."""

    ARMS = "arms"
    """Mixes at A, later and both; replay; self-generated replay; as many steps without a mix; an
    edited start."""
    MAIN_TABLE = "main-table"
    """Mixes at A, later and both, for every first and later set."""
    REPLAY_RATIOS = "replay-ratios"
    """Shares of the earlier items shown again."""
    MIX_RATIOS = "mix-ratios"
    """Sizes of mixes, in items."""
    MIX_LENGTHS = "mix-lengths"
    """Lengths of mixes, in words."""
    THREE_STAGES = "three-stages"
    """No mix, at A, later and both, over three stages."""
    FAMILIAR = "familiar"
    """Factoids that the start knew, with each mix in later stages."""


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """Which arms, mixes and sets a study has."""

    arms: tuple[str, ...] = ()
    """Only these arms of the study, by the names of their folders; all."""
    first_mix: str = "random"
    """Mix of stage A."""
    later_mix: str = "generic"
    """Mix of later stages."""
    first_sets: tuple[str, ...] = ("kvr", "popqa", "triviaqa")
    """Of main-table: sets that stage A learns."""
    later_sets: tuple[str, ...] = (
        *("lama", "entityquestions", "webquestions"),
        *("gsm8k", "math", "evolcode", "apps", "ultrachat"),
    )
    """Of main-table: sets that stage B learns."""
    familiar_mixes: tuple[str, ...] = ("random", "generic")
    """Of familiar: mixes of later stages."""
