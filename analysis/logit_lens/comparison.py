"""Lens comparison: where two models, read on the same items, differ in depth.

Items are paired: a difference is the second model's number less the first's, item by item, with a
bootstrap interval over items and a paired permutation test. Whether targets are found at all is
compared with McNemar's test. p-values are adjusted together (Holm).

Source: REMIX paper, section 5, compares histograms by eye; Miller, arXiv 2411.00640, for pairing.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from analysis.logit_lens.result import LensResult
from analysis.statistics.results import Comparison
from analysis.statistics.tests import holm, mcnemar, paired_permutation
from probes.localization import NEVER


@dataclass(frozen=True)
class PairedLenses:
    """How two readings of the same items differ.

    Attributes:
        names: the two models.
        k: a target is found where it is among so many top tokens.
        found: how many items each model finds at some layer.
        items: how many there are.
        tests: by what was compared, effect (second less first), interval, p-value and number of
            items; p-values are Holm's.
    """

    names: tuple[str, str]
    k: int
    found: tuple[int, int]
    items: int
    tests: dict[str, Comparison]

    def to_dict(self) -> dict[str, Any]:
        """The content of `comparison.json`."""
        return asdict(self)

    def findings(self) -> list[str]:
        """What the tests say, in plain sentences."""
        first, second = self.names
        start = (
            f"Targets found at some layer: {self.found[0]} in {first}, {self.found[1]} in "
            f"{second}, of {self.items} ({_p_value(self.tests['found'])})."
        )
        return [
            start,
            *(_sentence(name, self.tests[name]) for name in _WORDING if name in self.tests),
        ]


_WORDING = {
    "first_layer": ("the first layer of targets found in both", "layers"),
    "rank_area": ("the area under the rank curve", "of 1"),
    "log_prob": ("the target's log-probability at the last layer", "nats"),
}


def compare_lenses(first: LensResult, second: LensResult, *, k: int, seed: int) -> PairedLenses:
    """Compare two readings of the same items."""
    texts = [[(i.prompt, i.target) for i in result.items] for result in (first, second)]
    if texts[0] != texts[1]:
        raise ValueError("the two readings are of different items; read the same ones in both")
    one, other = first.localization(k), second.localization(k)
    found = [(layers != NEVER).numpy() for layers in (one.first_layer, other.first_layer)]
    both = found[0] & found[1]
    pairs = {
        "rank_area": (one.rank_area, other.rank_area),
        "log_prob": (first.log_prob[-1], second.log_prob[-1]),
    }
    if both.sum() > 1:
        pairs["first_layer"] = (one.first_layer[both], other.first_layer[both])
    generator = np.random.default_rng(seed)
    tests = {
        name: paired_permutation(after.double().numpy(), before.double().numpy(), generator)
        for name, (before, after) in pairs.items()
    }
    return PairedLenses(
        names=(first.provenance.model, second.provenance.model),
        k=k,
        found=(int(found[0].sum()), int(found[1].sum())),
        items=len(both),
        tests=_adjusted({"found": mcnemar(found[1], found[0]), **tests}),
    )


def _adjusted(tests: dict[str, Comparison]) -> dict[str, Comparison]:
    """The same with p-values that hold for all of them together."""
    adjusted = holm([test.p_value for test in tests.values()])
    return {
        name: replace(test, p_value=p)
        for (name, test), p in zip(tests.items(), adjusted, strict=True)
    }


def _sentence(name: str, test: Comparison) -> str:
    what, unit = _WORDING[name]
    spread = f" ({test.interval.low:.3f} to {test.interval.high:.3f})"
    return (
        f"On {test.n} items, {what} moves by {test.effect:+.3f}{spread} {unit} "
        f"({_p_value(test)}, adjusted for {len(_WORDING) + 1} tests)."
    )


def _p_value(test: Comparison) -> str:
    return "p < 0.001" if test.p_value < 0.001 else f"p = {test.p_value:.3f}"
