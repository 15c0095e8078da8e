"""Tables of an edit sweep: one row per edit; for programs, for documents and for people.

Entropies and losses in nats; a loss is per predicted token.

Example:
    >>> edit_table(sweep).columns.tolist()[:5]                              # doctest: +SKIP
    ['edit', 'site', 'ratio', 'factor', 'temperature']
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pandas as pd

from analysis.edit_sweep.measurements import EditRow, EditSweep, Totals
from analysis.theme import count, nats
from interventions.choices import ResuscitationSite

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
HOW_TO_READ = (
    "Entropies are in nats, summed over layers (next-token: a mean over positions); losses are in "
    "nats per token. Knowledge is the entropy of mean |c| over neurons, c being what a neuron's "
    "memory vector is multiplied by. Contribution is the same of mean |c| times the norm of the "
    "memory vector, which no rescaling of rows against memory vectors moves. What a number was "
    "before an edit stands in the row of the unedited model. Predicted is the closed form, in "
    "which the inputs of every layer stay as they were."
)
RESUSCITATION = (
    "A resuscitation multiplies neurons of every layer: those whose mean |c| is at or below a "
    "quantile, the ratio. Each is multiplied by u, which is the factor times the layer's mean |c| "
    "over its own."
)
WHAT_SITES_DO = {
    ResuscitationSite.UP: "rows of the linear half of the MLP times u, the paper's edit; the "
    "coefficients become u times as large, and so does what these neurons write.",
    ResuscitationSite.DOWN: "memory vectors times u; coefficients change only in later layers, "
    "through what these neurons write.",
    ResuscitationSite.PRESERVING: "up rows times u and memory vectors divided by u; the model "
    "computes what it did. In training under Adam this is a learning rate of its own for each row, "
    "up to epsilon, clipping, weight decay and rounding.",
    ResuscitationSite.GATE: "rows of the gate times u, before its nonlinearity; nothing predicts "
    "what becomes of the coefficients.",
    ResuscitationSite.UP_PREACTIVATION: "up rows of an MLP without a gate times u, before its "
    "nonlinearity; another edit than the paper's, and nothing predicts what becomes of the "
    "coefficients.",
}
"""What is multiplied at each site; u is a neuron's multiplier."""
PREDICTED = ("knowledge_entropy", "contribution_entropy")

HEADER = (
    "edit",
    "neurons scaled",
    *("knowledge, predicted", "knowledge, after"),
    *("contribution, predicted", "contribution, after"),
    *(f"{MEASURES[name]}, after" for name in list(MEASURES)[2:]),
)


def edit_table(sweep: EditSweep) -> pd.DataFrame:
    """Everything, one row per edit.

    Returns:
        Columns `edit`, `site`, `ratio`, `factor`, `temperature`, `neurons`; for every
        measure `<measure>_before`, `<measure>_after` and, where there is a closed form,
        `<measure>_predicted`; and `refused`, why the edit could not be made.
    """
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


def text_rows(sweep: EditSweep) -> list[list[str]]:
    """The rows of a table for people, under `HEADER`: the unedited model first."""
    return [list(_cells(row)) for row in (sweep.unedited, *sweep.rows)]


def _cells(row: EditRow) -> Iterator[str]:
    yield row.setting.label if row.refused is None else f"{row.setting.label} (refused)"
    yield "" if row.neurons is None else count(row.neurons)
    for name in MEASURES:
        if name in PREDICTED:
            yield cell(name, row.predicted.get(name))
        yield cell(name, row.after.get(name))


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


def texts_and_versions(sweep: EditSweep) -> dict[str, str]:
    """Model, texts and versions behind the numbers, in words."""
    origin, held_out = sweep.result.provenance, sweep.held_out
    revision = f", revision {origin.revision}" if origin.revision else ""
    settings = origin.configuration
    return {
        "model": f"{origin.model}{revision}, weights {origin.weights_sha256[:12]}, {origin.dtype} "
        f"on {origin.device}",
        "measured on": f"{count(origin.tokens)} tokens of {count(origin.documents)} documents of "
        f"{origin.corpus}, in {count(origin.rows)} rows ({settings['layout']}, sequence length "
        f"{settings['sequence_length']}; text {(origin.corpus_sha256 or '')[:12]})",
        "held out": f"{count(held_out.tokens)} tokens of {count(held_out.documents)} documents of "
        f"{held_out.corpus} (text {held_out.sha256[:12]})",
        "versions": ", ".join(f"{name} {found}" for name, found in origin.versions.items()),
    }


def markdown(sweep: EditSweep, command: str, findings: Sequence[str]) -> str:
    """A Markdown document: what was found, the table, and where the numbers are from.

    Args:
        sweep: the measurements.
        command: that made them.
        findings: sentences.
    """
    sites = dict.fromkeys(row.setting.site for row in sweep.rows if row.setting.site)
    lines = [
        f"# What edits do to {sweep.result.provenance.model}",
        "",
        f"    {command}",
        "",
        *(f"- {name}: {words}" for name, words in texts_and_versions(sweep).items()),
        "",
        "What was found:",
        "",
        *(f"- {sentence}" for sentence in findings),
        "",
        f"{HOW_TO_READ} {RESUSCITATION}",
        "",
        *(f"- `{site}`: {WHAT_SITES_DO[site]}" for site in sites),
        "",
        _line(HEADER),
        _line([":--", *["--:"] * (len(HEADER) - 1)]),
        *(_line(row) for row in text_rows(sweep)),
    ]
    return "\n".join(lines) + "\n"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |"
