"""Settings that claims about continual memorization share.

Example:
    >>> BOTH.settings["mix_later"]
    'generic'
"""

from analysis.claims.designs import ACROSS_ITEMS, Contrast
from analysis.claims.selection import UNEDITED, Arm, Settings

COMMAND = "python -m training.remix"
NO_REPLAY: Settings = {"replay": None, "replay_ratio": None}
RIGHT: Settings = {"measure": "share right", "moment": "after B", "stages": 2, "familiar": False}
FACTOID: Settings = {"later_kind": "factoid"}
NON_FACTOID: Settings = {"later_kind": "non-factoid"}
TRAINED: Settings = {**UNEDITED, **NO_REPLAY, "equal": None}
"""Runs with nothing but data, and perhaps a mix."""
OF_A_MIX = ("mix_ratio", "mix_words")
"""Settings that runs without a mix do not have, and which need not agree."""
SETS = ("later",)


def mixed(first: str | None, later: str | None) -> Arm:
    """A mix at stage A and at later stages."""
    name = f"{first or 'no'} mix at A, {later or 'none'} later"
    return Arm(name, {"mix_first": first, "mix_later": later})


PLAIN, FIRST, LATER = mixed(None, None), mixed("random", None), mixed(None, "generic")
BOTH = mixed("random", "generic")


def replayed(ratio: float) -> Arm:
    """Earlier items shown again, and no mix."""
    settings = {**PLAIN.settings, "replay": "items", "replay_ratio": ratio}
    return Arm(f"{100 * ratio:g} % replay", settings)


def compared(arm: Arm, base: Arm) -> Contrast:
    """Facts right in one arm less those right in another."""
    return Contrast(arm, base, averaged=OF_A_MIX, least=ACROSS_ITEMS)
