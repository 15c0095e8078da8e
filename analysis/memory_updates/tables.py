"""Tables of memory updates: correlations by checkpoint and layer, and what they come to in words.

Example:
    >>> layers = [{"layer": 0, "gradients": 0.75, "updates": 0.25}]
    >>> table = update_table([{"checkpoint": "step8", "step": 8, "layers": layers}])
    >>> table.to_dict("records")
    [{'checkpoint': 'step8', 'step': 8, 'layer': 0, 'gradients': 0.75, 'updates': 0.25}]
    >>> summary_table(table).rows
    (('step8', '+0.750 [+0.750, +0.750]', '+0.250 [+0.250, +0.250]'),)
"""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from analysis.report_texts import MINUS
from analysis.text_tables import TextTable

DATA, CSV, PAGE = "updates.json", "updates.csv", "updates.html"
MEASURES = {"gradients": "gradients", "updates": "updates under Adam"}
"""What is correlated with mean coefficients, and what a reader calls it."""
HOW_TO_READ = (
    "Spearman's correlation over the memory vectors of a layer: of the norm of what each would be "
    "changed by with its mean |c|, c being what it is multiplied by, over the same tokens. "
    "Gradients are of the mean loss; updates are what Adam would do after all batches, with the "
    "weights held still."
)
_COLUMNS = ("checkpoint", "step", "layer", *MEASURES)


def update_table(checkpoints: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """A row for each checkpoint and layer.

    Args:
        checkpoints: as `updates.json` has them.

    Returns:
        Columns `checkpoint`, `step` (missing where it has none), `layer`, `gradients`, `updates`.
    """
    rows = [
        (one["checkpoint"], one["step"], layer["layer"], *(layer[name] for name in MEASURES))
        for one in checkpoints
        for layer in one["layers"]
    ]
    table = pd.DataFrame(rows, columns=list(_COLUMNS))
    return table.astype({"step": "Int64", **dict.fromkeys(MEASURES, float)})


def summary_table(table: pd.DataFrame) -> TextTable:
    """A row for each checkpoint: means over layers, with the least and the most."""
    rows = [
        (str(name), *(_over_layers(found[measure]) for measure in MEASURES))
        for name, found in table.groupby("checkpoint", sort=False)
    ]
    note = f"{HOW_TO_READ} Means over layers, with the least and the most of them."
    header = ("checkpoint", *MEASURES.values())
    return TextTable("Rank correlation with mean coefficients", note, header, tuple(rows))


def findings(table: pd.DataFrame) -> list[str]:
    """What the correlations say of the last checkpoint, in plain sentences."""
    last = table[table["checkpoint"] == table["checkpoint"].iloc[-1]]
    name, layers = last["checkpoint"].iloc[0], len(last)
    found = [
        f"At {name}, {what} are larger for memory vectors with larger coefficients in "
        f"{int((last[measure] > 0).sum())} of {layers} layers; the mean rank correlation is "
        f"{correlation_text(last[measure].mean())}."
        for measure, what in MEASURES.items()
    ]
    closer = int((last["updates"] < last["gradients"]).sum())
    return [*found, f"In {closer} of {layers} layers updates follow coefficients less closely."]


def correlation_text(value: float) -> str:
    """A correlation with its sign; empty where there is none."""
    return "" if pd.isna(value) else f"{value:+.3f}".replace("-", MINUS)


def _over_layers(values: "pd.Series[float]") -> str:
    ends = ", ".join(map(correlation_text, (values.min(), values.max())))
    return f"{correlation_text(values.mean())} [{ends}]" if values.notna().any() else ""
