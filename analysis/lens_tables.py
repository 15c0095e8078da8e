"""Tidy tables of a lens result, its files, and two results of the same items compared.

Layers are called by their labels: `"embed"` for the stream before block 0, then block numbers.
Ranks count from 0, the top; the other numbers are in nats. Tests of what moved between two results
have p-values that are adjusted together (Holm).
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.depth import adjusted, found_in
from analysis.lens_result import LensResult
from analysis.numbers import model_name, numbered
from analysis.significance import Comparison, mcnemar, paired_permutation
from probes.choices import TargetSpan
from probes.localization import NEVER, Localization, localize
from probes.shown import Difference, finite_or_none, json_text, paired, require_kind

DEFAULT_K = 10  # how many top tokens a target must be among to count as found, as in the paper
EMBED, EMBED_LAYER = "embed", -1
"""Label of the stream before block 0, and where it stands on an axis of layers."""
READ = ("rank", "log_prob", "entropy", "kl")  # the numbers of every layer


def lens_table(result: LensResult) -> pd.DataFrame:
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
    for name in READ:
        # `[layer row]` in rows that run through the layers first.
        table[name] = getattr(read.readout, name).T.flatten().numpy()
    table.insert(8, "probability", np.exp(table["log_prob"]))
    for index, name in enumerate(result.control_names):
        table[f"rank_{name}"] = read.readout.control_rank[:, :, index].T.flatten().numpy()
    ids = read.readout.top_ids.transpose(0, 1).flatten(end_dim=1).tolist()
    # Written once per token: a result has a thousand times as many places as tokens.
    texts = {
        token: json.dumps(result.text(token), ensure_ascii=False)
        for token in set(chain.from_iterable(ids))
    }
    table["top_tokens"] = [f"[{', '.join(texts[token] for token in row)}]" for row in ids]
    return table


def items_table(result: LensResult, k: int = DEFAULT_K) -> pd.DataFrame:
    """One row per item: how well its target is read in the end, and from which layer on."""
    found, indices = result.localization(k), range(len(result.items))
    labels = {NEVER: None, **dict(enumerate(result.layer_labels))}
    is_one = [result.span is TargetSpan.FIRST or len(one.target_ids) == 1 for one in result.items]
    return pd.DataFrame(
        {
            "item": list(indices),
            "prompt": [prompt_text(result, index) for index in indices],
            "target": [target_text(result, index) for index in indices],
            "token": [
                result.text(item.first_id) if one else None
                for item, one in zip(result.items, is_one, strict=True)
            ],
            "rank": result.rank[-1].tolist(),
            "log_prob": result.log_prob[-1].tolist(),
            "first_layer": [labels[row] for row in found.first_layer.tolist()],
            "settling_layer": [labels[row] for row in found.settling_layer.tolist()],
            "rank_area": found.rank_area.tolist(),
        }
    )


def layers_table(result: LensResult, k: int = DEFAULT_K) -> pd.DataFrame:
    """One row per layer, over all items: where in depth targets become readable."""
    ranks = result.rank.double().numpy()
    low, middle, high = np.quantile(ranks, [0.25, 0.5, 0.75], axis=1)
    means = {name: getattr(result, name).double().mean(dim=1).numpy() for name in READ[1:]}
    return pd.DataFrame(
        {
            "layer": list(result.layer_labels),
            "depth": [EMBED_LAYER if one == EMBED else int(one) for one in result.layer_labels],
            "rank_low": low,
            "rank_median": middle,
            "rank_high": high,
            "share_found": (ranks < k).mean(axis=1),
            **means,
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
    return "".join(map(result.text, given.prompt_ids)) if given.prompt is None else given.prompt


def target_text(result: LensResult, item: int) -> str:
    """An item's target as it was given, or its tokens as text."""
    given = result.items[item]
    return "".join(map(result.text, given.target_ids)) if given.target is None else given.target


def read_target(result: LensResult, item: int) -> str:
    """What an item's numbers are of: its target, and which of its tokens if not the first."""
    given, text = result.items[item], target_text(result, item)
    if result.span is not TargetSpan.FIRST or not given.first:
        return text
    token = result.text(given.first_id)
    return f"{text}, token {given.first + 1} of {len(given.target_ids)} ({token})"


