"""Effects: what entropies a model has now, and how well it predicts text; before or after an edit.

One pass over a text gives its entropies and the loss on it; a second one, where there is held-out
text, the loss on what no coefficient was measured on. All are in nats.

Norms of memory vectors are those of the weights: measure an edit of memory vectors in the weights
(`patch_weights`), not as hooks, or the contribution entropy is that of the vectors as they were.
"""

from collections.abc import Callable
from dataclasses import dataclass

from probes.argument_checks import batches as some_batches
from probes.argument_checks import hooked_model, takes
from probes.cli import TextSettings
from probes.corpus.batching import KeptBatches
from probes.corpus.sources import Corpus, split_held_out
from probes.corpus.token_batch import Batches
from probes.corpus_means import Resampling
from probes.hooked_model import HookedModel
from probes.measure import measure_entropy
from probes.perplexity import LossMeter, Perplexity, measure_perplexity
from probes.results import EntropyResult
from probes.shown import Shown


@dataclass(frozen=True)
class Effects(Shown):
    """What was measured of a model at one time."""

    entropies: EntropyResult
    text: Perplexity
    """Of the text that the entropies were measured on."""
    held_out: Perplexity | None

    def totals(self) -> dict[str, float | None]:
        """The numbers that edits are compared by: nats, and perplexities."""
        held_out = self.held_out
        return entropy_totals(self.entropies) | {
            "loss": self.text.mean_loss,
            "held_out_loss": None if held_out is None else held_out.mean_loss,
            "held_out_perplexity": None if held_out is None else held_out.perplexity,
        }


def entropy_totals(found: EntropyResult) -> dict[str, float | None]:
    """The totals of the entropies of a result, in nats; None for those that it has not."""
    of_layers = {
        "knowledge_entropy": found.knowledge,
        "contribution_entropy": found.contribution,
        "attention_entropy": found.attention,
    }
    totals = {name: None if part is None else part.total for name, part in of_layers.items()}
    return totals | {"next_token_entropy": found.next_token.mean if found.next_token else None}


@takes(model=hooked_model, batches=some_batches)
def measure_effects(
    model: HookedModel,
    batches: Batches,
    held_out: Batches | None = None,
    *,
    blocks: int = Resampling.blocks,
    on_batch: Callable[[int], None] | None = None,
) -> Effects:
    """Measure all entropies and the loss on a text, and the loss on held-out text."""
    loss = LossMeter(model, Resampling(blocks=blocks))
    entropies = measure_entropy(model, batches, blocks=blocks, beside=[loss], on_batch=on_batch)
    apart = None
    if held_out is not None:
        apart = measure_perplexity(model, held_out, blocks=blocks, on_batch=on_batch)
    return Effects(entropies, loss.results()["perplexity"], apart)


def open_texts(given: TextSettings, corpus: str, held_out: str | None) -> tuple[Corpus, Corpus]:
    """What is measured on, and what is held out: every fifth document where no text is named."""
    opened = given.corpus_of(corpus)
    return split_held_out(opened) if held_out is None else (opened, given.corpus_of(held_out))


def keep_tokens(
    given: TextSettings,
    model: HookedModel,
    texts: tuple[Corpus, Corpus],
    max_tokens: int | None = None,
    held_out_tokens: int | None = None,
) -> tuple[KeptBatches, KeptBatches]:
    """Both as batches in memory, since they are gone through before and after an edit."""
    measured, held_out = texts
    return (
        given.batches_of(model, measured, max_tokens).kept(),
        given.batches_of(model, held_out, held_out_tokens).kept(),
    )
