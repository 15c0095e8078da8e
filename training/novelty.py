r"""Novelty: how new a corpus is to a model, by document, by token and by entity.

Every token but the first of a document has a loss, :math:`-\ln p(x_t \mid x_{<t})` in nats. A
document's loss is the mean over its tokens, that of an entity the mean over the tokens of one
mention; perplexities are :math:`e` to them. A document's **entity loss** is the mean over its
entities: the geometric mean of their perplexities, since a single rare token would make up most of
an arithmetic one.

The paper had GPT-4o find the entities. Here they are spans of words that are written like names, so
numbers are to be compared between corpora and models measured here, not with the paper's.

Source: Kim et al., "Knowledge Entropy Decay during Language Model Pretraining Hinders New Knowledge
Acquisition", ICLR 2025: appendix B.1, Figure 10.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import astuple, dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from probes.checking import hooked_model, takes
from probes.choices import as_choice
from probes.corpus.readers import text_chunks
from probes.corpus.sources import Corpus
from probes.hooked_model import HookedModel
from probes.prompts import Prompts
from probes.refusals import instance_of
from probes.results import Provenance, provenance_of
from probes.shown import Result
from probes.target_pass import token_log_probs
from training.data.packed_rows import check_row_length

WORD = re.compile(r"[^\W_]+(?:[-'\u2019][^\W_]+)*")
LETTER_BY_DIGIT = re.compile(r"[^\W\d_]\d|\d[^\W\d_]")
JOINERS = ("of", "de", "la", "le", "du", "van", "von", "der", "den", "di", "da", "del", "y")
SENTENCE_END = '.!?:;\n"()[]\u201c\u201d'
OPENING = " \t\"'([\u2018\u2019\u201c\u201d"
"""What may stand between the end of a sentence and the next one's first word."""
SEQUENCE_LENGTH = 512


def known_names(texts: Iterable[str]) -> frozenset[str]:
    """The words that have a capital within sentences of some texts, and never do without."""
    names: set[str] = set()
    ordinary: set[str] = set()
    for text in texts:
        for found in WORD.finditer(text):
            word = found[0]
            if word.islower():
                ordinary.add(word)
            elif not _begins_sentence(text, found.start()):
                names.add(word)
    return frozenset(name for name in names if name.lower() not in ordinary)


def entity_spans(text: str, names: Collection[str]) -> list[tuple[int, int]]:
    """The spans of a text that are written like names."""
    spans: list[tuple[int, int]] = []
    end = None
    for found in WORD.finditer(text):
        start, stop = found.span()
        follows = end is not None and text[end:start] == " "
        if _is_name(text, found, names):
            if follows:
                spans[-1] = spans[-1][0], stop
            else:
                spans.append((start, stop))
            end = stop
        else:
            end = stop if follows and found[0] in JOINERS else None
    return spans


def _is_name(text: str, found: re.Match[str], names: Collection[str]) -> bool:
    word = found[0]
    if any(map(str.isupper, word[1:])) or LETTER_BY_DIGIT.search(word):
        return True
    if not word[0].isupper() or word == "I":
        return False
    return word in names or not _begins_sentence(text, found.start())


def _begins_sentence(text: str, start: int) -> bool:
    before = text[:start].rstrip(OPENING)
    return not before or before[-1] in SENTENCE_END


class NoveltyUnit(StrEnum):
    """What a table of novelty has a row for."""

    DOCUMENT = "document"
    TOKEN = "token"
    ENTITY = "entity"


@dataclass(frozen=True)
class EntityMention:
    """One mention of an entity, found by its capitals, and the index of its document."""

    document: int
    text: str
    tokens: int  # its predicted tokens
    mean_loss: float  # nats per token


@dataclass(frozen=True)
class CorpusNovelty(Result):
    """How new a corpus is to a model; tokens are the predicted ones, document after document."""

    token_ids: Int64[np.ndarray, " token"]
    documents: Int64[np.ndarray, " token"]  # the index of the document that each token is of
    losses: Float64[np.ndarray, " token"]  # nats
    entities: tuple[EntityMention, ...]
    vocabulary: dict[int, str]
    provenance: Provenance

    @property
    def mean_loss(self) -> float:
        """Nats per predicted token of the corpus."""
        return float(self.losses.mean())

    @property
    def entity_loss(self) -> float | None:
        """The mean over documents with entities of their entity loss, nats; None without any."""
        found = self.to_dataframe(NoveltyUnit.DOCUMENT)["entity_loss"].dropna()
        return float(found.mean()) if len(found) else None

    def _facts(self) -> Mapping[str, Any]:
        counts = {"tokens": len(self.token_ids), "entities": len(self.entities)}
        return {"": self.provenance.about, "mean loss": f"{self.mean_loss:.4g} nats", **counts}

    def to_dataframe(self, by: NoveltyUnit | str = NoveltyUnit.DOCUMENT) -> Any:
        """One row per document, token of the vocabulary, or mention, as a pandas DataFrame."""
        import pandas as pd

        unit = as_choice(NoveltyUnit, by, "by")
        rows = list(map(astuple, self.entities))
        entities = pd.DataFrame(rows, columns=["document", "entity", "tokens", "mean_loss"])
        # Without any row, pandas would not know that these are numbers.
        entities = entities.astype({"document": int, "tokens": int, "mean_loss": float})
        if unit is NoveltyUnit.ENTITY:
            return entities.assign(perplexity=np.exp(entities["mean_loss"]))
        key, count, of_token = (
            ("document", "tokens", self.documents)
            if unit is NoveltyUnit.DOCUMENT
            else ("token_id", "occurrences", self.token_ids)
        )
        losses = pd.DataFrame({key: of_token, "loss": self.losses})
        table = losses.groupby(key)["loss"].agg(**{count: "size", "mean_loss": "mean"})
        table["perplexity"] = np.exp(table["mean_loss"])
        if unit is NoveltyUnit.TOKEN:
            table.insert(0, "token", [self.vocabulary[token] for token in table.index])
            return table.reset_index().sort_values("mean_loss", ascending=False, ignore_index=True)
        mentions = entities.groupby("document")["mean_loss"]
        table["entities"] = mentions.size().reindex(table.index, fill_value=0)
        table["entity_loss"] = mentions.mean().reindex(table.index)
        table["entity_perplexity"] = np.exp(table["entity_loss"])
        return table.reset_index()