def series_labels(results: Sequence[LensResult]) -> list[str]:
    """A name for each result: its model, and whatever else tells it from the others."""
    lenses = [one.lens_name for one in results]
    names = [model_name(one.provenance.model, one.provenance.revision) for one in results]
    if len(set(lenses)) > 1:
        names = [f"{name}, {lens}" for name, lens in zip(names, lenses, strict=True)]
    return numbered(names)


def save_numbers(result: LensResult, folder: str | Path, k: int = DEFAULT_K) -> Path:
    """Write `lens.json`, `lens.csv` and `items.csv`, without a page."""
    folder = Path(folder)
    text = json_text(lens_dict(result, k), f"{folder / 'lens.json'}", indent=2)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "lens.json").write_text(text + "\n", encoding="utf-8")
    lens_table(result).to_csv(folder / "lens.csv", index=False)
    items_table(result, k).to_csv(folder / "items.csv", index=False)
    return folder


def lens_dict(result: LensResult, k: int = DEFAULT_K) -> dict[str, Any]:
    """The content of `lens.json`; layers are places in its `layer_labels`, None for never."""
    found, controls = result.localization(k), {}
    for name in result.control_names:
        rank = result.control_rank(name)
        there = localize(rank, k, result.d_vocab)
        controls[name] = {"rank": rank.T.tolist(), **_histograms(there)}
    return {
        "model": result.provenance.model,
        "revision": result.provenance.revision,
        "lens": result.provenance.configuration["lens"],
        "span": str(result.span),
        "k": k,
        "layer_labels": list(result.layer_labels),
        "d_vocab": result.d_vocab,
        "items": [_item(result, index, found) for index in range(len(result.items))],
        **_histograms(found),
        "controls": controls,
        "units": "nats",
        "notes": list(result.notes),
        "provenance": asdict(result.provenance),
    }


def _item(result: LensResult, index: int, found: Localization) -> dict[str, Any]:
    item = result.items[index]
    layers = {name: int(getattr(found, name)[index]) for name in ("first_layer", "settling_layer")}
    return {
        "prompt": prompt_text(result, index),
        "target": target_text(result, index),
        "prompt_ids": list(item.prompt_ids),
        "target_ids": list(item.target_ids),
        "first": item.first,
        "split_apart": item.split_apart,
        **{name: finite_or_none(getattr(result, name)[:, index].tolist()) for name in READ},
        **{name: None if layer == NEVER else layer for name, layer in layers.items()},
        "rank_area": float(found.rank_area[index]),
    }


def _histograms(found: Localization) -> dict[str, Any]:
    lists = ("first_histogram", "settling_histogram", "occurrence_histogram")
    numbers = ("share_found", "share_settled", "mean_first_layer", "effective_layers")
    names = ("first_layer_histogram", "settling_layer_histogram", "occurrence_histogram")
    return {
        **{name: getattr(found, one).tolist() for name, one in zip(names, lists, strict=True)},
        **{name: getattr(found, name) for name in numbers},
    }


