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
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from probes.corpus.sources import ContentHash
from training.choices import ProbeKind


@dataclass(frozen=True)
class KnowledgeProbe:
    """One prompt and its target.

    Attributes:
        passage: index of the passage in its set.
        probe: index of the probe in its passage, through all kinds.
        kind: how far it is from the text.
        prompt: what the model is given; no space at its end.
        target: what should follow, without the space in between.
    """

    passage: int
    probe: int
    kind: ProbeKind
    prompt: str
    target: str

    @property
    def pair(self) -> tuple[str, str]:
        """Prompt and target that follow each other without anything between them."""
        return self.prompt, f" {self.target}"


@dataclass(frozen=True)
class Passage:
    """One text, its paraphrases and its probes.

    Attributes:
        index: its place in the set.
        text: the passage itself.
        paraphrases: the same facts in other words; may be empty.
        probes: memorization first, then semantic, then compositional.
    """

    index: int
    text: str
    paraphrases: tuple[str, ...]
    probes: tuple[KnowledgeProbe, ...]

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
    """Passages in order, and where they are from.

    Attributes:
        name: what was asked for.
        passages: the passages; entry i has index i.
        sha256: of passages and probes in order, all their fields included.
        licence: of the texts as far as known, else "not stated".
        source: address, files, or how they were made.
    """

    name: str
    passages: tuple[Passage, ...]
    sha256: str
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
