"""The report of an edit sweep: what each edit does to entropies and losses, and what it costs.

Entropies and losses are in nats; a loss is per
predicted token.
"""

from collections.abc import Iterator, Sequence

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
from analysis.edit_findings import cell, findings, moved
from analysis.edit_measures import (
    AT_FACTOR,
    AT_RATIO,
    MEASURES,
    PREDICTED,
    EditRow,
    EditSweep,
)
from analysis.figures import dots, lines, mark
from analysis.numbers import capital, count
from analysis.theme import SERIES_COLOURS
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
    "computes what it did. Weights edited so are trained, under Adam, with a learning rate of its "
    "own for each row, up to epsilon, clipping, weight decay and rounding.",
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
_WARMED = ("attention_entropy", "next_token_entropy", "knowledge_entropy")
"""Entropies that the figures of temperatures show."""
_BRIEF = {
    ("knowledge_entropy", "predicted"): "knowledge,\npredicted",
    ("knowledge_entropy", "after"): "knowledge,\nmeasured",
    ("contribution_entropy", "after"): "contri-\nbution",
    ("attention_entropy", "after"): "\nattention",
    ("held_out_perplexity", "after"): "held-out\nperplexity",
}
"""Columns that a terminal has room for; the others are in the files."""


def edit_report(sweep: EditSweep, command: str) -> Report:
    """What an edit sweep found."""
    origin, tidy = sweep.result.provenance, sweep.table
    sites = dict.fromkeys(row.setting.site for row in sweep.rows if row.setting.site is not None)
    provenance = _provenance(sweep)
    overview = Figure(
        title="What edits do, and what they cost.",
        caption="Every mark is an edit: to the right, knowledge entropy rises; upwards, held-out "
        "text is predicted worse. On the dotted line across, the model predicts as well as it did.",
        panels=[Panel(trade_off(tidy))],
    )
    settings = Fold("All settings and hashes", [Settings(origin.__dict__)])
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
            Section("What edits do, and what they cost", [overview, _whole_table(sweep)]),
            *(_site_section(sweep, tidy, site) for site in sites),
            *_temperature_section(sweep, tidy),
            *_own_section(sweep),
            Section("Provenance", [Code(command), Facts(provenance), settings]),
        ],
    )


def _provenance(sweep: EditSweep) -> dict[str, str]:
    """Model, texts and versions behind the numbers, in words."""
    origin, held_out = sweep.result.provenance, sweep.held_out
    settings = origin.configuration
    revision = f", revision {origin.revision}" if origin.revision else ""
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


def _whole_table(sweep: EditSweep) -> Table:
    """Every edit in a row, predicted and measured, for the document and the terminal."""
    columns: list[tuple[str, str, str]] = []
    for name, called in MEASURES.items():
        if name in PREDICTED:
            columns.append((name, "predicted", f"{called}, predicted"))
        columns.append((name, "after", f"{called}, after"))
    edits = (sweep.unedited, *sweep.rows)
    rows = [
        (
            row.setting.label if row.refused is None else f"{row.setting.label} (refused)",
            "" if row.neurons is None else count(row.neurons),
            *(cell(name, getattr(row, when).get(name)) for name, when, _ in columns),
        )
        for row in edits
    ]
    return Table.of_rows(
        "Entropies and losses after each edit, in nats",
        ("edit", "neurons scaled", *(heading for *_, heading in columns)),
        rows,
        brief=("\nedit", None, *(_BRIEF.get((name, when)) for name, when, _ in columns)),
        groups=tuple(str(row.setting.site) for row in edits),
        where=Where.DOCUMENT | Where.TERMINAL,
    )


def _site_section(sweep: EditSweep, tidy: pd.DataFrame, site: ResuscitationSite) -> Section:
    edits = [row for row in sweep.rows if row.setting.site is site]
    drawn = [
        _series_figure(f"Resuscitation at site {site}, {heading}.", rows, varies, PREDICTED)
        for varies, heading in _SERIES
        if not (rows := series(tidy, site, varies)).empty
    ]
    parts: list[Part] = [capital(_SITES[site]), _numbers(sweep, edits, f"Site {site}"), *drawn]
    return Section(f"Resuscitation at site {site}", parts)


def _temperature_section(sweep: EditSweep, tidy: pd.DataFrame) -> Iterator[Section]:
    edits = [row for row in sweep.rows if row.setting.temperature is not None]
    if not edits:
        return
    rows = series(tidy, None, "temperature")
    title = "Attention temperature"
    drawn = [] if rows.empty else [_series_figure(f"{title}.", rows, "temperature", _WARMED)]
    said = (
        "Attention scores of all layers are divided by the temperature, so that attention spreads "
        "more evenly over tokens."
    )
    yield Section(title, [said, _numbers(sweep, edits, title), *drawn])


def _own_section(sweep: EditSweep) -> Iterator[Section]:
    if edits := [row for row in sweep.rows if row.setting.own is not None]:
        title = "Edits of your own"
        yield Section(title, [_numbers(sweep, edits, title)])


