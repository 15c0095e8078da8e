"""Target pass: what a model says of every token of many targets, in one pass over their prompts.

Starts that items have in common run once where the model allows it, rows of about equal length run
together, and only the positions that predict a target's tokens are unembedded, a bounded number at
a time. A token is given what it would be given in a row of its own, but for rounding.

Sequences can share a row where tokens meet in attention alone, and attention takes its mask and its
positions from the caller: on the native backend, in models that take position ids and run eager or
PyTorch's fused attention. Attention with a window counts places in the row, so there a tree is no
deeper than the window. The model itself is asked as well, with whatever is attached: a small tree
is run beside its paths in rows of their own.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypedDict, Unpack

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from probes.checking import all_finite, difference, few_tokens, tolerance, wide
from probes.choices import Backend
from probes.corpus.token_batch import as_token_batch, batches_by_length, from_everywhere, own_share
from probes.hooked_model import HookedModel
from probes.hooks import refusal
from probes.readout import unembed
from probes.rotary import rope_border


@dataclass
class PrefixTree:
    """Sequences that share a row."""

    ids: list[int] = field(default_factory=list)
    """The token of each node; a node comes after those before it on its path."""
    depths: list[int] = field(default_factory=list)  # the position of each node in its sequences
    paths: dict[int, list[int]] = field(default_factory=dict)
    """For each sequence, by its number, the nodes that it runs through."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def branches(self) -> bool:
        return any(after <= before for before, after in pairwise(self.depths))

    @property
    def depth(self) -> int:
        """Tokens of the longest sequence."""
        return max(self.depths) + 1

    def dissolved(self) -> "list[PrefixTree]":
        """The same sequences, each in a row of its own."""
        return _apart({n: [self.ids[node] for node in path] for n, path in self.paths.items()})

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
        pairs = enumerate(zip(before, tokens, strict=False))
        alike = min(len(before), len(tokens))
        shared = next((place for place, (a, b) in pairs if a != b), alike)
        if not trees or not _is_cheaper_joined(len(trees[-1]), len(tokens), shared, d_model):
            trees.append(PrefixTree())
            shared = 0
        path = trees[-1].add(number, tokens, path[:shared])
        before = tokens
    return trees


def _is_cheaper_joined(nodes: int, tokens: int, shared: int, d_model: int) -> bool:
    """Whether a sequence costs less in a tree of so many nodes than in a row of its own."""

    def cost(tokens: int) -> float:
        """What a row costs, in tokens of a row without attention."""
        return tokens + tokens**2 / (6 * d_model)

    return cost(nodes + tokens - shared) - cost(nodes) < cost(tokens)


def single_paths(sequences: Sequence[Sequence[int]]) -> list[PrefixTree]:
    """Every sequence in a row of its own."""
    return _apart(dict(enumerate(sequences)))


def _apart(sequences: Mapping[int, Sequence[int]]) -> list[PrefixTree]:
    trees = []
    for number, tokens in sequences.items():
        trees.append(PrefixTree())
        trees[-1].add(number, tokens, ())
    return trees


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
    mask = allowed_nodes(trees)[:, None].to(model.device)
    if model.engine.config._attn_implementation == "eager":
        # Eager attention adds its mask to the scores.
        lowest = torch.finfo(model.dtype).min
        mask = torch.zeros_like(mask, dtype=model.dtype).masked_fill(~mask, lowest)
    inputs = {"input_ids": ids, "position_ids": depths, "attention_mask": mask}
    return model.engine.trunk({name: given.to(model.device) for name, given in inputs.items()})


def _gap(model: HookedModel) -> float:
    a, b, c, d, *_ = few_tokens(model.d_vocab, torch.device("cpu"))[0].tolist()
    paths = [(a, b, c), (a, b, d, c), (a, d)]

    def streams_at_ends(trees: Sequence[PrefixTree]) -> Float[Tensor, "path d_model"]:
        streams = run_trees(model, trees)
        ends = {
            path: streams[row, nodes[-1]]
            for row, tree in enumerate(trees)
            for path, nodes in tree.paths.items()
        }
        return torch.stack([ends[path] for path in sorted(ends)])

    with torch.no_grad(), model.evaluating():
        expected = streams_at_ends(single_paths(paths))
        return difference(streams_at_ends(prefix_trees(paths, d_model=10**6)), expected)


Ids = Sequence[int]
_BATCH_TOKENS = {"cpu": 512}
_BATCH_TOKENS_ELSEWHERE = 16384
_BATCH_ROWS = 512
_LOGITS_BYTES = 32 * 2**20

Reading = Callable[
    [Float[Tensor, "node d_vocab"], Int64[Tensor, "token"], Int64[Tensor, "token"]],
    Float64[Tensor, "token value"],
]
"""Reads values of tokens off logits, in float32 or wider: `reading(logits, node, token)`, where
`node[i]` is the row of the logits that predicts `token[i]`."""


class PassOptions(TypedDict, total=False):
    """How targets are read."""

    share_prefixes: bool
    distributed: bool
    on_items: Callable[[int], None] | None


def token_log_probs(
    model: HookedModel, items: Sequence[tuple[Ids, Ids]], **options: Unpack[PassOptions]
) -> Float64[Tensor, "token"]:
    """Log-probability of every token of every target, given its prompt and what is before it."""
    return read_targets(model, items, _log_probs, **options)[:, 0]


