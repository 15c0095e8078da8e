"""Resuscitation: make the least active memory vectors of every layer as active as the others.

The neurons whose mean coefficient is at or below the quantile `ratio` are multiplied by `factor`
times the layer's mean coefficient over their own (`interventions.neurons`), at one of the sites
of `interventions.neurons`; the paper scales up rows (`site="up"`). `site="preserving"` also divides
the memory vectors, which moves knowledge entropy without changing what the model computes. In
the weights it is, for training under Adam, a learning rate of its own for each row; as hooks it is
nothing.
`compat="official"` computes multipliers as the released code does: in float32, by `torch.quantile`,
with no guard for coefficients of zero.

Source: Kim et al., ICLR 2025, section 4.3, Algorithm 1, appendices B.6 and B.7.

Example:
    >>> import torch
    >>> edit = Resuscitation(torch.tensor([[1.0, 2.0, 3.0, 6.0]]), ratio=0.5, factor=2.0)
    >>> edit.predicted_mean_coefficients().tolist()
    [[6.0, 6.0, 3.0, 6.0]]
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from math import isfinite
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interventions.choices import ResuscitationSite, Selection, as_choice
from interventions.edit_forms import Clock
from interventions.neurons import (
    PredictedEntropy,
    ScalesRows,
    content_hash,
    inactive,
    measured_means,
    multipliers,
    require_measured_on,
    require_site,
    require_solvable,
    require_some,
    solve_factor,
)
from probes.checking import hooked_model, takes
from probes.choices import Coefficient, Compat, Weighting
from probes.corpus.token_batch import Batches
from probes.corpus_means import Resampling
from probes.entropy import knowledge_entropy
from probes.hooked_model import HookedModel
from probes.measure import KnowledgeMeter, PassSettings, run_pass
from probes.model_folder import sha256_of
from probes.projections import bias_of
from probes.results import EntropyResult

# Where coefficients are multiplied with the rows, and where memory vectors are.
_MOVES_COEFFICIENTS = (ResuscitationSite.UP, ResuscitationSite.PRESERVING)
_MOVES_CONTRIBUTIONS = (ResuscitationSite.UP, ResuscitationSite.DOWN)


@dataclass(frozen=True, eq=False)
class Resuscitation(ScalesRows):
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
            one = isinstance(self.layers, int)
            self._set("layers", (self.layers,) if one else tuple(self.layers))
        self._check()

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
        return (*self._about_entropy(), *self._about_multipliers(), *_ABOUT_SITES.get(self.at, ()))

    def reaching(self, target_entropy: float) -> "Resuscitation":
        """The same with the smallest factor that is predicted to give a knowledge entropy.

        Args:
            target_entropy: in nats, summed over layers.

        Raises:
            ValueError: the site does not multiply coefficients, or no factor reaches it.
        """
        require_solvable(self.at)
        found = solve_factor(
            self.coefficients, self.selected(), target_entropy, self.max_multiplier
        )
        return replace(self, factor=found)

    def describe(self) -> dict[str, Any]:
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

    def _check(self) -> None:
        means, layers = self.coefficients, self.layers or ()
        if not (isfinite(self.factor) and self.factor > 0):
            raise ValueError(f"factor must be a finite number above 0, found {self.factor}")
        if self.max_multiplier is not None and not self.max_multiplier > 0:
            raise ValueError(f"max_multiplier must be above 0, found {self.max_multiplier}")
        if wrong := [layer for layer in layers if not 0 <= layer < len(means)]:
            raise ValueError(f"layer {wrong[0]} does not exist; there are 0 to {len(means) - 1}")
        knowledge_entropy(means)  # refuses what are no means of absolute values
        require_some(self.selected(), f"the ratio of {self.ratio:g}")
        given = self.mean_contributions
        if given is not None and given.shape != means.shape:
            raise ValueError(
                f"mean_contributions have shape {tuple(given.shape)}, but mean_coefficients "
                f"{tuple(means.shape)}; pass one for each neuron, or leave them out"
            )
        papers = (ResuscitationSite.UP, Selection.QUANTILE, None)
        if self.compat and (self.at, self.selection, self.max_multiplier) != papers:
            raise ValueError(
                "compat='official' scales up rows, chosen by quantile, without a cap; leave out "
                "site, selection and max_multiplier, or compat"
            )

    def _about_entropy(self) -> list[str]:
        predicted = self.predicted_entropy()
        before = float(knowledge_entropy(self.coefficients).sum())
        if predicted is None or predicted.total >= before:
            return []
        instead = "smaller" if self.factor > 1 else "larger"
        return [
            f"The edit lowers knowledge entropy, from {before:.4f} to {predicted.total:.4f} nats "
            f"as predicted; a {instead} factor may raise it."
        ]

    def _about_multipliers(self) -> list[str]:
        found, scale = [], self.multipliers()[self.selected()]
        if skipped := int(self.skipped().sum()):
            found.append(
                f"{skipped} neurons were never active; no multiplier helps, so none is used."
            )
        if weaker := int((scale < 1).sum()):
            found.append(
                f"{weaker} of {len(scale)} multipliers are below 1: these neurons were more active "
                "than factor times the mean, and become less so."
            )
        cap = self.max_multiplier
        if cap is not None and (capped := int((scale == cap).sum())):
            found.append(
                f"{capped} multipliers are capped at {cap:g}; the mean coefficients of these "
                "neurons stay below factor times the mean."
            )
        return found


_BEFORE = (
    "acts before the nonlinearity: mean coefficients do not become factor times the mean, and "
    "nothing is predicted."
)
_ABOUT_SITES = {
    ResuscitationSite.PRESERVING: [
        "Site 'preserving' moves knowledge entropy without changing what the model computes "
        "(contribution entropy stays). In the weights it is, for training under Adam, a learning "
        "rate of its own for each row."
    ],
    ResuscitationSite.DOWN: [
        "Site 'down' scales memory vectors: coefficients, and with them knowledge entropy, change "
        "in later layers only; contribution entropy does in all."
    ],
    ResuscitationSite.GATE: [f"Site 'gate' {_BEFORE}"],
    ResuscitationSite.UP_PREACTIVATION: [f"Site 'up_preactivation' {_BEFORE}"],
}


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
            layers; the smallest factor that is predicted to give it is solved for.
        site: what is multiplied.
        sequential: measure each layer with all earlier ones edited, so that its neurons end at
            `factor` times its mean although its inputs have shifted.
        layers: in which layers; None for all.
        selection: by quantile, or an exact number.
        max_multiplier: no multiplier exceeds it; None for no cap.
        weighting: whether instances or tokens count the same in the means.
        on_batch: called with the number of tokens of every batch when it is done.

    Raises:
        ValueError: not exactly one of factor and target is given, the target cannot be reached,
            the model has no such site, or batches that are needed again are an iterator.
    """
    at, counting = (
        as_choice(ResuscitationSite, site, "site"),
        as_choice(Weighting, weighting, "weighting"),
    )
    if (factor is None) == (target_entropy is None):
        given = "neither" if factor is None else "both"
        raise ValueError(f"resuscitate takes a factor or a target_entropy, found {given}; pass one")
    if target_entropy is not None:
        require_solvable(at)
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
    require_site(model, at)

    def measured() -> Float[Tensor, "layer d_mlp"]:
        resampling = Resampling(blocks=2)
        meter = KnowledgeMeter(model, Coefficient.ABS, resampling, kind=None)
        settings = PassSettings(weighting=counting, blocks=resampling.blocks)
        run_pass(model, batches, [meter], settings, on_batch)
        return meter.means.mean()

    edit = Resuscitation(
        measured(),
        ratio,
        1.0 if factor is None else factor,
        at,
        layers=layers,
        selection=selection,
        max_multiplier=max_multiplier,
        model_hash=content_hash(model),
        sequential=sequential,
    )
    if target_entropy is not None:
        edit = edit.reaching(target_entropy)
    # An edit that preserves the function shifts no inputs, so that there is nothing to repeat.
    if sequential and at is not ResuscitationSite.PRESERVING:
        edited = range(model.n_layers) if edit.layers is None else sorted(edit.layers)
        for layer in edited[1:]:
            earlier = replace(edit, layers=[one for one in edited if one < layer])
            with earlier.attached(model, Clock()):
                now = measured()
            # Layers that come later are measured again; those without an edit keep these means.
            means = torch.cat([edit.coefficients[:layer], now[layer:]])
            edit = replace(edit, mean_coefficients=means)
    contributions = edit.coefficients * model.anatomy.memory_norms()
    return replace(edit, mean_contributions=contributions)
