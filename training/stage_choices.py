"""Choices that stages of training are described with.

They stand apart from the code that acts on them, so that a command can name them in its help
without loading PyTorch.

Example:
    >>> StopWhen("loss") is StopWhen.LOSS
    True
"""

from enum import StrEnum


class OptimizerStart(StrEnum):
    """What the optimizer of a stage begins with."""

    FRESH = "fresh"
    """Nothing, as in the released runs."""
    KEPT = "kept"
    """The moments that the stage before left."""


class StageStatus(StrEnum):
    """How a stage ended."""

    COMPLETE = "complete"
    """At its last step, as was planned."""
    RULE_FULFILLED = "rule fulfilled"
    """When its rule said so."""
    CAP_REACHED = "cap reached"
    """At its last step, and its rule was not fulfilled."""


class StopWhen(StrEnum):
    """What ends a stage before its last epoch."""

    EPOCHS = "epochs"
    """Nothing."""
    LOSS = "loss"
    """The loss of the stage's own data is below a threshold."""
    EXACT_MATCH = "exact_match"
    """A share of the stage's own items is answered exactly."""
    LOSS_AND_EXACT_MATCH = "loss_and_exact_match"
    """Both."""
    RELEASED = "released"
    """The loss of all that is trained on, pads as well if they are, was below 1e-4 in ten updates:
    the released code's."""


class Replay(StrEnum):
    """What of earlier stages is trained on again in later ones."""

    NONE = "none"
    """Nothing."""
    ITEMS = "items"
    """A share of the earlier items themselves."""
    SELF = "self"
    """A share of the earlier prompts, with what the model itself answers to them."""


class NoMixControl(StrEnum):
    """What a stage without its mix is made to have in common with one that has it."""

    STEPS = "steps"
    """As many updates."""
    TOKENS = "tokens"
    """As many trained tokens."""
