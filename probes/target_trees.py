r"""Prefix trees: token sequences that begin alike, laid out as one row that holds their start once.

The choices of a question share its context, and often more. In a causal model what is computed at a
token depends on the tokens before it alone, so that a start that several sequences have in common
need not run several times. A **tree** is a row whose entries are nodes: a token, its depth (its
position in its sequence) and, by way of the mask, the nodes before it on its own path. With depths
as positions and each node attending to its own path, a row gives every sequence what it would get
by itself.

A sequence joins the tree of the one before it, in sorted order, where that costs less than a row of
its own. In a model of width \(d\) the weights of a block cost about \(12 d^2\) multiplications a
token and the attention of a row of \(N\) tokens \(2 N d\), so a row costs \(N + N^2 / 6d\).

Example:
    >>> tree = prefix_trees([(5, 6, 7), (5, 6, 8, 9)], d_model=64)[0]
    >>> tree.ids, tree.depths, tree.paths
    ([5, 6, 7, 8, 9], [0, 1, 2, 2, 3], {0: [0, 1, 2], 1: [0, 1, 3, 4]})
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from jaxtyping import Bool, Int64
from torch import Tensor


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
        """Put a sequence into the tree, its first nodes being the given ones.

        Returns:
            The nodes that it runs through.
        """
        start = len(along)
        path = [*along, *range(len(self), len(self) + len(tokens) - start)]
        self.ids += tokens[start:]
        self.depths += range(start, len(tokens))
        self.paths[sequence] = path
        return path


def prefix_trees(sequences: Sequence[Sequence[int]], *, d_model: int) -> list[PrefixTree]:
    """Sequences laid out so that what they share is there once, where that is cheaper.

    Args:
        sequences: token ids of each, at least one; equal ones share all their nodes.
        d_model: width of the model, which says what attention costs.

    Returns:
        Trees in which every sequence has its path.
    """
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
    """Trees of about equal length together, the longest first.

    Args:
        trees: what to run.
        tokens: at most so many nodes and pads in a batch, unless one tree has more.
        rows: at most so many trees in a batch.
    """
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