@takes(model=hooked_model, corpus=instance_of(Corpus, "probes.load_corpus(...)"))
def corpus_novelty(
    model: HookedModel,
    corpus: Corpus,
    *,
    sequence_length: int | None = None,
    prepend_bos: bool | None = None,
    on_documents: Callable[[int], None] | None = None,
) -> CorpusNovelty:
    """Measure how new a corpus is to a model.

    Args:
        model: the hooked model, with a fast tokenizer; what is attached to it counts.
        corpus: texts; limit their number when it is opened.
        sequence_length: documents are cut off after so many tokens; by default 512, or as many as
            the model takes.
        prepend_bos: whether documents begin with a BOS, which the first token then has a loss
            after; None for the tokenizer's own habit.
        on_documents: called with the number of documents of every part when it is done.

    Raises:
        ValueError: the corpus is rows of token ids, no document has two tokens, rows would be
            longer than the model takes, or there is no fast tokenizer.
    """
    tokenizer, positions = model.tokenizer, model.n_positions
    if tokenizer is None or not tokenizer.is_fast:
        raise ValueError(
            f"entities are found in texts, and {model.name} has no fast tokenizer to tell which "
            "characters a token stands for: load the model with one"
        )
    if sequence_length is None:
        sequence_length = min(SEQUENCE_LENGTH, positions or SEQUENCE_LENGTH)
    if sequence_length < 2:
        raise ValueError(f"sequence_length is {sequence_length}: give 2 or more")
    check_row_length(sequence_length, positions)
    prompts, names = Prompts.of(model, prepend_bos), known_names(corpus.documents())
    documents: list[_Document] = []
    mentions: list[EntityMention] = []
    losses: list[Float64[np.ndarray, " token"]] = []
    seen = 0
    for texts in text_chunks(corpus.documents()):
        every = _encoded(prompts, texts, sequence_length, first=seen)
        part = [document for document in every if len(document.ids) > 1]
        seen += len(texts)
        if part:
            found = _losses(model, part)
            for document, own in zip(part, found, strict=True):
                mentions += _mentions(document, own, names)
            documents += part
            losses += found
        if on_documents is not None:
            on_documents(len(texts))
    if not documents:
        raise ValueError(
            f"no token can be predicted: none of the {seen} documents of {corpus.name} has two "
            "tokens; give longer documents"
        )
    ids = np.array([token for one in documents for token in one.ids[1:]], dtype=np.int64)
    configuration = {
        "sequence_length": sequence_length,
        "prepend_bos": prompts.puts_bos,
        "entities": "spans written like names",
    }
    return CorpusNovelty(
        ids,
        np.repeat([one.index for one in documents], [len(one.ids) - 1 for one in documents]),
        np.concatenate(losses),
        tuple(mentions),
        {int(token): tokenizer.decode([int(token)]) for token in np.unique(ids)},
        provenance_of(
            model,
            configuration,
            documents=len(documents),
            rows=len(documents),
            tokens=sum(len(one.ids) for one in documents),
            corpus=corpus.name,
            corpus_licence=corpus.licence,
            corpus_sha256=corpus.content_hash,
        ),
    )


@dataclass(frozen=True)
class _Document:
    """A document as tokens, and the characters that each stands for."""

    index: int
    text: str
    ids: tuple[int, ...]
    offsets: list[tuple[int, int]]


def _losses(model: HookedModel, documents: list[_Document]) -> list[Float64[np.ndarray, " token"]]:
    """The loss of all tokens of each document but the first, in nats."""
    items = [(document.ids[:1], document.ids[1:]) for document in documents]
    found = -token_log_probs(model, items, share_prefixes=False).numpy()
    ends = np.cumsum([len(document.ids) - 1 for document in documents])
    return np.split(found, ends[:-1])


def _encoded(prompts: Prompts, texts: list[str], length: int, first: int) -> list[_Document]:
    encoding = prompts.tokenizer(
        texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    found = []
    for number, (text, plain) in enumerate(zip(texts, encoding["input_ids"], strict=True)):
        ids = prompts.begun(plain)
        # What is put before a text stands for none of its characters.
        offsets = [(0, 0)] * (len(ids) - len(plain)) + encoding["offset_mapping"][number]
        found.append(_Document(first + number, text, ids[:length], offsets[:length]))
    return found


def _mentions(
    document: _Document, losses: Float64[np.ndarray, " token"], names: frozenset[str]
) -> list[EntityMention]:
    """The mentions of which at least one token was predicted."""
    starts, stops = np.array(document.offsets[1:]).reshape(-1, 2).T
    found = []
    for start, stop in entity_spans(document.text, names):
        own = losses[(starts < stop) & (stops > start)]
        if len(own):
            text = document.text[start:stop]
            found.append(EntityMention(document.index, text, len(own), float(own.mean())))
    return found
