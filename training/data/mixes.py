"""Mixes and replay: what is trained beside a data set so that facts stay in memory.

A **mix ratio** is the size of the mix over that of the data set that it is mixed into; the paper's
main tables have 2.0. Of the items of earlier stages a share, the **replay ratio** (the paper has
0.01, 0.05 and 0.1), is drawn without replacement and shown again (`replayed`); those of a small
ratio are among those of a larger one with the same seed. Or a model writes the answers to earlier
prompts by itself (`self_generated`). A replay counts as a source of its own, so that its loss is
recorded apart.

Source: Chen et al., "Continual Memorization of Factoids in Large Language Models", 2024: sections
3.2 and 4.1 (what is mixed, ratios), A.2, B.5.2 (the prompts) and table 4; ids and columns of the
hub's sets are those of the released code.
"""

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Any

from probes.assets.table import HUB_CORPORA, find_asset, nearest_names
from probes.corpus.sources import Corpus, load_corpus
from probes.generation import generate
from probes.hooked_model import HookedModel
from training.choices import Template
from training.data.factoids import Factoid
from training.data.items import ItemSet, share_of
from training.data.rendering import Conversation, RowEncoder, Turn, decoded

RANDOM_PROMPT = "Memorize the following random-string passage:\n"
GENERIC_PROMPT = "Complete the following partial passage:\n\n"
WORD_LIST = "webster-words"
PAPER_WORDS = 50
"""Words in an item of the paper: some 150 tokens of a large vocabulary, 450 of a small one."""
READ_DOCUMENTS = 20_000


class MixName(StrEnum):
    """What can be mixed into a stage."""

    RANDOM = "random"  # sequences of random words to be copied
    GENERIC = "generic"  # passages of any corpus, `general` if none is named
    KNOWLEDGE_PILE = "knowledge-pile"  # passages of Knowledge-Pile, from the hub
    ARXIV_PILE = "arxiv-pile"  # passages of the Pile's papers, from the hub
    FINEWEB = "fineweb"  # passages of FineWeb, from the hub


def mix_size(primary: int, ratio: float) -> int:
    """How many items to mix into `primary` items, rounded down; refused where that is none."""
    return share_of(primary, ratio, "the mix ratio")


def load_mix(
    name: str,
    n: int,
    *,
    words: int = PAPER_WORDS,
    seed: int = 0,
    corpus: Corpus | str | Path | None = None,
    revision: str | None = None,
) -> ItemSet[Conversation]:
    """Load mixing data by name.

    Args:
        name: one of `MixName`.
        n: how many items.
        words: words in a random sequence, or in each half of a passage.
        seed: decides which items, and their order.
        corpus: what `generic` is cut from; None for `general`. It applies to `generic` alone.
        revision: branch, tag or commit of a set of the hub, in place of the table's.

    Raises:
        ValueError: the name is unknown, an option does not apply or is out of range, the data
            cannot be had, or there is less of it than `n` (says how much).
    """
    if name not in list(MixName):
        raise ValueError(f"no mix is called {name!r}: {nearest_names(name, list(MixName))}")
    if n < 1:
        raise ValueError(f"a mix of {n} items was asked for: give 1 or more")
    if words < 1:
        raise ValueError(f"mix items of {words} words were asked for: give 1 or more")
    if corpus is not None and name != MixName.GENERIC:
        raise ValueError(f"a corpus was given, but mix {name} has its own: leave it out")
    hub = HUB_CORPORA.get(name)
    if revision is not None and hub is None:
        raise ValueError(f"revision {revision!r} was given, but mix {name} is not from the hub")
    settings: dict[str, Any] = {"words": words, "seed": seed}
    if name == MixName.RANDOM:
        from probes.assets import fetch

        asset = find_asset(WORD_LIST)
        vocabulary = fetch(WORD_LIST).read_text(encoding="utf-8").split()
        items = random_sequences(vocabulary, n, words=words, seed=seed)
        address = asset.sources[0].url
        return ItemSet(name, asset.licence, address, items, settings=settings)
    settings["per_document"] = 1
    if hub is None:
        opened = corpus if isinstance(corpus, Corpus) else load_corpus(corpus or "general")
    else:
        settings["revision"] = revision or hub.revision
        opened = load_corpus(name, revision=revision, max_documents=READ_DOCUMENTS)
    items = generic_passages(opened, n, words=words, seed=seed, source=name)
    return ItemSet(name, opened.licence, opened.name, items, settings=settings)


