"""Passages: texts that hold knowledge, the probes that ask for it, and how often they are met.

A **passage** states facts about something that does not exist. Its paraphrases state them in other
words; **version** 0 is the text itself, version k its k-th paraphrase. A **knowledge probe** is a
prompt and a target: how likely a model finds the target after the prompt says how well it knows the
fact. Kinds of probes differ by their distance from the text (`ProbeKind`).

Example:
    >>> probe = KnowledgeProbe(0, 0, ProbeKind.MEMORIZATION, "The mayor of Tolm is", "Ada Brisk")
    >>> passage = Passage(0, "The mayor of Tolm is Ada Brisk.", ("Ada Brisk runs Tolm.",), (probe,))
    >>> passage.version(1), probe.pair
    ('Ada Brisk runs Tolm.', ('The mayor of Tolm is', ' Ada Brisk'))
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from probes.corpus.sources import HUB_ID, NO_LICENCE
from probes.shown import Shown
from training.choices import Exposure, ProbeKind
from training.data.items import (
    NamedSet,
    Read,
    Row,
    Rows,
    field_of,
    files_of,
    hash_of,
    hub_snapshot,
    read_rows,
    text_of,
)

GENERATED = "generated"
SUFFIXES = (".json", ".jsonl")
TEXT_FIELD, PARAPHRASES_FIELD = "train_context", "paraphrases"
PROBE_FIELDS = {
    ProbeKind.MEMORIZATION: "mem",
    ProbeKind.SEMANTIC: "gen",
    ProbeKind.COMPOSITIONAL: "hard_gen",
}


@dataclass(frozen=True)
class KnowledgeProbe:
    """One prompt and its target."""

    passage: int  # index of the passage in its set
    probe: int  # index of the probe in its passage, through all kinds
    kind: ProbeKind
    prompt: str  # what the model is given; no space at its end
    target: str  # what should follow, without the space in between

    @property
    def pair(self) -> tuple[str, str]:
        """Prompt and target that follow each other: the space between them is the target's."""
        return self.prompt, f" {self.target}"


@dataclass(frozen=True)
class Passage(Shown):
    """One text, its place in the set, its paraphrases (perhaps none) and its probes."""

    index: int
    text: str
    paraphrases: tuple[str, ...]
    probes: tuple[KnowledgeProbe, ...]  # memorization first, then semantic, then compositional

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
class KnowledgeSet(Shown):
    """Passages in order (entry i has index i), and where they are from."""

    name: str
    passages: tuple[Passage, ...]
    licence: str
    source: str

    def __len__(self) -> int:
        return len(self.passages)

    @cached_property
    def probes(self) -> tuple[KnowledgeProbe, ...]:
        """The probes of all passages, passage after passage."""
        return tuple(probe for passage in self.passages for probe in passage.probes)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of passages and probes in order, all their fields included."""
        return hash_of(self.passages)

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


def load_knowledge(
    source: str | Path | Sequence[str | Path],
    *,
    limit: int | None = None,
    revision: str | None = None,
) -> KnowledgeSet:
    """Load a set of passages and probes.

    Args:
        source: a file, several files, or the id of a data set in the hub. A `Path` is always a
            file.
        limit: only the first so many passages.
        revision: branch, tag or commit of a data set.

    Raises:
        ValueError: there is nothing readable, no passage, or an option that does not apply.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}: give a positive number, or leave it out for all")
    if is_hub_knowledge(source):
        path, licence = _hub_file(str(source), revision)
        name = origin = f"{source}@{revision}" if revision else str(source)
        files = [path]
    elif revision is not None:
        raise ValueError("revision was given, but the source is not a data set: leave it out")
    else:
        sources = [source] if isinstance(source, str | Path) else list(source)
        files = [Path(path).expanduser() for path in sources]
        name, origin = ", ".join(path.name for path in files), ", ".join(map(str, files))
        licence = NO_LICENCE
    passages, _ = _passages(chain.from_iterable(map(_file_rows, files)))
    if not passages:
        raise ValueError(
            f"{origin or 'no file'} holds no passage: give {' or '.join(SUFFIXES)} files"
        )
    return KnowledgeSet(name, tuple(passages[:limit]), licence, origin)


def is_hub_knowledge(source: str | Path | Sequence[str | Path]) -> bool:
    """Whether passages are those of a data set of the hub."""
    if not isinstance(source, str) or source.endswith(SUFFIXES) or source.startswith("."):
        return False
    return HUB_ID.fullmatch(source) is not None and not Path(source).expanduser().exists()


