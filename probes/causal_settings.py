"""Causal settings: what a causal check corrupts, what it restores, and where.

Example:
    >>> settings = CausalSettings(window=3)
    >>> [point.layer for point in settings.points(Site.MLP_OUT, 0, n_layers=7)]
    [0, 1]
    >>> [point.layer for point in settings.points(Site.RESID_POST, 4, n_layers=7)]
    [4]
"""

from dataclasses import dataclass
from enum import StrEnum

from probes.sites import HookPoint, Site

DEFAULT_SITES = (Site.RESID_POST, Site.MLP_OUT, Site.ATTENTION_OUT)
STREAMS = (Site.RESID_PRE, Site.RESID_MID, Site.RESID_POST)
RESTORABLE = (*STREAMS, Site.MLP_OUT, Site.ATTENTION_OUT)
"""Sites that have a vector of the stream's width at every position and layer."""


class RestoredPositions(StrEnum):
    """At which tokens of a prompt clean values are put back."""

    BOTH = "both"
    """The subject's last token and the prompt's last token."""
    SUBJECT_LAST = "subject-last"
    """The subject's last token."""
    SUBJECT = "subject"
    """All tokens of the subject."""
    LAST = "last"
    """The prompt's last token, where the target is read."""


@dataclass(frozen=True, kw_only=True)
class CausalSettings:
    """What to corrupt and what to restore.

    Attributes:
        sites: what to restore, one at a time.
        positions: where to restore it.
        window: over how many layers to restore outputs of the MLP and of attention.
        noise: standard deviations of the embeddings.
        draws: how many draws of noise to average over.
        least_drop: by how many nats corruption must lower an item for it to have a recovery.
    """

    sites: tuple[Site, ...] = DEFAULT_SITES
    positions: RestoredPositions = RestoredPositions.BOTH
    window: int = 1
    noise: float = 3.0
    draws: int = 5
    least_drop: float = 0.1

    def __post_init__(self) -> None:
        if not self.sites:
            raise ValueError(f"no site to restore; give some of {', '.join(RESTORABLE)}")
        if self.window < 1 or self.draws < 1:
            raise ValueError(
                f"window is {self.window} and draws is {self.draws}; give at least 1 of each"
            )
        if not 0 < self.noise < float("inf"):
            raise ValueError(
                f"noise is {self.noise}; give a positive number of standard deviations, since "
                "without noise the corrupted run is the clean one"
            )
        if not 0 < self.least_drop < float("inf"):
            raise ValueError(f"least_drop is {self.least_drop}; give a positive number of nats")

    def points(self, site: Site, layer: int, n_layers: int) -> tuple[HookPoint, ...]:
        """What is restored together for a site at a layer.

        Args:
            site: one of `RESTORABLE`.
            layer: in the middle of the window; of an even one, just after it.
            n_layers: windows end where the model does.
        """
        width = 1 if site in STREAMS else self.window
        start = layer - width // 2
        layers = range(max(0, start), min(n_layers, start + width))
        return tuple(HookPoint(site, near) for near in layers)

    def restored_at(self, subject: tuple[int, ...], last: int) -> tuple[int, ...]:
        """At which positions clean values are put back, ascending.

        Args:
            subject: positions of the subject's tokens, ascending.
            last: the prompt's last position.
        """
        match self.positions:
            case RestoredPositions.SUBJECT:
                return subject
            case RestoredPositions.SUBJECT_LAST:
                return subject[-1:]
            case RestoredPositions.LAST:
                return (last,)
            case RestoredPositions.BOTH:
                return tuple(sorted({subject[-1], last}))
