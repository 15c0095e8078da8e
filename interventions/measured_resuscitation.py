"""Measured resuscitation: measure mean coefficients, and make the edit that they call for.

With `sequential=True` each layer is measured with all earlier ones edited, so that its neurons end
at `factor` times its mean although its inputs have shifted; one pass over the batches a layer. With
`target_entropy` the factor is solved for in closed form: the smallest that brings the predicted
knowledge entropy there.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from interventions.choices import ResuscitationSite, Selection, as_choice
from interventions.edit_forms import Clock
from interventions.resuscitation import Resuscitation
from interventions.rows import require_site
from interventions.selection import solve_factor
from interventions.self_check import content_hash
from probes.choices import Coefficient, Weighting
from probes.corpus.token_batch import Batches
from probes.given import hooked_model, takes
from probes.hooked_model import HookedModel
from probes.intervals import Resampling
from probes.measure import PassSettings, run_pass
from probes.meters import KnowledgeMeter

_SOLVABLE = (ResuscitationSite.UP, ResuscitationSite.PRESERVING)


@takes(model=hooked_model)
def resuscitate(
    model: HookedModel,
    batches: Batches,
    ratio: float = 0.5,
    factor: float | None = None,
    *,
    target_entropy: float | None = None,
    site: ResuscitationSite | str = ResuscitationSite.UP,
    sequential: bool = False,
    layers: Sequence[int] | None = None,
    selection: Selection | str = Selection.QUANTILE,
    max_multiplier: float | None = None,
    weighting: Weighting | str = Weighting.INSTANCE,
    on_batch: Callable[[int], None] | None = None,
) -> Resuscitation:
    """Measure a model's mean coefficients and make a resuscitation from them.

    The model is not edited; hand the result to `applied` or `patch_weights`.

    Args:
        model: the model to measure.
        batches: what to measure on; gone through once, or once a layer if `sequential`.
        ratio: the share of neurons of a layer that are multiplied, above 0 and at most 1.
        factor: what their mean coefficients are to become, in means of the layer.
        target_entropy: instead of the factor, the knowledge entropy to reach, in nats, summed over
            layers.
        site: what is multiplied.
        sequential: measure each layer with all earlier ones edited.
        layers: in which layers; None for all.
        selection: by quantile, or an exact number.
        max_multiplier: no multiplier exceeds it; None for no cap.
        weighting: whether instances or tokens count the same in the means.
        on_batch: called with the number of tokens of every batch when it is done.

    Raises:
        ValueError: not exactly one of factor and target is given, the target cannot be reached,
            the model has no such site, or batches that are needed again are an iterator.
    """
    chosen = as_choice(ResuscitationSite, site, "site")
    counting = as_choice(Weighting, weighting, "weighting")
    _check(batches, factor, target_entropy, chosen, sequential=sequential)
    require_site(model, chosen)

    def measured() -> Float[Tensor, "layer d_mlp"]:
        return _mean_coefficients(model, batches, counting, on_batch)

    means = measured()
    edit = Resuscitation(
        means,
        ratio,
        1.0 if factor is None else factor,
        chosen,
        layers=layers,
        selection=selection,
        max_multiplier=max_multiplier,
        model_hash=content_hash(model),
        sequential=sequential,
    )
    if target_entropy is not None:
        solved = solve_factor(means, edit.selected(), target_entropy, max_multiplier)
        edit = replace(edit, factor=solved)
    # An edit that preserves the function shifts no inputs, so that there is nothing to repeat.
    if sequential and edit.at is not ResuscitationSite.PRESERVING:
        edit = _layer_by_layer(model, edit, measured)
    return replace(edit, mean_contributions=edit.coefficients * _norms(model))


def _layer_by_layer(
    model: HookedModel,
    edit: Resuscitation,
    measured: Callable[[], Float[Tensor, "layer d_mlp"]],
) -> Resuscitation:
    """The same edit, each layer's coefficients measured with the earlier layers edited."""
    edited = range(model.n_layers) if edit.layers is None else sorted(edit.layers)
    for layer in edited[1:]:
        earlier = replace(edit, layers=[one for one in edited if one < layer])
        with earlier.attached(model, Clock()):
            now = measured()
        # Layers that come later are measured again; those without an edit keep these means.
        means = torch.cat([edit.coefficients[:layer], now[layer:]])
        edit = replace(edit, mean_coefficients=means)
    return edit


def _mean_coefficients(
    model: HookedModel,
    batches: Batches,
    weighting: Weighting,
    on_batch: Callable[[int], None] | None,
) -> Float[Tensor, "layer d_mlp"]:
    resampling = Resampling(blocks=2)
    settings = PassSettings(
        weighting=weighting,
        compat=None,
        blocks=resampling.blocks,
        until_interval=None,
        distributed=False,
    )
    meter = KnowledgeMeter(model, Coefficient.ABS, resampling, kind=None)
    run_pass(model, batches, [meter], settings, on_batch)
    return meter.means.mean()


def _norms(model: HookedModel) -> Float[Tensor, "layer d_mlp"]:
    vectors = (layer.memory_vectors.detach() for layer in model.anatomy.layers)
    return torch.stack([rows.double().norm(dim=1).cpu() for rows in vectors])


def _check(
    batches: Batches,
    factor: float | None,
    target_entropy: float | None,
    site: ResuscitationSite,
    *,
    sequential: bool,
) -> None:
    if (factor is None) == (target_entropy is None):
        given = "neither" if factor is None else "both"
        raise ValueError(f"resuscitate takes a factor or a target_entropy, found {given}; pass one")
    if target_entropy is not None and site not in _SOLVABLE:
        raise ValueError(
            f"target_entropy has no closed form at site {str(site)!r}, which does not multiply "
            "coefficients; use 'up' or 'preserving', or pass a factor"
        )
    if sequential and target_entropy is not None:
        raise ValueError(
            "target_entropy is solved from one measurement, sequential makes one a layer; pass "
            "the factor that it gives, or leave sequential out"
        )
    if sequential and isinstance(batches, Iterator):
        raise ValueError(
            "sequential goes through the batches once a layer, but was given an iterator, which "
            "ends after one; pass a list"
        )
