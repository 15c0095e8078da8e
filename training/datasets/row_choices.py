"""Row choices: how conversations become rows of tokens, and rows become batches.

They stand apart from the code that acts on them, so that a command can name them in its help
without loading PyTorch. Each is a `StrEnum`: wherever one is asked for, its string will do.

Example:
    >>> Mixing("batch") is Mixing.BATCH
    True
"""

from enum import StrEnum


class Template(StrEnum):
    """What tells a model who is speaking."""

    TULU = "tulu"
    """`<|user|>` and `<|assistant|>`, written out on lines of their own: the paper's."""
    PLAIN = "plain"
    """Nothing: the answer follows its prompt after a space."""
    CHAT = "chat"
    """The chat template that the tokenizer brings."""


class Mixing(StrEnum):
    """How a stage's own examples and its mix are ordered."""

    EXAMPLE = "example"
    """All of them shuffled together, in every epoch anew: the paper's."""
    BATCH = "batch"
    """The same share of both in every batch, to within one example."""


class LossNormalisation(StrEnum):
    """What counts the same in the loss of a batch."""

    TOKEN = "token"
    """Every trained token: the paper's."""
    EXAMPLE = "example"
    """Every example, however long its answers."""
    SOURCE = "source"
    """Every data set that the batch has examples of."""


class Packing(StrEnum):
    """How the examples of a batch become rows."""

    PACKED = "packed"
    """Several in a row, kept apart by a document mask."""
    BUCKETED = "bucketed"
    """One in a row, the longest first, so that pieces of a batch have rows of like length."""
