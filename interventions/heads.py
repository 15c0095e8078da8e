"""Heads: take attention heads out, by zeros or by their mean output.

What a head adds to the stream is its output z, a mean of value vectors, times its rows of the
attention's output projection. Ablating it replaces z, at every position, by zeros or by its mean
over a corpus. As weights its rows become zero; what a mean adds is a constant, which a bias of the
output projection has to carry.

Source: Michel et al., NeurIPS 2019 (zeros); Wang et al., ICLR 2023, section 2.1 (means).

Example:
    >>> AblateHeads({5: [0, 3]}).describe()["heads"]
    {'5': [0, 3]}
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from interventions.edit_forms import Clock, NotInWeightsError, WeightChange
from interventions.memory_edit import chosen_places, require_places
from interventions.rows import Rows, name_and_layout, require_native
from probes.argument_checks import batches as some_batches
from probes.argument_checks import hooked_model, takes
from probes.attach import Change, projection_changed
from probes.corpus.token_batch import Batches, as_batches, as_token_batch
from probes.hooked_model import HookedModel
from probes.hooks import run_hooked
from probes.masked_means import RunningMean
from probes.model_folder import sha256_of
from probes.projections import width_in

_OUTPUTS = ("o_proj", "out_proj", "c_proj", "dense")


@dataclass(frozen=True, eq=False)
class AblateHeads:
    """Takes attention heads out.

    Args:
        heads: which ones: layer to the numbers of its query heads.
        means: what stands in for their outputs, `[layer head d_head]`, such as
            `mean_head_outputs` returns; None for zeros.

    Raises:
        ValueError: no head is chosen, one is chosen twice, or a mean is not finite.

    Example:
        >>> edit = AblateHeads({0: [1], 5: [0, 3]})  # three heads of two layers, by zeros
        >>> sorted(edit.heads)
        [0, 5]
    """

    heads: Mapping[int, Sequence[int]]
    _: KW_ONLY
    means: Float[Tensor, "layer head d_head"] | None = None

    def __post_init__(self) -> None:
        chosen = chosen_places(self.heads, "AblateHeads", "head", "{5: [0, 3]}")
        object.__setattr__(self, "heads", chosen)
        if self.means is not None:
            object.__setattr__(self, "means", self.means.detach().double().cpu())
            if self.means.ndim != 3 or not bool(self.means.isfinite().all()):
                raise ValueError(
                    f"means of heads are finite and [layer head d_head], found shape "
                    f"{tuple(self.means.shape)}; mean_head_outputs returns such"
                )

    @contextmanager
    def attached(self, model: HookedModel, clock: Clock) -> Iterator[None]:
        del clock
        require_native(model, "AblateHeads")
        with ExitStack() as stack:
            for layer, rows, chosen in self._places(model):
                stack.enter_context(projection_changed(rows.module, self._change(layer, chosen)))
            yield

    def weight_changes(self, model: HookedModel) -> list[WeightChange]:
        changes = []
        for layer, rows, chosen in self._places(model):
            name, _ = name_and_layout(model, rows.module)
            index = chosen.nonzero().flatten()
            if self.means is not None:
                # Before the rows are zeroed: changes are written in order.
                changes.append(self._carried(rows, name, index, self.means[layer].flatten()[index]))
            changes += rows.changes(index, torch.zeros_like, torch.zeros_like)
        return changes

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "ablate_heads",
            "heads": {str(layer): list(chosen) for layer, chosen in self.heads.items()},
            "means_sha256": None if self.means is None else sha256_of({"means": self.means}),
        }

    def _places(self, model: HookedModel) -> list[tuple[int, Rows, Tensor]]:
        """Layers, their output projections, and which of its inputs are the chosen heads'."""
        require_places(self.heads, model, model.n_heads, "head")
        found = []
        for layer, heads in self.heads.items():
            rows = head_rows(model, layer)
            width = width_in(rows.module) // model.n_heads
            expected = (model.n_layers, model.n_heads, width)
            if self.means is not None and tuple(self.means.shape) != expected:
                raise ValueError(
                    f"means of heads have shape {tuple(self.means.shape)}, but {model.name} needs "
                    f"{expected} (layer, head, d_head); measure them on this model"
                )
            chosen = torch.zeros(model.n_heads, width, dtype=torch.bool)
            chosen[list(heads)] = True
            found.append((layer, rows, chosen.flatten()))
        return found

    def _change(self, layer: int, chosen: Tensor) -> Change:
        means = None if self.means is None else self.means[layer].flatten()

        def change(forward: Any, outputs: Tensor) -> Tensor:
            instead = outputs.new_zeros(()) if means is None else means.to(outputs)
            return forward(torch.where(chosen.to(outputs.device), instead, outputs))

        return change

    def _carried(self, rows: Rows, name: str, index: Tensor, means: Tensor) -> WeightChange:
        """What the means of heads add to the stream, in the bias of the output projection."""
        if rows.module.bias is None:
            raise NotInWeightsError(
                f"{name} has no bias, which would have to carry what the mean of a head adds; use "
                "the ablation as a hook, or zeros"
            )

        def new(bias: Tensor) -> Tensor:
            weight = rows.weight(index)
            return bias + (means.to(weight.device) @ weight.double()).to(bias)

        return WeightChange(f"{name}.bias", 0, None, new)


def head_rows(model: HookedModel, layer: int) -> Rows:
    """The rows of an attention's output projection: what a head's output is multiplied by."""
    attention = model.anatomy.layers[layer].attention
    named = [(n.rpartition(".")[2], module) for n, module in attention.named_modules()]
    found = [module for name, module in named if name in _OUTPUTS]
    if len(found) != 1:
        raise ValueError(
            f"it is not known where {model.architecture.family} keeps the output projection of its "
            f"attention ({len(found)} modules are named {', '.join(_OUTPUTS)}), so its heads "
            "cannot be told apart"
        )
    name, conv1d = name_and_layout(model, found[0])
    return Rows(found[0], name, axis=int(not conv1d), first=0, produces=False)


@takes(model=hooked_model, batches=some_batches)
def mean_head_outputs(model: HookedModel, batches: Batches) -> Float64[Tensor, "layer head d_head"]:
    """The mean output of every head over the tokens of a corpus, before the output projection.

    Args:
        model: the model, on the native backend.
        batches: what to measure on; pads do not count.

    Returns:
        Means for `AblateHeads`, float64 on the CPU.

    Raises:
        ValueError: there are no batches, the model runs on another backend, or its attention has
            no output projection that is known.
    """
    require_native(model, "mean_head_outputs")
    means = [RunningMean() for _ in range(model.n_layers)]
    mask = torch.empty(0)

    def reading(mean: RunningMean) -> Change:
        def change(forward: Any, outputs: Tensor) -> Tensor:
            mean.update(outputs.detach(), mask.to(outputs.device))
            return forward(outputs)

        return change

    with ExitStack() as stack:
        for layer, mean in enumerate(means):
            projection = head_rows(model, layer).module
            stack.enter_context(projection_changed(projection, reading(mean)))
        for batch in map(as_token_batch, as_batches(batches)):
            mask = batch.attention_mask.bool()
            run_hooked(model, batch, [])
    found = torch.stack([mean.result().cpu() for mean in means])
    return found.unflatten(1, (model.n_heads, -1))