def random_sequences(
    vocabulary: Sequence[str], n: int, *, words: int, seed: int
) -> tuple[Conversation, ...]:
    """Sequences of words of a list, each to be copied."""
    found = []
    for index in range(n):
        passage = " ".join(random.Random(f"{seed}/{index}").choices(vocabulary, k=words))
        turn = Turn(RANDOM_PROMPT + passage, passage)
        found.append(Conversation((turn,), f"random-{seed}-{index}", "random"))
    return tuple(found)


def generic_passages(
    corpus: Corpus, n: int, *, words: int = PAPER_WORDS, seed: int, source: str = "generic"
) -> tuple[Conversation, ...]:
    """One passage of each of some documents, the second half to be written after the first."""
    passages = []
    for place, text in enumerate(islice(corpus.documents(), READ_DOCUMENTS)):
        piece = text.split(None, 2 * words)[: 2 * words]
        if len(piece) == 2 * words:
            turn = Turn(GENERIC_PROMPT + " ".join(piece[:words]), " ".join(piece[words:]))
            passages.append(Conversation((turn,), f"{source}-{place}-0", source))
    if len(passages) < n:
        raise ValueError(
            f"a mix of {n} passages was asked for, but {corpus.name} has {len(passages)} of "
            f"{words} + {words} words, at most 1 of a document: give a smaller mix, fewer words or "
            "another corpus"
        )
    random.Random(seed).shuffle(passages)
    return tuple(passages[:n])


def replay_size(earlier: int, ratio: float) -> int:
    """How many of `earlier` items to show again, rounded down; refused below one and above all."""
    if ratio > 1:
        raise ValueError(
            f"the replay ratio is {ratio:g}: give at most 1, which shows every earlier item again"
        )
    return share_of(earlier, ratio, "the replay ratio")


def replayed(earlier: Sequence[Conversation], ratio: float, seed: int) -> list[Conversation]:
    """A share of the items of an earlier stage, in an order drawn by a seed, of source "replay"."""
    size = replay_size(len(earlier), ratio)
    return [replace(item, source="replay") for item in _in_drawn_order(earlier, seed)[:size]]


def _in_drawn_order(items: Sequence[Conversation], seed: int) -> list[Conversation]:
    """Items in an order drawn by a seed; their first ones are a fair sample."""
    drawn = list(items)
    random.Random(seed).shuffle(drawn)
    return drawn