def read_targets(
    model: HookedModel,
    items: Sequence[tuple[Ids, Ids]],
    reading: Reading,
    *,
    values: int = 1,
    share_prefixes: bool = True,
    distributed: bool = False,
    on_items: Callable[[int], None] | None = None,
) -> Float64[Tensor, "token value"]:
    """Read values of every token of every target off the logits that predict it."""
    places = _Places(items)
    found = torch.zeros(places.tokens, values, dtype=torch.float64)
    with torch.no_grad(), model.evaluating():
        trees = _trees(
            model, [prompt + target[:-1] for prompt, target in places.items], share_prefixes
        )
        tokens = _BATCH_TOKENS.get(model.device.type, _BATCH_TOKENS_ELSEWHERE)
        batches = batches_by_length(list(map(len, trees)), tokens=tokens, rows=_BATCH_ROWS)
        for together in own_share(batches, distributed):
            batch = [trees[place] for place in together]
            asked = places.asked(batch)
            read = _read(model, run_trees(model, batch), asked, reading, values)
            if not all_finite(read):
                raise _refusal(model, batch, asked, read)
            found[asked.place] = read
            if on_items is not None:
                on_items(sum(len(tree.paths) for tree in batch))
    # Each process has zeros where others have theirs.
    return torch.stack(from_everywhere(found, distributed)).sum(dim=0)


def target_sums(
    model: HookedModel, items: Sequence[tuple[Ids, Ids]], **options: Unpack[PassOptions]
) -> Float64[Tensor, "item"]:
    """Log-probability of every whole target: the sum over its tokens; see `token_log_probs`."""
    found = token_log_probs(model, items, **options)
    return by_item(found, [len(target) for _, target in items])


def by_item(values: Float64[Tensor, "token"], lengths: Sequence[int]) -> Float64[Tensor, "item"]:
    """Sums over the tokens of each target."""
    owner = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    return torch.zeros(len(lengths), dtype=torch.float64).index_add(0, owner, values)


@dataclass(frozen=True)
class _Asked:
    node: Int64[Tensor, "token"]  # the node that predicts it, counted through the rows of the batch
    target: Int64[Tensor, "token"]
    place: Int64[Tensor, "token"]  # the place of its log-probability in the result


class _Places:
    """Items, and where the tokens of each stand in the result."""

    def __init__(self, items: Iterable[tuple[Ids, Ids]]) -> None:
        self.items = [(tuple(prompt), tuple(target)) for prompt, target in items]
        self._starts, self.tokens = [], 0
        for prompt, target in self.items:
            assert prompt, "an item has no prompt"
            assert target, "an item has no target"
            self._starts.append(self.tokens)
            self.tokens += len(target)

    def asked(self, trees: Sequence[PrefixTree]) -> _Asked:
        """What is wanted of a batch of trees."""
        nodes: list[int] = []
        targets: list[int] = []
        places: list[int] = []
        width = max(map(len, trees))
        for row, tree in enumerate(trees):
            for item, path in tree.paths.items():
                prompt, target = self.items[item]
                nodes += [row * width + node for node in path[len(prompt) - 1 :]]
                targets += target
                places += range(self._starts[item], self._starts[item] + len(target))
        return _Asked(*map(torch.tensor, (nodes, targets, places)))


def _trees(
    model: HookedModel, sequences: Sequence[tuple[int, ...]], share_prefixes: bool
) -> list[PrefixTree]:
    if not share_prefixes:
        return single_paths(sequences)
    border = rope_border(model.engine.config)
    if border is not None and max(map(len, sequences)) > border:
        # The start that a short sequence shares with a long one is rotated in another way there.
        return single_paths(sequences)
    trees = prefix_trees(sequences, d_model=model.d_model)
    if not any(tree.branches for tree in trees):
        return trees
    deepest: float = 0
    if why_not_shared(model) is None:
        # The narrowest window, if there is any.
        widths = [getattr(model.engine.config, name, None) for name in _WINDOWS]
        deepest = min((width for width in widths if isinstance(width, int)), default=math.inf)
    rows: list[PrefixTree] = []
    for tree in trees:
        rows += tree.dissolved() if tree.branches and tree.depth > deepest else [tree]
    return rows


def _log_probs(
    logits: Float[Tensor, "node d_vocab"],
    node: Int64[Tensor, "token"],
    token: Int64[Tensor, "token"],
) -> Float64[Tensor, "token 1"]:
    return (logits[node, token] - logits.logsumexp(dim=-1)[node]).double()[:, None]


def _read(
    model: HookedModel,
    normed: Float[Tensor, "row node d_model"],
    asked: _Asked,
    reading: Reading,
    values: int,
) -> Float64[Tensor, "token value"]:
    nodes, inverse = asked.node.unique(return_inverse=True)
    rows = normed.flatten(0, 1)[nodes.to(normed.device)]
    chunks = -(-len(nodes) * 4 * model.d_vocab // _LOGITS_BYTES)
    found = torch.empty(len(asked.node), values, dtype=torch.float64)
    for low, high in pairwise(i * len(nodes) // chunks for i in range(chunks + 1)):
        logits = wide(unembed(model.anatomy, rows[low:high]))
        here = ((inverse >= low) & (inverse < high)).nonzero()[:, 0]
        node, token = (inverse[here] - low).to(logits.device), asked.target[here].to(logits.device)
        found[here] = reading(logits, node, token).cpu()
    return found


def _refusal(
    model: HookedModel,
    trees: Sequence[PrefixTree],
    asked: _Asked,
    read: Float64[Tensor, "token value"],
) -> ValueError:
    """What to raise for a batch of which something was read that is not finite."""
    width = max(map(len, trees))
    real = torch.tensor([[node < len(tree) for node in range(width)] for tree in trees])
    first = int((~read.isfinite().all(dim=1)).nonzero()[0])
    at = divmod(int(asked.node[first]), width)

    def named(row: int, node: int) -> str:
        item = next(item for item, path in trees[row].paths.items() if node in path)
        return f"item {item} (token {trees[row].depths[node]} of prompt and target)"

    return refusal(model, "a target's score", lambda: run_trees(model, trees), real, named, at)
