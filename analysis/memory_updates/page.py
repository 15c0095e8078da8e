"""The page of memory updates: correlations of every layer, checkpoint by checkpoint.

Example:
    >>> Path("updates.html").write_text(updates_page(content))               # doctest: +SKIP
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from analysis.arm_figures import empty_figure
from analysis.memory_updates.tables import (
    HOW_TO_READ,
    MEASURES,
    findings,
    summary_table,
    update_table,
)
from analysis.page import (
    Panel,
    as_json,
    bullets,
    details,
    figure,
    joined,
    page,
    paragraph,
    section,
    whole,
)
from analysis.report_texts import shown_path
from analysis.text_tables import drawn_tables
from analysis.theme import SIGNED_SCALE, count, label

_LAYER_HEIGHT, _FRAME, _HEIGHTS = 16, 170, (300, 700)
"""Pixels of a layer and of what is around all, and the least and most of a figure."""


def updates_page(content: Mapping[str, Any]) -> str:
    """The whole page, as one HTML document.

    Args:
        content: of `updates.json`.
    """
    tidy, model = update_table(content["checkpoints"]), shown_path(content["model"])
    summary = summary_table(tidy)
    body = [
        bullets(findings(tidy), class_="findings"),
        figure(
            "Rank correlation with mean coefficients, by layer.",
            HOW_TO_READ,
            [Panel(correlations(tidy, measure), what) for measure, what in MEASURES.items()],
        ),
        section("The numbers", *drawn_tables({summary.title: summary}, summary.title)),
        section(
            "Provenance",
            paragraph(f"{content['batches']} batches, so many steps of Adam."),
            details("All settings and hashes", as_json(dict(content))),
        ),
    ]
    return page(
        f"Updates of the memory vectors of {model}",
        body,
        heading=joined(["Do updates of memory vectors of ", whole(model), " follow coefficients?"]),
        kicker="mnemoscope · memory updates",
        deck=f"{len(content['checkpoints'])} checkpoints, {count(content['tokens'])} tokens of "
        f"{shown_path(content['corpus'])}.",
    )


def correlations(table: pd.DataFrame, measure: str) -> go.Figure:
    """Heatmap of correlations, checkpoints by layers, from -1 (red) to 1 (blue).

    Args:
        table: `update_table`.
        measure: one of its measures.
    """
    names = list(table["checkpoint"].unique())
    grid = table.pivot(index="layer", columns="checkpoint", values=measure)[names]
    height = int(np.clip(_FRAME + _LAYER_HEIGHT * len(grid), *_HEIGHTS))
    drawn = empty_figure("checkpoint", "layer", height, legend=False)
    drawn.add_heatmap(
        x=list(range(len(names))),
        y=grid.index,
        z=grid.to_numpy(),
        customdata=[[label(name) for name in names]] * len(grid),
        colorscale=SIGNED_SCALE,
        zmin=-1,
        zmid=0,
        zmax=1,
        colorbar={"title": {"text": "rank correlation", "side": "top"}, "thickness": 10},
        hovertemplate="layer %{y}, %{customdata}: <b>%{z:+.3f}</b><extra></extra>",
    )
    return drawn.update_xaxes(tickvals=list(range(len(names))), ticktext=[*map(label, names)])