def _hub_file(name: str, revision: str | None) -> tuple[Path, str]:
    """The file of a Hugging Face data set, from the hub or its local cache, and its licence."""
    from huggingface_hub import DatasetCard

    wanted = [f"*{suffix}" for suffix in SUFFIXES]
    folder = hub_snapshot(name, revision, [*wanted, "README.md"])
    files = sorted(path for pattern in wanted for path in folder.rglob(pattern))
    if len(files) != 1:
        found = ", ".join(str(path.relative_to(folder)) for path in files) or "none"
        raise ValueError(
            f"data set {name} should have one {' or '.join(SUFFIXES)} file, found {found}: "
            "download what you want and give its path"
        )
    card = folder / "README.md"
    licence = DatasetCard.load(card).data.license if card.is_file() else None
    return files[0], str(licence or NO_LICENCE)


def _file_rows(path: Path) -> Iterator[tuple[str, Row]]:
    if not path.is_file():
        raise ValueError(
            f"no file of fictional knowledge at {path}: give a {' or '.join(SUFFIXES)} file, a "
            "data set id (namespace/name) or, to a command, 'generated'"
        )
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} is no file of fictional knowledge: give {', '.join(SUFFIXES)}")
    return read_rows(path)


def _passages(rows: Rows) -> Read[Passage]:
    return [_passage(row, index, place) for index, (place, row) in enumerate(rows)], {}


HUB_KNOWLEDGE = {
    "fictional-knowledge": NamedSet(files_of("fictional-knowledge"), _passages),
}


def _passage(row: Row, index: int, place: str) -> Passage:
    def value(field: str) -> Any:
        return field_of(row, field, place, "give the published fields")

    def texts(field: str) -> tuple[str, ...]:
        values = value(field)
        if not isinstance(values, list):
            found = type(values).__name__
            raise ValueError(f"{place}: {field!r} holds {found}: give a list of texts")
        return tuple(text_of(one, field, place) for one in values)

    probes: list[KnowledgeProbe] = []
    for kind, field in PROBE_FIELDS.items():
        prompts, targets = texts(f"{field}_input"), texts(f"{field}_target")
        if len(prompts) != len(targets):
            raise ValueError(
                f"{place}: {field}_input has {len(prompts)} texts and {field}_target "
                f"{len(targets)}: give each prompt its target"
            )
        for prompt, target in zip(prompts, targets, strict=True):
            probes.append(KnowledgeProbe(index, len(probes), kind, prompt, target))
    text = text_of(value(TEXT_FIELD), TEXT_FIELD, place)
    paraphrases = texts(PARAPHRASES_FIELD) if row.get(PARAPHRASES_FIELD) else ()
    return Passage(index, text, paraphrases, tuple(probes))


Exposures = Mapping[int, Exposure]


def assign_exposures(
    knowledge: KnowledgeSet,
    *,
    paraphrase: int = 0,
    duplication: int = 0,
    once: int = 0,
    held_out: int | None = None,
) -> dict[int, Exposure]:
    """Deal the passages of a set to exposures, in the order of the set: so many of each, and the
    rest, unless `held_out` is given, to none.

    Raises:
        ValueError: the numbers do not add up, or a passage that is to be paraphrased has no
            paraphrase.
    """
    counts = {
        Exposure.PARAPHRASE: paraphrase,
        Exposure.DUPLICATION: duplication,
        Exposure.ONCE: once,
    }
    rest = len(knowledge) - sum(counts.values())
    counts[Exposure.HELD_OUT] = rest if held_out is None else held_out
    if min(counts.values()) < 0 or sum(counts.values()) != len(knowledge):
        asked = ", ".join(f"{number} {exposure}" for exposure, number in counts.items())
        raise ValueError(
            f"exposures are {asked}, but there are {len(knowledge)} passages: give numbers of 0 or "
            "more that add up to it"
        )
    bare = [one.index for one in knowledge.passages[:paraphrase] if not one.paraphrases]
    if bare:
        raise ValueError(
            f"{len(bare)} of the {paraphrase} passages to be paraphrased have no paraphrase, such "
            f"as passage {bare[0]} of {knowledge.name}: ask for fewer, or put others first"
        )
    dealt = (exposure for exposure, number in counts.items() for _ in range(number))
    return dict(enumerate(dealt))
