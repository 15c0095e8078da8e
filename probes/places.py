"""Places: the module at which a hook point is met, and which part of what it shows is meant.

Most tensors are what a module receives or returns. Some are a part of that: a half of a fused gate
and up projection, the heads of a fused projection to queries, keys and values. Others are computed
from what a module receives, and an edit of them changes what it returns: the scale of a norm, and
what each head writes.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from probes.anatomy import Anatomy
from probes.architectures import Architecture
from probes.projections import NormRun, matrix_of
from probes.sites import HookPoint, Site

HookFunction = Callable[[Tensor, HookPoint], Tensor | None]
Hooks = Sequence[tuple[HookPoint, HookFunction]]


def keeping(
    points: Sequence[HookPoint],
    kept: dict[HookPoint, Tensor],
    take: Callable[[Tensor], Tensor] = Tensor.detach,
) -> Hooks:
    """Hooks that keep what is taken of the tensors at some points."""

    def keep(tensor: Tensor, point: HookPoint) -> None:
        kept[point] = take(tensor)

    return [(point, keep) for point in points]


_INPUTS = {
    Site.RESID_PRE: "block",
    Site.MIXED_VALUES: "o",
    Site.RESID_MID: "mid",
    Site.MLP_COEFFICIENTS: "down",
}
_OUTPUTS = {
    Site.QUERY: "q",
    Site.KEY: "k",
    Site.VALUE: "v",
    Site.ATTENTION_OUT: "attention_out",
    Site.MLP_GATE: "gate",
    Site.MLP_UP: "up",
    Site.MLP_OUT: "mlp_out",
    Site.RESID_POST: "block",
}
_COMPUTED = {
    Site.LN1_SCALE: "ln1",
    Site.LN1_NORMALIZED: "ln1",
    Site.HEAD_RESULTS: "o",
    Site.LN2_SCALE: "ln2",
    Site.LN2_NORMALIZED: "ln2",
}
_IN_MLP = (
    *(Site.RESID_MID, Site.MLP_IN, Site.LN2_SCALE, Site.LN2_NORMALIZED),
    *(Site.MLP_UP, Site.MLP_GATE, Site.MLP_COEFFICIENTS, Site.MLP_OUT),
)
NORM_SITES = (
    *(Site.LN1_SCALE, Site.LN1_NORMALIZED, Site.LN2_SCALE, Site.LN2_NORMALIZED),
    *(Site.FINAL_SCALE, Site.FINAL_NORMALIZED),
)
"""Computed of what a norm receives."""
IN_ATTENTION = (
    *(Site.ROTATED_QUERY, Site.ROTATED_KEY, Site.ATTENTION_SCORES, Site.ATTENTION_PATTERN),
)
"""Met inside of an attention function, not at a module."""


class View(NamedTuple):
    """A part of a tensor: how it is taken out, and how another is put in its place."""

    read: Callable[[Tensor], Tensor]
    write: Callable[[Tensor, Tensor], Tensor]  # from the whole and the new part to a new whole


@runtime_checkable
class Run(Protocol):
    """One run of a module, of which something is computed."""

    def read(self, site: Site) -> Tensor:
        """What is computed, or what it was replaced by."""

    def write(self, site: Site, new: Tensor, output: Tensor) -> Tensor:
        """What the module returns with something else instead, given what it would return."""


class Place(NamedTuple):
    """The place at which the tensor of a hook point is met."""

    module: Any
    is_input: bool = False  # whether the module receives it; otherwise it returns it
    view: View | None = None  # which part of it; None for the whole
    begin: Callable[[Tensor], Run] | None = None
    """For what is computed: from what the module receives to its run."""
    flattened: bool = False  # whether the block has it as `[batch*pos ...]`
    expanded: bool = False  # whether it may be there once for all rows of a batch


def place_of(anatomy: Anatomy, point: HookPoint) -> Place:
    """The place of a hook point, but for logits and what is inside of an attention function."""
    site, row = point.site, anatomy.architecture
    if point.layer is None:
        if site is Site.EMBED:
            return Place(anatomy.embed)
        if site is Site.POS_EMBED:
            return Place(anatomy.pos_embed, expanded=True)
        begin = None if site is Site.FINAL_NORM else _norm_run(anatomy.final_norm)
        return Place(anatomy.final_norm, begin=begin)
    layer = anatomy.layers[point.layer]
    flattened = row.flattened_mlp and site in _IN_MLP
    if site in _COMPUTED:
        module = getattr(layer, _COMPUTED[site])
        begin = _results_of(anatomy, module) if site is Site.HEAD_RESULTS else _norm_run(module)
        return Place(module, begin=begin, flattened=flattened)
    if site is Site.ATTENTION_IN:
        return Place(layer.ln1 or layer.attention, True, _same_for_all(anatomy.n_heads))
    if site is Site.MLP_IN:
        return Place(layer.ln2 or layer.mid, True, flattened=flattened)
    module = getattr(layer, (_INPUTS | _OUTPUTS)[site])
    assert module is not None, f"{row.family} has no {site}"
    return Place(module, site in _INPUTS, view_of(anatomy, site), flattened=flattened)


def view_of(anatomy: Anatomy, site: Site) -> View | None:
    """Which part of what a projection returns, or receives, is a site's; None for all of it."""
    row = anatomy.architecture
    if row.gate_up_fused and site in (Site.MLP_GATE, Site.MLP_UP):
        return _half(int(site is Site.MLP_UP), anatomy.d_mlp)
    n_heads, n_key_heads, width = anatomy.n_heads, anatomy.n_key_value_heads, anatomy.d_head
    if site is Site.MIXED_VALUES:
        return _heads(1, n_heads, slice(0, n_heads), width)
    if site not in (Site.QUERY, Site.KEY, Site.VALUE):
        return None
    counts = {"q": n_heads, "k": n_key_heads, "v": n_key_heads}
    letter = _OUTPUTS[site]
    if row.q != row.k:
        return _heads(1, counts[letter], slice(0, counts[letter]), width)
    groups = row.qkv_groups or n_key_heads
    sizes = [counts[name] // groups for name in row.qkv_order]
    start = sum(sizes[: row.qkv_order.index(letter)])
    own = slice(start, start + counts[letter] // groups)
    return _heads(groups, sum(sizes), own, width)


def flattened_view(shape: Sequence[int]) -> View:
    """`[batch*pos ...]` as `[batch pos ...]`; the shape is known when it is read."""
    return View(lambda flat: flat.unflatten(0, tuple(shape)), lambda _flat, new: new.flatten(0, 1))


def expanded_view(shape: Sequence[int]) -> View:
    """One row as that of every row of a batch."""
    return View(lambda row: row.expand(shape[0], -1, -1), lambda _row, new: new)


def _half(which: int, width: int) -> View:
    columns = slice(which * width, (which + 1) * width)

    def write(whole: Tensor, new: Tensor) -> Tensor:
        whole = whole.clone()
        whole[..., columns] = new
        return whole

    return View(lambda whole: whole[..., columns], write)


def _heads(groups: int, slots: int, own: slice, width: int) -> View:
    """The heads that stand in some slots of every group, as `[... head d_head]`."""

    def split(whole: Tensor) -> Tensor:
        return whole.unflatten(-1, (groups, slots, width))[..., own, :]

    def write(whole: Tensor, new: Tensor) -> Tensor:
        whole = whole.clone()
        part = split(whole)
        part.copy_(new.reshape(part.shape))
        return whole

    return View(lambda whole: split(whole).flatten(-3, -2), write)


def _same_for_all(n_heads: int) -> View:
    """One stream as that of every head."""

    def read(stream: Tensor) -> Tensor:
        return stream[..., None, :].expand(*stream.shape[:-1], n_heads, -1)

    def write(_stream: Tensor, new: Tensor) -> Tensor:
        first = new[..., 0, :]
        if not torch.equal(read(first), new):
            raise ValueError(
                "hook_attn_in was changed for some heads and not for others, which the projections "
                "of a layer cannot take; change it for all, or hook_q, hook_k and hook_v of a head"
            )
        return first

    return View(read, write)


class _NormSites:
    def __init__(self, norm: Any, received: Tensor) -> None:
        self._run = NormRun(norm, received)

    def read(self, site: Site) -> Tensor:
        return self._run.scale if _is_scale(site) else self._run.normalized

    def write(self, site: Site, new: Tensor, output: Tensor) -> Tensor:
        del output
        return self._run.with_scale(new) if _is_scale(site) else self._run.with_normalized(new)


def _is_scale(site: Site) -> bool:
    return site in (Site.LN1_SCALE, Site.LN2_SCALE, Site.FINAL_SCALE)


def _norm_run(norm: Any) -> Callable[[Tensor], Run]:
    return lambda received: _NormSites(norm, received)


class _HeadResults:
    """What each head writes in one run of the projection of all heads' values."""

    def __init__(self, anatomy: Anatomy, projection: Any, received: Tensor) -> None:
        self._results = results_of_heads(anatomy, projection, received)

    def read(self, site: Site) -> Tensor:
        del site
        return self._results

    def write(self, site: Site, new: Tensor, output: Tensor) -> Tensor:
        del site
        change, self._results = (new - self._results).sum(dim=-2), new
        return output + change


def results_of_heads(anatomy: Anatomy, projection: Any, values: Tensor) -> Tensor:
    """What each head adds, `[... head d_model]`, from all heads' values, `[... head*d_head]`."""
    shape = anatomy.n_heads, anatomy.d_head
    weights = matrix_of(projection).unflatten(0, shape)
    return torch.einsum("...hd,hdm->...hm", values.unflatten(-1, shape), weights)


def _results_of(anatomy: Anatomy, projection: Any) -> Callable[[Tensor], Run]:
    return lambda received: _HeadResults(anatomy, projection, received)


def fitted(hooks: Hooks, architecture: Architecture) -> list[tuple[HookPoint, HookFunction]]:
    """The same hooks, fitted to what the blocks of a family do."""
    mids: list[tuple[HookPoint, HookFunction]] = []
    others: list[tuple[HookPoint, HookFunction]] = []
    for point, function in hooks:
        if point.site is Site.RESID_MID:
            edit, carry_over = _edit_and_carry_over(function)
            mids += [(point, edit), (HookPoint(Site.RESID_POST, point.layer), carry_over)]
        elif point.site is Site.MLP_OUT and architecture.mlp_out_overwritten:
            others.append((point, _on_a_copy(function)))
        else:
            others.append((point, function))
    return mids + others


def _on_a_copy(function: HookFunction) -> HookFunction:
    return lambda tensor, point: function(tensor.clone(), point)


def _edit_and_carry_over(function: HookFunction) -> tuple[HookFunction, HookFunction]:
    """A function for the norm that reads the stream, and one that adds its change to the stream."""
    differences: list[Tensor] = []

    def edit(stream: Tensor, point: HookPoint) -> Tensor | None:
        new = function(stream, point)
        if new is not None:
            differences.append(new - stream)
        return new

    def carry_over(stream: Tensor, _point: HookPoint) -> Tensor | None:
        return stream + differences.pop() if differences else None

    return edit, carry_over
