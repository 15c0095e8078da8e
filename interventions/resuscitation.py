"""Resuscitation: make the least active memory vectors of every layer as active as the others.

Per layer, the neurons whose mean coefficient is at or below the quantile `ratio` are multiplied by
`factor` times the layer's mean coefficient over their own (`interventions.selection`), at one of
the sites of `interventions.rows`. The paper scales the rows of the linear half of the up
projection (`site="up"`); all its neurons then have the same mean coefficient.

`site="preserving"` divides the memory vectors by what it multiplies the rows with. It moves
knowledge entropy without changing anything that the model computes, and the contribution entropy
(|c| times the norm of the memory vector) does not move with it. In training it is not idle: under
Adam it is the same as a learning rate of its own for each row (`RowLearningRates`).

`compat="official"` computes multipliers as the released code does: in float32, by `torch.quantile`,
with no guard for coefficients of zero.

Source: Kim et al., ICLR 2025, section 4.3, Algorithm 1, appendices B.6 and B.7.

Example:
    >>> import torch
    >>> edit = Resuscitation(torch.tensor([[1.0, 2.0, 3.0, 6.0]]), ratio=0.5, factor=2.0)
    >>> edit.predicted_mean_coefficients().tolist()
    [[6.0, 6.0, 3.0, 6.0]]
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import KW_ONLY, dataclass
from math import isfinite
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interventions.choices import ResuscitationSite, Selection, as_choice
from interventions.edit_forms import Clock, WeightChange
from interventions.rows import rows_scaled, scaling_changes
from interventions.selection import PredictedEntropy, inactive, multipliers, require_some
from interventions.self_check import measured_means, require_measured_on
from probes.choices import Compat
from probes.entropy import knowledge_entropy
from probes.hooked_model import HookedModel
from probes.model_folder import sha256_of
from probes.projections import bias_of
from probes.results import EntropyResult

# Where coefficients are multiplied with the rows, and where memory vectors are.
_MOVES_COEFFICIENTS = (ResuscitationSite.UP, ResuscitationSite.PRESERVING)
_MOVES_CONTRIBUTIONS = (ResuscitationSite.UP, ResuscitationSite.DOWN)


@dataclass(frozen=True, eq=False)
class Resuscitation:
    """Multiplies the rows of inactive neurons.

    Args:
        mean_coefficients: mean |c| of every neuron, `[layer d_mlp]`, or the result of measuring
            them, which also says on which weights.
        ratio: the share of neurons of a layer that are multiplied, above 0 and at most 1.
        factor: what their mean coefficients are to become, in means of the layer.
        site: what is multiplied.
        layers: in which layers; None for all.
        selection: by quantile, or an exact number.
        max_multiplier: no multiplier exceeds it; None for no cap.
        compat: `"official"` for the released code's arithmetic.
        model_hash: content hash of the model that a tensor was measured on; None not to check.
        mean_contributions: mean |c| times the norm of the memory vector, to predict that entropy;
            taken from a result that has it.
        sequential: whether the coefficients of a layer were measured with earlier ones edited.

    Raises:
        ValueError: a setting is out of range, or the coefficients are no means of |c|.
    """

    mean_coefficients: Float[Tensor, "layer d_mlp"] | EntropyResult
    ratio: float = 0.5
    factor: float = 2.0
    site: ResuscitationSite | str = ResuscitationSite.UP
    _: KW_ONLY
    layers: Sequence[int] | None = None
    selection: Selection | str = Selection.QUANTILE
    max_multiplier: float | None = None
    compat: Compat | str | None = None
    model_hash: str | None = None
    mean_contributions: Float[Tensor, "layer d_mlp"] | None = None
    sequential: bool = False

    def __post_init__(self) -> None:
        given = self.mean_coefficients
        means, measured_on = measured_means(given)
        self._set("mean_coefficients", means)
        self._set("model_hash", self.model_hash or measured_on)
        if self.mean_contributions is None and isinstance(given, EntropyResult):
            found = given.contribution
            self._set("mean_contributions", found and found.mean_coefficients)
        self._set("site", as_choice(ResuscitationSite, self.site, "site"))
        self._set("selection", as_choice(Selection, self.selection, "selection"))
        if self.compat is not None:
            self._set("compat", as_choice(Compat, self.compat, "compat"))
        if self.layers is not None:
            self._set("layers", tuple(self.layers))
        _check(self)

    @property
    def coefficients(self) -> Float[Tensor, "layer d_mlp"]:
        """Mean |c| of every neuron before the edit, float64 on the CPU."""
        assert isinstance(self.mean_coefficients, Tensor)
        return self.mean_coefficients

    @property
    def at(self) -> ResuscitationSite:
        """The site."""
        return ResuscitationSite(self.site)

    def selected(self) -> Bool[Tensor, "layer d_mlp"]:
        """Which neurons are multiplied; those that are never active cannot be, and are not."""
        chosen = self._inactive()
        return chosen if self.compat else chosen & (self.coefficients > 0)

    def skipped(self) -> Bool[Tensor, "layer d_mlp"]:
        """Inactive neurons left alone, since no multiplier makes a coefficient of zero larger."""
        return self._inactive() & ~self.selected()

    def multipliers(self) -> Float[Tensor, "layer d_mlp"]:
        """What every neuron is multiplied by, float64; 1 where it is left alone."""
        means = self.coefficients.float() if self.compat else self.coefficients
        return multipliers(means, self.selected(), self.factor, self.max_multiplier).double()

    def predicted_mean_coefficients(self) -> Float[Tensor, "layer d_mlp"] | None:
        """Mean |c| after the edit, if the inputs of the layers stay.

        Exact in the first layer, and in all where the edit preserves the function. None for sites
        before a nonlinearity, which no closed form passes through.
        """
        if self.at in _MOVES_COEFFICIENTS:
            return self.coefficients * self.multipliers()
        return self.coefficients if self.at is ResuscitationSite.DOWN else None

    def predicted_entropy(self) -> PredictedEntropy | None:
        """Knowledge and contribution entropy after the edit, under the same proviso, in nats."""
        means = self.predicted_mean_coefficients()
        if means is None:
            return None
        contributions = self.mean_contributions
        if contributions is not None and self.at in _MOVES_CONTRIBUTIONS:
            contributions = contributions * self.multipliers()
        return PredictedEntropy(
            knowledge_entropy(means),
            None if contributions is None else knowledge_entropy(contributions),
        )

    def warnings(self) -> tuple[str, ...]:
        """What a user of this edit should know, one line each."""
        return warnings_of(self)

    def attached(self, model: HookedModel, clock: Clock) -> AbstractContextManager[None]:
        """Multiply the neurons by hooks for the length of a `with` block."""
        del clock
        self.require(model)
        return rows_scaled(model, self.multipliers(), self.at)

    def weight_changes(self, model: HookedModel) -> list[WeightChange]:
        """Multiply the rows that belong to the neurons."""
        self.require(model)
        return scaling_changes(model, self.multipliers(), self.at)

    def describe(self) -> dict[str, Any]:
        """All settings, and hashes of the coefficients and of what they were measured on."""
        return {
            "kind": "resuscitation",
            "ratio": self.ratio,
            "factor": self.factor,
            "site": str(self.site),
            "layers": self.layers and list(self.layers),
            "selection": str(self.selection),
            "max_multiplier": self.max_multiplier,
            "compat": self.compat and str(self.compat),
            "sequential": self.sequential,
            "coefficients_sha256": sha256_of({"mean_coefficients": self.coefficients}),
            "model_sha256": self.model_hash,
        }

    def _inactive(self) -> Bool[Tensor, "layer d_mlp"]:
        means = self.coefficients.float() if self.compat else self.coefficients
        chosen = inactive(means, self.ratio, Selection(self.selection))
        if self.layers is not None:
            kept = torch.zeros(len(means), 1, dtype=torch.bool)
            kept[list(self.layers)] = True
            chosen = chosen & kept
        return chosen

    def require(self, model: HookedModel) -> None:
        """Refuse a model that the coefficients are not of.

        Raises:
            ValueError: they have another shape or were measured on other weights, or the released
                code would have overlooked the model's biases.
        """
        shape = tuple(self.coefficients.shape)
        require_measured_on(model, shape, self.model_hash, whose="this resuscitation")
        if self.compat and any(bias_of(layer.up) is not None for layer in model.anatomy.layers):
            raise ValueError(
                f"the up projection of {model.architecture.family} has a bias here, which the "
                "released code knows nothing of; leave compat out"
            )

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)


def _check(edit: Resuscitation) -> None:
    if not (isfinite(edit.factor) and edit.factor > 0):
        raise ValueError(f"factor must be a finite number above 0, found {edit.factor}")
    if edit.max_multiplier is not None and not edit.max_multiplier > 0:
        raise ValueError(f"max_multiplier must be above 0, found {edit.max_multiplier}")
    n_layers = len(edit.coefficients)
    if wrong := [layer for layer in edit.layers or () if not 0 <= layer < n_layers]:
        raise ValueError(f"layer {wrong[0]} does not exist; there are 0 to {n_layers - 1}")
    knowledge_entropy(edit.coefficients)  # refuses what are no means of absolute values
    require_some(edit.selected(), f"the ratio of {edit.ratio:g}")
    given = edit.mean_contributions
    if given is not None and given.shape != edit.coefficients.shape:
        raise ValueError(
            f"mean_contributions have shape {tuple(given.shape)}, but mean_coefficients "
            f"{tuple(edit.coefficients.shape)}; pass one for each neuron, or leave them out"
        )
    if edit.compat and (
        edit.at is not ResuscitationSite.UP
        or edit.selection is not Selection.QUANTILE
        or edit.max_multiplier is not None
    ):
        raise ValueError(
            "compat='official' scales up rows, chosen by quantile, without a cap; leave out site, "
            "selection and max_multiplier, or compat"
        )


def warnings_of(edit: Resuscitation) -> tuple[str, ...]:
    """One line for each thing that a user may not expect of an edit."""
    return (*_about_entropy(edit), *_about_multipliers(edit), *_about_site(edit))


def _about_entropy(edit: Resuscitation) -> list[str]:
    predicted = edit.predicted_entropy()
    before = float(knowledge_entropy(edit.coefficients).sum())
    if predicted is None or predicted.total >= before:
        return []
    return [
        f"The edit lowers knowledge entropy, from {before:.4f} to {predicted.total:.4f} nats as "
        "predicted; a smaller factor may raise it."
        if edit.factor > 1
        else f"The edit lowers knowledge entropy, from {before:.4f} to {predicted.total:.4f} nats "
        "as predicted; a larger factor may raise it."
    ]


def _about_multipliers(edit: Resuscitation) -> list[str]:
    found, scale, selected = [], edit.multipliers(), edit.selected()
    if skipped := int(edit.skipped().sum()):
        found.append(f"{skipped} neurons were never active; no multiplier helps, so none is used.")
    if weaker := int((scale[selected] < 1).sum()):
        found.append(
            f"{weaker} of {int(selected.sum())} multipliers are below 1: these neurons were more "
            "active than factor times the mean, and become less so."
        )
    if edit.max_multiplier is not None and (
        capped := int((scale[selected] == edit.max_multiplier).sum())
    ):
        found.append(
            f"{capped} multipliers are capped at {edit.max_multiplier:g}; the mean coefficients of "
            "these neurons stay below factor times the mean."
        )
    return found


def _about_site(edit: Resuscitation) -> list[str]:
    match edit.at:
        case ResuscitationSite.PRESERVING:
            return [
                "Site 'preserving' moves knowledge entropy without changing what the model "
                "computes (contribution entropy stays); under Adam it is the same as a learning "
                "rate of its own for each row."
            ]
        case ResuscitationSite.DOWN:
            return [
                "Site 'down' scales memory vectors: coefficients, and with them knowledge entropy, "
                "change in later layers only; contribution entropy does in all."
            ]
        case ResuscitationSite.GATE | ResuscitationSite.UP_PREACTIVATION:
            return [
                f"Site {str(edit.at)!r} acts before the nonlinearity: mean coefficients do not "
                "become factor times the mean, and nothing is predicted."
            ]
    return []
