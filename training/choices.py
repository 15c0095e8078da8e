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


class Charset(StrEnum):
    """What keys and values are made of."""

    HEX = "hex"
    """The sixteen digits 0 to 9 and a to f."""
    ALPHANUMERIC = "alphanumeric"
    """The digits 0 to 9 and the letters a to z, in lower case as scoring ignores case."""
