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


class Precision(StrEnum):
    """In which type a forward and backward pass computes; weights and AdamW stay in float32."""

    FP32 = "fp32"
    """float32 throughout."""
    BF16 = "bf16"
    """bfloat16 where it is safe (autocast; under FSDP a mixed-precision policy)."""
    FP16 = "fp16"
    """float16 where it is safe, with a loss scale that adapts; not under FSDP."""


class Parallel(StrEnum):
    """How several processes share a training step."""

    NONE = "none"
    """They do not: there is one."""
    DDP = "ddp"
    """Every process holds the model and takes some rows; gradients are averaged."""
    FSDP = "fsdp"
    """As DDP, with weights, gradients and optimizer state sharded (`fully_shard`)."""


class ScheduleKind(StrEnum):
    """How the learning rate falls after its warm-up."""

    COSINE = "cosine"
    """Along half a cosine."""
    LINEAR = "linear"
    """In a straight line."""
    CONSTANT = "constant"
    """Not at all."""


class RateCount(StrEnum):
    """Which point of its schedule an update takes its learning rate from."""

    FROM_ONE = "from_one"
    """Update s that of s: OLMo's trainer, so the papers of knowledge entropy and acquisition."""
    FROM_ZERO = "from_zero"
    """Update s that of s - 1: transformers' schedulers, so REMIX's released trainer, whose first
    update has a rate of 0."""


class DecayGroup(StrEnum):
    """Which weights AdamW lets decay."""

    LINEAR_WEIGHTS = "linear_weights"
    """Weights of linear layers; not embeddings, norms and biases. The papers' choice."""
    ALL_MATRICES = "all_matrices"
    """Every weight of two or more dimensions, embeddings among them."""
    NONE = "none"
    """None."""


class ProbeKind(StrEnum):
    """How far a knowledge probe is from the passage that it asks about."""

    MEMORIZATION = "memorization"
    """Prompt and target stand in the passage, word for word."""
    SEMANTIC = "semantic"
    """The same fact and the same target, asked for in other words."""
    COMPOSITIONAL = "compositional"
    """Two facts of the passage have to be combined."""


class Exposure(StrEnum):
    """How the encounters with a passage repeat during a run."""

    PARAPHRASE = "paraphrase"
    """Another wording at every encounter."""
    DUPLICATION = "duplication"
    """The same wording at every encounter."""
    ONCE = "once"
    """One encounter."""
    HELD_OUT = "held_out"
    """None: a control."""


class InjectionMode(StrEnum):
    """Where a passage goes in a batch of corpus rows."""

    PREPEND_TRUNCATE = "prepend_truncate"
    """Before the tokens of a corpus row, whose end is cut off: the papers'."""
    REPLACE = "replace"
    """In the place of a corpus row; pads fill the rest."""
    EXTRA_ROW = "extra_row"
    """In a row of its own beside the corpus rows; pads fill the rest."""


class OncePlacement(StrEnum):
    """When the passages that are shown once are shown."""

    SPREAD = "spread"
    """A share of them in every round of injections."""
    FIRST = "first"
    """All of them in the first round."""
