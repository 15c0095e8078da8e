"""Where facts are readable, and what edits cost: results of single models, from their files."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from analysis.arm_figures import empty_figure
from analysis.claims.choices import Anchor
from analysis.document import Figure, Panel
from analysis.document import Part as Piece
from analysis.edit_sweep_page import trade_off
from analysis.figures import layer_height as figure_height
from analysis.lens_figures import rank_ticks
from analysis.numbers import shown_path, visible
from analysis.report.material import Material
from analysis.report.over_seeds import rounded
from analysis.report.parts import Part
from analysis.theme import SEQUENTIAL_SCALE, label, percent, series_colour

EDIT_TABLE = "edits.csv"
_NEEDED = (
    *("items", "first_layer_histogram", "layer_labels"),
    *("model", "d_vocab", "k", "share_found"),
)
_MOST_ITEMS = 40
"""Of the heatmap of a lens."""
_MOST_SWEEPS = 4
_TICK_LENGTH = 18


def readable_part(material: Material) -> Part | None:
    """The part; None where there is neither a lens nor a sweep of edits."""
    lenses = {_name(path): _lens(path) for path in material.results.lens_results}
    sweeps = {_name(path): _sweep(path) for path in material.results.edit_sweeps}
    if not lenses and not sweeps:
        return None
    named = {"edit-sweeps": sweeps, "lens-items": {n: _items(one) for n, one in lenses.items()}}
    return Part(
        anchor=Anchor.READABLE,
        heading="Where facts are readable, and what edits cost",
        pieces=(*_lens_figures(lenses), *_sweep_figure(sweeps)),
        tables={
            name: pd.concat([table.assign(result=of) for of, table in found.items()])
            for name, found in named.items()
            if found
        },
        findings=tuple(_findings(lenses)),
    )


def _name(path: Path) -> str:
    return shown_path(str(path.parent if path.is_file() else path))


def _lens(path: Path) -> Mapping[str, Any]:
    file = path / "lens.json" if path.is_dir() else path
    content = json.loads(file.read_text(encoding="utf-8"))
    needed = (
        "items",
        "first_layer_histogram",
        "layer_labels",
        "model",
        "d_vocab",
        "k",
        "share_found",
    )
    if missing := [name for name in needed if name not in content]:
        raise ValueError(
            f"{file} was written by another version, found no {missing[0]!r}; make it anew with "
            "analysis.logit_lens"
        )
    return content


def _sweep(path: Path) -> pd.DataFrame:
    folder = path if path.is_dir() else path.parent
    if not (folder / EDIT_TABLE).is_file():
        raise ValueError(
            f"{folder} lacks {EDIT_TABLE}, which a sweep of edits has; make it anew with "
            "analysis.edit_sweep"
        )
    return pd.read_csv(folder / EDIT_TABLE)


def _items(lens: Mapping[str, Any]) -> pd.DataFrame:
    names = ("prompt", "target", "first_layer", "settling_layer", "rank_area")
    rows = [{name: item.get(name) for name in names} for item in lens["items"]]
    return pd.DataFrame(rows).assign(model=lens["model"])


def _lens_figures(lenses: Mapping[str, Mapping[str, Any]]) -> Iterator[Piece]:
    if not lenses:
        return
    first = next(iter(lenses.values()))
    if any(sum(lens["first_layer_histogram"]) for lens in lenses.values()):
        yield Figure(
            "Where targets first come up.",
            f"Shares of all items; a target is found where it is among the top {first['k']} tokens "
            "of a layer's readout.",
            [Panel(_histogram(lenses))],
        )
    shown = min(len(first["items"]), _MOST_ITEMS)
    some = f" (the first {shown} of {len(first['items'])})" if shown < len(first["items"]) else ""
    yield Figure(
        f"The rank of each target, layer by layer, in {shown_path(first['model'])}.",
        f"A column for each item{some}; rank 0 is the top. Point at a cell for its prompt.",
        [Panel(_ranks(first))],
    )


def _histogram(lenses: Mapping[str, Mapping[str, Any]]) -> go.Figure:
    depth = max(len(one["layer_labels"]) for one in lenses.values())
    height = figure_height(depth)
    figure = empty_figure("share of items", "layer", height, legend=len(lenses) > 1)
    for place, (name, lens) in enumerate(lenses.items()):
        found = [item["first_layer"] for item in lens["items"]]
        counts = [found.count(layer) for layer in range(len(lens["layer_labels"]))]
        total = max(1, len(found))
        shown = label(f"{shown_path(lens['model'])} ({name})" if len(lenses) > 1 else name)
        figure.add_bar(
            x=[count / total for count in counts],
            y=lens["layer_labels"],
            orientation="h",
            name=shown,
            marker={"color": series_colour(place)},
            customdata=counts,
            hovertemplate=f"{shown}, layer %{{y}}: <b>%{{x:.1%}}</b>, %{{customdata}} of {total}"
            "<extra></extra>",
        )
    figure.update_layout(bargap=0.15)
    figure.update_xaxes(tickformat=".0%", rangemode="tozero")
    return figure.update_yaxes(type="category", dtick=max(1, -(-depth // 16)))


def _ranks(lens: Mapping[str, Any]) -> go.Figure:
    items = lens["items"][:_MOST_ITEMS]
    labels = lens["layer_labels"]
    ranks = np.array([item["rank"] for item in items], dtype=float).T
    ticks = [_tick(item["target"]) for item in items]
    figure = empty_figure("target", "layer", figure_height(len(labels)) + 60, legend=False)
    bar = {"title": {"text": "rank", "side": "top"}, "thickness": 10, "outlinewidth": 0}
    figure.add_heatmap(
        x=list(range(len(items))),
        y=labels,
        z=[rounded(pd.Series(row)) for row in np.log10(ranks + 1)],
        customdata=[[_hover(item, layer) for item in items] for layer in range(len(labels))],
        hovertemplate="layer %{y}: %{customdata}<extra></extra>",
        colorscale=SEQUENTIAL_SCALE,
        reversescale=True,
        colorbar={**bar, **rank_ticks(lens["d_vocab"], logarithms=True)},
        xgap=1,
        ygap=1,
    )
    figure.update_xaxes(tickvals=list(range(len(items))), ticktext=ticks, showgrid=False)
    dtick = max(1, -(-len(labels) // 16))
    return figure.update_yaxes(type="category", dtick=dtick, showgrid=False)


def _tick(target: str) -> str:
    shown = visible(target)
    return label(shown if len(shown) <= _TICK_LENGTH else f"{shown[: _TICK_LENGTH - 1]}…")


def _hover(item: Mapping[str, Any], layer: int) -> str:
    chance = item["log_prob"][layer]
    odds = "" if chance is None else f", {percent(float(np.exp(chance)))}"
    return f"rank <b>{item['rank'][layer]:,}</b>{odds}<br>{label(visible(item['prompt']))}"


def _sweep_figure(sweeps: Mapping[str, pd.DataFrame]) -> Iterator[Piece]:
    if not sweeps:
        return
    chosen = list(sweeps.items())[:_MOST_SWEEPS]
    yield Figure(
        "What edits do, and what they cost.",
        "Every mark is an edit: to the right, knowledge entropy rises; upwards, held-out text is "
        "predicted worse. On the dotted line across, the model predicts as well as it did.",
        [Panel(trade_off(table), name if len(chosen) > 1 else None) for name, table in chosen],
    )


def _findings(lenses: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for lens in list(lenses.values())[:1]:
        mean, number = lens.get("mean_first_layer"), len(lens["items"])
        where = "" if mean is None else f", on average first at layer {mean:.1f}"
        yield (
            f"In {shown_path(lens['model'])}, {percent(lens['share_found'])} of {number} targets "
            f"are readable at some layer{where}."
        )
