"""Choices: the settings of training that have a few named values.

They stand apart from the code that acts on them, so that a command can name them in its help
without loading PyTorch. Each is a `StrEnum`: wherever one is asked for, its string will do.
"""

from enum import StrEnum


class TranslatorOptimizer(StrEnum):
    """What moves the translators of a tuned lens."""

    ADAM = "adam"  # the better one for a few hundred small steps
    SGD = "sgd"  # with Nesterov momentum: the paper's, which took far larger steps


class Precision(StrEnum):
    """In which type a forward and backward pass computes; weights and AdamW stay in float32."""

    FP32 = "fp32"
    BF16 = "bf16"  # where it is safe (autocast; under FSDP a mixed-precision policy)
    FP16 = "fp16"  # where it is safe, with a loss scale that adapts; not under FSDP


class Parallel(StrEnum):
    """How several processes share a training step."""

    NONE = "none"  # there is one
    DDP = "ddp"  # each holds the model and takes some rows; gradients are averaged
    FSDP = "fsdp"  # as DDP, with weights, gradients and optimizer state sharded (`fully_shard`)


class ScheduleKind(StrEnum):
    """How the learning rate falls after its warm-up."""

    COSINE = "cosine"  # along half a cosine
    LINEAR = "linear"  # in a straight line
    CONSTANT = "constant"  # not at all


class RateCount(StrEnum):
    """Which point of its schedule update s takes its learning rate from."""

    FROM_ONE = "from_one"  # s, as OLMo's trainer: the papers of knowledge entropy and acquisition
    FROM_ZERO = "from_zero"  # s - 1, as transformers' schedulers: REMIX's trainer starts at rate 0


class DecayGroup(StrEnum):
    """Which weights AdamW lets decay."""

    LINEAR_WEIGHTS = "linear_weights"  # not embeddings, norms and biases: the papers' choice
    ALL_MATRICES = "all_matrices"  # all of two or more dimensions, embeddings among them
    NONE = "none"


class ProbeKind(StrEnum):
    """How far a knowledge probe is from the passage that it asks about."""

    MEMORIZATION = "memorization"  # prompt and target stand in the passage, word for word
    SEMANTIC = "semantic"  # the same fact and the same target, asked for in other words
    COMPOSITIONAL = "compositional"  # two facts of the passage have to be combined


class Exposure(StrEnum):
    """How the encounters with a passage repeat during a run."""

    PARAPHRASE = "paraphrase"  # another wording at every encounter
    DUPLICATION = "duplication"  # the same wording at every encounter
    ONCE = "once"
    HELD_OUT = "held_out"  # never: a control


class InjectionMode(StrEnum):
    """The place of a passage in a batch of corpus rows."""

    PREPEND_TRUNCATE = "prepend_truncate"  # before a row, whose end is cut off: the papers'
    REPLACE = "replace"  # in the place of a row; pads fill the rest
    EXTRA_ROW = "extra_row"  # in a row of its own beside the others; pads fill the rest
    JOINED = "joined"  # before a row, several to each where there are more passages than rows


class OncePlacement(StrEnum):
    """When the passages that are shown once are shown."""

    SPREAD = "spread"  # a share of them in every round of injections
    FIRST = "first"  # all of them in the first round


class OptimizerStart(StrEnum):
    """What the optimizer of a stage begins with."""

    FRESH = "fresh"  # nothing, as in the released runs
    KEPT = "kept"  # the moments that the stage before left


class StageStatus(StrEnum):
    """How a stage ended."""

    COMPLETE = "complete"  # at its last step, as was planned
    RULE_FULFILLED = "rule fulfilled"  # when its rule said so
    CAP_REACHED = "cap reached"  # at its last step, and its rule was not fulfilled


class StopWhen(StrEnum):
    """What ends a stage before its last epoch."""

    EPOCHS = "epochs"  # nothing
    LOSS = "loss"  # the loss of the stage's own data is below a threshold
    EXACT_MATCH = "exact_match"  # a share of the stage's own items is answered exactly
    LOSS_AND_EXACT_MATCH = "loss_and_exact_match"
    # The loss of all that is trained on, pads as well if they are, was below 1e-4 in ten updates.
    RELEASED = "released"


class Replay(StrEnum):
    """What of earlier stages is trained on again in later ones."""

    NONE = "none"
    ITEMS = "items"  # a share of the earlier items themselves
    SELF = "self"  # a share of the earlier prompts, with what the model itself answers to them


class NoMixControl(StrEnum):
    """What a stage without its mix is made to have in common with one that has it."""

    STEPS = "steps"  # as many updates
    TOKENS = "tokens"  # as many trained tokens


class Template(StrEnum):
    """What tells a model who is speaking."""

    TULU = "tulu"  # `<|user|>` and `<|assistant|>` on lines of their own: the paper's
    PLAIN = "plain"  # nothing: the answer follows its prompt after a space
    CHAT = "chat"  # the chat template that the tokenizer brings


class Mixing(StrEnum):
    """How a stage's own examples and its mix are ordered."""

    EXAMPLE = "example"  # all shuffled together, in every epoch anew: the paper's
    BATCH = "batch"  # the same share of both in every batch, to within one example


class LossNormalisation(StrEnum):
    """What counts the same in the loss of a batch."""

    TOKEN = "token"  # every trained token: the paper's
    EXAMPLE = "example"  # every example, however long its answers
    SOURCE = "source"  # every data set that the batch has examples of


class Packing(StrEnum):
    """How the examples of a batch become rows."""

    PACKED = "packed"  # several in a row, kept apart by a document mask
    BUCKETED = "bucketed"  # one in a row, the longest first: pieces of a batch have like lengths


class Charset(StrEnum):
    """What keys and values are made of."""

    HEX = "hex"
    ALPHANUMERIC = "alphanumeric"  # digits and letters, in lower case as scoring ignores case


class Tracker(StrEnum):
    """A tracker that shows a run's numbers while it trains, beside its directory."""

    WANDB = "wandb"  # offline unless WANDB_MODE says otherwise
    TRACKIO = "trackio"
    TENSORBOARD = "tensorboard"
