"""Anchors: the parts and figures of a report that links lead to, and which of them shows a claim.

Example:
    >>> anchor_of("both-mixes-help")
    <Anchor.MEMORIZATION: 'memorization'>
"""

from enum import StrEnum

from analysis.claims.catalogue import CLAIMS
from analysis.claims.measurements import Table


class Anchor(StrEnum):
    """Where links lead: parts, and figures in them that claims are about."""

    LEDGER = "ledger"
    TRAJECTORIES = "trajectories"
    ENCOUNTERS = "encounters"
    RESUSCITATION = "resuscitation"
    MEMORIZATION = "memorization"
    MIXES = "mixes"
    DEPTH = "depth"
    UPDATES = "updates"
    READABLE = "readable"
    PROVENANCE = "provenance"


_BY_TABLE = {
    Table.PRETRAINING: Anchor.TRAJECTORIES,
    Table.ACQUISITION: Anchor.ENCOUNTERS,
    Table.MEMORIZATION: Anchor.MEMORIZATION,
    Table.UPDATES: Anchor.UPDATES,
}
_BY_FAMILY = {
    "acquisition and entropy": Anchor.TRAJECTORIES,
    "resuscitation": Anchor.RESUSCITATION,
    "the dose of resuscitation": Anchor.RESUSCITATION,
    "resuscitation against other edits": Anchor.RESUSCITATION,
    "where facts lie": Anchor.DEPTH,
    "amounts of mixing": Anchor.MIXES,
}
_BY_CLAIM = {
    "very-early-pretraining": Anchor.TRAJECTORIES,
    "preserving-resuscitation-gain": Anchor.RESUSCITATION,
    "preserving-resuscitation-damage": Anchor.RESUSCITATION,
    "preserving-against-scaling": Anchor.RESUSCITATION,
    "row-learning-rates-alone": Anchor.RESUSCITATION,
}


def anchor_of(claim: str) -> Anchor:
    """The part or figure that shows what a claim is about."""
    found = _BY_CLAIM.get(claim) or _BY_FAMILY.get(CLAIMS[claim].family)
    return found or _BY_TABLE[CLAIMS[claim].table]