def self_generated(
    model: HookedModel,
    n: int,
    *,
    earlier: Sequence[Conversation],
    template: Template | str,
    seed: int,
    max_answer_tokens: int = 64,
) -> tuple[list[Conversation], dict[str, Any]]:
    """Items as the model remembers them: earlier prompts with its own answers, written greedily.

    Args:
        model: the model as the earlier stage left it, with its tokenizer.
        n: how many items.
        earlier: items of the earlier stage, whose prompts are answered in an order drawn by `seed`.
        template: how the earlier stage rendered its items.
        seed: of which prompts are answered.
        max_answer_tokens: of an answer, its end included; longer and empty ones are not taken.

    Returns:
        So many items of one turn each, of source "self-replay"; and settings for a manifest, with
        how many answers were not taken, and why.

    Raises:
        ValueError: `n` is not positive, or more than there are earlier items; too few answers were
            usable; the template does not go with the tokenizer; the model has none.
    """
    if not 0 < n <= len(earlier):
        raise ValueError(
            f"{n} self-generated items were asked for, and there are {len(earlier)} earlier items "
            "to answer: ask for 1 or more, and no more than there are"
        )
    if (tokenizer := model.tokenizer) is None:
        raise ValueError(f"{model.name} has no tokenizer to write text with: load it with one")
    encoder = RowEncoder(tokenizer, template)
    end = encoder.row(Conversation((Turn("a", "b"),), "shortest")).input_ids[-1]
    drawn, kept = _in_drawn_order(earlier, seed), list[Conversation]()
    rejected = Counter(endless_answers=0, empty_answers=0)
    asked = 0
    while len(kept) < n:
        items = drawn[asked : asked + n - len(kept)]
        if not items:
            raise ValueError(
                f"{n} self-generated items were asked for, but of {asked} prompts {len(kept)} are "
                f"usable ({rejected['endless_answers']} endless answers, "
                f"{rejected['empty_answers']} empty ones): ask for fewer, or allow longer answers"
            )
        asked += len(items)
        prompts = [encoder.opened(item.turns[0].prompt) for item in items]
        rows = generate(model, prompts, max_new_tokens=max_answer_tokens, stop_ids=[end])
        for item, row in zip(items, rows, strict=True):
            answer = decoded(tokenizer, row[:-1]).strip()
            if row[-1] != end:
                rejected["endless_answers"] += 1
            elif not answer:
                rejected["empty_answers"] += 1
            else:
                turns = (Turn(item.turns[0].prompt, answer),)
                kept.append(Conversation(turns, f"self-{item.identifier}", "self-replay"))
    settings = {
        "items": n,
        "prompts": "of the earlier stage",
        "template": str(Template(template)),
        "seed": seed,
        "model_sha256": model.content_hash(),
        "max_answer_tokens": max_answer_tokens,
        "rejected": dict(rejected),
    }
    return kept, settings


@dataclass(frozen=True)
class OverlapReport:
    """How many factoids there are, and which of them a mix holds in part or whole."""

    factoids: int
    answers: tuple[str, ...]
    subjects: tuple[str, ...]
    pairs: tuple[str, ...]


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
            answers.add(answer, number)
        subjects.add(factoid.subject or "", number)
    found: tuple[set[int], ...] = (set(), set(), set())
    for conversation in mix:
        words = _words("\n".join(map(_content, conversation.turns)))
        in_answer, in_subject = answers.found_in(words), subjects.found_in(words)
        for whole, part in zip(found, (in_answer, in_subject, in_answer & in_subject), strict=True):
            whole |= part
    names = (tuple(factoids[i].identifier for i in sorted(numbers)) for numbers in found)
    return OverlapReport(len(factoids), *names)


def _content(turn: Turn) -> str:
    """What a turn says, without the words by which every item of a mix is asked for."""
    prompt = turn.prompt.removeprefix(GENERIC_PROMPT).removeprefix(RANDOM_PROMPT)
    return f"{prompt}\n{turn.answer}"


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", text.casefold()))


class _Phrases:
    """Phrases to look for, each with the numbers of the factoids that it belongs to."""

    def __init__(self) -> None:
        self._owners: dict[tuple[str, ...], set[int]] = {}
        # Only these lengths need to be tried where a word is met.
        self._lengths: dict[str, set[int]] = {}

    def add(self, text: str, owner: int) -> None:
        if phrase := _words(text):
            self._owners.setdefault(phrase, set()).add(owner)
            self._lengths.setdefault(phrase[0], set()).add(len(phrase))

    def found_in(self, words: tuple[str, ...]) -> set[int]:
        found: set[int] = set()
        for start, word in enumerate(words):
            for length in self._lengths.get(word, ()):
                found |= self._owners.get(words[start : start + length], set())
        return found
