"""The report of an edit sweep: what each edit does to entropies and losses, and what it costs.

Entropies and losses are in nats; a loss is per predicted token.
"""

from collections.abc import Iterator
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from analysis.document import (
    Cell,
    Code,
    Facts,
    Figure,
    Fold,
    Panel,
    Part,
    Report,
    Section,
    Settings,
    Table,
    Where,
)
from analysis.edit_sweep import report as figures
from analysis.edit_sweep.findings import MEASURES, PREDICTED, cell, edit_table, findings
from analysis.edit_sweep.measurements import AT_FACTOR, AT_RATIO, EditRow, EditSweep
from analysis.numbers import capital
from analysis.theme import REFERENCE_COLOUR, count, series_colour, template
from interventions.choices import ResuscitationSite

AXES = {
    "factor": "amplifying factor",
    "ratio": "resuscitation ratio",
    "temperature": "attention temperature",
}
"""What may vary along a series, and what its axis is called."""
LOSSES = {"held_out_loss": "held-out text", "loss": "the same text"}
LEAST_SPAN = 0.2
"""Nats that an axis of losses spans at least, so that rounding is not drawn as a mountain range."""
SYMBOLS = ("circle", "square-open", "diamond", "triangle-up-open", "x")
"""Of sites, which may lie on top of each other."""


def series(
    table: pd.DataFrame,
    site: str | None,
    varies: str,
    *,
    at_ratio: float = AT_RATIO,
    at_factor: float = AT_FACTOR,
) -> pd.DataFrame:
    """The rows of one series, in the order of what varies along it; refused edits left out."""
    rows = table[table["refused"].isna()]
    if varies == "temperature":
        rows = rows[rows["temperature"].notna()]
    else:
        rows = rows[rows["site"] == site]
        rows = rows[
            rows["ratio"] == at_ratio if varies == "factor" else rows["factor"] == at_factor
        ]
    return rows.sort_values(varies)


def trade_off(table: pd.DataFrame) -> go.Figure:
    """What edits do to knowledge entropy, against what they cost: a dot for every edit."""
    figure = _figure("change in knowledge entropy (nats)", "change in held-out loss (nats)", 420)
    made = table[table["refused"].isna()]
    kinds = made["site"].fillna("temperature")
    cost = made["held_out_loss_after"] - made["held_out_loss_before"]
    for index, (kind, rows) in enumerate(made.groupby(kinds, sort=False)):
        figure.add_scatter(
            x=rows["knowledge_entropy_after"] - rows["knowledge_entropy_before"],
            y=cost[rows.index],
            customdata=rows[["edit"]],
            mode="markers",
            marker={
                "color": series_colour(index),
                "size": 10,
                "symbol": SYMBOLS[index % len(SYMBOLS)],
                "line": {"color": series_colour(index), "width": 1.5},
            },
            name=str(kind),
            hovertemplate="%{customdata[0]}: knowledge entropy %{x:+.3f}, held-out loss "
            "<b>%{y:+.3f}</b> nats<extra></extra>",
        )
    unedited = {"color": REFERENCE_COLOUR, "width": 1, "dash": "dot"}
    figure.add_hline(y=0, line=unedited)
    figure.add_vline(x=0, line=unedited)
    _widen(figure, min(cost, default=0.0), max(cost, default=0.0))
    return figure


def entropy_changes(
    rows: pd.DataFrame,
    varies: str,
    measures: tuple[str, ...] = ("knowledge_entropy", "contribution_entropy"),
) -> go.Figure:
    """Change of entropies from the unedited model: dots as measured, open ones as predicted."""
    figure = _figure(AXES[varies], "change in entropy (nats)")
    for index, measure in enumerate(measures):
        before, colour = rows[f"{measure}_before"], series_colour(index)
        for when in ("after", "predicted"):
            values = rows.get(f"{measure}_{when}")
            if values is None or values.isna().all():
                continue
            measured = when == "after"
            name = MEASURES[measure]
            figure.add_scatter(
                x=rows[varies],
                y=values - before,
                customdata=pd.DataFrame({"edit": rows["edit"], "entropy": values}),
                mode="lines+markers",
                line={"color": colour, "width": 2 if measured else 1.2}
                | ({} if measured else {"dash": "dot"}),
                marker={
                    "color": colour,
                    "size": 7,
                    "symbol": "circle" if measured else "circle-open",
                },
                name=name if measured else f"{name}, predicted",
                showlegend=measured,
                hovertemplate="%{customdata[0]}: <b>%{y:+.4f}</b>, at %{customdata[1]:.4f} nats"
                "<extra></extra>",
            )
    figure.add_hline(y=0, line={"color": REFERENCE_COLOUR, "width": 1, "dash": "dot"})
    return figure


