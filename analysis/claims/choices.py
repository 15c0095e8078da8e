"""Choices: what a claim can turn out to be, where it was made, and what it is measured in.

Example:
    >>> Verdict("not tested at this scale") is Verdict.NOT_TESTED
    True
"""

from enum import StrEnum


class Verdict(StrEnum):
    """What measurements say about a claim."""

    SUPPORTED = "supported"
    """An effect in the direction claimed, beyond chance."""
    CONTRADICTED = "contradicted"
    """An effect in the other direction, beyond chance."""
    INCONCLUSIVE = "inconclusive"
    """Neither is beyond chance."""
    ANSWERED = "answered"
    """Of a question without an expected answer: an effect beyond chance, whose sign is the
    answer."""
    NOT_TESTED = "not tested at this scale"
    """Runs are missing, or there are too few checkpoints, seeds or items."""


class Paper(StrEnum):
    """Where a claim was made."""

    KNOWLEDGE_ENTROPY = "Kim et al. 2025"
    """"Knowledge Entropy Decay during Language Model Pretraining Hinders New Knowledge
    Acquisition", ICLR 2025."""
    FACTUAL_KNOWLEDGE = "Chang et al. 2024"
    """"How Do Large Language Models Acquire Factual Knowledge During Pretraining?", NeurIPS
    2024."""
    CONTINUAL_MEMORIZATION = "Chen et al. 2024"
    """"Continual Memorization of Factoids in Large Language Models", 2024."""


class Unit(StrEnum):
    """What an effect is measured in."""

    NATS = "nats"
    SHARE = "share"
    CORRELATION = "correlation"
    LAYERS = "layers"
    SLOPE = "share a decade of steps"
    AIC = "AIC"


class Extreme(StrEnum):
    """A setting by its place among those that were tried, where numbers differ with the scale."""

    SMALLEST = "smallest"
    EARLY = "nearest to a fifth of the largest"
    MIDDLE = "nearest to half of the largest"
    LARGEST = "largest"
