r"""Mixing data by name: what is trained beside a data set so that facts stay in memory.

A **mix ratio** is the size of the mix over the size of the data set that it is mixed into; the
paper's main tables have 2.0. One stage has one mix: "random, then generic" are the mixes of two
stages.

The three sets of the hub are those of the released code, under the ids and columns that it names.
They are marked `unverified`, since nobody has read them with this code, and no commit of theirs is
known to us: `revision` pins one, and the content hash says what a run was given.

Source: Chen et al., "Continual Memorization of Factoids in Large Language Models", 2024: section
4.1 (what is mixed, ratios) and B.5.2 (the prompts).
"""

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Any

from probes.assets.table import find_asset, nearest_names
from probes.corpus.sources import NO_LICENCE, Corpus, load_corpus
from training.data.conversations import Conversation, Turn
from training.data.factoids import Factoid
from training.data.items import ItemSet, share_of

RANDOM_PROMPT = "Memorize the following random-string passage:\n"
RANDOM_SOURCE = "random"
WORD_LIST = "webster-words"
PAPER_WORDS = 50
"""Words in an item of the paper: some 150 tokens of a large vocabulary, 450 of a small one."""


def random_sequences(
    vocabulary: Sequence[str], n: int, *, words: int, seed: int
) -> list[Conversation]:
    """Sequences of words of a list, each to be copied."""
    _check_numbers(n, words)
    items = []
    for index in range(n):
        passage = " ".join(random.Random(f"{seed}/{index}").choices(vocabulary, k=words))
        turn = Turn(RANDOM_PROMPT + passage, passage)
        items.append(Conversation((turn,), f"{RANDOM_SOURCE}-{seed}-{index}", RANDOM_SOURCE))
    return items


def _check_numbers(n: int, words: int) -> None:
    if n < 1:
        raise ValueError(f"a mix of {n} items was asked for: give 1 or more")
    if words < 1:
        raise ValueError(f"mix items of {words} words were asked for: give 1 or more")


GENERIC_PROMPT = "Complete the following partial passage:\n\n"
GENERIC_SOURCE = "generic"
READ_DOCUMENTS = 20_000


def generic_passages(
    corpus: Corpus | str,
    n: int,
    *,
    words: int = PAPER_WORDS,
    seed: int,
    per_document: int | None = 1,
    source: str = GENERIC_SOURCE,
) -> list[Conversation]:
    """Passages of a corpus, the second half of each to be told from the first."""
    _check_numbers(n, words)
    if per_document is not None and per_document < 1:
        raise ValueError(f"per_document is {per_document}: give 1 or more, or None for all")
    opened = load_corpus(corpus) if isinstance(corpus, str) else corpus
    passages = list(_passages(opened, words, per_document, source))
    if len(passages) < n:
        limited = per_document is not None
        of_each = f", at most {per_document} of a document" * limited
        advice = ", more passages of a document (per_document)" * limited
        raise ValueError(
            f"a mix of {n} passages was asked for, but {opened.name} has {len(passages)} of "
            f"{words} + {words} words{of_each}: give a smaller mix, fewer words{advice} or another "
            "corpus"
        )
    random.Random(seed).shuffle(passages)
    return passages[:n]


def _passages(
    corpus: Corpus, words: int, per_document: int | None, source: str
) -> Iterator[Conversation]:
    """All passages, in the order of the corpus."""
    length = 2 * words
    cuts = -1 if per_document is None else per_document * length
    for place, text in enumerate(islice(corpus.documents(), READ_DOCUMENTS)):
        found = text.split(None, cuts)  # what is left uncut is one entry, too short for a passage
        for number, start in enumerate(range(0, len(found) - length + 1, length)):
            piece = found[start : start + length]
            turn = Turn(GENERIC_PROMPT + " ".join(piece[:words]), " ".join(piece[words:]))
            yield Conversation((turn,), f"{source}-{place}-{number}", source)


DEFAULT_CORPUS = "general"


class MixName(StrEnum):
    """What can be mixed into a stage."""

    RANDOM = "random"
    """Sequences of random words to be copied."""
    GENERIC = "generic"
    """Passages of any corpus, `general` if none is named."""
    KNOWLEDGE_PILE = "knowledge-pile"
    """Passages of Knowledge-Pile, from the hub."""
    ARXIV_PILE = "arxiv-pile"
    """Passages of the Pile's papers, from the hub."""
    FINEWEB = "fineweb"
    """Passages of FineWeb, from the hub."""


