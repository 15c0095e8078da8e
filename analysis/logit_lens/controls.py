"""Lens controls: what other tokens' ranks are at the places where targets are looked for.

A target that becomes readable at a layer says something only if other tokens do not. Two kinds are
ranked beside it: the first tokens of other items' targets (`shuffled`), and tokens that are as
frequent in a corpus (`frequency`). What they are is decided by `probes.lens_controls`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from probes.corpus.batching import token_batches
from probes.corpus.sources import load_corpus
from probes.hooked_model import HookedModel
from probes.lens_controls import frequency_matched, shuffled_targets, token_counts
from probes.prompts import Text, lens_items

COUNTED_TOKENS = 200_000


def control_tokens(
    model: HookedModel,
    prompts: Text | Sequence[Text],
    targets: Text | Sequence[Text],
    *,
    corpus: str,
    seed: int,
    prepend_bos: bool | None = None,
) -> dict[str, list[int]]:
    """A token of each kind for every item."""
    items = lens_items(model, prompts, targets, prepend_bos=prepend_bos)
    ids = [item.target_ids[item.first :] for item in items]
    batches = token_batches(
        load_corpus(corpus),
        model.tokenizer,
        sequence_length=512,
        max_tokens=COUNTED_TOKENS,
        prepend_bos=prepend_bos,
    )
    counts = token_counts(batches, model.d_vocab)
    generator = np.random.default_rng(seed)
    drawn = {
        "shuffled": shuffled_targets(ids, generator),
        "frequency": frequency_matched(ids, counts, generator, special_ids=_no_words(model)),
    }
    return {name: [tokens[0] for tokens in others] for name, others in drawn.items()}


def _no_words(model: HookedModel) -> set[int]:
    """Special tokens, and ids of the unembedding that no token has."""
    tokenizer: Any = model.tokenizer
    return {*tokenizer.all_special_ids, *range(len(tokenizer), model.d_vocab)}