@dataclass(frozen=True, eq=False)
class LensDifference(Difference):
    """How two readings of the same items differ, the second less the first.

    Attributes:
        k: a target is found where it is among so many top tokens.
        found: how many items each reading finds at some layer.
        tests: by what was compared, effect, interval, p-value and number of items; empty for a
            single item. First layers are left out where fewer than two targets come up in both, or
            where the models differ in their layers.
    """

    k: int
    found: tuple[int, int]
    tests: dict[str, Comparison]

    @property
    def items(self) -> int:
        """How many items both read."""
        return len(self.first.items)

    def _facts(self) -> dict[str, Any]:
        one, other = self.found
        last = self.numbers[self.numbers["measure"] == "log_prob"].groupby("item").tail(1)
        moved = {"log-prob at the last layer": f"{last['difference'].mean():+.4g} nats"}
        found = {f"found in the top {self.k}": f"{one}, {other} of {self.items}"}
        return {"": f"{self.names[1]} less {self.names[0]}", **found, **moved}

    def plot(self, item: int | None = None) -> Any:
        """Heatmap of the target's log-probability, second less first (a `plotly` Figure).

        Args:
            item: layer by position of one item; None for layer by item, where there are several.
        """
        return self._drawn(item=item)

    def to_dict(self) -> dict[str, Any]:
        """What was tested, as plain values."""
        tests = {name: asdict(test) for name, test in self.tests.items()}
        sides = {"names": list(self.names), "found": list(self.found)}
        return {**sides, "k": self.k, "items": self.items, "tests": tests}

    def findings(self) -> list[str]:
        """What the tests say, in plain sentences."""
        if not self.tests:
            return []
        return [
            f"Targets found at some layer: {self.found[0]} in {self.names[0]}, {self.found[1]} in "
            f"{self.names[1]}, of {self.items} ({_p(self.tests['found'])}).",
            *(
                f"On {test.n} items, {what} moves by {test.effect:+.3f} ({test.interval.low:.3f} "
                f"to {test.interval.high:.3f}) {unit} ({_p(test)}, adjusted for "
                f"{len(_WORDING) + 1} tests)."
                for name, (what, unit) in _WORDING.items()
                if (test := self.tests.get(name))
            ),
        ]


def _p(test: Comparison) -> str:
    return "p < 0.001" if test.p_value < 0.001 else f"p = {test.p_value:.3f}"


_WORDING = {
    "first_layer": ("the first layer of targets found in both", "layers"),
    "rank_area": ("the area under the rank curve", "of 1"),
    "log_prob": ("the target's log-probability at the last layer", "nats"),
}


def compare_lenses(
    first: LensResult, second: LensResult, *, k: int = 10, seed: int = 0
) -> LensDifference:
    """Compare two readings of the same items; `LensResult.compare` calls it.

    Args:
        first: one reading.
        second: the other, from which the first is taken away.
        k: a target is found where it is among so many top tokens.
        seed: of the tests' random permutations.

    Raises:
        ValueError: they are of different items, or split these into different tokens.
    """
    require_kind(first, second)
    texts, ids = (
        [[ask(result, i) for i in range(len(result.items))] for result in (first, second)]
        for ask in (
            lambda result, i: (prompt_text(result, i), target_text(result, i)),
            lambda result, i: (result.items[i].prompt_ids, result.items[i].target_ids),
        )
    )
    if texts[0] != texts[1]:
        raise ValueError("the two readings are of different items; read the same ones in both")
    if ids[0] != ids[1]:
        raise ValueError(
            "the two readings split their items into different tokens, so ranks and probabilities "
            "are of different things; compare models with one tokenizer"
        )
    numbers = paired(_values(first), _values(second), "readings")
    counts, tests = _tests(first, second, k, seed)
    names = series_labels([first, second])
    return LensDifference(first, second, (names[0], names[1]), numbers, k, counts, tests)


def _tests(
    first: LensResult, second: LensResult, k: int, seed: int
) -> tuple[tuple[int, int], dict[str, Comparison]]:
    """How many items each finds, and the tests; none of a single item."""
    one, other = first.localization(k), second.localization(k)
    found, both = found_in(one, other)
    counts = (int(found[0].sum()), int(found[1].sum()))
    if len(both) < 2:
        return counts, {}
    pairs = {
        "rank_area": (one.rank_area, other.rank_area),
        "log_prob": (first.log_prob[-1], second.log_prob[-1]),
    }
    if both.sum() > 1 and first.layer_labels == second.layer_labels:
        pairs["first_layer"] = (one.first_layer[both], other.first_layer[both])
    generator = np.random.default_rng(seed)
    tests = {"found": mcnemar(found[1], found[0])}
    for name, (before, after) in pairs.items():
        sides = after.double().numpy(), before.double().numpy()
        tests[name] = paired_permutation(*sides, generator)
    return counts, adjusted(tests)


def _values(result: LensResult) -> pd.DataFrame:
    axes = [READ, result.layer_labels, range(len(result.items))]
    table = pd.MultiIndex.from_product(axes, names=["measure", "layer", "item"])
    values = [getattr(result, name).double().flatten().numpy() for name in READ]
    return table.to_frame(index=False).assign(value=np.concatenate(values))