def _numbers(sweep: EditSweep, edits: list[EditRow], caption: str) -> Table:
    """The unedited model, then every edit; what is predicted stands below what was measured."""
    rows: list[tuple[str | Cell, ...]] = []
    for row in (sweep.unedited, *edits):
        name = row.setting.label.removeprefix(f"{row.setting.site}, ")
        first, _, second = name.partition(", ")
        notes = {n: f"predicted {cell(n, value)}" for n, value in row.predicted.items()}
        rows.append(
            (
                Cell(first, ", ".join(filter(None, (second, "refused" if row.refused else "")))),
                "" if row.neurons is None else count(row.neurons),
                *(Cell(cell(n, row.after.get(n)), notes.get(n, "")) for n in MEASURES),
            )
        )
    return Table.of_rows(
        f"{caption}: entropies and losses after the edit, in nats",
        ("", "neurons", *MEASURES.values()),
        rows,
        where=Where.PAGE,
        is_open=True,
    ).without_empty()


def _series_figure(title: str, rows: pd.DataFrame, varies: str, measures: Sequence[str]) -> Figure:
    caption = "Dotted lines without dots are the unedited model."
    if rows["knowledge_entropy_predicted"].notna().any():
        caption = f"Full dots are measured, open ones predicted. {caption}"
    drawn = [
        Panel(entropy_changes(rows, varies, measures), "entropies"),
        Panel(losses(rows, varies), "loss"),
    ]
    return Figure(title, caption, drawn)


def series(table: pd.DataFrame, site: str | None, varies: str) -> pd.DataFrame:
    """The rows of one series, in the order of what varies along it; refused edits left out."""
    rows = table[table["refused"].isna() & table[varies].notna()]
    if varies != "temperature":
        held, at = ("ratio", AT_RATIO) if varies == "factor" else ("factor", AT_FACTOR)
        rows = rows[(rows["site"] == site) & (rows[held] == at)]
    return rows.sort_values(varies)


def trade_off(table: pd.DataFrame) -> go.Figure:
    """What edits do to knowledge entropy, against what they cost: a dot for every edit."""
    made = table[table["refused"].isna()]
    changes = {n: moved(made, n) for n in ("knowledge_entropy", "held_out_loss")}
    others = made["temperature"].notna().map({True: "temperature", False: "own"})
    kinds = made["site"].astype(object).fillna(others).astype(str)
    figure = dots(
        # Dots of sites may lie on top of each other, so sites differ in their marks as well.
        made.assign(kind=kinds, **changes),
        "knowledge_entropy",
        "held_out_loss",
        by=("kind", "kind"),
        hover="{edit}: knowledge entropy {knowledge_entropy:+.3f}, held-out loss "
        "<b>{held_out_loss:+.3f}</b> nats",
        titles=("change in knowledge entropy (nats)", "change in held-out loss (nats)"),
        height=420,
        size=10,
    )
    mark(mark(figure, y=0), x=0)
    cost = changes["held_out_loss"]
    return _widened(figure, min(cost, default=0.0), max(cost, default=0.0))


def entropy_changes(
    rows: pd.DataFrame, varies: str, measures: Sequence[str] = PREDICTED
) -> go.Figure:
    """Change of entropies from the unedited model: dots as measured, open ones as predicted."""
    drawn = []
    for name in measures:
        for when, kind in (("after", ""), ("predicted", "predicted")):
            if f"{name}_{when}" in rows:
                values, before = rows[f"{name}_{when}"], rows[f"{name}_before"]
                one = {"entropy": values, "change": values - before, "kind": kind}
                drawn.append(rows[["edit", varies]].assign(measure=MEASURES[name], **one))
    table = pd.concat(drawn).dropna(subset="entropy")
    figure = lines(
        table,
        varies,
        "change",
        by=("measure", "kind"),
        mode="lines+markers",
        hover="{edit}: <b>{change:+.4f}</b>, at {entropy:.4f} nats",
        titles=(AXES[varies], "change in entropy (nats)"),
        size=7,
    )
    # Open dots are explained in the caption; beside two panels a legend has little room.
    figure.for_each_trace(lambda one: one.update(showlegend="predicted" not in one.name))
    return mark(figure, y=0)


def losses(rows: pd.DataFrame, varies: str) -> go.Figure:
    """Loss on the measured text and on held-out text, with a line for the unedited model."""
    named = {f"{name}_after": what for name, what in LOSSES.items()}
    figure = lines(
        rows.melt(["edit", varies], list(named), "text", "loss").replace({"text": named}),
        varies,
        "loss",
        by="text",
        mode="lines+markers",
        hover="{edit}: <b>{loss:.4f}</b> nats",
        titles=(AXES[varies], "loss (nats per token)"),
        size=7,
    )
    for name, colour in zip(LOSSES, SERIES_COLOURS, strict=False):
        mark(figure, y=rows[f"{name}_before"].iloc[0], color=colour)
    drawn = rows[[f"{name}_{when}" for name in LOSSES for when in ("before", "after")]]
    return _widened(figure, drawn.min().min(), drawn.max().max())


def _widened(figure: go.Figure, low: float, high: float) -> go.Figure:
    """Give the axis of losses its least span, around what is drawn."""
    if high - low < LEAST_SPAN:
        middle = (low + high) / 2
        figure.update_yaxes(range=[middle - LEAST_SPAN / 2, middle + LEAST_SPAN / 2])
    return figure
