"""Experiments: which sets of runs some claims need, and which claims some sets are enough for.

A claim is tested on all runs that have its settings, whatever they were made for; its `needs` say
which must be there. Experiments share runs: the unedited last checkpoint, which most are compared
with, is one of those of all ages as well, and is taught once.

Example:
    >>> [str(one) for one in needed(["resuscitation-beats-controls"])]
    ['unedited', 'doses', 'controls']
"""

from collections.abc import Iterable

from analysis.claims.choices import Experiment

__all__ = ["Experiment", "claims_of", "needed"]


def needed(claims: Iterable[str]) -> tuple[Experiment, ...]:
    """The experiments that some claims need, in the order of the ledger."""
    from analysis.claims.catalogue import CLAIMS

    wanted = {experiment for claim in claims for experiment in CLAIMS[claim].needs}
    return tuple(experiment for experiment in Experiment if experiment in wanted)


def claims_of(experiments: Iterable[Experiment]) -> list[str]:
    """The claims that can be tested with some experiments, and with unedited runs beside them."""
    from analysis.claims.catalogue import CLAIMS

    there = {*experiments, Experiment.UNEDITED}
    return [name for name, claim in CLAIMS.items() if there.issuperset(claim.needs)]
