r"""Causal result: how much of a target's log-probability each restored place brought back.

All log-probabilities are in nats, of the first token of a target at the readout position. The
**recovery** is :math:`(\mathrm{restored} - \mathrm{corrupted}) / (\mathrm{clean} -
\mathrm{corrupted})`: 0 where restoring changes nothing, 1 where it undoes the corruption. It says
nothing where the corruption took nothing away, and is NaN there.

Example:
    >>> import torch
    >>> clean, corrupted = torch.tensor([-1.0, -2.0]), torch.tensor([-5.0, -2.0])
    >>> restored = torch.tensor([[[-5.0, -2.0], [-2.0, -2.5]]])   # one site, two layers, two items
    >>> recovery_of(clean, corrupted, restored, least_drop=0.1).tolist()
    [[[0.0, nan], [0.75, nan]]]
"""

from dataclasses import asdict, dataclass
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from probes.provenance import Provenance


def recovery_of(
    clean: Float[Tensor, "item"],
    corrupted: Float[Tensor, "item"],
    restored: Float[Tensor, "site layer item"],
    *,
    least_drop: float,
) -> Float[Tensor, "site layer item"]:
    """Share of what corruption took from a log-probability that restoring a place brings back.

    Args:
        clean: log-probabilities without corruption, in nats.
        corrupted: the same with it.
        restored: the same with it and a place restored.
        least_drop: by how many nats corruption must lower an item for a share to mean anything.

    Returns:
        0 for nothing brought back, 1 for all; NaN for items that dropped by less.
    """
    drop = clean - corrupted
    return ((restored - corrupted) / drop).where(drop >= least_drop, float("nan"))


@dataclass(frozen=True, eq=False)
class CausalResult:
    """What restoring one place after the other brought back.

    Attributes:
        sites: names of what was restored.
        clean: log-probability of each target without corruption, in nats, float64; `[item]`.
        corrupted: the same with a corrupted subject, mean over draws of noise; `[item]`.
        restored: the same with one place restored, mean over the same draws;
            `[site layer item]`.
        subjects: positions of the tokens that were corrupted, by item.
        restored_at: positions that were restored, by item.
        least_drop: by how many nats corruption must lower an item for it to have a recovery.
        noise_std: standard deviation of the noise, in units of the embeddings.
        provenance: where the numbers come from, with every setting.
    """

    sites: tuple[str, ...]
    clean: Float[Tensor, "item"]
    corrupted: Float[Tensor, "item"]
    restored: Float[Tensor, "site layer item"]
    subjects: tuple[tuple[int, ...], ...]
    restored_at: tuple[tuple[int, ...], ...]
    least_drop: float
    noise_std: float
    provenance: Provenance

    @property
    def recovery(self) -> Float[Tensor, "site layer item"]:
        """Share of the drop that was brought back; NaN for items that hardly dropped."""
        return recovery_of(self.clean, self.corrupted, self.restored, least_drop=self.least_drop)

    @property
    def measurable(self) -> Bool[Tensor, "item"]:
        """Which items dropped enough to have a recovery."""
        return self.clean - self.corrupted >= self.least_drop

    @property
    def n_unmeasurable(self) -> int:
        """How many items have no recovery."""
        return int((~self.measurable).sum())

    @property
    def gain(self) -> Float[Tensor, "site layer item"]:
        """What restoring brought back, in nats; for every item."""
        return self.restored - self.corrupted

    @property
    def mean_recovery(self) -> Float[Tensor, "site layer"]:
        """Mean recovery of the measurable items; NaN where there are none."""
        return self.recovery[:, :, self.measurable].mean(dim=-1)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists, for JSON; a missing recovery is None."""
        return {
            "sites": list(self.sites),
            "clean": self.clean.tolist(),
            "corrupted": self.corrupted.tolist(),
            "restored": self.restored.tolist(),
            "recovery": _none_for_nan(self.recovery.tolist()),
            "mean_recovery": _none_for_nan(self.mean_recovery.tolist()),
            "unmeasurable_items": self.n_unmeasurable,
            "subjects": [list(positions) for positions in self.subjects],
            "restored_at": [list(positions) for positions in self.restored_at],
            "least_drop": self.least_drop,
            "noise_std": self.noise_std,
            "units": "nats",
            "provenance": asdict(self.provenance),
        }

    def to_dataframe(self) -> Any:
        """One row per site, layer and item, tidy, as a pandas DataFrame."""
        import pandas as pd

        n_sites, n_layers, n_items = self.restored.shape
        index = pd.MultiIndex.from_product(
            [self.sites, range(n_layers), range(n_items)], names=["site", "layer", "item"]
        )
        frame = index.to_frame(index=False)
        for name, per_item in (("clean", self.clean), ("corrupted", self.corrupted)):
            frame[name] = per_item.repeat(n_sites * n_layers).tolist()
        frame["restored"] = self.restored.flatten().tolist()
        frame["recovery"] = self.recovery.flatten().tolist()
        return frame


def _none_for_nan(values: Any) -> Any:
    if isinstance(values, list):
        return [_none_for_nan(value) for value in values]
    return values if values == values else None
