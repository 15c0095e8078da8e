"""The report of a trajectory: entropies over pretraining, per corpus, variant and layer."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from analysis.document import Cell, Figure, Fold, Panel, Report, Section, Table, Where
from analysis.entropy import trajectory_report as figures
from analysis.entropy.trajectory import Measured
from analysis.entropy.trajectory_tables import (
    Total,
    knowledge_measures,
    totals_by_corpus,
    trajectory_table,
)
from analysis.numbers import course
from analysis.theme import DEPTH_SCALE, count, label, nats, series_colour, template


def totals_over_training(table: pd.DataFrame, measure: str) -> go.Figure:
    """One total at every checkpoint, a line per corpus, with its interval."""
    rows = table[(table["measure"] == measure) & table["layer"].isna()]
    figure = _figure(table, "entropy (nats)")
    for index, (corpus, line) in enumerate(rows.groupby("corpus", sort=False, dropna=False)):
        known = line["low"].notna().all()
        colour = series_colour(index)
        figure.add_scatter(
            x=_places(table, line),
            y=line["estimate"],
            error_y={
                "type": "data",
                "symmetric": False,
                "array": line["high"] - line["estimate"],
                "arrayminus": line["estimate"] - line["low"],
                "thickness": 1,
                "width": 3,
            }
            if known
            else None,
            customdata=line[["checkpoint"]],
            mode="lines+markers",
            line={"color": colour, "width": 2},
            marker={"color": colour, "size": 6},
            name=label(str(corpus)),
            hovertemplate="%{customdata[0]}: <b>%{y:.3f}</b> nats",
        )
    return figure


def layers_over_training(table: pd.DataFrame, measure: str, corpus: str | None) -> go.Figure:
    """Entropy of every layer, less its value at the first checkpoint; a line per layer."""
    rows = table[(table["measure"] == measure) & table["layer"].notna()]
    rows = rows[rows["corpus"] == corpus] if corpus is not None else rows
    depth = max(int(rows["layer"].max()), 1)
    figure = _figure(table, "change since the first checkpoint (nats)")
    for layer, line in rows.groupby("layer"):
        colour = sample_colorscale([list(stop) for stop in DEPTH_SCALE], [layer / depth])[0]
        figure.add_scatter(
            x=_places(table, line),
            y=line["entropy"] - line["entropy"].iloc[0],
            customdata=line[["checkpoint", "entropy"]],
            mode="lines",
            line={"color": colour, "width": 1.4},
            name=f"layer {layer}",
            showlegend=False,
            meta={"layer": int(layer)},
            hovertemplate=f"layer {layer}, %{{customdata[0]}}: %{{y:+.4f}}, "
            "at %{customdata[1]:.4f} nats",
        )
    _add_depth_bar(figure, depth)
    return figure


def _figure(table: pd.DataFrame, y_title: str) -> go.Figure:
    axis: dict[str, object] = {"title": {"text": "pretraining step"}}
    if table["step"].isna().any():
        names = table["checkpoint"].unique()
        axis = {
            "title": {"text": "checkpoint"},
            "tickvals": list(range(len(names))),
            "ticktext": [label(name) for name in names],
        }
    return go.Figure(
        layout={
            "template": template(),
            "height": 380,
            "hovermode": "closest",
            "xaxis": axis,
            "yaxis": {"title": {"text": y_title}},
        }
    )


def _places(table: pd.DataFrame, line: pd.DataFrame) -> list[int]:
    if table["step"].notna().all():
        return [int(step) for step in line["step"]]
    order = {name: place for place, name in enumerate(table["checkpoint"].unique())}
    return [order[name] for name in line["checkpoint"]]


def _add_depth_bar(figure: go.Figure, depth: int) -> None:
    figure.add_scatter(
        x=[None],
        y=[None],
        mode="markers",
        showlegend=False,
        hoverinfo="skip",
        marker={
            "color": [0],
            "cmin": 0,
            "cmax": depth,
            "colorscale": [list(stop) for stop in DEPTH_SCALE],
            "colorbar": {"title": {"text": "layer", "side": "top"}, "thickness": 12, "len": 0.9},
        },
    )


def trajectory_report(measured: Sequence[Measured]) -> Report:
    """How entropies move from checkpoint to checkpoint."""
    tidy = trajectory_table(measured)
    first, name = measured[0].results[0].provenance, run_name(measured)
    several = len(measured) > 1
    return Report(
        title=f"The entropies of {name} over training",
        heading=("How the entropies of ", name, " change over training"),
        kicker="mnemoscope \u00b7 entropy over training",
        deck=f"{len(measured)} checkpoints, {count(first.tokens)} tokens of each corpus.",
        findings=trajectory_findings(tidy) if several else (),
        sections=[
            Section("The numbers", [*_totals(tidy, _cell, Where.PAGE), *_totals(tidy, _brief)]),
            *(_sections(tidy) if several else ()),
            Section("Provenance", list(_provenance(measured))),
        ],
    )


def trajectory_findings(tidy: pd.DataFrame) -> list[str]:
    """How totals moved from the first checkpoint to the last, in plain sentences."""
    found = []
    told = {*knowledge_measures(tidy)[:1], *map(str, Total)}
    totals = tidy[tidy["layer"].isna() & tidy["measure"].isin(told)]
    for (measure, corpus), line in totals.groupby(["measure", "corpus"], sort=False, dropna=False):
        first, last = line.iloc[0], line.iloc[-1]
        name = f"{measure} entropy" if measure in set(Total) else f"Knowledge entropy by {measure}"
        places = [f"at {name}" for name in line["checkpoint"]]
        moved = course(line["estimate"].tolist(), places, lambda value: f"{nats(value)} nats")
        found.append(f"{name[0].upper()}{name[1:]} over {corpus} {moved}{_overlap(first, last)}.")
    return found


def _overlap(first: pd.Series, last: pd.Series) -> str:
    if pd.isna(first["low"]) or pd.isna(last["low"]):
        return ""
    apart = first["high"] < last["low"] or last["high"] < first["low"]
    return "" if apart else ", but the intervals overlap, so this may be chance"


def _totals(
    tidy: pd.DataFrame, show: Callable[[Any], str | Cell], where: Where = Where.TERMINAL
) -> Iterator[Table]:
    """A table per corpus: one row per checkpoint, one column per total."""
    for corpus, grid in totals_by_corpus(tidy):
        rows = [
            (str(name), *map(show, cells))
            for name, cells in zip(grid.index, grid.to_numpy(), strict=True)
        ]
        header = ("checkpoint", *map(str, grid.columns))
        yield Table.of_rows(f"Over {corpus}, in nats", header, rows, where=where)


def _cell(row: Any) -> Cell:
    return Cell(_brief(row), "" if pd.isna(row.low) else f"{nats(row.low)} to {nats(row.high)}")


def _brief(row: Any) -> str:
    return nats(row.estimate)


def run_name(measured: Sequence[Measured]) -> str:
    """What the checkpoints are checkpoints of: the hub id, or the run's folder."""
    models = {one.checkpoint.model for one in measured}
    if len(models) == 1:
        return models.pop()
    parent = Path(os.path.commonpath(models))
    return parent.parent.name if parent.name == "checkpoints" else parent.name


