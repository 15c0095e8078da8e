"""Whether a model computes the same for sequences that share a row as for each by itself.

It does where tokens meet in attention alone and attention takes its mask and its positions from the
caller. So rows are shared on the native backend, in models that take position ids and run eager or
PyTorch's fused attention; not where states pass from token to token by another way. Attention with
a window counts places in the row, so there a tree is no deeper than the window. The model itself is
asked as well: a small tree is run beside its paths in rows of their own, with whatever is attached.
"""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from probes.checking import difference, few_tokens, tolerance
from probes.choices import Backend
from probes.corpus.token_batch import as_token_batch
from probes.hooked_model import HookedModel
from probes.sequence_rope import rope_border


@dataclass
class PrefixTree:
    """Sequences that share a row.

    Attributes:
        ids: the token of each node; a node comes after those before it on its path.
        depths: the position of each node in its sequences.
        paths: for each sequence, by its number, the nodes that it runs through.
    """

    ids: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    paths: dict[int, list[int]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def branches(self) -> bool:
        """Whether some sequence leaves the path of another."""
        return any(after <= before for before, after in pairwise(self.depths))

    @property
    def depth(self) -> int:
        """Tokens of the longest sequence."""
        return max(self.depths) + 1

    def dissolved(self) -> "list[PrefixTree]":
        """The same sequences, each in a row of its own."""
        rows = []
        for sequence, path in self.paths.items():
            rows.append(PrefixTree())
            rows[-1].add(sequence, [self.ids[node] for node in path], ())
        return rows

    def add(self, sequence: int, tokens: Sequence[int], along: Sequence[int]) -> list[int]:
        """Put a sequence into the tree, its first nodes being the given ones."""
        start = len(along)
        path = [*along, *range(len(self), len(self) + len(tokens) - start)]
        self.ids += tokens[start:]
        self.depths += range(start, len(tokens))
        self.paths[sequence] = path
        return path


def prefix_trees(sequences: Sequence[Sequence[int]], *, d_model: int) -> list[PrefixTree]:
    """Sequences laid out so that what they share is there once, where that is cheaper."""
    trees: list[PrefixTree] = []
    path: list[int] = []
    before: Sequence[int] = ()
    for number in sorted(range(len(sequences)), key=lambda i: tuple(sequences[i])):
        tokens = sequences[number]
        shared = _shared(before, tokens)
        if not trees or not _joins(len(trees[-1]), len(tokens), shared, d_model):
            trees.append(PrefixTree())
            shared = 0
        path = trees[-1].add(number, tokens, path[:shared])
        before = tokens
    return trees


def single_paths(sequences: Sequence[Sequence[int]]) -> list[PrefixTree]:
    """Every sequence in a row of its own."""
    trees = []
    for number, tokens in enumerate(sequences):
        tree = PrefixTree()
        tree.add(number, tokens, ())
        trees.append(tree)
    return trees


def tree_batches(
    trees: Sequence[PrefixTree], *, tokens: int, rows: int
) -> Iterator[list[PrefixTree]]:
    """Trees of about equal length together, the longest first."""
    order = sorted(trees, key=len, reverse=True)
    start = 0
    while start < len(order):
        size = min(rows, max(1, tokens // len(order[start])))
        yield order[start : start + size]
        start += size


def padded_rows(
    trees: Sequence[PrefixTree],
) -> tuple[Int64[Tensor, "row node"], Int64[Tensor, "row node"]]:
    """Tokens and depths of trees, padded on the right with the last of each."""
    width = max(map(len, trees))
    ids = [tree.ids + [tree.ids[-1]] * (width - len(tree)) for tree in trees]
    depths = [tree.depths + [tree.depths[-1]] * (width - len(tree)) for tree in trees]
    return torch.tensor(ids), torch.tensor(depths)


def allowed_nodes(trees: Sequence[PrefixTree]) -> Bool[Tensor, "row query_node key_node"]:
    """Which nodes each node may attend to: those on its path up to itself; a pad, to itself."""
    width = max(map(len, trees))
    allowed = torch.eye(width, dtype=torch.bool).repeat(len(trees), 1, 1)
    for row, tree in enumerate(trees):
        for nodes in map(torch.tensor, tree.paths.values()):
            causal = torch.ones(len(nodes), len(nodes), dtype=torch.bool).tril()
            allowed[row, nodes[:, None], nodes] = causal
    return allowed


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two sequences have in common at their start."""
    for place, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return place
    return min(len(first), len(second))


def _joins(nodes: int, tokens: int, shared: int, d_model: int) -> bool:
    """Whether a sequence costs less in a tree of so many nodes than in a row of its own."""
    joined = nodes + tokens - shared
    return _cost(joined, d_model) - _cost(nodes, d_model) < _cost(tokens, d_model)


def _cost(tokens: int, d_model: int) -> float:
    """What a row costs, in tokens of a row without attention."""
    return tokens + tokens**2 / (6 * d_model)


_TAKES_ANY_MASK = ("eager", "sdpa", "mnemoscope")
_WINDOWS = ("sliding_window", "attention_chunk_size", "window_size")


def why_not_shared(model: HookedModel) -> str | None:
    """Why sequences cannot share a row of this model; None where they can."""
    if model.backend is not Backend.NATIVE:
        return f"the {model.backend} backend makes masks and positions itself"
    if "position_ids" not in inspect.signature(model.anatomy.trunk.forward).parameters:
        return f"{model.architecture.family} takes no position ids"
    attention = model.engine.config._attn_implementation
    if attention not in _TAKES_ANY_MASK:
        return f"{attention} attention takes no mask of one's own"
    gap = _gap(model)
    if not gap <= tolerance(model.dtype):
        return (
            f"in {model.name} a token gets something else in a shared row, by {gap:.2g} of the "
            "largest value"
        )
    return None


def deepest_shared(config: Any) -> int | None:
    """How many tokens a sequence in a shared row may have: those of the
    narrowest window, if any.
    """
    widths = [getattr(config, name, None) for name in _WINDOWS]
    return min((width for width in widths if isinstance(width, int)), default=None)


def run_trees(model: HookedModel, trees: Sequence[PrefixTree]) -> Float[Tensor, "row node d_model"]:
    """The normed residual stream at every node; at pads, something meaningless."""
    ids, depths = padded_rows(trees)
    if not any(tree.branches for tree in trees):
        border = rope_border(model.engine.config)
        if border is None or ids.shape[1] <= border:
            return model.trunk(as_token_batch({"input_ids": ids}))
        # Rows are as long as they are without their pads.
        mask = torch.arange(ids.shape[1]) < torch.tensor(list(map(len, trees)))[:, None]
        return model.trunk(as_token_batch({"input_ids": ids, "attention_mask": mask.long()}))
    inputs = {
        "input_ids": ids.to(model.device),
        "position_ids": depths.to(model.device),
        "attention_mask": _mask(model, allowed_nodes(trees)),
    }
    return model.engine.trunk(inputs)


def _mask(model: HookedModel, allowed: Bool[Tensor, "row query key"]) -> Tensor:
    """The mask in the form that the model's attention takes: eager attention adds it to scores."""
    mask = allowed[:, None].to(model.device)
    if model.engine.config._attn_implementation != "eager":
        return mask
    lowest = torch.finfo(model.dtype).min
    return torch.zeros_like(mask, dtype=model.dtype).masked_fill(~mask, lowest)


def _gap(model: HookedModel) -> float:
    """How far the ends of three short paths in one row are from what each gets by itself."""
    a, b, c, d, *_ = few_tokens(model.d_vocab, torch.device("cpu"))[0].tolist()
    paths = [(a, b, c), (a, b, d, c), (a, d)]
    apart, together = single_paths(paths), prefix_trees(paths, d_model=10**6)
    with torch.no_grad(), model.evaluating():
        expected, found = _ends(model, apart), _ends(model, together)
    return difference(found, expected)


def _ends(model: HookedModel, trees: Sequence[PrefixTree]) -> Float[Tensor, "path d_model"]:
    streams = run_trees(model, trees)
    ends = {
        path: streams[row, nodes[-1]]
        for row, tree in enumerate(trees)
        for path, nodes in tree.paths.items()
    }
    return torch.stack([ends[path] for path in sorted(ends)])
