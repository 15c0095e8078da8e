"""Choices: what a claim can turn out to be, where it was made, which runs test it, and the like."""

from enum import StrEnum


class Verdict(StrEnum):
    """What measurements say about a claim."""

    SUPPORTED = "supported"  # an effect in the direction claimed, beyond chance
    CONTRADICTED = "contradicted"  # an effect in the other direction, beyond chance
    INCONCLUSIVE = "inconclusive"  # neither is beyond chance
    ANSWERED = "answered"  # a question has an effect beyond chance, whose sign is the answer
    # Runs are missing, or there are too few checkpoints, seeds or items.
    NOT_TESTED = "not tested at this scale"


class Paper(StrEnum):
    """The paper that a claim is from."""

    # "Knowledge Entropy Decay during Language Model Pretraining Hinders New Knowledge Acquisition"
    KNOWLEDGE_ENTROPY = "Kim et al. 2025"
    # "How Do Large Language Models Acquire Factual Knowledge During Pretraining?"
    FACTUAL_KNOWLEDGE = "Chang et al. 2024"
    # "Continual Memorization of Factoids in Large Language Models"
    CONTINUAL_MEMORIZATION = "Chen et al. 2024"


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


class Experiment(StrEnum):
    """A set of runs."""

    ENTROPIES = "entropies"  # the entropies of every checkpoint, over several corpora
    UPDATES = "updates"  # gradients and updates of memory vectors in every checkpoint
    UNEDITED = "unedited"  # new knowledge taught to the last checkpoint
    AGES = "ages"  # the same to checkpoints of several ages
    EDITED_AGES = "edited-ages"  # the same, resuscitated
    FAMILIAR_TEXT = "familiar-text"  # the same, on text that the model knows
    DOSES = "doses"  # factors and ratios of resuscitation
    CONTROLS = "controls"
    """What is done instead of it: controls, a form that leaves the function as it was, attention
    temperatures."""
    SPACINGS = "spacings"  # steps from an encounter to the next
    BATCHES = "batches"  # sizes of a batch, over as many updates and over as much text
    RATES = "rates"  # learning rates
    EPOCHS = "epochs"  # the text gone through three times as often, and all encounters repeated
    SIZES = "sizes"  # a smaller model
    MIXES = "mixes"  # mixes and replay, before a second stage of facts
    OTHER_TASKS = "other-tasks"  # mixes and replay, before a second stage of other tasks
    AMOUNTS = "amounts"  # sizes, lengths and texts of mixes
    THREE_STAGES = "three-stages"  # two later stages
    FAMILIAR_FACTS = "familiar-facts"  # facts that the start knew


class Anchor(StrEnum):
    """Places that links lead to: sections, and figures in them that claims are about."""

    LEDGER = "ledger"
    TRAJECTORIES = "trajectories"
    ENCOUNTERS = "encounters"
    RESUSCITATION = "resuscitation"
    MEMORIZATION = "memorization"
    MIXES = "mixes"
    DEPTH = "depth"
    UPDATES = "updates"
    READABLE = "readable"
    PROVENANCE = "provenance"