def _sections(tidy: pd.DataFrame) -> Iterator[Section]:
    corpora = list(tidy["corpus"].unique())
    measures = knowledge_measures(tidy)
    if measures:
        yield Section(
            "Knowledge",
            [
                Figure(
                    "Knowledge entropy over training.",
                    "The sum over layers, with its interval over documents; a panel for each way "
                    "of weighing coefficients.",
                    [Panel(figures.totals_over_training(tidy, m), m) for m in measures],
                ),
                Figure(
                    "Layer by layer.",
                    "Each layer less its value at the first checkpoint, so that layers that change "
                    "stand out.",
                    [
                        Panel(figures.layers_over_training(tidy, m, c), f"{m}, {c}")
                        for m in measures[:1]
                        for c in corpora
                    ],
                ),
            ],
        )
    for total, name in ((Total.ATTENTION, "Attention"), (Total.NEXT_TOKEN, "Next-token")):
        if (tidy["measure"] == total).any():
            yield Section(
                f"{name} entropy",
                [
                    Figure(
                        f"{name} entropy over training.",
                        "With its interval over documents.",
                        [Panel(figures.totals_over_training(tidy, total))],
                    )
                ],
            )


def _provenance(measured: Sequence[Measured]) -> Iterator[Fold]:
    for one in measured:
        rows = [
            (
                r.provenance.corpus or "tokens in memory",
                r.provenance.weights_sha256[:16],
                (r.provenance.corpus_sha256 or "")[:16],
            )
            for r in one.results
        ]
        header = ("corpus", "weights", "text (sha-256)")
        table = Table.of_rows("Hashes", header, rows, where=Where.PAGE, is_open=True)
        yield Fold(one.checkpoint.label, [table])
