"""Look grid: were the probes of runs scored often enough to see what each encounter does?

Scores at every k-th step will do: an encounter is then between two looks, the one at or before its
batch and the next. A maximum is looked for in a window of 50 steps, which ends at the next
encounter where that comes sooner, and before the end of the run. A window must have two looks at
least; where it has not, there is no grid but a reason.

Source: Chang et al., NeurIPS 2024: section 3.3 (the window).

Example:
    >>> grid = LookGrid(every=2, looks=15, window=5)
    >>> int(grid.steps.max()), grid.offsets(last=4)
    (28, array([1, 2, 3, 4, 5]))
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.forgetting_curve import log_spaced_offsets
from analysis.runs import TrainingRun

WINDOW = 50
"""Steps after an encounter: the paper's."""
LEAST_LOOKS = 2
"""In a window."""
LEAST_OFFSETS = 3
"""Of a forgetting curve."""


@dataclass(frozen=True)
class LookGrid:
    """When the probes of some runs were scored.

    Attributes:
        every: steps from a look to the next.
        looks: how many there are, from step 0 on.
        window: looks after an encounter among which a maximum is looked for.
    """

    every: int
    looks: int
    window: int

    @property
    def steps(self) -> np.ndarray:
        """Updates done at each look, `[look]`."""
        return np.arange(self.looks) * self.every

    def log_probs(self, run: TrainingRun) -> np.ndarray:
        """Scores of the probes of a run at every look, `[probe look]`, in nats."""
        scores = run.probe_scores
        return scores.log_probs[np.searchsorted(scores.steps, self.steps)].T

    def places(self, run: TrainingRun) -> dict[Any, np.ndarray]:
        """The last look before each encounter, `[encounter]`, by passage."""
        return {passage: steps // self.every for passage, steps in encounter_steps(run).items()}

    def offsets(self, last: int) -> np.ndarray | None:
        """Looks after a maximum at which a forgetting curve is taken, `[offset]`."""
        longest = self.longest(last)
        if longest < LEAST_OFFSETS:
            return None
        return np.arange(1, longest + 1) if longest < WINDOW else log_spaced_offsets(longest)

    def longest(self, last: int) -> int:
        """Looks that are left after the window of the last encounter; may be negative."""
        return self.looks - 1 - last - self.window


def look_grid(runs: Sequence[TrainingRun]) -> LookGrid | str:
    """The grid that runs with the same settings share; or why there is none."""
    run = runs[0]
    every = run.configuration["probe_every"]
    looks = run.last_step // every + 1
    if any(set(range(0, looks * every, every)) - set(one.probe_scores.steps) for one in runs):
        return f"probes were not scored at every multiple of {every} steps"
    places = run.injections["step"] // every
    gaps = places.groupby(run.injections["passage"]).diff().dropna()
    window = max(WINDOW // every, 1) if gaps.empty else int(min(gaps.min(), WINDOW // every))
    window = min(window, looks - 1 - int(places.max()))
    if window < LEAST_LOOKS:
        return (
            f"probes were scored every {every} steps; between an encounter and the next, or the "
            f"end, {LEAST_LOOKS} looks are needed, found {max(window, 0)}"
        )
    return LookGrid(every, looks, window)


def encounter_steps(run: TrainingRun) -> Mapping[Any, np.ndarray]:
    """Updates done before each encounter, `[encounter]`, rising, by passage."""
    met = run.injections.groupby("passage")["step"]
    return {passage: np.sort(steps.to_numpy()) for passage, steps in met}
