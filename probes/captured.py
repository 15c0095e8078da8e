"""Captured: the tensors of one pass by their names, and what the residual stream is made of.

Names are TransformerLens's, in full (`blocks.0.attn.hook_pattern`) or short (`("pattern", 0)`), and
so are those of the methods, the order of their rows and the labels. What a method needs has to have
been captured; the scale of a norm is computed where it was not.

Source: Elhage et al., "A Mathematical Framework for Transformer Circuits" (2021); Wang et al.,
arXiv 2211.00593, for logit attribution.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.checking import as_device, as_tensor
from probes.places import results_of_heads
from probes.projections import NormRun, centred_as, device_of, kind_of, matrix_of, weight_of
from probes.prompts import place_in, token_id
from probes.refusals import shown
from probes.running_model import RunningModel
from probes.shown import Shown
from probes.sites import HookPoint, Site, as_hook_point, hook_name

Labelled = Float[Tensor, "component *rest"] | tuple[Float[Tensor, "component *rest"], list[str]]
PosSlice = int | slice | Sequence[int] | None
"""A position (its axis goes), a slice, the arguments of one as a tuple, or a list of positions."""
Tokens = str | int | Int[Tensor, "*asked"]


class Captured(Shown, Mapping[str, Tensor]):
    """The tensors of one pass, by TransformerLens name.

    Full and short names work as keys, `cache["blocks.0.attn.hook_pattern"]` and `cache["pattern",
    0]`, and so do `(site, layer)` pairs and hook points. A layer below 0 counts from the last.
    Iteration yields full names, in the order in which they were asked for.

    Attributes:
        model: the model that ran.
        attention_mask: 0 on pads, `[batch pos]`.
        has_batch_dim: whether tensors have a first axis for the rows of the batch.
    """

    def __init__(
        self,
        tensors: Mapping[HookPoint, Tensor],
        *,
        model: RunningModel,
        attention_mask: Int[Tensor, "batch pos"],
    ) -> None:
        self._tensors = dict(tensors)
        self.model = model
        self.attention_mask = attention_mask
        self.has_batch_dim = True

    def __getitem__(self, key: Any) -> Tensor:
        point = self._point(key)
        if point not in self._tensors:
            if reason := self.model.lacks(point.site):
                raise KeyError(reason)
            few = ", ".join(self.names()[:_SHOWN_NAMES])
            more = ", ..." if len(self) > _SHOWN_NAMES else ""
            raise KeyError(
                f"{key!r} was not captured; name it in names_filter. Captured are {few}{more}"
            )
        return self._tensors[point]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, key: object) -> bool:
        try:
            return self._point(key) in self._tensors
        except ValueError:
            return False

    def _facts(self) -> Mapping[str, Any]:
        shapes = {name: self[name] for name in self.names()}
        return {"": f"{len(shapes)} tensor{'s' * (len(shapes) != 1)}", **shapes}

    def names(self) -> list[str]:
        """The TransformerLens names of what was captured."""
        gated = self.model.architecture.gated
        return [hook_name(point, gated=gated) for point in self._tensors]

    def points(self) -> list[HookPoint]:
        """The hook points of what was captured."""
        return list(self._tensors)

    def to(self, device: str | torch.device) -> "Captured":
        """Move the tensors to a device; returns itself."""
        device = as_device(device)
        self._tensors = {point: tensor.to(device) for point, tensor in self._tensors.items()}
        return self

    def remove_batch_dim(self) -> "Captured":
        """Take the first axis off, of a batch of one row; returns itself.

        Raises:
            ValueError: there are several rows.
        """
        if not self.has_batch_dim:
            return self
        if (rows := len(self.attention_mask)) != 1:
            raise ValueError(f"there are {rows} rows, so their axis stays; run one text at a time")
        self._tensors = {point: tensor[0] for point, tensor in self._tensors.items()}
        self.has_batch_dim = False
        return self

    def stack_activation(
        self, name: str, layer: int | None = -1, sublayer_type: str | None = None
    ) -> Float[Tensor, "layer *rest"]:
        """One activation of all layers before a layer, stacked.

        Args:
            name: a short name, such as `"pattern"`.
            layer: the layer to stop before; -1 or None for all.
            sublayer_type: `"ln1"` or `"ln2"`, for the scale and the normalized stream of a norm.
        """
        layers = range(self._until(layer))
        return torch.stack([self[name, number, sublayer_type] for number in layers])

    def accumulated_resid(
        self,
        layer: int | None = None,
        incl_mid: bool = False,
        apply_ln: bool = False,
        pos_slice: PosSlice = None,
        mlp_input: bool = False,
        return_labels: bool = False,
    ) -> Labelled:
        """The residual stream before each layer up to one, as a logit lens reads it.

        Args:
            layer: the layer whose input comes last; None or -1 for the stream after the last.
            incl_mid: whether the streams between attention and MLP are among them.
            apply_ln: whether the norm that reads the last of them is applied: the final one anew to
                each, with weight and bias; that of a layer as `apply_ln_to_stack` does.
            pos_slice: which positions.
            mlp_input: whether the stream that the MLP of `layer` reads comes last.
            return_labels: whether to return what the rows are, too.

        Returns:
            `[component batch pos d_model]`, and labels such as `3_pre`, `3_mid`, `final_post`.

        Raises:
            KeyError: something that it needs was not captured.
        """
        end = self._until(layer)
        labels, found = [], []
        for number in range(min(end + 1, self.model.n_layers)):
            labels.append(f"{number}_pre")
            found.append(self["resid_pre", number])
            if (incl_mid and number < end) or (mlp_input and number == end):
                labels.append(f"{number}_mid")
                found.append(self["resid_mid", number])
        if end == self.model.n_layers:
            labels.append("final_post")
            found.append(self["resid_post", end - 1])
        stack = torch.stack([_sliced(part, pos_slice) for part in found])
        if apply_ln:
            final = end == self.model.n_layers
            stack = self.apply_ln_to_stack(stack, end, mlp_input, pos_slice, recompute_ln=final)
        return (stack, labels) if return_labels else stack

    def decompose_resid(
        self,
        layer: int | None = None,
        mlp_input: bool = False,
        mode: str = "all",
        apply_ln: bool = False,
        pos_slice: PosSlice = None,
        incl_embeds: bool = True,
        return_labels: bool = False,
    ) -> Labelled:
        """What embeddings, attention and MLPs have added to the stream before a layer.

        The rows of `mode="all"` add up to that stream.

        Args:
            layer: the layer whose input is taken apart; None or -1 for the stream after the last.
            mlp_input: whether it is the stream that the MLP of `layer` reads.
            mode: `"all"`, `"attn"` or `"mlp"`.
            apply_ln: whether each is divided as `apply_ln_to_stack` does.
            pos_slice: which positions.
            incl_embeds: whether embeddings are among them.
            return_labels: whether to return what the rows are, too.

        Returns:
            `[component batch pos d_model]`, and labels such as `embed` and `3_mlp_out`.

        Raises:
            KeyError: something that it needs was not captured.
            ValueError: the mode does not exist.
        """
        if mode not in ("all", "attn", "mlp"):
            raise ValueError(f"mode is {mode!r}; give 'all', 'attn' or 'mlp'")
        end = self._until(layer)
        found = self._embeddings() if incl_embeds else {}
        for number in range(end + mlp_input):
            if mode != "mlp":
                found[f"{number}_attn_out"] = self["attn_out", number]
            if mode != "attn" and number < end:
                found[f"{number}_mlp_out"] = self["mlp_out", number]
        stack = torch.stack([_sliced(part, pos_slice) for part in found.values()])
        if apply_ln:
            stack = self.apply_ln_to_stack(stack, end, mlp_input, pos_slice)
        return (stack, list(found)) if return_labels else stack

    def stack_head_results(
        self,
        layer: int | None = -1,
        return_labels: bool = False,
        incl_remainder: bool = False,
        pos_slice: PosSlice = None,
        apply_ln: bool = False,
    ) -> Labelled:
        """What each attention head of the layers before a layer has written, without bias.

        Needs `hook_z` (or `hook_result`) of these layers.

        Args:
            layer: the layer to stop before; -1 or None for all.
            return_labels: whether to return what the rows are, too.
            incl_remainder: whether the rest of the stream before that layer comes last.
            pos_slice: which positions.
            apply_ln: whether each is divided as `apply_ln_to_stack` does.

        Returns:
            `[component batch pos d_model]`, heads of a layer together, and labels such as `L3H1`.

        Raises:
            KeyError: something that it needs was not captured.
        """
        end = self._until(layer)
        if end == 0:
            raise ValueError("there are no heads before layer 0; give a layer of 1 or more")
        by_layer = [_sliced(self._results(number), pos_slice, axis=-3) for number in range(end)]
        stack = torch.cat([results.movedim(-2, 0) for results in by_layer])
        heads = range(self.model.n_heads)
        labels = [f"L{number}H{head}" for number in range(end) for head in heads]
        if incl_remainder:
            rest = _sliced(self["resid_post", end - 1], pos_slice) - stack.sum(dim=0)
            stack = torch.cat([stack, rest[None]])
            labels.append("remainder")
        if apply_ln:
            stack = self.apply_ln_to_stack(stack, end, pos_slice=pos_slice)
        return (stack, labels) if return_labels else stack

    def apply_ln_to_stack(
        self,
        residual_stack: Float[Tensor, "component *batch_pos d_model"],
        layer: int | None = None,
        mlp_input: bool = False,
        pos_slice: PosSlice = None,
        batch_slice: PosSlice = None,
        has_batch_dim: bool | None = None,
        recompute_ln: bool = False,
    ) -> Float[Tensor, "component *batch_pos_out d_model"]:
        """Parts of a stream, divided by the scale that a norm has found for the whole stream.

        Without the norm's weight and bias, as in TransformerLens.

        Args:
            residual_stack: `[component batch pos d_model]`, sliced already.
            layer: whose norm; None or -1 for the final one.
            mlp_input: whether it is the norm that the MLP of the layer reads through.
            pos_slice: the positions that the stack has, for the scale.
            batch_slice: the rows to take, of stack and scale.
            has_batch_dim: whether the stack has an axis for rows; None where the cache has.
            recompute_ln: whether the final norm is applied whole to every part by itself.
        """
        end = self._until(layer)
        with_rows = self.has_batch_dim if has_batch_dim is None else has_batch_dim
        if with_rows:
            residual_stack = _sliced(residual_stack, batch_slice, axis=1)
        if recompute_ln and end == self.model.n_layers:
            with torch.no_grad():
                whole = residual_stack.to(self.model.device)
                return self.model.anatomy.final_norm(whole).to(residual_stack.device)
        norm, scale = self._scale(end, mlp_input)
        scale = _sliced(scale, pos_slice)
        scale = _sliced(scale, batch_slice, axis=0) if self.has_batch_dim else scale
        if residual_stack.shape[1:-1] != scale.shape[:-1]:
            raise ValueError(
                f"the stack has rows and positions {list(residual_stack.shape[1:-1])}, and the "
                f"norm's scale {list(scale.shape[:-1])}; give the pos_slice that the stack was "
                "made with"
            )
        return centred_as(kind_of(norm, self.model.d_model), residual_stack) / scale

    def logit_attrs(
        self,
        residual_stack: Float[Tensor, "component *batch_pos d_model"],
        tokens: Tokens,
        incorrect_tokens: Tokens | None = None,
        pos_slice: PosSlice = None,
        batch_slice: PosSlice = None,
        has_batch_dim: bool | None = None,
    ) -> Float[Tensor, "component *batch_pos_out"]:
        """What each part of the final stream adds to the logit of a token.

        With the weight of the final norm, so that those of a whole decomposition add up to the
        logit, less what the norm's bias and the unembedding's add; before a soft-cap.
        TransformerLens leaves the weight out until it is folded into `W_U`.

        Args:
            residual_stack: `[component batch pos d_model]`, from `decompose_resid` or
                `stack_head_results`, sliced already.
            tokens: a token as text or id; ids `[batch]`, one for each row; ids `[batch pos]`; or,
                of another length than the batch, ids `[pos]`.
            incorrect_tokens: tokens of the same shape, whose logits are subtracted.
            pos_slice: the positions that the stack has, for the scale.
            batch_slice: the rows to take.
            has_batch_dim: whether the stack has an axis for rows; None where the cache has.

        Returns:
            `[component batch pos]`.

        Raises:
            ValueError: a text is not one token, or the two shapes differ.
        """
        directions = self._directions(tokens)
        if incorrect_tokens is not None:
            other = self._directions(incorrect_tokens)
            if other.shape != directions.shape:
                raise ValueError(
                    f"tokens have shape {list(directions.shape[:-1])} and incorrect_tokens "
                    f"{list(other.shape[:-1])}; give one for each"
                )
            directions = directions - other
        parts = self.apply_ln_to_stack(
            residual_stack, -1, False, pos_slice, batch_slice, has_batch_dim
        )
        with_rows = self.has_batch_dim if has_batch_dim is None else has_batch_dim
        one_a_row = directions.ndim == 2 and len(directions) == parts.shape[1]
        if with_rows and parts.ndim == 4 and one_a_row:
            directions = directions[:, None]
        return (parts * directions.to(parts.device)).sum(dim=-1)

    def _point(self, key: Any) -> HookPoint:
        model = self.model
        return as_hook_point(key, gated=model.architecture.gated, n_layers=model.n_layers)

    def _until(self, layer: int | None) -> int:
        n_layers = self.model.n_layers
        end = n_layers if layer is None or layer == -1 else layer
        if not 0 <= end <= n_layers:
            raise ValueError(f"layer is {layer}; give 0 to {n_layers}, or None for all")
        return end

    def _embeddings(self) -> dict[str, Tensor]:
        """What the stream begins with, by label."""
        if self.model.lacks(Site.POS_EMBED):
            # Some families scale or norm what their embedding returns.
            return {"embed": self["resid_pre", 0]}
        return {"embed": self["embed"], "pos_embed": self["pos_embed"]}

    def _results(self, layer: int) -> Float[Tensor, "*batch_pos head d_model"]:
        written = HookPoint(Site.HEAD_RESULTS, layer)
        if written in self._tensors:
            return self._tensors[written]
        projection, values = self.model.anatomy.layers[layer].o, self["z", layer]
        with torch.no_grad():
            given = values.flatten(-2).to(device_of(projection))
            return results_of_heads(self.model.anatomy, projection, given).to(values.device)

    def _scale(self, layer: int, mlp_input: bool) -> tuple[Any, Tensor]:
        """The norm that reads the stream there, and what it has divided by."""
        anatomy, last = self.model.anatomy, self.model.n_layers
        norm: Any
        if layer == last:
            site, norm, stream = Site.FINAL_SCALE, anatomy.final_norm, ("resid_post", last - 1)
        elif mlp_input:
            read = "resid_pre" if self.model.lacks(Site.RESID_MID) else "resid_mid"
            site, norm, stream = Site.LN2_SCALE, anatomy.layers[layer].ln2, (read, layer)
        else:
            site, norm, stream = Site.LN1_SCALE, anatomy.layers[layer].ln1, ("resid_pre", layer)
        if reason := self.model.lacks(site):
            raise ValueError(reason)
        point = HookPoint(site, None if layer == last else layer)
        known = self._tensors.get(point)
        return norm, NormRun(norm, self[stream]).scale if known is None else known

    def _directions(self, tokens: Tokens) -> Float[Tensor, "*asked d_model"]:
        """Directions whose product with the divided final stream is a token's logit."""
        anatomy = self.model.anatomy
        if isinstance(tokens, str):
            tokens = token_id(self.model, tokens)
        ids = as_tensor(tokens, "tokens", None).to(anatomy.device)
        if ids.is_floating_point() or not bool(((ids >= 0) & (ids < anatomy.d_vocab)).all()):
            raise ValueError(
                f"tokens are {shown(tokens)}; give a text that is one token, or ids from 0 to "
                f"{anatomy.d_vocab - 1}"
            )
        with torch.no_grad():
            weight = weight_of(anatomy.final_norm, anatomy.d_model)
            columns = matrix_of(anatomy.unembed)[:, ids]
            return columns.movedim(0, -1) * weight * anatomy.logit_scale


_SHOWN_NAMES = 6


def _sliced(tensor: Tensor, which: PosSlice, axis: int = -2) -> Tensor:
    if which is None:
        return tensor
    if isinstance(which, int):
        return tensor.select(axis, place_in(which, tensor.shape[axis]))
    axis %= tensor.ndim
    given = slice(*which) if isinstance(which, tuple) else which
    index = torch.as_tensor(given) if isinstance(given, list) else given
    return tensor[(slice(None),) * axis + (index,)]