def losses(rows: pd.DataFrame, varies: str) -> go.Figure:
    """Loss on the measured text and on held-out text, with a line for the unedited model."""
    figure = _figure(AXES[varies], "loss (nats per token)")
    for index, (measure, name) in enumerate(LOSSES.items()):
        colour = series_colour(index)
        figure.add_scatter(
            x=rows[varies],
            y=rows[f"{measure}_after"],
            customdata=rows[["edit"]],
            mode="lines+markers",
            line={"color": colour, "width": 2},
            marker={"color": colour, "size": 7},
            name=name,
            hovertemplate="%{customdata[0]}: <b>%{y:.4f}</b> nats<extra></extra>",
        )
        figure.add_hline(
            y=rows[f"{measure}_before"].iloc[0], line={"color": colour, "width": 1, "dash": "dot"}
        )
    drawn = rows[[f"{measure}_{when}" for measure in LOSSES for when in ("before", "after")]]
    _widen(figure, drawn.min().min(), drawn.max().max())
    return figure


def _widen(figure: go.Figure, low: float, high: float) -> None:
    """Give the axis of losses its least span, around what is drawn."""
    if high - low < LEAST_SPAN:
        middle = (low + high) / 2
        figure.update_yaxes(range=[middle - LEAST_SPAN / 2, middle + LEAST_SPAN / 2])


def _figure(x_title: str, y_title: str, height: int = 340) -> go.Figure:
    return go.Figure(
        layout={
            "template": template(),
            "height": height,
            "hovermode": "closest",
            "xaxis": {"title": {"text": x_title}},
            "yaxis": {"title": {"text": y_title}},
        }
    )


