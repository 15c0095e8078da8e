"""Choices: the settings of a measurement that have a few named values, and their source.

They stand apart from the code that acts on them, so that a command can name them in its help
without loading PyTorch. Each is a `StrEnum`: wherever one is asked for, its string will do.

Sources: "the paper" is Kim et al., "Knowledge Entropy Decay during Language Model Pretraining
Hinders New Knowledge Acquisition", ICLR 2025.

Example:
    >>> Coefficient("relu_gate") is Coefficient.RELU_GATE
    True
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import TypeVar

_Choice = TypeVar("_Choice", bound=StrEnum)


class Backend(StrEnum):
    """What runs a model and reaches its hook points."""

    NATIVE = "native"
    """The Hugging Face model itself, untouched, with PyTorch hooks and fused attention."""
    TRANSFORMER_LENS = "transformer_lens"
    """A TransformerLens `TransformerBridge`, and its hooks."""
    NNSIGHT = "nnsight"
    """An nnsight model, and its traces."""


class ReturnType(StrEnum):
    """What a call of a model returns."""

    LOGITS = "logits"
    LOSS = "loss"  # the mean of -log p of the next token, in nats
    BOTH = "both"  # logits and loss


class Coefficient(StrEnum):
    """How a coefficient vector becomes non-negative weights on memory vectors."""

    ABS = "abs"
    """|c|: the paper's choice."""
    RELU_OUTPUT = "relu_output"
    """max(c, 0): the text of the paper's appendix A.2."""
    RELU_GATE = "relu_gate"
    """|max(gate, 0) * up|: the formula of that appendix; gated MLPs only."""
    CONTRIBUTION = "contribution"
    """|c| times the norm of the memory vector: invariant to rescaling a row and its vector."""


class VectorOrder(StrEnum):
    """What memory vectors of a prompt are put in order by, largest first, whatever the sign."""

    COEFFICIENT = "coefficient"
    CONTRIBUTION = "contribution"  # |c| times the norm of the memory vector
    LOGIT = "logit"  # what a vector adds to the logit of a token


class Weighting(StrEnum):
    """What counts the same in a mean over a corpus."""

    INSTANCE = "instance"
    """Every instance (row), whatever its length: Eq. 2 of the paper."""
    TOKEN = "token"
    """Every token; the same as `INSTANCE` when all rows are full."""


class EntropyKind(StrEnum):
    """What is measured."""

    KNOWLEDGE = "knowledge"
    """Knowledge entropy, of the mean MLP coefficients of a layer: Eq. 2 of the paper."""
    ATTENTION = "attention"
    """Attention entropy, over keys, averaged over queries: Eq. 3 of the paper."""
    NEXT_TOKEN = "next_token"
    """Next-token entropy, over the vocabulary, averaged over positions: its appendix A.4."""


class Compat(StrEnum):
    """Whose arithmetic to reproduce, where it differs from the definition."""

    OFFICIAL = "official"
    """The papers' released code; each function says what that does differently."""


class SampleBy(StrEnum):
    """What a document of a `.txt` file is; the words are those of the library `datasets`."""

    DOCUMENT = "document"  # the whole file
    LINE = "line"  # a line
    PARAGRAPH = "paragraph"  # what stands between blank lines


class RowLayout(StrEnum):
    """How documents become the rows of a batch."""

    PACKED = "packed"
    """Documents end to end in full rows, as in pretraining; rows carry segment ids."""
    DOCUMENT = "document"
    """One document a row, cut at the sequence length and padded."""


class IntervalMethod(StrEnum):
    """How an interval is made from blocks of documents; see `probes.corpus_means`."""

    JACKKNIFE = "jackknife"
    """Each block is left out in turn; cheap, and right for smooth statistics such as these."""
    BOOTSTRAP = "bootstrap"
    """Blocks are drawn with replacement; wants many blocks (`blocks=100`, say)."""


class LensPositions(StrEnum):
    """At which positions of a prompt a lens is read."""

    LAST = "last"
    """The readout position: the prompt's last token, which the target follows."""
    ALL = "all"
    """Every position of the prompt."""


class TargetSpan(StrEnum):
    """Which tokens of a target a lens looks for, and what an item's number is made of."""

    FIRST = "first"
    """The first token alone."""
    EVERY = "every"
    """All of them: the worst rank, the sum of log-probabilities."""
    MEAN = "mean"
    """All of them: the mean rank, rounded, and the mean log-probability."""


class Lens(StrEnum):
    """What stands between a layer's stream and the final norm."""

    LOGIT = "logit"  # nothing: the logit lens
    TUNED = "tuned"  # a translator trained for the layer: the tuned lens
    JACOBIAN = "jacobian"  # the mean Jacobian of the stream after the last block: the Jacobian lens

    @property
    def words(self) -> str:
        return f"{'Jacobian' if self is Lens.JACOBIAN else self} lens"


def as_choice(choices: type[_Choice], given: str, name: str) -> _Choice:
    """The choice that a string names."""
    try:
        return choices(given)
    except ValueError:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, found {given!r}") from None


def as_choices(
    choices: type[_Choice], given: str | Sequence[str], name: str
) -> tuple[_Choice, ...]:
    """Several choices, each once; a string by itself is one."""
    several = [given] if isinstance(given, str) else given
    return tuple(dict.fromkeys(as_choice(choices, one, name) for one in several))


class RestoredPositions(StrEnum):
    """At which tokens of a prompt clean values are put back."""

    BOTH = "both"
    """The subject's last token and the prompt's last token."""
    SUBJECT_LAST = "subject-last"
    """The subject's last token."""
    SUBJECT = "subject"
    """All tokens of the subject."""
    LAST = "last"
    """The prompt's last token, where the target is read."""
