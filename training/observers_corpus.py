"""Observers of text: how well it is predicted, and with what entropies, during a run.

Both look at the same held-out batches every time, so that what moves is the model. How many tokens
those are is for the caller to say (`held_out_batches`) and for the run to write down.
"""

from typing import Any

from probes.choices import Coefficient, Weighting
from probes.corpus.batching import token_batches
from probes.corpus.sources import Corpus
from probes.corpus.token_batch import Batches, TokenBatch, as_batches
from probes.hooked_model import HookedModel
from probes.intervals import Interval, Resampling
from probes.measure import PassSettings, run_pass
from probes.meters import AttentionMeter, KnowledgeMeter, Meter, NextTokenMeter
from probes.perplexity import measure_perplexity
from probes.results import KnowledgeEntropy
from training.observers import Cadence
from training.runs.records import EntropyRecord, NeuronRecord, PerplexityRecord, Record

DORMANT = 0.025
"""The threshold of Sokar et al. (ICML 2023) for the agents they looked at."""


def held_out_batches(
    corpus: Corpus,
    tokenizer: Any,
    tokens: int,
    *,
    row_length: int = 512,
    batch_size: int = 8,
    prepend_bos: bool | None = None,
) -> list[TokenBatch]:
    """The first tokens of a corpus, packed into rows and kept."""
    batches = list(
        token_batches(
            corpus,
            tokenizer,
            sequence_length=row_length,
            batch_size=batch_size,
            max_tokens=tokens,
            prepend_bos=prepend_bos,
        )
    )
    if not batches:
        raise ValueError(f"{corpus.name} has no tokens to look at; give another corpus")
    return batches


class HeldOutObserver:
    """Measures how well text is predicted.

    Args:
        corpus: what to call it.
        batches: the same every time.
        cadence: when.
    """

    def __init__(self, corpus: str, batches: Batches, cadence: Cadence) -> None:
        self._corpus = corpus
        self._batches = list(as_batches(batches))
        self._cadence = cadence

    def due(self, step: int) -> bool:
        """Whether to look after this many updates."""
        return self._cadence.due(step)

    def observe(self, model: HookedModel, step: int) -> list[Record]:
        """Mean loss in nats per token, and bits per byte where the bytes are known."""
        found = measure_perplexity(model, self._batches)
        return [
            PerplexityRecord(step, self._corpus, found.mean_loss, found.bits_per_byte, found.tokens)
        ]


class EntropyObserver:
    """Measures the three entropies, the invariant contribution entropy, and dormant neurons.

    A neuron is dormant if its mean absolute coefficient is at most `dormant` times the mean of its
    layer.

    Args:
        batches: the same every time.
        cadence: when.
        dormant: the threshold.
        blocks: how many blocks the documents are dealt into, for the intervals.
    """

    def __init__(
        self,
        batches: Batches,
        cadence: Cadence,
        *,
        dormant: float = DORMANT,
        blocks: int = Resampling.blocks,
    ) -> None:
        if not dormant >= 0:
            raise ValueError(f"dormant is {dormant}: give 0 or more, in means of the layer")
        self._batches = list(as_batches(batches))
        self._cadence = cadence
        self._dormant = dormant
        self._blocks = blocks

    def due(self, step: int) -> bool:
        """Whether to look after this many updates."""
        return self._cadence.due(step)

    def observe(self, model: HookedModel, step: int) -> list[Record]:
        """The entropies in nats, and the share of dormant neurons of every layer."""
        found = self._measured(model)
        knowledge: KnowledgeEntropy = found["knowledge"]
        means = knowledge.mean_coefficients
        shares = (means <= self._dormant * means.mean(dim=1, keepdim=True)).double().mean(dim=1)
        return [
            *(
                EntropyRecord(
                    step,
                    kind,
                    found[kind].total,
                    found[kind].per_layer.tolist(),
                    _ends(found[kind].interval),
                )
                for kind in ("knowledge", "contribution", "attention")
            ),
            EntropyRecord(
                step,
                "next_token",
                found["next_token"].mean,
                [],
                _ends(found["next_token"].interval),
            ),
            NeuronRecord(step, shares.tolist(), self._dormant),
        ]

    def _measured(self, model: HookedModel) -> dict[str, Any]:
        # Not `measure_entropy`: it also hashes the weights, which a run writes down once.
        resampling = Resampling(blocks=self._blocks)
        meters: list[Meter] = [
            KnowledgeMeter(model, Coefficient.ABS, resampling),
            AttentionMeter(model, resampling),
            NextTokenMeter(model, resampling),
        ]
        settings = PassSettings(
            weighting=Weighting.INSTANCE,
            compat=None,
            blocks=self._blocks,
            until_interval=None,
            distributed=False,
        )
        run_pass(model, self._batches, meters, settings, None)
        return {name: value for meter in meters for name, value in meter.results().items()}


def _ends(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.low, interval.high]
