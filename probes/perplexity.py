r"""Perplexity: how well a model predicts the next token of a text.

The loss of a predicted token is :math:`-\ln p(x_t \mid x_{<t})` in nats; `mean_loss` is its mean
over all predicted tokens of a corpus. A token is predicted where the token before it, in the same
row, is of the same document; so is the one that ends a document in the packed layout. Bits per byte
compare models with different tokenizers: the mean loss in bits, times tokens per byte of text
(of each document's tokens, decoded without special ones).

Source of bits per byte: Gao et al., "The Pile" (2020), section 3.1.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import exp, log
from typing import Any

import torch
from jaxtyping import Bool, Float, Float64, Int, Int64
from torch import Tensor
from torch.nn.functional import cross_entropy

from probes.checking import batches as some_batches
from probes.checking import hooked_model, takes
from probes.choices import Weighting
from probes.corpus.token_batch import Batches, TokenBatch
from probes.corpus_means import BatchWeights, Interval, Resampling, estimate_of, spread
from probes.hooked_model import HookedModel
from probes.hooks import require_finite
from probes.measure import Meter, PassSettings, run_pass
from probes.readout import read_in_chunks
from probes.shown import Result, frame_of


class TextBytes:
    """Counts bytes; holds only the document at hand."""

    def __init__(self, tokenizer: Any | None) -> None:
        self._tokenizer = tokenizer
        self._document: int | None = None
        self._ids: list[int] = []
        self._bytes = 0

    def see(self, batch: TokenBatch) -> None:
        if self._tokenizer is None:
            return
        real = batch.attention_mask.bool()
        ids, documents = batch.input_ids[real].cpu(), batch.segment_ids[real].cpu()
        found, counts = documents.unique_consecutive(return_counts=True)
        for document, part in zip(found.tolist(), ids.split(counts.tolist()), strict=True):
            if document != self._document:
                self._decode()
                self._document = document
            self._ids += part.tolist()

    def result(self) -> int | None:
        """Bytes of all documents so far; None without a tokenizer."""
        self._decode()
        return None if self._tokenizer is None else self._bytes

    def _decode(self) -> None:
        if self._ids:
            assert self._tokenizer is not None
            text = self._tokenizer.decode(
                self._ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
            self._bytes += len(text.encode())
            self._ids = []


@dataclass(frozen=True)
class Perplexity(Result):
    """How well a model predicts a corpus."""

    mean_loss: float  # nats per predicted token
    interval: Interval | None
    """About the mean loss less its bias; None from fewer than two documents."""
    tokens: int  # predicted tokens
    per_document_loss: Float64[Tensor, "document"]
    """Mean loss of each document, nats per token; NaN where no token was predicted."""
    per_document_tokens: Int64[Tensor, "document"]  # predicted tokens of each document
    text_tokens: int  # all tokens but pads, predicted or not
    text_bytes: int | None  # bytes that they decode to; None without a tokenizer

    @property
    def perplexity(self) -> float | None:
        """exp(mean loss); None from 709.8 nats on, for which float64 has no number."""
        return power_of_e(self.mean_loss)

    @property
    def estimate(self) -> float:
        """The mean loss less the bias of few documents, which the interval is of."""
        return estimate_of(self.mean_loss, self.interval)

    @property
    def documents(self) -> int:
        return len(self.per_document_loss)

    @property
    def bits_per_byte(self) -> float | None:
        """Mean loss in bits per byte of text; None where the bytes are not known."""
        if not self.text_bytes:
            return None
        return self.mean_loss / log(2) * self.text_tokens / self.text_bytes

    def _facts(self) -> Mapping[str, Any]:
        loss = {
            "loss": f"{self.estimate:.5g} nats a token",
            "interval": self.interval,
        }
        counts = {"tokens": self.tokens, "documents": self.documents}
        return {**loss, "perplexity": self.perplexity, **counts}

    def to_dataframe(self) -> Any:
        """One row per document: its mean loss in nats a token, and its predicted tokens."""
        losses = {"loss": self.per_document_loss, "tokens": self.per_document_tokens}
        return frame_of({"document": range(self.documents), **losses})

    def to_dict(self) -> dict[str, Any]:
        """The numbers of the whole corpus, as plain values."""
        return {
            "mean_loss": self.mean_loss,
            "estimate": self.estimate,
            "interval": self.interval and self.interval._asdict(),
            "perplexity": self.perplexity,
            "bits_per_byte": self.bits_per_byte,
            "tokens": self.tokens,
            "documents": self.documents,
        }


def power_of_e(loss: float) -> float | None:
    """The perplexity that goes with a loss in nats; None where float64 has no such number."""
    try:
        return exp(loss)
    except OverflowError:
        return None


@takes(model=hooked_model, batches=some_batches)
def measure_perplexity(
    model: HookedModel,
    batches: Batches,
    *,
    blocks: int = Resampling.blocks,
    on_batch: Callable[[int], None] | None = None,
) -> Perplexity:
    """Measure how well a model predicts the next token, over batches of tokens.

    The trunk runs once per batch, and the unembedding a few positions at a time.

    Args:
        model: the hooked model; what is attached to it counts.
        batches: from `token_batches`, or any iterable of mappings with `input_ids` and
            `attention_mask`, `[batch pos]`; one row is then one document.
        blocks: how many blocks the documents are dealt into, for the interval.
        on_batch: called with the number of tokens of every batch when it is done.

    Returns:
        Loss in nats per predicted token, over the corpus and for each document.

    Raises:
        ValueError: there are no batches, no token in them can be predicted, or a loss is not
            finite.
    """
    meter = LossMeter(model, Resampling(blocks=blocks))
    settings = PassSettings(weighting=Weighting.TOKEN, blocks=blocks)
    run_pass(model, batches, [meter], settings, on_batch)
    return meter.results()["perplexity"]


def predicted_positions(batch: TokenBatch) -> Bool[Tensor, "batch pos"]:
    """The positions whose next token is a real one of the same document."""
    real, segments = batch.attention_mask.bool(), batch.segment_ids
    follows = torch.zeros_like(real)
    follows[:, :-1] = real[:, :-1] & real[:, 1:] & (segments[:, :-1] == segments[:, 1:])
    return follows


class LossMeter(Meter):
    """Mean next-token loss, measured during a pass; on its own, or beside other meters."""

    kind = None

    def __init__(self, model: HookedModel, resampling: Resampling) -> None:
        super().__init__(1, resampling)
        self._documents = _DocumentSums()
        self._bytes = TextBytes(model.tokenizer)

    def after_trunk(self, model: HookedModel, normed: Float[Tensor, "batch pos d_model"]) -> None:
        """Unembed the positions whose next token is predicted, a few at a time."""
        batch = self.batch
        follows = predicted_positions(batch)
        weights = spread(follows.double(), batch.segment_ids % len(self.means.weights))
        self.means.count(weights)
        self._documents.see(batch)
        self._bytes.see(batch)
        # Never all of them: nothing follows the last position of a row.
        places = weights.tokens
        assert places is not None
        if not len(places):
            return
        rows = normed.flatten(0, 1)[places.to(normed.device)]
        targets = batch.input_ids.flatten()[places + 1].to(rows.device)

        def losses_of(logits: Tensor, some: slice) -> Tensor:
            return cross_entropy(logits, targets[some].to(logits.device), reduction="none")

        losses = read_in_chunks(model.anatomy, rows, losses_of)
        require_finite(losses, model, batch, follows, "the loss of a token")
        self.means.add(0, BatchWeights(weights.matrix, weights.blocks, None), losses[:, None])
        self._documents.add(batch.segment_ids.flatten()[places], losses)

    def total(self, means: Float[Tensor, "layer 1"]) -> float:
        return float(means.sum())

    def results(self) -> dict[str, Any]:
        """The mean over predicted tokens, and what it is made of."""
        losses, counts = self._documents.means()
        if not counts.any():
            raise ValueError(
                f"no token can be predicted: none of the {len(counts)} documents has two tokens in "
                "one row; give longer documents or rows"
            )
        found = Perplexity(
            mean_loss=self.total(self.means.mean()),
            interval=self.interval(),
            tokens=int(counts.sum()),
            per_document_loss=losses,
            per_document_tokens=counts,
            text_tokens=self._documents.tokens,
            text_bytes=self._bytes.result(),
        )
        return {"perplexity": found}


class _DocumentSums:
    """Losses summed by document, in float64 on the CPU; one small entry per batch until the end."""

    def __init__(self) -> None:
        self.tokens = 0
        self._seen = 0
        self._parts: list[tuple[Tensor, Tensor]] = []

    def see(self, batch: TokenBatch) -> None:
        self._seen = max(self._seen, int(batch.segment_ids.max()) + 1)
        self.tokens += int(batch.attention_mask.sum())

    def add(self, documents: Int[Tensor, "token"], losses: Float[Tensor, "token"]) -> None:
        found, place = documents.cpu().unique(return_inverse=True)
        sums = torch.zeros(len(found), 2, dtype=torch.float64)
        one_each = torch.stack([losses.double().cpu(), torch.ones(len(place)).double()], dim=1)
        self._parts.append((found, sums.index_add_(0, place, one_each)))

    def means(self) -> tuple[Float64[Tensor, "document"], Int64[Tensor, "document"]]:
        """Mean loss of every document (NaN where nothing was predicted), and how many tokens."""
        total = torch.zeros(self._seen, 2, dtype=torch.float64)
        for documents, sums in self._parts:
            total.index_add_(0, documents, sums)
        return total[:, 0] / total[:, 1], total[:, 1].long()
