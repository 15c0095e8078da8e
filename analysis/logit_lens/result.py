"""Lens result: what a lens showed for some prompts and targets, and how to keep it.

`rank`, `log_prob`, `entropy` and `kl` are `[layer item]`, at the readout position (before the
target's first token that is more than a space: as a rule the prompt's last); `per_token` holds
every position and target token that was read. Ranks count from 0, the top; log-probabilities,
entropies and divergences are in nats.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from probes.choices import TargetSpan
from probes.lens import LensReadouts
from probes.localization import Localization, localize
from probes.prompts import LensItem
from probes.results import Provenance


@dataclass(frozen=True, eq=False)
class LensResult:
    """What a lens showed.

    Attributes:
        items: the prompts and targets.
        layer_labels: names of the rows: `"embed"` for the stream before block 0, where it was
            asked for, then the number of the block whose output was read.
        span: which of a target's tokens an item's numbers are made of.
        per_token: everything that was read.
        control_names: what the further ranks of `per_token.readout.control_rank` are of.
        vocabulary: text of every token id that occurs in items and readouts.
        d_vocab: how many tokens ranks run over.
        provenance: where the numbers come from.
        notes: what a reader of the numbers must know.
    """

    items: tuple[LensItem, ...]
    layer_labels: tuple[str, ...]
    span: TargetSpan
    per_token: LensReadouts
    control_names: tuple[str, ...]
    vocabulary: Mapping[int, str]
    d_vocab: int
    provenance: Provenance
    notes: tuple[str, ...] = field(default=())

    @cached_property
    def rank(self) -> Int64[Tensor, "layer item"]:
        """How many tokens come before the target; the worst or the mean of a span."""
        ranks = self.per_token.readout.rank
        match self.span:
            case TargetSpan.FIRST:
                return ranks[:, self.first_rows]
            case TargetSpan.EVERY:
                return self._over_span(ranks, "amax")
            case TargetSpan.MEAN:
                return self._over_span(ranks.double(), "mean").round().long()

    @cached_property
    def log_prob(self) -> Float[Tensor, "layer item"]:
        """Log-probability of the target, in nats; the sum or the mean of a span."""
        values = self.per_token.readout.log_prob
        match self.span:
            case TargetSpan.FIRST:
                return values[:, self.first_rows]
            case TargetSpan.EVERY:
                return self._over_span(values, "sum")
            case TargetSpan.MEAN:
                return self._over_span(values, "mean")

    @property
    def entropy(self) -> Float[Tensor, "layer item"]:
        """Entropy of the readout at the readout position, in nats."""
        return self.per_token.readout.entropy[:, self.first_rows]

    @property
    def kl(self) -> Float[Tensor, "layer item"]:
        """KL divergence of the model's final distribution from the readout, in nats."""
        return self.per_token.readout.kl[:, self.first_rows]

    @property
    def probability(self) -> Float[Tensor, "layer item"]:
        """Exp of `log_prob`."""
        return self.log_prob.exp()

    def control_rank(self, name: str) -> Int64[Tensor, "layer item"]:
        """Ranks of a control's tokens at the readout position.

        Raises:
            ValueError: there is no such control.
        """
        if name not in self.control_names:
            known = ", ".join(self.control_names) or "none"
            raise ValueError(f"no control is named {name!r}; this result has {known}")
        ranks = self.per_token.readout.control_rank[:, :, self.control_names.index(name)]
        return ranks[:, self.first_rows]

    def first_layer(self, k: int = 10) -> Int64[Tensor, "item"]:
        """First row at which each target is among the top `k`; -1 for never."""
        return self.localization(k).first_layer

    def settling_layer(self, k: int = 10) -> Int64[Tensor, "item"]:
        """First row from which each target stays among the top `k`; -1 for none."""
        return self.localization(k).settling_layer

    def localization(self, k: int = 10) -> Localization:
        """Where in depth the targets become readable; see `probes.localization`."""
        return localize(self.rank, k, self.d_vocab)

    def text(self, token: int) -> str:
        """A token as text."""
        return self.vocabulary.get(token, f"<{token}>")

    def to_dataframe(self) -> Any:
        """One row per item, position and layer, tidy, as a pandas DataFrame."""
        from analysis.logit_lens.tables import readouts_table

        return readouts_table(self)

    def plot(self, item: int = 0) -> Any:
        """Heatmap of one item, layer by position (a `plotly` Figure)."""
        from analysis.logit_lens.figures import heatmap

        return heatmap(self, item)

    def save(self, directory: str | Path) -> Path:
        """Write `lens.json`, `lens.csv`, `items.csv` and `lens.html`.

        Args:
            directory: made if it is not there; files of the same name are replaced.

        Returns:
            The directory.
        """
        from analysis.logit_lens.files import save_lens

        return save_lens(self, Path(directory))

    def _repr_html_(self) -> str:
        return self.plot()._repr_html_()

    @property
    def first_rows(self) -> Tensor:
        """Rows of the tokens that tell targets apart, one for each item, in their order."""
        first = torch.tensor([item.first for item in self.items])
        return torch.nonzero(self.per_token.place == first[self.per_token.item])[:, 0]

    def _over_span(self, values: Tensor, how: str) -> Tensor:
        """Values of the rows of every target, put together by item."""
        in_target = self.per_token.place >= 0
        index = self.per_token.item[in_target].expand(len(values), -1)
        start = torch.zeros(len(values), len(self.items), dtype=values.dtype)
        return start.scatter_reduce(1, index, values[:, in_target], how, include_self=False)
