"""Choices: the settings of training that have a few named values.

They stand apart from the code that acts on them, so that a command can name them in its help
without loading PyTorch. Each is a `StrEnum`: wherever one is asked for, its string will do.

Example:
    >>> TranslatorOptimizer("adam") is TranslatorOptimizer.ADAM
    True
"""

from enum import StrEnum


class TranslatorOptimizer(StrEnum):
    """What moves the translators of a tuned lens."""

    ADAM = "adam"
    """Adam: the better one for a few hundred small steps."""
    SGD = "sgd"
    """Gradient descent with Nesterov momentum: the paper's, which took far larger steps."""
