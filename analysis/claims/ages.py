"""Ages: how long a model has to have been pretrained, for a claim to be about it.

Papers say what they found between two points of pretraining, and set its start aside. An `Age` is
such a span, in tokens of pretraining for each parameter, so that models of other sizes can be held
against it; `AGES` are those of `papers/selections.toml`, each with its source.

Example:
    >>> tiny = Pretrained(parameters=600_000, steps=(30, 240), tokens=368_640)
    >>> tiny.words
    '0.6M parameters, steps 30 to 240 of pretraining (368,640 tokens, 0.6 a parameter)'
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from analysis.claims.selection import PAPERS
from analysis.measurements import NONE
from analysis.statistics.tests import ScaleError

_MILLION, _ROUND = 10**6, 10


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A model that runs begin from, at one checkpoint or several.

    Attributes:
        parameters: how many it has.
        steps: of its checkpoints, by growing age; none where they are not known.
        tokens: that the last of them was pretrained on, as many in each step; None where that is
            not known.
    """

    parameters: int
    steps: tuple[int, ...] = ()
    tokens: int | None = None

    @property
    def words(self) -> str:
        """Size, steps and tokens."""
        is_large = self.parameters >= _MILLION / _ROUND
        size = f"{self.parameters / _MILLION:,.1f}M" if is_large else f"{self.parameters:,}"
        parts = [f"{size} parameters"]
        if self.steps:
            first, last = self.steps[0], self.steps[-1]
            span = f"steps {first:,} to {last:,}" if first < last else f"step {last:,}"
            parts.append(f"{span} of pretraining")
        if self.tokens is None:
            return ", ".join(parts)
        seen = f"{self.tokens:,} tokens, {self.tokens_a_parameter(1.0)} a parameter"
        return f"{', '.join(parts)} ({seen})"

    def shares(self, steps: pd.Series) -> Float[np.ndarray, " row"]:
        """How far checkpoints are in pretraining; at its end where no step is said."""
        numbers = pd.to_numeric(steps.where(steps != NONE), errors="coerce").to_numpy(dtype=float)
        return np.where(np.isnan(numbers), 1.0, numbers / (self.steps[-1] if self.steps else 1))

    def tokens_a_parameter(self, share: float) -> str:
        """The tokens of a share of pretraining for each parameter, in words."""
        assert self.tokens is not None, "what is not known is not written"
        found = share * self.tokens / self.parameters
        return f"{found:,.{1 if found < _ROUND else 0}f}"


@dataclass(frozen=True, kw_only=True)
class Age:
    """A span of pretraining, in tokens for each parameter.

    Attributes:
        until: what bounds it, in words.
        source: where the bound is from.
        least: checkpoints before this are left out.
        most: checkpoints after this are left out.
    """

    until: str
    source: str
    least: float = 0.0
    most: float = np.inf

    def rows(self, rows: pd.DataFrame, model: Pretrained) -> pd.DataFrame:
        """The rows of checkpoints of this age.

        Raises:
            ScaleError: there are none, or the age of the model is not known.
        """
        is_late = self.least > 0
        bound = f"{self.until} at {self.least if is_late else self.most:g} ({self.source})"
        if model.tokens is None:
            raise ScaleError(
                "how many tokens the model was pretrained on is not known, and the claim is about "
                f"what comes {'after' if is_late else 'before'} {self.until} ({self.source})"
            )
        shares = model.shares(rows["step"])
        ages = shares * model.tokens / model.parameters
        kept = rows[(ages >= self.least) & (ages <= self.most)]
        if len(kept) or not len(rows):
            return kept
        end = shares.max() if is_late else shares.min()
        at = f" at step {end * model.steps[-1]:,.0f}," if model.steps else ""
        raise ScaleError(
            f"the trajectory {'ends' if is_late else 'begins'}{at} at "
            f"{model.tokens_a_parameter(float(end))} tokens a parameter, "
            f"{'before' if is_late else 'after'} {bound}"
        )


def _ages() -> Mapping[str, Age]:
    content = tomllib.loads((PAPERS / "selections.toml").read_text(encoding="utf-8"))
    return {name: Age(**given) for name, given in content["ages"].items()}


AGES = _ages()
"""Ages by name."""
