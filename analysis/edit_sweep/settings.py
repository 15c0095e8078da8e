"""Edit settings: which edits a sweep tries, one after the other.

Factors are tried at one ratio and ratios at one factor, at every site; then temperatures. A setting
that belongs to both series of a site is tried once.

Example:
    >>> [s.slug for s in edit_settings(["up"], factors=[2.0], ratios=[0.3], temperatures=[1.5])]
    ['up-ratio-0.5-factor-2.0', 'up-ratio-0.3-factor-1.0', 'temperature-1.5']
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from interventions.attention_temperature import AttentionTemperature
from interventions.choices import ResuscitationSite, as_choice
from interventions.resuscitation import Resuscitation
from interventions.row_scaling import require_site
from probes.hooked_model import HookedModel
from probes.results import EntropyResult

AT_RATIO, AT_FACTOR = 0.5, 1.0
"""The ratio at which factors are tried, and the factor at which ratios are: the paper's."""


@dataclass(frozen=True)
class EditSetting:
    """One edit of a sweep: a resuscitation, or a temperature, or neither."""

    site: ResuscitationSite | None = None
    ratio: float | None = None
    factor: float | None = None
    temperature: float | None = None

    @property
    def slug(self) -> str:
        """A name for files; other numbers, other names."""
        if self.site is not None:
            return f"{self.site}-ratio-{self.ratio}-factor-{self.factor}"
        return "unedited" if self.temperature is None else f"temperature-{self.temperature}"

    @property
    def label(self) -> str:
        """A name for people."""
        if self.site is not None:
            return f"{self.site}, ratio {self.ratio:g}, factor {self.factor:g}"
        return "unedited" if self.temperature is None else f"temperature {self.temperature:g}"

    def edit(self, measured: EntropyResult) -> Resuscitation | AttentionTemperature:
        """The edit, from the coefficients of the unedited model."""
        if self.temperature is not None:
            return AttentionTemperature(self.temperature)
        assert self.site is not None
        assert self.ratio is not None
        assert self.factor is not None
        return Resuscitation(measured, self.ratio, self.factor, self.site)


def edit_settings(
    sites: Iterable[ResuscitationSite | str],
    *,
    factors: Sequence[float],
    ratios: Sequence[float],
    temperatures: Sequence[float],
    at_ratio: float = AT_RATIO,
    at_factor: float = AT_FACTOR,
) -> list[EditSetting]:
    """The settings of a sweep, in order.

    Args:
        sites: where to resuscitate.
        factors: tried at `at_ratio`.
        ratios: tried at `at_factor`.
        temperatures: of attention.
        at_ratio: of the series of factors.
        at_factor: of the series of ratios.

    Raises:
        ValueError: there are none, or a value is out of range.
    """
    found = [
        EditSetting(as_choice(ResuscitationSite, site, "site"), float(ratio), float(factor))
        for site in sites
        for ratio, factor in [
            *((at_ratio, factor) for factor in factors),
            *((ratio, at_factor) for ratio in ratios),
        ]
    ]
    found += [EditSetting(temperature=float(temperature)) for temperature in temperatures]
    if not found:
        raise ValueError("the sweep is empty; give factors, ratios or temperatures")
    for setting in found:
        _refuse_out_of_range(setting)
    return list(dict.fromkeys(found))


def sites_of(
    model: HookedModel, asked: Sequence[ResuscitationSite]
) -> tuple[ResuscitationSite, ...]:
    """The sites asked for, or all that the model has.

    Raises:
        ValueError: a site was asked for that the model has not.
    """
    for site in asked:
        require_site(model, site)
    return tuple(asked) or tuple(site for site in ResuscitationSite if _has(model, site))


def _has(model: HookedModel, site: ResuscitationSite) -> bool:
    try:
        require_site(model, site)
    except ValueError:
        return False
    return True


def _refuse_out_of_range(setting: EditSetting) -> None:
    """Try the setting on a model of two neurons, before hours of measuring."""
    if setting.temperature is not None:
        AttentionTemperature(setting.temperature)
    else:
        assert setting.ratio is not None
        assert setting.factor is not None
        Resuscitation(torch.ones(1, 2), setting.ratio, setting.factor)
