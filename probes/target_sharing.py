"""Whether a model computes the same for sequences that share a row as for each by itself.

It does where tokens meet in attention alone and attention takes its mask and its positions from the
caller. So rows are shared on the native backend, in models that take position ids and run eager or
PyTorch's fused attention; not where states pass from token to token by another way. Attention with
a window counts places in the row, so there a tree is no deeper than the window. The model itself is
asked as well: a small tree is run beside its paths in rows of their own, with whatever is attached.

Example:
    >>> import probes
    >>> model = probes.load_model("smollm2-135m-instruct-q4")       # doctest: +SKIP
    >>> why_not_shared(model) is None                               # doctest: +SKIP
    True
"""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probes.checking import difference, few_tokens, tolerance
from probes.choices import Backend
from probes.corpus.token_batch import as_token_batch
from probes.hooked_model import HookedModel
from probes.sequence_rope import rope_border
from probes.target_trees import (
    PrefixTree,
    allowed_nodes,
    padded_rows,
    prefix_trees,
    single_paths,
)

_TAKES_ANY_MASK = ("eager", "sdpa", "mnemoscope")
_WINDOWS = ("sliding_window", "attention_chunk_size", "window_size")


def why_not_shared(model: HookedModel) -> str | None:
    """Why sequences cannot share a row of this model; None where they can.

    Args:
        model: the hooked model; what is attached to it is tested with it.
    """
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
    """How many tokens a sequence in a shared row may have: those of the narrowest window, if any.

    Args:
        config: the model's Hugging Face configuration.
    """
    widths = [getattr(config, name, None) for name in _WINDOWS]
    return min((width for width in widths if isinstance(width, int)), default=None)


def run_trees(model: HookedModel, trees: Sequence[PrefixTree]) -> Float[Tensor, "row node d_model"]:
    """The normed residual stream at every node; at pads, something meaningless.

    Args:
        model: the hooked model, in evaluation mode and without gradients.
        trees: one a row.
    """
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
