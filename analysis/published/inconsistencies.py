"""Inconsistencies: published numbers that do not go together, and what that means for them.

Some only want a word beside them; others are no targets at all. Each can be checked by arithmetic
on the published numbers themselves, except what is known from released code.

Example:
    >>> [one.identifier for one in inconsistencies_of("chen-table-6-PopQA-arxiv-GSM8K-accuracy")]
    ['table-6-repeats']
"""

from dataclasses import dataclass
from fnmatch import fnmatchcase

from analysis.published.continual_memorization import OTHER_COLUMNS


@dataclass(frozen=True, kw_only=True)
class Inconsistency:
    """Numbers that do not go together.

    Attributes:
        identifier: of it.
        affects: patterns of identifiers of numbers; `*` stands for anything.
        says: what does not go together.
        no_target: whether these numbers should not be compared with at all.
    """

    identifier: str
    affects: tuple[str, ...]
    says: str
    no_target: bool = False


INCONSISTENCIES = (
    Inconsistency(
        identifier="sign-of-acquisition",
        affects=("kim-table-1-*-A",),
        says="equation 4 divides by K, which is negative, so that what improves would be below 0; "
        "the tables go together only with a division by its size",
    ),
    Inconsistency(
        identifier="padded-score",
        affects=("kim-table-2-*-K", "kim-table-1-*-A"),
        says="called a mean over target tokens; the released code divides by the length of the "
        "padded row, which depends on what else is in the batch",
    ),
    Inconsistency(
        identifier="pythia-layers",
        affects=("kim-figure-6",),
        says="called Pythia 1.4B, whose 24 layers can reach 216.3 nats; 143.4 to 143.7 fit the 16 "
        "layers of Pythia 1B, or 16 of its layers",
        no_target=True,
    ),
    Inconsistency(
        identifier="relu-variant",
        affects=("kim-figure-9",),
        says="the text (negative outputs become 0) and the formula (a ReLU for the gate) describe "
        "two variants; which of them is drawn is not said",
    ),
    Inconsistency(
        identifier="low-rate",
        affects=("kim-table-1-learning-rate-1e-4-*-A",),
        says="at this learning rate acquisition does not fall with age, as the text says of all "
        "settings",
    ),
    Inconsistency(
        identifier="collapse",
        affects=("kim-table-?-batch-size-2048-738k-?",),
        says="the run collapsed, which the authors put down to too short a warm-up",
        no_target=True,
    ),
    Inconsistency(
        identifier="headline-of-unequal-sets",
        affects=("chen-headline-*",),
        says="53.2 is a mean over ID, LAMA, EQ and WQ, 41.6 over LAMA, EQ and WQ; over these three "
        "the mixes reach 67.4",
    ),
    Inconsistency(
        identifier="replay-without-replay",
        affects=("chen-table-4-PopQA-*", "chen-table-4-TriviaQA-*"),
        says="without replay the row should equal no mixing of Table 2, and does not: LAMA 15.7 "
        "against 7.7 and GSM8K 33.6 against 19.0 (PopQA), GSM8K 57.6 against 9.4 (TriviaQA)",
    ),
    Inconsistency(
        identifier="table-6-repeats",
        affects=tuple(
            f"chen-table-6-*-{mix}-{column}-accuracy"
            for mix in ("knowledge-pile", "arxiv", "random", "fineweb")
            for column in OTHER_COLUMNS
        ),
        says="the same numbers are printed for all four mixes, almost certainly by a copying error",
        no_target=True,
    ),
    Inconsistency(
        identifier="wrong-mean-table-2",
        affects=("chen-table-2-PopQA-random-at-A-other-mean-accuracy",),
        says="its own cells have the mean 74.2, printed is 72.2",
        no_target=True,
    ),
    Inconsistency(
        identifier="wrong-mean-table-3",
        affects=("chen-table-3-KVR-both-other-mean-accuracy",),
        says="its own cells have the mean 57.6, printed is 57.0",
        no_target=True,
    ),
    Inconsistency(
        identifier="mix-left-out",
        affects=tuple(
            f"chen-table-2-*-{mix}-{column}-accuracy"
            for mix in ("random-later", "generic-later", "both")
            for column in (*OTHER_COLUMNS, "other-mean")
        ),
        says="in the released code a mix is cut off before it is used where stage B is one of "
        "these sets: what was measured may be three times the data instead",
    ),
)
"""All that are known."""


def inconsistencies_of(identifier: str) -> list[Inconsistency]:
    """What is known against a published number."""
    return [
        one
        for one in INCONSISTENCIES
        if any(fnmatchcase(identifier, pattern) for pattern in one.affects)
    ]