@dataclass(frozen=True)
class HubMix:
    """A data set of the hub that passages are cut from, and its column of text."""

    dataset: str
    column: str
    licence: str
    """As far as known; what the data set itself states wins."""
    revision: str = "main"
    unverified: bool = True


HUB_MIXES: dict[MixName, HubMix] = {
    MixName.KNOWLEDGE_PILE: HubMix("Query-of-CC/Knowledge_Pile", "content", "Apache-2.0"),
    MixName.ARXIV_PILE: HubMix("haritzpuerto/the_pile_arxiv_50k_sample", "text", NO_LICENCE),
    MixName.FINEWEB: HubMix("kh4dien/fineweb-100m-sample", "text", NO_LICENCE),
}


@dataclass(frozen=True)
class MixSet(ItemSet[Conversation]):
    """Mixing data in an order drawn by the seed, and where it is from."""

    conversations: tuple[Conversation, ...] = field(repr=False)
    drawn: dict[str, Any]
    """What else decides which items they are."""

    @property
    def items(self) -> tuple[Conversation, ...]:
        return self.conversations

    @property
    def settings(self) -> dict[str, Any]:
        return self.drawn


def mix_names() -> list[str]:
    """The names that `load_mix` knows."""
    return [name.value for name in MixName]


def mix_size(primary: int, ratio: float) -> int:
    """How many items to mix into `primary` items, rounded down (`training.data.items`).

    Raises:
        ValueError: the ratio is not positive, or comes to less than one item.
    """
    return share_of(primary, ratio, "the mix ratio")


def load_mix(
    name: str,
    n: int,
    *,
    words: int = PAPER_WORDS,
    seed: int = 0,
    corpus: Corpus | str | Path | None = None,
    revision: str | None = None,
    per_document: int | None = 1,
) -> MixSet:
    """Load mixing data by name.

    Args:
        name: one of `mix_names()`.
        n: how many items.
        words: words in a random sequence, or in each half of a passage.
        seed: decides which items, and their order.
        corpus: what `generic` is cut from; None for `general`. It applies to `generic` alone.
        revision: branch, tag or commit of a set of the hub, in place of the table's.
        per_document: at most so many passages of a document; None for all that fit.

    Raises:
        ValueError: the name is unknown, an option does not apply or is out of range, the data
            cannot be had, or there is less of it than `n` (says how much).
    """
    if name not in mix_names():
        raise ValueError(f"no mix is called {name!r}: {nearest_names(name, mix_names())}")
    _refuse_options(name, corpus, revision, per_document)
    if name == MixName.RANDOM:
        return _random(n, words, seed)
    settings: dict[str, Any] = {"words": words, "seed": seed, "per_document": per_document}
    if name == MixName.GENERIC:
        opened = corpus if isinstance(corpus, Corpus) else load_corpus(corpus or DEFAULT_CORPUS)
        licence = opened.licence
    else:
        row = HUB_MIXES[MixName(name)]
        opened = load_corpus(
            row.dataset,
            column=row.column,
            revision=revision or row.revision,
            max_documents=READ_DOCUMENTS,
        )
        licence = row.licence if opened.licence == NO_LICENCE else opened.licence
        settings |= {"revision": revision or row.revision, "unverified": row.unverified}
    items = generic_passages(
        opened, n, words=words, seed=seed, per_document=per_document, source=name
    )
    return MixSet(name, licence, opened.name, tuple(items), settings)


def _refuse_options(
    name: str, corpus: object | None, revision: str | None, per_document: int | None
) -> None:
    if corpus is not None and name != MixName.GENERIC:
        raise ValueError(f"a corpus was given, but mix {name} has its own: leave it out")
    if revision is not None and name not in HUB_MIXES:
        raise ValueError(f"revision {revision!r} was given, but mix {name} is not from the hub")
    if per_document != 1 and name == MixName.RANDOM:
        raise ValueError(f"per_document is {per_document}, but mix {name} has no documents")


