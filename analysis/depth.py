r"""Fact depth: did training move facts to earlier layers, over more layers, or neither?

The targets of the same items are read through the lens in two checkpoints, one before and one after
a stage, or one of each of two arms. With the first layer where a target is among the top `k`
(`probes.localization`), four things are compared, item by item:

- **found**: how many targets come up at any layer (McNemar);
- **first layer**: of targets found in both, in layers (paired permutation);
- **spread**: over how many effective layers the first layers of these targets lie, exp of the
  entropy of their histogram. Interval by the delete-one jackknife over items; for the test the two
  layers of an item change places, and both numbers are taken anew;
- **rank area**: of all items, which needs no `k` (paired permutation).

p-values are adjusted together (Holm). Facts are said to lie earlier, or in more layers, only where
the adjusted p-value is below 1 less the level. That a target is read at a layer does not say that
the fact is stored there: `probes.causal_trace` asks that.

Source: Chen et al., "Continual Memorization of Factoids in Large Language Models", 2024: section 5,
which compares histograms by eye.

Example:
    >>> import torch
    >>> before = torch.tensor([[90] * 12, [40] * 12, [3] * 12])         # 3 layers, 12 items
    >>> after = torch.tensor([[90] * 12, [4] * 12, [0] * 12])
    >>> change = depth_change(before, after, k=10, d_vocab=100, seed=0)
    >>> change.tests["first_layer"].effect, str(change.depth), str(change.spread)
    (-1.0, 'earlier', 'not shown')
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from itertools import pairwise
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int, Int64, Num
from torch import Tensor

from analysis.statistics.tests import (
    BATCH_VALUES,
    LEVEL,
    REPLICATES,
    Comparison,
    check_level,
    holm,
    mcnemar,
    paired_permutation,
)
from probes.hooked_model import HookedModel
from probes.intervals import Interval, jackknife_interval
from probes.lens import target_ranks
from probes.localization import NEVER, Localization, effective_layers_interval, localize
from probes.prompts import Item, encoded_items

if TYPE_CHECKING:
    import pandas as pd


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
    _check(a, b, n_layers)
    difference = float(_differences(a[None], b[None], n_layers)[0])
    interval = jackknife_interval(
        difference, (_without_each(a, n_layers) - _without_each(b, n_layers)).tolist(), level
    )
    assert interval is not None
    # The correction for few items can go beyond what there are layers for.
    most = float(n_layers - 1)
    low, effect, high = np.clip([interval.low, interval.centre, interval.high], -most, most)
    interval = Interval(float(low), float(high), level)
    p_value, done = _p_value(a, b, n_layers, generator, replicates)
    return Comparison(float(effect), interval, p_value, len(a), f"paired permutation, {done}")


def _p_value(
    a: Int[np.ndarray, "item"],
    b: Int[np.ndarray, "item"],
    n_layers: int,
    generator: np.random.Generator,
    replicates: int,
) -> tuple[float, str]:
    ways = 2 ** len(a)
    exact = ways <= replicates
    seen = abs(_differences(a[None], b[None], n_layers)[0])
    as_large = 0
    for swapped in _swaps(len(a), generator, None if exact else replicates):
        drawn = _differences(np.where(swapped, b, a), np.where(swapped, a, b), n_layers)
        # Ways that are the same up to rounding count as equal.
        as_large += int((abs(drawn) >= seen - 1e-9).sum())
    if exact:
        return as_large / ways, f"exact, {ways} ways"
    # The way that was measured is one of them.
    return (as_large + 1) / (replicates + 1), f"{replicates} random ways"


def _swaps(
    n: int, generator: np.random.Generator, replicates: int | None
) -> Iterator[Bool[np.ndarray, "way item"]]:
    """Which items change places, some ways at a time; None for every way there is."""
    total = 2**n if replicates is None else replicates
    size = max(1, BATCH_VALUES // n)
    for start in range(0, total, size):
        count = min(size, total - start)
        if replicates is None:
            yield (np.arange(start, start + count)[:, None] >> np.arange(n)) & 1 == 1
        else:
            yield generator.random((count, n)) < 0.5


def _differences(
    a: Int[np.ndarray, "way item"], b: Int[np.ndarray, "way item"], n_layers: int
) -> Float[np.ndarray, " way"]:
    return _effective(_counts(a, n_layers)) - _effective(_counts(b, n_layers))


def _without_each(layers: Int[np.ndarray, "item"], n_layers: int) -> Float[np.ndarray, "item"]:
    """Effective number of layers without each item."""
    return _effective(_counts(layers[None], n_layers) - np.eye(n_layers)[layers])


def _counts(layers: Int[np.ndarray, "way item"], n_layers: int) -> Int[np.ndarray, "way layer"]:
    places = layers + n_layers * np.arange(len(layers))[:, None]
    counts = np.bincount(places.ravel(), minlength=n_layers * len(layers))
    return counts.reshape(len(layers), n_layers)


def _effective(counts: Num[np.ndarray, "way layer"]) -> Float[np.ndarray, " way"]:
    from scipy.special import entr

    return np.exp(entr(counts / counts.sum(axis=1, keepdims=True)).sum(axis=1))


def _check(a: np.ndarray, b: np.ndarray, n_layers: int) -> None:
    if len(a) < 2:
        raise ValueError(f"found {len(a)} items: a test over items needs two or more")
    both = np.concatenate([a, b])
    if both.min() < 0 or both.max() >= n_layers:
        raise ValueError(
            f"layers run from {both.min()} to {both.max()}: give 0 to {n_layers - 1}, and leave "
            "out items that have none"
        )


class Depth(StrEnum):
    """Where first layers went."""

    EARLIER = "earlier"
    LATER = "later"
    NOT_SHOWN = "not shown"


class Spread(StrEnum):
    """What became of the number of layers that they lie in."""

    MORE_LAYERS = "more layers"
    FEWER_LAYERS = "fewer layers"
    NOT_SHOWN = "not shown"


_DEPTHS = {
    Depth.EARLIER: "they lie earlier",
    Depth.LATER: "they lie later",
    Depth.NOT_SHOWN: "no move is shown",
}
_SPREADS = {
    Spread.MORE_LAYERS: "they lie in more layers",
    Spread.FEWER_LAYERS: "they lie in fewer layers",
    Spread.NOT_SHOWN: "no change is shown",
}


@dataclass(frozen=True, eq=False)
class DepthChange:
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
        sign = self._sign("first_layer")
        return {-1: Depth.EARLIER, 1: Depth.LATER, 0: Depth.NOT_SHOWN}[sign]

    @property
    def spread(self) -> Spread:
        """Whether they come up in more layers."""
        sign = self._sign("effective_layers")
        return {-1: Spread.FEWER_LAYERS, 1: Spread.MORE_LAYERS, 0: Spread.NOT_SHOWN}[sign]

    def findings(self) -> list[str]:
        """What the tests say, in plain sentences."""
        first, second = self.names
        counts = [int((side.first_layer != NEVER).sum()) for side in (self.before, self.after)]
        items = len(self.before.first_layer)
        start = (
            f"Targets found at some layer: {counts[0]} in {first}, {counts[1]} in {second}, of "
            f"{items} ({_p(self.tests['found'])})."
        )
        if "first_layer" not in self.tests:
            return [start, f"Found in both: {self.found_in_both}, too few to compare depths."]
        return [
            start,
            f"The first layer of the {self.found_in_both} found in both moves by "
            f"{_effect(self.tests['first_layer'])} layers: {_DEPTHS[self.depth]}.",
            "The effective number of these layers changes by "
            f"{_effect(self.tests['effective_layers'])}: {_SPREADS[self.spread]}.",
        ]

    def to_dict(self) -> dict[str, Any]:
        """Numbers and verdicts, as JSON takes them."""
        return {
            "names": list(self.names),
            "k": self.before.k,
            "items": len(self.before.first_layer),
            "found_in_both": self.found_in_both,
            "depth": str(self.depth),
            "spread": str(self.spread),
            "tests": {
                name: asdict(test) | {"interval": list(test.interval)}
                for name, test in self.tests.items()
            },
        }

    def _sign(self, name: str) -> int:
        test = self.tests.get(name)
        if test is None or not test.p_value < 1 - self.level:
            return 0
        return int(np.sign(test.effect))


def depth_changes(
    ranks: Mapping[str, Int[Tensor, "layer item"]], *, k: int, d_vocab: int, seed: int
) -> list[DepthChange]:
    """What every stage did: each checkpoint against the one before it.

    Args:
        ranks: of the checkpoints in order, from `analysis.depth`.
        k: a target is found where it is among so many top tokens.
        d_vocab: number of tokens that ranks run over.
        seed: of the resampling.

    Raises:
        ValueError: as `depth_change`.
    """
    return [
        depth_change(ranks[one], ranks[other], k=k, d_vocab=d_vocab, seed=seed, names=(one, other))
        for one, other in pairwise(ranks)
    ]


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
    if before.shape != after.shape:
        raise ValueError(
            f"ranks are {list(before.shape)} in {names[0]} and {list(after.shape)} in {names[1]}; "
            "read the same items in models of as many layers"
        )
    check_level(level)
    one, other = localize(before, k, d_vocab), localize(after, k, d_vocab)
    generator = np.random.default_rng(seed)
    tests = _tests(one, other, len(before), generator, {"level": level, "replicates": replicates})
    both = (one.first_layer != NEVER) & (other.first_layer != NEVER)
    return DepthChange(names, one, other, int(both.sum()), tests, level)


def _tests(
    one: Localization,
    other: Localization,
    n_layers: int,
    generator: np.random.Generator,
    options: dict[str, Any],
) -> dict[str, Comparison]:
    """The second less the first, with p-values that hold for all tests together."""
    found = [(side.first_layer != NEVER).numpy() for side in (one, other)]
    both = found[0] & found[1]
    before, after = (side.first_layer.numpy()[both] for side in (one, other))
    areas = [side.rank_area.numpy() for side in (other, one)]
    tests = {"found": mcnemar(found[1], found[0], level=options["level"])}
    if len(after) > 1:
        tests |= {
            "first_layer": paired_permutation(
                after.astype(float), before.astype(float), generator, **options
            ),
            "effective_layers": compare_spread(after, before, n_layers, generator, **options),
        }
    tests["rank_area"] = paired_permutation(areas[0], areas[1], generator, **options)
    adjusted = holm([test.p_value for test in tests.values()])
    return {
        name: replace(test, p_value=p)
        for (name, test), p in zip(tests.items(), adjusted, strict=True)
    }


def _effect(test: Comparison) -> str:
    low, high = test.interval[:2]
    return f"{test.effect:+.2f} ({low:+.2f} to {high:+.2f}; {_p(test)})"


def _p(test: Comparison) -> str:
    return "p < 0.001" if test.p_value < 0.001 else f"p = {test.p_value:.3f}"


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
