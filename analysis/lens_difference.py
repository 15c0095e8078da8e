"""Lens difference: two readings of the same items, number by number, and tests of what moved.

p-values are adjusted together (Holm); `analysis.depth` says how first layers are compared.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.depth import adjusted, found_in
from analysis.lens_result import LensResult
from analysis.lens_tables import prompt_text, series_labels, target_text
from analysis.statistics.tests import Comparison, mcnemar, paired_permutation
from probes.shown import Difference, paired, require_kind

_MEASURES = ("rank", "log_prob", "entropy", "kl")


@dataclass(frozen=True, eq=False)
class LensDifference(Difference):
    """How two readings of the same items differ, the second less the first.

    Attributes:
        k: a target is found where it is among so many top tokens.
        found: how many items each reading finds at some layer.
        tests: by what was compared, effect, interval, p-value and number of items; empty for a
            single item. First layers are left out where fewer than two targets come up in both, or
            where the models differ in their layers.
    """

    k: int
    found: tuple[int, int]
    tests: dict[str, Comparison]

    @property
    def items(self) -> int:
        """How many items both read."""
        return len(self.first.items)

    def _facts(self) -> dict[str, Any]:
        one, other = self.found
        last = self.numbers[self.numbers["measure"] == "log_prob"].groupby("item").tail(1)
        moved = {"log-prob at the last layer": f"{last['difference'].mean():+.4g} nats"}
        found = {f"found in the top {self.k}": f"{one}, {other} of {self.items}"}
        return {"": f"{self.names[1]} less {self.names[0]}", **found, **moved}

    def plot(self, item: int | None = None) -> Any:
        """Heatmap of the target's log-probability, second less first (a `plotly` Figure).

        Args:
            item: layer by position of one item; None for layer by item, where there are several.
        """
        return self._drawn(item=item)

    def to_dict(self) -> dict[str, Any]:
        """What was tested, as plain values."""
        tests = {name: asdict(test) for name, test in self.tests.items()}
        sides = {"names": list(self.names), "found": list(self.found)}
        return {**sides, "k": self.k, "items": self.items, "tests": tests}

    def findings(self) -> list[str]:
        """What the tests say, in plain sentences."""
        if not self.tests:
            return []
        return [
            f"Targets found at some layer: {self.found[0]} in {self.names[0]}, {self.found[1]} in "
            f"{self.names[1]}, of {self.items} ({_p(self.tests['found'])}).",
            *(
                f"On {test.n} items, {what} moves by {test.effect:+.3f} ({test.interval.low:.3f} "
                f"to {test.interval.high:.3f}) {unit} ({_p(test)}, adjusted for "
                f"{len(_WORDING) + 1} tests)."
                for name, (what, unit) in _WORDING.items()
                if (test := self.tests.get(name))
            ),
        ]


def _p(test: Comparison) -> str:
    return "p < 0.001" if test.p_value < 0.001 else f"p = {test.p_value:.3f}"


_WORDING = {
    "first_layer": ("the first layer of targets found in both", "layers"),
    "rank_area": ("the area under the rank curve", "of 1"),
    "log_prob": ("the target's log-probability at the last layer", "nats"),
}


def compare_lenses(
    first: LensResult, second: LensResult, *, k: int = 10, seed: int = 0
) -> LensDifference:
    """Compare two readings of the same items; `LensResult.compare` calls it.

    Args:
        first: one reading.
        second: the other, from which the first is taken away.
        k: a target is found where it is among so many top tokens.
        seed: of the tests' random permutations.

    Raises:
        ValueError: they are of different items, or split these into different tokens.
    """
    require_kind(first, second)
    texts, ids = (
        [[ask(result, i) for i in range(len(result.items))] for result in (first, second)]
        for ask in (
            lambda result, i: (prompt_text(result, i), target_text(result, i)),
            lambda result, i: (result.items[i].prompt_ids, result.items[i].target_ids),
        )
    )
    if texts[0] != texts[1]:
        raise ValueError("the two readings are of different items; read the same ones in both")
    if ids[0] != ids[1]:
        raise ValueError(
            "the two readings split their items into different tokens, so ranks and probabilities "
            "are of different things; compare models with one tokenizer"
        )
    numbers = paired(_values(first), _values(second), "readings")
    one, other = first.localization(k), second.localization(k)
    found, both = found_in(one, other)
    counts = (int(found[0].sum()), int(found[1].sum()))
    tests = _tests(first, second, k, seed) if len(both) > 1 else {}
    names = series_labels([first, second])
    return LensDifference(first, second, (names[0], names[1]), numbers, k, counts, tests)


def _tests(first: LensResult, second: LensResult, k: int, seed: int) -> dict[str, Comparison]:
    one, other = first.localization(k), second.localization(k)
    found, both = found_in(one, other)
    pairs = {
        "rank_area": (one.rank_area, other.rank_area),
        "log_prob": (first.log_prob[-1], second.log_prob[-1]),
    }
    if both.sum() > 1 and first.layer_labels == second.layer_labels:
        pairs["first_layer"] = (one.first_layer[both], other.first_layer[both])
    generator = np.random.default_rng(seed)
    tests = {"found": mcnemar(found[1], found[0])}
    for name, (before, after) in pairs.items():
        sides = after.double().numpy(), before.double().numpy()
        tests[name] = paired_permutation(*sides, generator)
    return adjusted(tests)


def _values(result: LensResult) -> pd.DataFrame:
    """Every number at the readout position: `item`, `layer`, `measure`, `value`."""
    axes = [_MEASURES, result.layer_labels, range(len(result.items))]
    table = pd.MultiIndex.from_product(axes, names=["measure", "layer", "item"])
    values = [getattr(result, name).double().flatten().numpy() for name in _MEASURES]
    return table.to_frame(index=False).assign(value=np.concatenate(values))