def _random(n: int, words: int, seed: int) -> MixSet:
    from probes.assets import fetch

    vocabulary = fetch(WORD_LIST).read_text(encoding="utf-8").split()
    items = random_sequences(vocabulary, n, words=words, seed=seed)
    asset = find_asset(WORD_LIST)
    settings = {"words": words, "seed": seed}
    return MixSet(MixName.RANDOM.value, asset.licence, asset.sources[0].url, tuple(items), settings)


_WORD = re.compile(r"\w+")

Phrase = tuple[str, ...]


@dataclass(frozen=True)
class OverlapReport:
    """How many factoids there are, and which of them a mix holds in part or whole."""

    factoids: int
    with_subject: int
    """How many of them name a subject."""
    mix_items: int
    answers: tuple[str, ...]
    subjects: tuple[str, ...]
    pairs: tuple[str, ...]

    @property
    def answer_share(self) -> float | None:
        """Share of the factoids; None where there are none."""
        return len(self.answers) / self.factoids if self.factoids else None

    @property
    def subject_share(self) -> float | None:
        """Share of the factoids that name a subject; None where none does."""
        return len(self.subjects) / self.with_subject if self.with_subject else None

    @property
    def pair_share(self) -> float | None:
        """Share of the factoids that name a subject; None where none does."""
        return len(self.pairs) / self.with_subject if self.with_subject else None


def overlap(factoids: Sequence[Factoid], mix: Sequence[Conversation]) -> OverlapReport:
    """Which factoids occur in the items of a mix (Chen et al., B.6).

    A factoid overlaps in its answer if an accepted answer occurs in an item, in its subject if that
    does, in the pair if both do in one item. Prompt and answer of an item, without the line that
    asks for a passage, are compared as runs of whole words, whatever the case and punctuation.
    Short answers ("1", "May") overlap by chance: the pair says whether a fact could be learned from
    the mix. An answer or a subject without any letter or digit is never found.
    """
    answers, subjects = _Phrases(), _Phrases()
    for number, factoid in enumerate(factoids):
        for answer in factoid.answers:
            answers.add(_words(answer), number)
        if factoid.subject:
            subjects.add(_words(factoid.subject), number)
    with_answer: set[int] = set()
    with_subject: set[int] = set()
    with_both: set[int] = set()
    for conversation in mix:
        words = _words("\n".join(map(_told, conversation.turns)))
        in_answer, in_subject = answers.found_in(words), subjects.found_in(words)
        with_answer |= in_answer
        with_subject |= in_subject
        with_both |= in_answer & in_subject
    return OverlapReport(
        factoids=len(factoids),
        with_subject=sum(bool(factoid.subject) for factoid in factoids),
        mix_items=len(mix),
        answers=tuple(_identifiers(factoids, with_answer)),
        subjects=tuple(_identifiers(factoids, with_subject)),
        pairs=tuple(_identifiers(factoids, with_both)),
    )


def _told(turn: Turn) -> str:
    """What a turn says, without the words by which every item of a mix is asked for."""
    prompt = turn.prompt.removeprefix(GENERIC_PROMPT).removeprefix(RANDOM_PROMPT)
    return f"{prompt}\n{turn.answer}"


def _words(text: str) -> Phrase:
    return tuple(_WORD.findall(text.casefold()))


def _identifiers(factoids: Sequence[Factoid], numbers: Iterable[int]) -> Iterator[str]:
    return (factoids[number].identifier for number in sorted(numbers))


@dataclass
class _Phrases:
    """Phrases to look for, each with the numbers of the factoids that it belongs to."""

    owners: dict[Phrase, set[int]] = field(default_factory=dict)
    # Only these lengths need to be tried where a word is met.
    lengths: dict[str, set[int]] = field(default_factory=dict)

    def add(self, phrase: Phrase, owner: int) -> None:
        if phrase:
            self.owners.setdefault(phrase, set()).add(owner)
            self.lengths.setdefault(phrase[0], set()).add(len(phrase))

    def found_in(self, words: Phrase) -> set[int]:
        """The owners of all phrases that occur in a text."""
        found: set[int] = set()
        for start, word in enumerate(words):
            for length in self.lengths.get(word, ()):
                found |= self.owners.get(words[start : start + length], set())
        return found
