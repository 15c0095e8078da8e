"""Experiments: sets of runs, and which of them each claim needs.

A claim is tested on all runs that have its settings, whatever they were made for; an experiment
says which must be there. Experiments share runs: the unedited start from the last checkpoint, which
most are compared with, is one of those of all ages as well, and is made once.

Example:
    >>> [str(one) for one in needed(["resuscitation-beats-controls"])]
    ['unedited', 'doses', 'controls']
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum


class Experiment(StrEnum):
    """A set of runs."""

    ENTROPIES = "entropies"
    """The entropies of every checkpoint, over several corpora."""
    UPDATES = "updates"
    """Gradients and updates of memory vectors in every checkpoint."""
    UNEDITED = "unedited"
    """New knowledge taught to the last checkpoint."""
    AGES = "ages"
    """The same to checkpoints of several ages."""
    EDITED_AGES = "edited-ages"
    """The same, resuscitated."""
    FAMILIAR_TEXT = "familiar-text"
    """The same, on text that the model knows."""
    DOSES = "doses"
    """Factors and ratios of resuscitation."""
    CONTROLS = "controls"
    """What is done instead of it: controls, a form that leaves the function as it was, attention
    temperatures."""
    SPACINGS = "spacings"
    """Steps from an encounter to the next."""
    BATCHES = "batches"
    """Sizes of a batch."""
    RATES = "rates"
    """Learning rates."""
    SIZES = "sizes"
    """A smaller model."""
    MIXES = "mixes"
    """Mixes and replay, before a second stage of facts."""
    OTHER_TASKS = "other-tasks"
    """Mixes and replay, before a second stage of other tasks."""
    AMOUNTS = "amounts"
    """Sizes and lengths of mixes."""
    THREE_STAGES = "three-stages"
    """Two later stages."""
    FAMILIAR_FACTS = "familiar-facts"
    """Facts that the start knew."""


_AGES = (Experiment.AGES,)
_DOSES = (Experiment.UNEDITED, Experiment.DOSES)
_CONTROLS = (*_DOSES, Experiment.CONTROLS)
_EDITED_AGES = (Experiment.AGES, Experiment.EDITED_AGES)
_MIXES = (Experiment.MIXES,)
_BY_EXPERIMENTS: Mapping[tuple[Experiment, ...], tuple[str, ...]] = {
    (Experiment.ENTROPIES,): (
        "entropy-falls",
        "entropy-falls-in-each-layer",
        "entropy-falls-most-in-the-last-layer",
        "entropy-falls-on-each-corpus",
        "entropy-falls-with-each-activation",
        "attention-entropy-falls",
        "next-token-entropy-falls",
        "contribution-entropy",
    ),
    (Experiment.UPDATES,): (
        "gradients-follow-coefficients",
        "adam-updates-follow-coefficients",
        "adam-and-coefficients",
    ),
    _AGES: (
        "acquisition-falls-with-age",
        "forgetting-rises-with-age",
        "acquisition-follows-entropy",
        "forgetting-follows-entropy",
        "middle-checkpoint-knows-most",
        "middle-checkpoint-keeps-most",
        "once-ends-below-its-start",
        "encounters-raise",
        "gains-are-lost-again",
        "memorization-gains-most",
        "later-checkpoints-acquire-no-more",
        "forgetting-is-linear-in-log-steps",
        "duplication-forgets-faster",
        "probability-and-generation",
        "very-early-pretraining",
    ),
    (Experiment.AGES, Experiment.FAMILIAR_TEXT): ("gap-is-larger-on-new-text",),
    (Experiment.UNEDITED, Experiment.SIZES): ("larger-models-acquire-more",),
    (Experiment.UNEDITED, Experiment.BATCHES): (
        "larger-batches-forget-more-slowly",
        "batch-size-grid",
    ),
    (Experiment.UNEDITED, Experiment.RATES): ("learning-rate-grid",),
    (Experiment.UNEDITED, Experiment.SPACINGS): (
        "encounters-within-the-threshold-add-up",
        "encounters-beyond-the-threshold-leave-nothing",
    ),
    _DOSES: (
        "resuscitation-raises-entropy",
        "resuscitation-helps-acquisition",
        "resuscitation-ends-knowing-more",
        "resuscitation-helps-retention",
        "resuscitation-ends-keeping-more",
        "weakening-inactive-vectors-hurts",
        "larger-ratio-helps-more",
        "too-large-a-ratio-hurts",
    ),
    _EDITED_AGES: (
        "resuscitation-helps-later-checkpoints-more",
        "later-checkpoints-end-knowing-more",
    ),
    _CONTROLS: (
        "resuscitation-beats-controls",
        "feed-forward-beats-attention",
        "feed-forward-ends-knowing-more-than-attention",
        "feed-forward-keeps-more-than-attention",
        "preserving-resuscitation-gain",
        "preserving-resuscitation-damage",
        "preserving-against-scaling",
        "row-learning-rates-alone",
    ),
    _MIXES: (
        "random-mix-at-a-helps",
        "generic-mix-later-helps",
        "both-mixes-help",
        "both-mixes-beat-each",
        "generic-mix-at-a-hurts",
        "random-mix-later-hurts",
        "replay-does-not-suffice",
        "mixing-beats-replay",
        "mixing-keeps-more-than-equal-training",
        "mixing-and-resuscitation",
        "facts-lie-earlier",
        "facts-lie-in-more-layers",
    ),
    (Experiment.MIXES, Experiment.OTHER_TASKS): (
        "factoid-stages-hurt-more",
        "replay-helps-less-with-factoids",
        "early-mix-helps-more-before-other-tasks",
    ),
    (Experiment.MIXES, Experiment.AMOUNTS): (
        "mix-ratio-matters-less-at-a",
        "longer-random-mix-hurts",
        "longer-generic-mix-saturates",
    ),
    (Experiment.THREE_STAGES,): ("three-stages",),
    (Experiment.FAMILIAR_FACTS,): (
        "familiar-facts-before-factoids",
        "familiar-facts-before-other-tasks",
    ),
}
NEEDS: Mapping[str, tuple[Experiment, ...]] = {
    claim: experiments for experiments, claims in _BY_EXPERIMENTS.items() for claim in claims
}
"""By claim, the experiments whose runs it is tested on."""


def needed(claims: Iterable[str]) -> tuple[Experiment, ...]:
    """The experiments that some claims need, in the order of the ledger."""
    wanted = {experiment for claim in claims for experiment in NEEDS[claim]}
    return tuple(experiment for experiment in Experiment if experiment in wanted)


def claims_of(experiments: Iterable[Experiment]) -> list[str]:
    """The claims that can be tested with some experiments, and with unedited runs beside them."""
    there = {*experiments, Experiment.UNEDITED}
    return [claim for claim, wanted in NEEDS.items() if there.issuperset(wanted)]
