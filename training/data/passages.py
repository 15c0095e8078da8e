"""Passages: texts that hold knowledge, and the probes that ask for it.

A **passage** states facts about something that does not exist. Its paraphrases state the same facts
in other words; **version** 0 is the text itself, version k its k-th paraphrase. A **knowledge
probe** is a prompt and a target: how likely a model finds the target after the prompt says how well
it knows the fact. There are three kinds, by their distance from the text (`ProbeKind`).

Prompt and target are parted by one space, which belongs to the target where tokens are made:
`KnowledgeProbe.pair`.

Example:
    >>> probe = KnowledgeProbe(0, 0, ProbeKind.MEMORIZATION, "The mayor of Tolm is", "Ada Brisk")
    >>> passage = Passage(0, "The mayor of Tolm is Ada Brisk.", ("Ada Brisk runs Tolm.",), (probe,))
    >>> passage.version(1), probe.pair
    ('Ada Brisk runs Tolm.', ('The mayor of Tolm is', ' Ada Brisk'))
"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from probes.assets.table import nearest_names
from probes.corpus.sources import ContentHash
from training.choices import Exposure, ProbeKind


@dataclass(frozen=True)
class KnowledgeProbe:
    """One prompt and its target."""

    passage: int
    """Index of the passage in its set."""
    probe: int
    """Index of the probe in its passage, through all kinds."""
    kind: ProbeKind
    prompt: str
    """What the model is given; no space at its end."""
    target: str
    """What should follow, without the space in between."""

    @property
    def pair(self) -> tuple[str, str]:
        """Prompt and target that follow each other without anything between them."""
        return self.prompt, f" {self.target}"


@dataclass(frozen=True)
class Passage:
    """One text, its place in the set, its paraphrases (perhaps none) and its probes."""

    index: int
    text: str
    paraphrases: tuple[str, ...]
    probes: tuple[KnowledgeProbe, ...]
    """Memorization first, then semantic, then compositional."""

    @property
    def versions(self) -> int:
        """Wordings there are: the text and its paraphrases."""
        return 1 + len(self.paraphrases)

    def version(self, number: int) -> str:
        """A wording: 0 is the text, k the k-th paraphrase.

        Raises:
            ValueError: there is no such wording.
        """
        if not 0 <= number < self.versions:
            raise ValueError(
                f"passage {self.index} has versions 0 to {self.versions - 1}, asked for {number}: "
                "give more paraphrases, or inject less often"
            )
        return self.paraphrases[number - 1] if number else self.text


@dataclass(frozen=True)
class KnowledgeSet:
    """Passages in order (entry i has index i), and where they are from."""

    name: str
    passages: tuple[Passage, ...]
    sha256: str
    """Of passages and probes in order, all their fields included."""
    licence: str
    source: str

    def __len__(self) -> int:
        return len(self.passages)

    @cached_property
    def probes(self) -> tuple[KnowledgeProbe, ...]:
        """The probes of all passages, passage after passage."""
        return tuple(probe for passage in self.passages for probe in passage.probes)

    @property
    def configuration(self) -> dict[str, Any]:
        """What identifies the set, as plain values for a manifest."""
        return {
            "name": self.name,
            "licence": self.licence,
            "source": self.source,
            "passages": len(self),
            "probes": len(self.probes),
            "sha256": self.sha256,
        }


def knowledge_set(
    name: str, passages: Sequence[Passage], *, licence: str, source: str
) -> KnowledgeSet:
    """A set of passages, with its hash."""
    assert [passage.index for passage in passages] == list(range(len(passages)))
    content = ContentHash()
    for passage in passages:
        content.add_text(json.dumps(asdict(passage), sort_keys=True, ensure_ascii=False))
    return KnowledgeSet(name, tuple(passages), content.value, licence, source)


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
