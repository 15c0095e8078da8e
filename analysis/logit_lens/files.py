"""Lens files: what a lens showed, as JSON, two tables and a page.

`lens.json` holds every item's numbers by layer, `lens.csv` one row per item, position and layer,
`items.csv` one row per item, and `lens.html` is the picture. Ranks count from 0, the top;
log-probabilities, entropies and divergences are in nats.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.logit_lens.result import LensResult
from analysis.logit_lens.tables import (
    DEFAULT_K,
    items_table,
    prompt_text,
    readouts_table,
    target_text,
)
from analysis.statistics.tests import Comparison, holm, mcnemar, paired_permutation
from probes.causal import CausalResult
from probes.cli import output_folder
from probes.json_text import finite_or_none, json_text
from probes.localization import NEVER, Localization, localize

if TYPE_CHECKING:
    from analysis.document import Report


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


JSON, READOUTS, ITEMS, PAGE = "lens.json", "lens.csv", "items.csv", "lens.html"
COMPARISON, CAUSAL, COMPARED = "comparison.json", "causal.csv", "compared"


def save_lens(result: LensResult, folder: str | Path, k: int = DEFAULT_K) -> Path:
    """Write `lens.json`, `lens.csv`, `items.csv` and `lens.html`."""
    from analysis.document import html
    from analysis.logit_lens.report import lens_report

    page = html(lens_report([result], k=k))
    folder = save_numbers(result, folder, k)
    (folder / PAGE).write_text(page, encoding="utf-8")
    return folder


def write_lens(
    out: Path, read: Sequence[tuple[LensResult, CausalResult | None]], *, k: int, seed: int
) -> "Report":
    """Write all files of a command at once: of one result, or of two that are compared."""
    from analysis.document import html
    from analysis.logit_lens.report import lens_report

    results, checks = [result for result, _ in read], [causal for _, causal in read]
    compared = None
    if len(results) == 2 and len(results[0].items) > 1:
        compared = compare_lenses(results[0], results[1], k=k, seed=seed)
    further = compared.findings() if compared else ()
    report = lens_report(results, k=k, causal=checks[0], findings=further)
    page = html(report)
    with output_folder(out) as folder:
        for (result, causal), inside in zip(read, (".", COMPARED), strict=False):
            save_numbers(result, folder / inside, k)
            if causal is not None:
                causal.to_dataframe().to_csv(folder / inside / CAUSAL, index=False)
        if compared is not None:
            text = json_text(finite_or_none(compared.to_dict()), COMPARISON, indent=2)
            (folder / COMPARISON).write_text(text + "\n", encoding="utf-8")
        (folder / PAGE).write_text(page, encoding="utf-8")
    return report


def save_numbers(result: LensResult, folder: str | Path, k: int = DEFAULT_K) -> Path:
    """Write `lens.json`, `lens.csv` and `items.csv`, without a page."""
    folder = Path(folder)
    content = lens_dict(result, k)
    folder.mkdir(parents=True, exist_ok=True)
    text = json_text(content, f"{folder / JSON}", indent=2)
    (folder / JSON).write_text(text + "\n", encoding="utf-8")
    readouts_table(result).to_csv(folder / READOUTS, index=False)
    items_table(result, k).to_csv(folder / ITEMS, index=False)
    return folder


def lens_dict(result: LensResult, k: int = DEFAULT_K) -> dict[str, Any]:
    """The content of `lens.json`; layers are places in its `layer_labels`, None for never."""
    found = result.localization(k)
    return {
        "model": result.provenance.model,
        "revision": result.provenance.revision,
        "lens": result.provenance.configuration["lens"],
        "span": str(result.span),
        "k": k,
        "layer_labels": list(result.layer_labels),
        "d_vocab": result.d_vocab,
        "items": [_item(result, index, found) for index in range(len(result.items))],
        **_histograms(found),
        "controls": {name: _control(result, name, k) for name in result.control_names},
        "units": "nats",
        "notes": list(result.notes),
        "provenance": asdict(result.provenance),
    }


def _item(result: LensResult, index: int, found: Localization) -> dict[str, Any]:
    return {
        "prompt": prompt_text(result, index),
        "target": target_text(result, index),
        "prompt_ids": list(result.items[index].prompt_ids),
        "target_ids": list(result.items[index].target_ids),
        "first": result.items[index].first,
        "split_apart": result.items[index].split_apart,
        "rank": result.rank[:, index].tolist(),
        "log_prob": finite_or_none(result.log_prob[:, index].tolist()),
        "entropy": finite_or_none(result.entropy[:, index].tolist()),
        "kl": finite_or_none(result.kl[:, index].tolist()),
        "first_layer": _layer(int(found.first_layer[index])),
        "settling_layer": _layer(int(found.settling_layer[index])),
        "rank_area": float(found.rank_area[index]),
    }


def _histograms(found: Localization) -> dict[str, Any]:
    return {
        "first_layer_histogram": found.first_histogram.tolist(),
        "settling_layer_histogram": found.settling_histogram.tolist(),
        "occurrence_histogram": found.occurrence_histogram.tolist(),
        "share_found": found.share_found,
        "share_settled": found.share_settled,
        "mean_first_layer": found.mean_first_layer,
        "effective_layers": found.effective_layers,
    }


def _control(result: LensResult, name: str, k: int) -> dict[str, Any]:
    rank = result.control_rank(name)
    return {"rank": rank.T.tolist(), **_histograms(localize(rank, k, result.d_vocab))}


def _layer(row: int) -> int | None:
    return None if row == NEVER else row
