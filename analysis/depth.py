"""Fact depth: did training move facts to earlier layers, over more layers, or neither?

The targets of the same items are read through the lens in two checkpoints. With the first layer
where a target is among the top `k` (`probes.localization`), four things are compared: how many
targets are **found** at any layer (McNemar); the **first layer** of those found in both; its
**spread**, over how many effective layers these lie, exp of the entropy of their histogram
(interval by the jackknife over items); and the **rank area** of all items, which needs no `k`. The
last three are paired permutations; p-values are adjusted together (Holm). That a target is read at
a layer does not say that the fact is stored there: `probes.causal_trace` asks that.

Source: Chen et al., 2024: section 5, which compares histograms by eye.

Example:
    >>> import torch
    >>> before = torch.tensor([[90] * 12, [40] * 12, [3] * 12])         # 3 layers, 12 items
    >>> after = torch.tensor([[90] * 12, [4] * 12, [0] * 12])
    >>> change = depth_change(before, after, k=10, d_vocab=100, seed=0)
    >>> change.tests["first_layer"].effect, str(change.depth), str(change.spread)
    (-1.0, 'earlier', 'not shown')
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Int64, Num
from scipy.special import entr
from torch import Tensor

from analysis.significance import (
    LEVEL,
    REPLICATES,
    Comparison,
    batch_size,
    bounds,
    check_level,
    holm,
    mcnemar,
    paired_permutation,
)
from probes.corpus_means import Interval, jackknife_interval
from probes.hooked_model import HookedModel
from probes.lens import target_ranks
from probes.localization import NEVER, Localization, effective_layers_interval, localize
from probes.models import load_model
from probes.prompts import Item, encoded_items
from probes.refusals import shown
from probes.shown import Result


def compare_spread(
    a: Int[np.ndarray, "item"],
    b: Int[np.ndarray, "item"],
    n_layers: int,
    generator: np.random.Generator,
    *,
    level: float = LEVEL,
    replicates: int = REPLICATES,
) -> Comparison:
    """Whether the same items lie in more layers in one measurement than in another."""
    from scipy.stats import permutation_test

    if len(a) < 2:
        raise ValueError(f"found {len(a)} items: a test over items needs two or more")
    low, high = min(a.min(), b.min()), max(a.max(), b.max())
    if low < 0 or high >= n_layers:
        raise ValueError(
            f"layers run from {low} to {high}: give 0 to {n_layers - 1}, and leave out items that "
            "have none"
        )
    layers = np.eye(n_layers, dtype=bool)

    def difference(x: np.ndarray, y: np.ndarray, axis: int) -> Any:
        assert axis == -1
        return _effective(layers[x].sum(axis=-2)) - _effective(layers[y].sum(axis=-2))

    found = float(difference(a, b, -1))
    without = [_effective(layers[x].sum(axis=0) - layers[x]) for x in (a, b)]
    interval = jackknife_interval(found, (without[0] - without[1]).tolist(), level)
    assert interval is not None
    # The correction for few items can go beyond what there are layers for.
    most = float(n_layers - 1)
    ends = np.clip([interval.low, interval.high, interval.centre], -most, most).tolist()
    tested = permutation_test(
        (a, b),
        difference,
        permutation_type="samples",
        vectorized=True,
        n_resamples=replicates,
        batch=batch_size(len(a) * n_layers),
        rng=generator,
    )
    exact = 2 ** len(a) <= replicates
    ways = f"exact, {2 ** len(a)} ways" if exact else f"{replicates} random ways"
    within = Interval(ends[0], ends[1], level)
    test = f"paired permutation, {ways}"
    return Comparison(ends[2], within, float(tested.pvalue), len(a), test)


def _effective(counts: Num[np.ndarray, "*way layer"]) -> Float[np.ndarray, "*way"]:
    return np.asarray(np.exp(entr(counts / counts.sum(axis=-1, keepdims=True)).sum(axis=-1)))


class Depth(StrEnum):
    """The layers that first layers moved to."""

    EARLIER = "earlier"
    LATER = "later"
    NOT_SHOWN = "not shown"


class Spread(StrEnum):
    """What became of the number of layers that they lie in."""

    MORE_LAYERS = "more layers"
    FEWER_LAYERS = "fewer layers"
    NOT_SHOWN = "not shown"


_DEPTHS = {-1: Depth.EARLIER, 0: Depth.NOT_SHOWN, 1: Depth.LATER}
_SPREADS = {-1: Spread.FEWER_LAYERS, 0: Spread.NOT_SHOWN, 1: Spread.MORE_LAYERS}


@dataclass(frozen=True, eq=False)
class DepthChange(Result):
    """How two checkpoints differ in where the targets of the same items become readable.

    Attributes:
        names: of the two.
        before: where targets become readable in the first.
        after: in the second.
        found_in_both: how many targets come up in both.
        tests: `found`, `first_layer`, `effective_layers`, `rank_area`: effect (after less before),
            interval, p-value (Holm's, over all of them) and items. First layers and their spread
            are left out where fewer than two targets come up in both.
        level: of the intervals; 1 less it is what p-values are held against.
    """

    names: tuple[str, str]
    before: Localization
    after: Localization
    found_in_both: int
    tests: dict[str, Comparison]
    level: float

    @property
    def depth(self) -> Depth:
        """Whether targets come up earlier."""
        return _DEPTHS[self._sign("first_layer")]

    @property
    def spread(self) -> Spread:
        """Whether they come up in more layers."""
        return _SPREADS[self._sign("effective_layers")]

    def _facts(self) -> Mapping[str, Any]:
        moved = {"depth": str(self.depth), "spread": str(self.spread)}
        return {"": f"{self.names[1]} against {self.names[0]}", **moved, "k": self.before.k}

    def to_dataframe(self) -> Any:
        """One row per test: `effect` (after less before), its ends, Holm's `p_value`, items `n`."""
        return pd.DataFrame(
            {"compared": name, "effect": t.effect, "low": t.interval.low, "high": t.interval.high}
            | {"p_value": t.p_value, "n": t.n, "test": t.test}
            for name, t in self.tests.items()
        )

    def _sign(self, name: str) -> int:
        test = self.tests.get(name)
        if test is None or not test.p_value < 1 - self.level:
            return 0
        return int(np.sign(test.effect))


def depth_change(
    before: Int[Tensor, "layer item"],
    after: Int[Tensor, "layer_after item_after"],
    *,
    k: int,
    d_vocab: int,
    seed: int,
    names: tuple[str, str] = ("before", "after"),
    level: float = LEVEL,
    replicates: int = REPLICATES,
) -> DepthChange:
    """Compare where the targets of the same items become readable.

    Args:
        before: rank of each item's target at every layer, 0 for the top.
        after: the same for another checkpoint of the model.
        k: a target is found where it is among so many top tokens.
        d_vocab: number of tokens that ranks run over.
        seed: of the resampling.
        names: what to call the two.
        level: share of intervals that should cover the truth.
        replicates: most permutations to take, and draws of the bootstrap.

    Raises:
        ValueError: the two are not of the same layers and items, there are fewer than two items,
            or an option is out of range.
    """
    one, other = localize(before, k, d_vocab), localize(after, k, d_vocab)
    if before.shape != after.shape:
        raise ValueError(
            f"ranks are {list(before.shape)} in {names[0]} and {list(after.shape)} in {names[1]}; "
            "read the same items in models of as many layers"
        )
    check_level(level)
    found, both = found_in(one, other)
    earlier, later = (side.first_layer.numpy()[both] for side in (one, other))
    draw: dict[str, Any] = {"level": level, "replicates": replicates}
    draw["generator"] = np.random.default_rng(seed)
    tests = {"found": mcnemar(found[1], found[0], level=level)}
    if len(later) > 1:
        tests |= {
            "first_layer": paired_permutation(later.astype(float), earlier.astype(float), **draw),
            "effective_layers": compare_spread(later, earlier, len(before), **draw),
        }
    areas = other.rank_area.numpy(), one.rank_area.numpy()
    tests["rank_area"] = paired_permutation(*areas, **draw)
    return DepthChange(names, one, other, int(both.sum()), adjusted(tests), level)


def found_in(one: Localization, other: Localization) -> tuple[list[np.ndarray], np.ndarray]:
    """Which items each side finds at some layer, and which both do."""
    found = [(side.first_layer != NEVER).numpy() for side in (one, other)]
    return found, found[0] & found[1]


def adjusted(tests: Mapping[str, Comparison]) -> dict[str, Comparison]:
    """The same with p-values that hold for all of them together."""
    adjusted = holm([test.p_value for test in tests.values()])
    pairs = zip(tests.items(), adjusted, strict=True)
    return {name: replace(test, p_value=p) for (name, test), p in pairs}


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
    if not isinstance(checkpoints, Mapping):
        raise ValueError(
            f"checkpoints is {shown(checkpoints)}; give names and models, {{'before': 'folder'}}"
        )
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
) -> pd.DataFrame:
    """The depth at which targets become readable in each checkpoint, over those that do.

    Returns:
        One row a checkpoint: `checkpoint`, `items`, `share_found`, `mean_first_layer`,
        `effective_layers`, `estimate` (the same less the bias of few items) with `low` and `high`,
        `rank_area`; empty where nothing is found.

    Raises:
        ValueError: as `probes.localize`.
    """
    rows = []
    for name, rank in ranks.items():
        found = localize(rank, k, d_vocab)
        interval = effective_layers_interval(found.first_layer, len(rank), level)
        low, high = bounds(interval)
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
