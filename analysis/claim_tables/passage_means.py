"""Passage means: from numbers of single probes to those of passages, by exposure and kind.

A passage counts once in its own exposure and, unless it is held out, once more among all that were
met; its value is the mean over its probes of a kind, or of all kinds. The value of a group of
passages is the mean over them, which for log-probabilities is K.

Example:
    >>> of_one = {"passage": 0, "kind": "semantic", "exposure": "once"}
    >>> probes = pd.DataFrame([of_one, of_one])
    >>> means = passage_means(probes)
    >>> [(row.exposure, row.kind, row.cluster) for row in means.groups][:2]
    [('once', 'all', 'passage 0'), ('met', 'all', 'passage 0')]
    >>> means.of(np.array([[-1.0], [-3.0]]))[:, 0].tolist()
    [-2.0, -2.0, -2.0, -2.0]
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from analysis.ckl_report.scores import ALL_KINDS, MET
from analysis.item_tables import HELD_OUT


class Group(NamedTuple):
    """Probes of one passage, as one exposure and one kind."""

    exposure: str
    kind: str
    cluster: str


@dataclass(frozen=True)
class PassageMeans:
    """How numbers of probes become those of passages.

    Attributes:
        groups: what there is a mean of.
        weights: of each probe in each mean.
    """

    groups: tuple[Group, ...]
    weights: Float[np.ndarray, "group probe"]

    def of(self, values: Float[np.ndarray, "probe column"]) -> Float[np.ndarray, "group column"]:
        """The mean of each group; NaN where one of its probes has no number."""
        missing = np.isnan(values)
        known = self.weights @ np.where(missing, 0.0, values)
        return np.where(self.weights @ missing > 0, np.nan, known)

    def over_passages(
        self, means: Float[np.ndarray, "group column"]
    ) -> Mapping[tuple[str, str], Float[np.ndarray, "column"]]:
        """The mean over passages, by exposure and kind.

        Args:
            means: those of passages, as of `of`.
        """
        places: dict[tuple[str, str], list[int]] = {}
        for place, group in enumerate(self.groups):
            places.setdefault((group.exposure, group.kind), []).append(place)
        return {what: means[some].mean(axis=0) for what, some in places.items()}


def passage_means(probes: pd.DataFrame) -> PassageMeans:
    """The means of a list of probes.

    Args:
        probes: one a row, with `passage`, `exposure` and `kind`.
    """
    groups, weights = zip(*_weighted(probes), strict=True)
    return PassageMeans(groups, np.stack(weights))


def _weighted(probes: pd.DataFrame) -> Iterator[tuple[Group, Float[np.ndarray, "probe"]]]:
    kinds, exposures = probes["kind"].to_numpy(), probes["exposure"].to_numpy()
    codes, passages = pd.factorize(probes["passage"])
    masks = {ALL_KINDS: np.ones(len(probes), dtype=bool)}
    masks |= {str(kind): kinds == kind for kind in pd.unique(kinds)}
    for code, passage in enumerate(passages):
        here = codes == code
        exposure = str(exposures[here.argmax()])
        for kind, mask in masks.items():
            members = here & mask
            if not members.any():
                continue
            weights = members / members.sum()
            yield Group(exposure, kind, f"passage {passage}"), weights
            if exposure != HELD_OUT:
                yield Group(MET, kind, f"passage {passage}"), weights
