"""Choices: the settings of an edit that have a few named values.

Commands name them in their help, so no PyTorch is loaded here. Wherever one is asked for, its
string will do.

Example:
    >>> ResuscitationSite("down") is ResuscitationSite.DOWN
    True
"""

from enum import StrEnum

from probes.choices import as_choice as as_choice


class ResuscitationSite(StrEnum):
    """Which weights a resuscitation multiplies; u is the multiplier of a neuron."""

    UP = "up"
    """Rows of the linear half of a gated MLP, times u: the paper's. Multiplies the coefficients."""
    DOWN = "down"
    """Memory vectors, times u; in every family."""
    PRESERVING = "preserving"
    """Up rows times u, memory vectors divided by u: the same function, other coefficients."""
    GATE = "gate"
    """Rows of the gate, times u, before its nonlinearity."""
    UP_PREACTIVATION = "up_preactivation"
    """Up rows of an MLP without a gate, times u, before its nonlinearity."""


class Selection(StrEnum):
    """Which neurons of a layer are the inactive ones."""

    QUANTILE = "quantile"
    """All whose mean coefficient is at most the quantile `ratio`, ties included: the paper's."""
    EXACT = "exact"
    """Exactly `ratio` times `d_mlp` of them, rounded; ties in the order of their index."""


class Schedule(StrEnum):
    """How a temperature changes over a run."""

    CONSTANT = "constant"
    """Not at all."""
    LINEAR = "linear"
    """From its value at the start straight to 1 at the end, as the released code's default."""
