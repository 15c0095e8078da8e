"""The report of memory updates: do memory vectors with larger coefficients get larger updates?

Example:
    >>> layers = [{"layer": 0, "gradients": 0.75, "updates": 0.25}]
    >>> table = update_table([{"checkpoint": "step8", "step": 8, "layers": layers}])
    >>> table.to_dict("records")
    [{'checkpoint': 'step8', 'step': 8, 'layer': 0, 'gradients': 0.75, 'updates': 0.25}]
    >>> findings(table)[1]
    'In 1 of 1 layers updates follow coefficients less closely than gradients do.'
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from analysis.arm_figures import empty_figure
from analysis.document import (
    Cell,
    Code,
    Column,
    Figure,
    Fold,
    Panel,
    Report,
    Section,
    Settings,
    Table,
    Where,
)
from analysis.numbers import MINUS, shown_path
from analysis.theme import SIGNED_SCALE, count, label

MEASURES = {"gradients": "gradients", "updates": "updates under Adam"}
"""What is correlated with mean coefficients, and what a reader calls it."""
HOW_TO_READ = (
    "Spearman's correlation over the memory vectors of a layer: of the norm of what each would be "
    "changed by with its mean |c|, c being what it is multiplied by, over the same tokens. "
    "Gradients are of the mean loss; updates are what Adam would do after all batches, with the "
    "weights held still."
)
_COLUMNS = ("checkpoint", "step", "layer", *MEASURES)
_LAYER_HEIGHT, _FRAME, _HEIGHTS = 16, 170, (300, 700)
"""Pixels of a layer and of what is around all, and the least and most of a figure."""


def updates_report(content: Mapping[str, Any], command: str) -> Report:
    """What was found."""
    tidy, model = update_table(content["checkpoints"]), shown_path(content["model"])
    figure = Figure(
        title="Rank correlation with mean coefficients, by layer.",
        caption=HOW_TO_READ,
        panels=[Panel(correlations(tidy, measure), what) for measure, what in MEASURES.items()],
    )
    return Report(
        title=f"Updates of the memory vectors of {model}",
        heading=("Do updates of memory vectors of ", model, " follow coefficients?"),
        kicker="mnemoscope · memory updates",
        deck=f"{len(content['checkpoints'])} checkpoints, {count(content['tokens'])} tokens of "
        f"{shown_path(content['corpus'])}.",
        findings=findings(tidy),
        command=command,
        sections=[
            Section("The numbers", [figure, _summary_table(tidy)]),
            Section(
                "Provenance",
                [
                    Code(command),
                    f"{content['batches']} batches, so many steps of Adam.",
                    Fold("All settings and hashes", [Settings(dict(content))]),
                ],
            ),
        ],
    )


def update_table(checkpoints: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """A row for each checkpoint and layer."""
    rows = [
        (one["checkpoint"], one["step"], layer["layer"], *(layer[name] for name in MEASURES))
        for one in checkpoints
        for layer in one["layers"]
    ]
    table = pd.DataFrame(rows, columns=list(_COLUMNS))
    return table.astype({"step": "Int64", **dict.fromkeys(MEASURES, float)})


def _summary_table(tidy: pd.DataFrame) -> Table:
    """A row for each checkpoint: means over layers, with the least and the most."""
    means = tidy.groupby("checkpoint", sort=False)[list(MEASURES)].agg(["mean", "min", "max"])

    def over_layers(measure: str) -> Column:
        def show(row: Any) -> Cell | str:
            mean, *ends = (correlation_text(row[measure, how]) for how in ("mean", "min", "max"))
            return Cell(mean, f"[{', '.join(ends)}]") if mean else ""

        return Column(MEASURES[measure], show)

    return Table.of_frame(
        "Rank correlation with mean coefficients, mean over layers",
        means,
        [Column("checkpoint", lambda row: str(row.name)), *map(over_layers, MEASURES)],
        note=f"{HOW_TO_READ} Means over layers, with the least and the most of them.",
        where=Where.EVERYWHERE,
    )


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
    return [
        *found,
        f"In {closer} of {layers} layers updates follow coefficients less closely than gradients "
        "do.",
    ]


def correlation_text(value: float) -> str:
    """A correlation with its sign; empty where there is none."""
    return "" if pd.isna(value) else f"{value:+.3f}".replace("-", MINUS)


def correlations(table: pd.DataFrame, measure: str) -> go.Figure:
    """Heatmap of correlations, checkpoints by layers, from -1 (red) to 1 (blue)."""
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
