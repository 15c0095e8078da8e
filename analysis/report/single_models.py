"""Results of single models: where in depth facts are readable, and what edits cost."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from analysis.claims.choices import Anchor
from analysis.document import Panel
from analysis.document import Part as Piece
from analysis.edit_sweep_page import trade_off
from analysis.figures import heatmap, histogram
from analysis.lens_figures import rank_ticks
from analysis.numbers import label, share, shown_path, visible
from analysis.report.material import Material
from analysis.report.parts import Part, figure

EDIT_TABLE = "edits.csv"
_NEEDED = (
    *("items", "first_layer_histogram", "layer_labels"),
    *("model", "d_vocab", "k", "share_found"),
)
_MOST_ITEMS = 40
"""Items that the heatmap of a lens has."""
_MOST_SWEEPS = 4
_TICK_LENGTH = 18


def readable_part(material: Material) -> Part | None:
    """The part; None where there is neither a lens nor a sweep of edits."""
    lenses = {_name(path): _lens(path) for path in material.results.lens_results}
    sweeps = {_name(path): _sweep(path) for path in material.results.edit_sweeps}
    if not lenses and not sweeps:
        return None
    chosen = list(sweeps.items())[:_MOST_SWEEPS]
    items = {name: _items(lens) for name, lens in lenses.items()}
    return Part(
        anchor=Anchor.READABLE,
        heading="Where facts are readable, and what edits cost",
        pieces=(
            *_lens_figures(lenses),
            *figure(
                "What edits do, and what they cost.",
                "Every mark is an edit: to the right, knowledge entropy rises; upwards, held-out "
                "text is predicted worse. On the dotted line across, the model predicts as well "
                "as it did.",
                [Panel(trade_off(rows), name if chosen[1:] else None) for name, rows in chosen],
                is_wide=False,
            ),
        ),
        tables={
            name: pd.concat([pd.DataFrame(), *(rows.assign(result=of) for of, rows in found)])
            for name, found in (("edit-sweeps", sweeps.items()), ("lens-items", items.items()))
        },
        findings=tuple(_findings(lenses)),
    )


def _name(path: Path) -> str:
    return shown_path(str(path.parent if path.is_file() else path))


def _lens(path: Path) -> Mapping[str, Any]:
    file = path / "lens.json" if path.is_dir() else path
    content = json.loads(file.read_text(encoding="utf-8"))
    if missing := [name for name in _NEEDED if name not in content]:
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
    is_found = any(sum(lens["first_layer_histogram"]) for lens in lenses.values())
    yield from figure(
        "Where targets first come up.",
        f"Shares of all items; a target is found where it is among the top {first['k']} tokens "
        "of a layer's readout.",
        [Panel(_first_layers(lenses))] if is_found else [],
    )
    shown = min(len(first["items"]), _MOST_ITEMS)
    some = f" (the first {shown} of {len(first['items'])})" if shown < len(first["items"]) else ""
    yield from figure(
        f"The rank of each target, layer by layer, in {shown_path(first['model'])}.",
        f"A column for each item{some}; rank 0 is the top. Point at a cell for its prompt.",
        [Panel(_ranks(first))],
    )


def _first_layers(lenses: Mapping[str, Mapping[str, Any]]) -> go.Figure:
    rows = [
        (
            f"{shown_path(lens['model'])} ({name})" if len(lenses) > 1 else name,
            None if item["first_layer"] is None else lens["layer_labels"][item["first_layer"]],
        )
        for name, lens in lenses.items()
        for item in lens["items"]
    ]
    deepest = max((lens["layer_labels"] for lens in lenses.values()), key=len)
    return histogram(pd.DataFrame(rows, columns=["lens", "layer"]), "layer", deepest, by="lens")


def _ranks(lens: Mapping[str, Any]) -> go.Figure:
    items, labels = lens["items"][:_MOST_ITEMS], lens["layer_labels"]
    rows = [
        {
            "item": place,
            "layer": layer,
            "rank": f"{rank:,}",
            "height": np.log10(rank + 1),
            "odds": "" if chance is None else f", {share(float(np.exp(chance)))}",
            "prompt": visible(item["prompt"]),
        }
        for place, item in enumerate(items)
        for layer, rank, chance in zip(labels, item["rank"], item["log_prob"], strict=True)
    ]
    targets = [visible(item["target"]) for item in items]
    short = [t if len(t) <= _TICK_LENGTH else f"{t[: _TICK_LENGTH - 1]}…" for t in targets]
    drawn = heatmap(
        pd.DataFrame(rows),
        *("item", "layer", "height"),
        unit="rank",
        hover="layer {layer}: rank <b>{rank}</b>{odds}<br>{prompt}",
        titles=("target", "layer"),
        bar=rank_ticks(lens["d_vocab"], logarithms=True),
        reversescale=True,
    )
    return drawn.update_xaxes(tickvals=list(range(len(items))), ticktext=list(map(label, short)))


def _findings(lenses: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for lens in list(lenses.values())[:1]:
        mean, number = lens.get("mean_first_layer"), len(lens["items"])
        where = "" if mean is None else f", on average first at layer {mean:.1f}"
        yield (
            f"In {shown_path(lens['model'])}, {share(lens['share_found'])} of {number} targets "
            f"are readable at some layer{where}."
        )
