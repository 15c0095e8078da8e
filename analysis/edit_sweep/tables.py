"""The numbers of an edit sweep as a tidy table, one row per edit; entropies and losses in nats."""

from typing import Any

import pandas as pd

from analysis.edit_sweep.measurements import EditRow, EditSweep, Totals
from analysis.theme import count, nats

MEASURES = {
    "knowledge_entropy": "knowledge",
    "contribution_entropy": "contribution",
    "attention_entropy": "attention",
    "next_token_entropy": "next-token",
    "loss": "loss",
    "held_out_loss": "held-out loss",
    "held_out_perplexity": "held-out perplexity",
}
"""What is measured, and what a column of it is called."""
PREDICTED = ("knowledge_entropy", "contribution_entropy")


def edit_table(sweep: EditSweep) -> pd.DataFrame:
    """Everything, one row per edit."""
    return pd.DataFrame(edit_records(sweep))


def edit_records(sweep: EditSweep) -> list[dict[str, Any]]:
    """The rows of `edit_table` as plain values."""
    return [_tidy(row, sweep.before) for row in sweep.rows]


def _tidy(row: EditRow, before: Totals) -> dict[str, Any]:
    setting = row.setting
    found: dict[str, Any] = {
        "edit": setting.label,
        "site": setting.site and str(setting.site),
        "ratio": setting.ratio,
        "factor": setting.factor,
        "temperature": setting.temperature,
        "neurons": row.neurons,
    }
    for name in MEASURES:
        found[f"{name}_before"] = before.get(name)
        if name in PREDICTED:
            found[f"{name}_predicted"] = row.predicted.get(name)
        found[f"{name}_after"] = row.after.get(name)
    return found | {"refused": row.refused}


def cell(measure: str, value: float | None) -> str:
    """A number as a table shows it; empty where there is none."""
    if value is None:
        return ""
    return perplexity(value) if measure == "held_out_perplexity" else nats(value, 3)


def perplexity(value: float) -> str:
    """A perplexity, in as many digits as it needs."""
    if value >= 1e9:
        return f"{value:.2g}"
    return count(value) if value >= 1000 else nats(value, 1)
