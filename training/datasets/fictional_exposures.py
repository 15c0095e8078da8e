"""Exposures: which passages are met in ever new words, which in the same, which once, which never.

| design                  | paraphrase | duplication | once    | held out |
|-------------------------|------------|-------------|---------|----------|
| `knowledge-entropy`     | 0 to 69    |             | 70-129  |          |
| `factual-acquisition`   | 0 to 39    | 40 to 79    | 80-119  | 120-129  |

The passages that factual acquisition leaves out are never shown by the released code and never
looked at either; here they are a control.

Source: Kim et al., "Knowledge Entropy Decay during Language Model Pretraining Hinders New Knowledge
Acquisition", ICLR 2025: section 4.1; Chang et al., "How Do Large Language Models Acquire Factual
Knowledge During Pretraining?", NeurIPS 2024; and the code and data released with them.

Example:
    >>> official_exposures("factual-acquisition")[120]
    <Exposure.HELD_OUT: 'held_out'>
"""

import random
from collections.abc import Mapping, Sequence

from probes.assets.table import nearest_names
from training.choices import Exposure
from training.datasets.passages import KnowledgeSet

Exposures = Mapping[int, Exposure]

OFFICIAL = {
    "knowledge-entropy": {Exposure.PARAPHRASE: 70, Exposure.ONCE: 60},
    "factual-acquisition": {
        Exposure.PARAPHRASE: 40,
        Exposure.DUPLICATION: 40,
        Exposure.ONCE: 40,
        Exposure.HELD_OUT: 10,
    },
}
"""Passages of each exposure in the papers' designs, in the order of the published files."""


def official_exposures(design: str) -> dict[int, Exposure]:
    """The exposures of one of the papers, for the published 130 passages or as many others.

    Args:
        design: "knowledge-entropy" or "factual-acquisition".

    Raises:
        ValueError: there is no such design.
    """
    if design not in OFFICIAL:
        raise ValueError(f"no design {design!r}: {nearest_names(design, list(OFFICIAL))}")
    return _dealt(range(sum(OFFICIAL[design].values())), OFFICIAL[design])


def assign_exposures(
    knowledge: KnowledgeSet,
    *,
    paraphrase: int = 0,
    duplication: int = 0,
    once: int = 0,
    held_out: int | None = None,
    seed: int | None = None,
    order: Sequence[int] | None = None,
) -> dict[int, Exposure]:
    """Deal the passages of a set to exposures.

    Args:
        knowledge: the set.
        paraphrase: so many are paraphrased.
        duplication: so many are repeated as they are.
        once: so many are shown once.
        held_out: so many are never shown; None for all the rest.
        seed: deals them in an order drawn from it; None for the order of the set.
        order: deals them in this order of indices instead.

    Returns:
        The exposure of every passage, in the order of the set.

    Raises:
        ValueError: the numbers do not add up, the order leaves a passage out, or a passage that is
            to be paraphrased has no paraphrase.
    """
    counts = {
        Exposure.PARAPHRASE: paraphrase,
        Exposure.DUPLICATION: duplication,
        Exposure.ONCE: once,
    }
    rest = len(knowledge) - sum(counts.values())
    counts[Exposure.HELD_OUT] = rest if held_out is None else held_out
    _check_counts(counts, len(knowledge))
    found = _dealt(_dealing_order(len(knowledge), seed, order), counts)
    bare = [
        index
        for index, exposure in found.items()
        if exposure is Exposure.PARAPHRASE and not knowledge.passages[index].paraphrases
    ]
    if bare:
        raise ValueError(
            f"{len(bare)} of the {paraphrase} passages to be paraphrased have no paraphrase, such "
            f"as passage {bare[0]} of {knowledge.name}: ask for fewer, or give another order"
        )
    return dict(sorted(found.items()))


def _check_counts(counts: Mapping[Exposure, int], passages: int) -> None:
    asked = ", ".join(f"{number} {exposure}" for exposure, number in counts.items())
    if min(counts.values()) < 0 or sum(counts.values()) != passages:
        raise ValueError(
            f"exposures are {asked}, but there are {passages} passages: give numbers of 0 or more "
            "that add up to it"
        )


def _dealing_order(passages: int, seed: int | None, order: Sequence[int] | None) -> Sequence[int]:
    if seed is not None and order is not None:
        raise ValueError("exposures were given both a seed and an order: give one of them")
    if order is not None:
        if sorted(order) != list(range(passages)):
            raise ValueError(
                f"the order names {len(order)} passages: give each index from 0 to {passages - 1} "
                "once"
            )
        return order
    drawn = list(range(passages))
    if seed is not None:
        random.Random(seed).shuffle(drawn)
    return drawn


def _dealt(order: Sequence[int], counts: Mapping[Exposure, int]) -> dict[int, Exposure]:
    exposures = [exposure for exposure, number in counts.items() for _ in range(number)]
    return dict(zip(order, exposures, strict=True))
