"""Target pass: what a model says of every token of many targets, in one pass over their prompts.

Starts that items have in common run once (`probes.prefix_sharing`), rows of about equal length run
together, and only the positions that predict a target's tokens are unembedded, a bounded number at
a time. What a token is given, it would be given in a row of its own, but for rounding.
`token_log_probs` asks for the log-probability of each; `read_targets` for anything that can be read
off the logits.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from probes.checking import all_finite
from probes.finite import refusal
from probes.hooked_model import HookedModel
from probes.prefix_sharing import (
    PrefixTree,
    deepest_shared,
    prefix_trees,
    run_trees,
    single_paths,
    tree_batches,
    why_not_shared,
)
from probes.readout import unembed
from probes.sequence_rope import rope_border

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


def token_log_probs(
    model: HookedModel,
    items: Sequence[tuple[Ids, Ids]],
    *,
    share_prefixes: bool = True,
    distributed: bool = False,
    on_items: Callable[[int], None] | None = None,
) -> Float64[Tensor, "token"]:
    """Log-probability of every token of every target, given its prompt and what is before it."""
    found = read_targets(
        model,
        items,
        _log_probs,
        share_prefixes=share_prefixes,
        distributed=distributed,
        on_items=on_items,
    )
    return found[:, 0]


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
        batches = tree_batches(trees, tokens=tokens, rows=_BATCH_ROWS)
        for batch in _own_share(batches, distributed):
            asked = places.asked(batch)
            read = _read(model, run_trees(model, batch), asked, reading, values)
            if not all_finite(read):
                raise _refusal(model, batch, asked, read)
            found[asked.place] = read
            if on_items is not None:
                on_items(sum(len(tree.paths) for tree in batch))
    return _from_everywhere(found) if distributed else found


def target_sums(
    model: HookedModel,
    items: Sequence[tuple[Ids, Ids]],
    *,
    share_prefixes: bool = True,
    distributed: bool = False,
    on_items: Callable[[int], None] | None = None,
) -> Float64[Tensor, "item"]:
    """Log-probability of every whole target: the sum over its tokens; see `token_log_probs`."""
    found = token_log_probs(
        model, items, share_prefixes=share_prefixes, distributed=distributed, on_items=on_items
    )
    lengths = torch.tensor([len(target) for _, target in items])
    owner = torch.arange(len(items)).repeat_interleave(lengths)
    return torch.zeros(len(items), dtype=torch.float64).index_add_(0, owner, found)


@dataclass(frozen=True)
class _Asked:
    """One entry for each target token of a batch."""

    node: Int64[Tensor, "token"]
    """The node that predicts it, counted through the rows of the batch."""
    target: Int64[Tensor, "token"]
    place: Int64[Tensor, "token"]
    """Where its log-probability belongs in the result."""


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
    deepest = deepest_shared(model.engine.config) if why_not_shared(model) is None else 0
    return [
        row for tree in trees for row in ([tree] if _can_run(tree, deepest) else tree.dissolved())
    ]


def _can_run(tree: PrefixTree, deepest: int | None) -> bool:
    return not tree.branches or deepest is None or tree.depth <= deepest


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
    """What is read, on the CPU; a node that predicts several tokens is unembedded once."""
    nodes, inverse = asked.node.unique(return_inverse=True)
    rows = normed.flatten(0, 1)[nodes.to(normed.device)]
    chunks = -(-len(nodes) * 4 * model.d_vocab // _LOGITS_BYTES)
    found = torch.empty(len(asked.node), values, dtype=torch.float64)
    for low, high in pairwise(i * len(nodes) // chunks for i in range(chunks + 1)):
        logits = unembed(model.anatomy, rows[low:high])
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        here = ((inverse >= low) & (inverse < high)).nonzero()[:, 0]
        node, token = (inverse[here] - low).to(wide.device), asked.target[here].to(wide.device)
        found[here] = reading(wide, node, token).cpu()
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


def _own_share(
    batches: Iterator[list[PrefixTree]], distributed: bool
) -> Iterator[list[PrefixTree]]:
    if not distributed:
        return batches
    from torch import distributed as dist

    return islice(batches, dist.get_rank(), None, dist.get_world_size())


def _from_everywhere(found: Float64[Tensor, "token value"]) -> Float64[Tensor, "token value"]:
    """The values of all processes: each has zeros where others have theirs."""
    from torch import distributed as dist

    parts: list[Tensor | None] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, found)
    return torch.stack([part for part in parts if part is not None]).sum(dim=0)