_ENTROPIES = (
    "Entropies are in nats, summed over layers (next-token: a mean over positions); losses are in "
    "nats per token. Knowledge is the entropy of mean |c| over neurons, c being what a neuron's "
    "memory vector is multiplied by. Contribution is the same of mean |c| times the norm of the "
    "memory vector, which no rescaling of rows against memory vectors moves. What a number was "
    "before an edit stands in the row of the unedited model. Predicted is the closed form, in "
    "which the inputs of every layer stay as they were."
)
_RESUSCITATION = (
    "A resuscitation multiplies neurons of every layer: those whose mean |c| is at or below a "
    "quantile, the ratio. Each is multiplied by u, which is the factor times the layer's mean |c| "
    "over its own."
)
_SITES = {
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
_SERIES = (
    ("factor", f"by factor, at ratio {AT_RATIO:g}"),
    ("ratio", f"by ratio, at factor {AT_FACTOR:g}"),
)
_SCALED = ("knowledge_entropy", "contribution_entropy")
_WARMED = ("attention_entropy", "next_token_entropy", "knowledge_entropy")
"""Entropies that the figures of resuscitations and of temperatures show."""
_BRIEF = {
    "knowledge_entropy_predicted": "knowledge,\npredicted",
    "knowledge_entropy": "knowledge,\nmeasured",
    "contribution_entropy": "contri-\nbution",
    "attention_entropy": "\nattention",
    "held_out_perplexity": "held-out\nperplexity",
}
"""Columns that a terminal has room for; the others are in the files."""


def edit_report(sweep: EditSweep, command: str) -> Report:
    """What an edit sweep found."""
    origin, tidy = sweep.result.provenance, edit_table(sweep)
    sites = dict.fromkeys(row.setting.site for row in sweep.rows if row.setting.site is not None)
    provenance = _provenance(sweep)
    return Report(
        title=f"What edits do to {origin.model}",
        heading=("What edits do to ", origin.model),
        kicker="mnemoscope · edits",
        deck=f"{len(sweep.rows)} edits, each measured on {count(origin.tokens)} tokens of "
        f"{origin.corpus or 'text in memory'}, and on {count(sweep.held_out.tokens)} of held-out "
        "text.",
        findings=findings(sweep),
        command=command,
        provenance=provenance,
        definitions=[_ENTROPIES, _RESUSCITATION, *(f"{site}: {_SITES[site]}" for site in sites)],
        sections=[
            Section("What edits do, and what they cost", [_trade_off(tidy), _whole_table(sweep)]),
            *(_site_section(sweep, tidy, site) for site in sites),
            *_temperature_section(sweep, tidy),
            Section(
                "Provenance",
                [
                    Code(command),
                    Facts(provenance),
                    Fold("All settings and hashes", [Settings(origin.__dict__)]),
                ],
            ),
        ],
    )


def _provenance(sweep: EditSweep) -> dict[str, str]:
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


def _trade_off(tidy: pd.DataFrame) -> Figure:
    return Figure(
        title="What edits do, and what they cost.",
        caption="Every mark is an edit: to the right, knowledge entropy rises; upwards, held-out "
        "text is predicted worse. On the dotted line across, the model predicts as well as it did.",
        panels=[Panel(figures.trade_off(tidy))],
    )


def _whole_table(sweep: EditSweep) -> Table:
    """Every edit in a row, predicted and measured, for the document and the terminal."""
    columns: list[tuple[str, str, bool]] = []
    for name, called in MEASURES.items():
        if name in PREDICTED:
            columns.append((f"{name}_predicted", f"{called}, predicted", True))
        columns.append((name, f"{called}, after", False))
    rows = [
        (
            row.setting.label if row.refused is None else f"{row.setting.label} (refused)",
            "" if row.neurons is None else count(row.neurons),
            *(_number(row, name, predicted) for name, _, predicted in columns),
        )
        for row in (sweep.unedited, *sweep.rows)
    ]
    return Table.of_rows(
        "Entropies and losses after each edit, in nats",
        ("edit", "neurons scaled", *(heading for _, heading, _ in columns)),
        rows,
        brief=("\nedit", None, *(_BRIEF.get(name) for name, _, _ in columns)),
        groups=tuple(str(row.setting.site) for row in (sweep.unedited, *sweep.rows)),
        where=Where.DOCUMENT | Where.TERMINAL,
    )


def _number(row: EditRow, name: str, predicted: bool) -> str:
    measure = name.removesuffix("_predicted")
    return cell(measure, (row.predicted if predicted else row.after).get(measure))


def _site_section(sweep: EditSweep, tidy: pd.DataFrame, site: ResuscitationSite) -> Section:
    edits = [row for row in sweep.rows if row.setting.site is site]
    drawn = [
        _series_figure(f"Resuscitation at site {site}, {heading}.", rows, varies, _SCALED)
        for varies, heading in _SERIES
        if not (rows := figures.series(tidy, site, varies)).empty
    ]
    parts: list[Part] = [capital(_SITES[site]), _numbers(sweep, edits, f"Site {site}"), *drawn]
    return Section(f"Resuscitation at site {site}", parts)


def _temperature_section(sweep: EditSweep, tidy: pd.DataFrame) -> Iterator[Section]:
    edits = [row for row in sweep.rows if row.setting.temperature is not None]
    if not edits:
        return
    rows = figures.series(tidy, None, "temperature")
    title = "Attention temperature"
    drawn = [] if rows.empty else [_series_figure(f"{title}.", rows, "temperature", _WARMED)]
    said = (
        "Attention scores of all layers are divided by the temperature, so that attention spreads "
        "more evenly over tokens."
    )
    yield Section(title, [said, _numbers(sweep, edits, title), *drawn])


def _numbers(sweep: EditSweep, edits: list[EditRow], caption: str) -> Table:
    """The unedited model, then every edit; what is predicted stands below what was measured."""
    scaled = any(row.neurons is not None for row in edits)
    return Table.of_rows(
        f"{caption}: entropies and losses after the edit, in nats",
        ("", *(["neurons"] if scaled else []), *MEASURES.values()),
        [
            (
                _name(row),
                *(["" if row.neurons is None else count(row.neurons)] if scaled else []),
                *(_measured(row, name) for name in MEASURES),
            )
            for row in (sweep.unedited, *edits)
        ],
        where=Where.PAGE,
        is_open=True,
    )


def _measured(row: EditRow, name: str) -> Cell:
    note = f"predicted {cell(name, row.predicted[name])}" if name in row.predicted else ""
    return Cell(cell(name, row.after.get(name)), note)


def _name(row: EditRow) -> Cell:
    """What tells a row from the others of its table."""
    label = row.setting.label.removeprefix(f"{row.setting.site}, ")
    first, _, second = label.partition(", ")
    return Cell(first, ", ".join(filter(None, (second, "refused" if row.refused else ""))))


def _series_figure(title: str, rows: pd.DataFrame, varies: str, measures: Any) -> Figure:
    caption = "Dotted lines without dots are the unedited model."
    if rows["knowledge_entropy_predicted"].notna().any():
        caption = f"Full dots are measured, open ones predicted. {caption}"
    return Figure(
        title=title,
        caption=caption,
        panels=[
            Panel(figures.entropy_changes(rows, varies, measures), "entropies"),
            Panel(figures.losses(rows, varies), "loss"),
        ],
    )
