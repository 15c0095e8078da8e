"""Checkpoint depth: where the same facts become readable, in one checkpoint after another."""

from collections.abc import Mapping, Sequence
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING

from jaxtyping import Int, Int64
from torch import Tensor

from analysis.statistics.bootstrap import LEVEL
from probes.hooked_model import HookedModel
from probes.lens import target_ranks
from probes.localization import effective_layers_interval, localize
from probes.prompts import Item, encoded_items

if TYPE_CHECKING:
    import pandas as pd


def checkpoint_ranks(
    checkpoints: Mapping[str, str | Path | HookedModel], items: Sequence[Item]
) -> dict[str, Int64[Tensor, "layer item"]]:
    """Ranks of the targets of items at every layer of several checkpoints, one loaded at a time.

    Args:
        checkpoints: what `probes.load_model` takes, or hooked models, by what to call them.
        items: pairs of prompt and target, as texts or token ids, or encoded items.

    Returns:
        For each checkpoint what `probes.localize` takes; row 0 is the output of block 0.

    Raises:
        ValueError: there are no items, a checkpoint cannot be read, or its tokenizer splits the
            items in another way than the first one's.
    """
    from probes.models import load_model

    ranks: dict[str, Int64[Tensor, "layer item"]] = {}
    first = None
    for name, given in checkpoints.items():
        model = given if isinstance(given, HookedModel) else load_model(str(given))
        encoded = encoded_items(model, items)
        split = [(item.prompt_ids, item.target_ids) for item in encoded]
        first = split if first is None else first
        if split != first:
            raise ValueError(
                f"{name} splits the items into other tokens than {next(iter(checkpoints))}; "
                "compare checkpoints with one tokenizer, or give token ids"
            )
        ranks[name] = target_ranks(model, encoded)
    return ranks


def depth_table(
    ranks: Mapping[str, Int[Tensor, "layer item"]], *, k: int, d_vocab: int, level: float = LEVEL
) -> "pd.DataFrame":
    """Where targets become readable in each checkpoint, over the targets that do.

    Returns:
        One row a checkpoint: `checkpoint`, `items`, `share_found`, `mean_first_layer`,
        `effective_layers`, `estimate` (the same less the bias of few items) with `low` and `high`,
        `rank_area`; empty where nothing is found.

    Raises:
        ValueError: as `probes.localize`.
    """
    import pandas as pd

    rows = []
    for name, rank in ranks.items():
        found = localize(rank, k, d_vocab)
        interval = effective_layers_interval(found.first_layer, len(rank), level)
        low, high = (None, None) if interval is None else interval[:2]
        rows.append(
            {
                "checkpoint": name,
                "items": rank.shape[1],
                "share_found": found.share_found,
                "mean_first_layer": found.mean_first_layer,
                "effective_layers": found.effective_layers or None,
                "estimate": None if interval is None else sqrt(interval.low * interval.high),
                "low": low,
                "high": high,
                "rank_area": float(found.rank_area.mean()),
            }
        )
    numbers = ("mean_first_layer", "effective_layers", "estimate", "low", "high")
    return pd.DataFrame(rows).astype(dict.fromkeys(numbers, float))
