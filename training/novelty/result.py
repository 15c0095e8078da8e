r"""What was found of how new a corpus is: by document, by token of the vocabulary, by entity.

Losses are in nats, perplexities :math:`e` to them; `training.novelty.measure` says what each is.

Example:
    >>> from training.novelty.measure import corpus_novelty                      # doctest: +SKIP
    >>> found = corpus_novelty(model, corpus)                                    # doctest: +SKIP
    >>> found.to_dataframe("document")["entity_perplexity"].hist()               # doctest: +SKIP
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from probes.provenance import Provenance


class NoveltyUnit(StrEnum):
    """What a table of novelty has a row for."""

    DOCUMENT = "document"
    TOKEN = "token"
    ENTITY = "entity"


@dataclass(frozen=True)
class EntityMention:
    """One mention of an entity, found by its capitals.

    Attributes:
        document: index of its document.
        text: as it is written.
        tokens: its predicted tokens.
        mean_loss: of these, nats.
    """

    document: int
    text: str
    tokens: int
    mean_loss: float


@dataclass(frozen=True)
class CorpusNovelty:
    """How new a corpus is to a model; tokens are the predicted ones, document after document.

    Attributes:
        token_ids: what each token is.
        documents: the index of the document that each token is of.
        losses: nats.
        entities: the mentions, in order.
        vocabulary: the text of each token id that occurs.
        provenance: which model and which corpus.
    """

    token_ids: Int64[np.ndarray, " token"]
    documents: Int64[np.ndarray, " token"]
    losses: Float64[np.ndarray, " token"]
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

    def to_dataframe(self, by: NoveltyUnit | str = NoveltyUnit.DOCUMENT) -> Any:
        """One row per document, token of the vocabulary, or mention, as a pandas DataFrame.

        Args:
            by: "document" (`document`, `tokens`, `mean_loss`, `perplexity`, `entities`, and
                `entity_loss` and `entity_perplexity`, missing where there is none), "token"
                (`token_id`, `token`, `occurrences`, `mean_loss`, `perplexity`, the newest first)
                or "entity" (`document`, `entity`, `tokens`, `mean_loss`, `perplexity`).

        Raises:
            ValueError: there is no such unit.
        """
        if by not in list(NoveltyUnit):
            raise ValueError(f"by must be one of {', '.join(NoveltyUnit)}, found {by!r}")
        match NoveltyUnit(by):
            case NoveltyUnit.DOCUMENT:
                return self._by_document()
            case NoveltyUnit.TOKEN:
                return self._by_token()
        return self._by_entity()

    def _by_document(self) -> Any:
        import pandas as pd

        losses = pd.DataFrame({"document": self.documents, "loss": self.losses})
        table = losses.groupby("document")["loss"].agg(tokens="size", mean_loss="mean")
        table["perplexity"] = np.exp(table["mean_loss"])
        mentions = self._by_entity().groupby("document")["mean_loss"]
        table["entities"] = mentions.size().reindex(table.index, fill_value=0)
        table["entity_loss"] = mentions.mean().reindex(table.index)
        table["entity_perplexity"] = np.exp(table["entity_loss"])
        return table.reset_index()

    def _by_token(self) -> Any:
        import pandas as pd

        losses = pd.DataFrame({"token_id": self.token_ids, "loss": self.losses})
        table = losses.groupby("token_id")["loss"].agg(occurrences="size", mean_loss="mean")
        table["perplexity"] = np.exp(table["mean_loss"])
        table.insert(0, "token", [self.vocabulary[token] for token in table.index])
        return table.reset_index().sort_values("mean_loss", ascending=False, ignore_index=True)

    def _by_entity(self) -> Any:
        import pandas as pd

        rows = [(e.document, e.text, e.tokens, e.mean_loss) for e in self.entities]
        table = pd.DataFrame(rows, columns=["document", "entity", "tokens", "mean_loss"])
        # Without any row, pandas would not know that these are numbers.
        table = table.astype({"document": int, "tokens": int, "mean_loss": float})
        table["perplexity"] = np.exp(table["mean_loss"])
        return table
