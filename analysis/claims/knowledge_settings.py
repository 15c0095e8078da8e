"""Settings that claims about continual knowledge learning share.

Example:
    >>> resuscitated(2.0).name
    'resuscitated, factor 2'
"""

from analysis.claims.choices import Extreme
from analysis.claims.designs import ACROSS_ITEMS, ACROSS_SEEDS, AllOf, Contrast
from analysis.claims.selection import UNEDITED, Arm, Settings

COMMAND = "python -m training.ckl"
MET: Settings = {"exposure": "met", "kind": "all"}
NO_PROBES: Settings = {"exposure": None, "kind": None}
LAST: Settings = {"step": Extreme.LARGEST}
"""The last checkpoint of pretraining."""
KNOWN: Settings = {"measure": "K", "moment": "last injection", "against": None, **MET}
"""K right after the last encounter, which is the paper's final score."""
DOWNSTREAM: Settings = {"measure": "P", "moment": "end", "against": None, **NO_PROBES}
ACQUIRED: Settings = {"measure": "A", "moment": "last injection", "against": "start", **MET}
FORGOTTEN: Settings = {"measure": "F", "moment": "end", "against": "start", **NO_PROBES}
PLAIN = Arm("unedited", UNEDITED)


def resuscitated(factor: float, ratio: float = 0.5, site: str = "up") -> Arm:
    """A start whose inactive memory vectors were resuscitated."""
    settings = {**UNEDITED, "site": site, "ratio": ratio, "factor": factor}
    return Arm(f"resuscitated, factor {factor:g}", settings)


def cooled(temperature: float) -> Arm:
    """A start whose attention was made broader by a temperature."""
    return Arm(f"attention temperature {temperature:g}", {**UNEDITED, "temperature": temperature})


def instead(control: str, ratio: float = 0.5, factor: float = 2.0) -> Arm:
    """A start on which something else was done than a resuscitation."""
    settings = {**UNEDITED, "ratio": ratio, "factor": factor, "control": control}
    return Arm(control.replace("_", " "), settings)


def against_all(arm: Arm, bases: tuple[Arm, ...], *, by_item: bool) -> AllOf:
    """One arm against each of several others."""
    least = ACROSS_ITEMS if by_item else ACROSS_SEEDS
    return AllOf(tuple(Contrast(arm, base, least=least) for base in bases))


def all_against(arms: tuple[Arm, ...], base: Arm, *, by_item: bool) -> AllOf:
    """Each of several arms against one other."""
    least = ACROSS_ITEMS if by_item else ACROSS_SEEDS
    return AllOf(tuple(Contrast(arm, base, least=least) for arm in arms))
