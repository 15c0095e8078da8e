"""Tidy tables of a lens result, and the names that its series and items go by.

Layers are called by their labels: `"embed"` for the stream before block 0, then block numbers.
Ranks count from 0, the top; log-probabilities, entropies and divergences are in nats.
"""

import json
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from analysis.logit_lens.result import LensResult
from probes.choices import TargetSpan
from probes.localization import NEVER

DEFAULT_K = 10
"""How many top tokens a target must be among to count as found, as in the paper."""
EMBED, EMBED_LAYER = "embed", -1
"""Label of the stream before block 0, and where it stands on an axis of layers."""


def readouts_table(result: LensResult) -> pd.DataFrame:
    """All that was read: one row per item, position, target token and layer."""
    read, n_layers = result.per_token, len(result.layer_labels)
    rows: dict[str, Any] = {
        "item": read.item.numpy(),
        "position": read.position.numpy(),
        "place": read.place.numpy(),
        "token": input_texts(result),
        "target": [result.text(token) for token in read.target.tolist()],
    }
    table = pd.DataFrame({name: np.repeat(values, n_layers) for name, values in rows.items()})
    table.insert(1, "layer", np.tile(np.array(result.layer_labels, object), len(read.item)))
    for name in ("rank", "log_prob", "entropy", "kl"):
        # `[layer row]` in rows that run through the layers first.
        table[name] = getattr(read.readout, name).T.flatten().numpy()
    table.insert(8, "probability", np.exp(table["log_prob"]))
    for index, name in enumerate(result.control_names):
        table[f"rank_{name}"] = read.readout.control_rank[:, :, index].T.flatten().numpy()
    table["top_tokens"] = _top_tokens(result)
    return table


def _top_tokens(result: LensResult) -> list[str]:
    ids = result.per_token.readout.top_ids.transpose(0, 1).flatten(end_dim=1).tolist()
    # Written once per token: a result has a thousand times as many places as tokens.
    texts = {
        token: json.dumps(result.text(token), ensure_ascii=False)
        for token in set(chain.from_iterable(ids))
    }
    return [f"[{', '.join(texts[token] for token in row)}]" for row in ids]


def items_table(result: LensResult, k: int = DEFAULT_K) -> pd.DataFrame:
    """One row per item: how well its target is read in the end, and from which layer on."""
    found = result.localization(k)
    indices = range(len(result.items))
    return pd.DataFrame(
        {
            "item": list(indices),
            "prompt": [prompt_text(result, index) for index in indices],
            "target": [target_text(result, index) for index in indices],
            "token": [_read_token(result, index) for index in indices],
            "rank": result.rank[-1].tolist(),
            "log_prob": result.log_prob[-1].tolist(),
            "first_layer": layer_names(result, found.first_layer.tolist()),
            "settling_layer": layer_names(result, found.settling_layer.tolist()),
            "rank_area": found.rank_area.tolist(),
        }
    )


def _read_token(result: LensResult, item: int) -> str | None:
    given = result.items[item]
    is_one = result.span is TargetSpan.FIRST or len(given.target_ids) == 1
    return result.text(given.first_id) if is_one else None


def layers_table(result: LensResult, k: int = DEFAULT_K) -> pd.DataFrame:
    """One row per layer, over all items: where in depth targets become readable."""
    ranks = result.rank.double().numpy()
    low, middle, high = np.quantile(ranks, [0.25, 0.5, 0.75], axis=1)
    return pd.DataFrame(
        {
            "layer": list(result.layer_labels),
            "depth": depths(result),
            "rank_low": low,
            "rank_median": middle,
            "rank_high": high,
            "share_found": (ranks < k).mean(axis=1),
            **{
                name: getattr(result, name).double().mean(dim=1).numpy()
                for name in ("log_prob", "entropy", "kl")
            },
        }
    )


def input_ids(result: LensResult) -> np.ndarray:
    """The token id that stands at the position of every row that was read."""
    read = result.per_token
    inputs = [item.prompt_ids + item.target_ids for item in result.items]
    places = zip(read.item.tolist(), read.position.tolist(), strict=True)
    return np.array([inputs[item][position] for item, position in places])


def input_texts(result: LensResult) -> list[str]:
    """The same tokens as text."""
    return [result.text(token) for token in input_ids(result).tolist()]


def prompt_text(result: LensResult, item: int) -> str:
    """An item's prompt as it was given, or its tokens as text."""
    given = result.items[item]
    return _joined(result, given.prompt_ids) if given.prompt is None else given.prompt


def target_text(result: LensResult, item: int) -> str:
    """An item's target as it was given, or its tokens as text."""
    given = result.items[item]
    return _joined(result, given.target_ids) if given.target is None else given.target


def read_target(result: LensResult, item: int) -> str:
    """What an item's numbers are of: its target, and which of its tokens if not the first."""
    given, text = result.items[item], target_text(result, item)
    if result.span is not TargetSpan.FIRST or not given.first:
        return text
    token = result.text(given.first_id)
    return f"{text}, token {given.first + 1} of {len(given.target_ids)} ({token})"


def _joined(result: LensResult, ids: Sequence[int]) -> str:
    return "".join(map(result.text, ids))


def layer_names(result: LensResult, rows: Sequence[int]) -> list[str | None]:
    """Labels of rows of a result; None for never."""
    return [None if row == NEVER else result.layer_labels[row] for row in rows]


def depths(result: LensResult) -> list[int]:
    """Where every row of a result stands on an axis of layers."""
    return [EMBED_LAYER if name == EMBED else int(name) for name in result.layer_labels]


def series_labels(results: Sequence[LensResult]) -> list[str]:
    """A name for each result: its model, and whatever else tells it from the others."""
    names = [(_model_name(one), f"{one.provenance.configuration['lens']} lens") for one in results]
    lenses = {lens for _, lens in names}
    labels: list[str] = []
    for model, lens in names:
        base = model if len(lenses) == 1 else f"{model}, {lens}"
        repeats = sum(label == base or label.startswith(f"{base} (") for label in labels)
        labels.append(f"{base} ({repeats + 1})" if repeats else base)
    return labels


def _model_name(result: LensResult) -> str:
    origin = result.provenance
    return f"{origin.model} at {origin.revision}" if origin.revision else origin.model
