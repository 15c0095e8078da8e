"""Memory updates: do memory vectors with larger coefficients get larger gradients and updates?"""

from collections.abc import Iterator

import pandas as pd

from analysis.arm_figures import arm_colours
from analysis.claims.choices import Anchor
from analysis.document import Figure, Panel, Switches
from analysis.document import Part as Piece
from analysis.measurements import MEASURES, Table
from analysis.numbers import nats, with_interval
from analysis.report.figures import has_order, layer_heatmap, lines_over
from analysis.report.material import Material
from analysis.report.over_seeds import over_seeds, run_means
from analysis.report.parts import Part, text_table
from analysis.report.switches import MEAN, seed_key

_WORDS = {"gradients": "gradients", "updates": "updates under Adam"}


def updates_part(material: Material) -> Part | None:
    """The part; None where no updates were measured."""
    rows = material.rows(Table.UPDATES, {}).rename(columns={"step": "x"})
    if rows.empty:
        return None
    rows = rows.astype({"value": float})
    rows = rows.assign(series=rows["measure"].map(lambda name: _WORDS.get(name, name)))
    runs = run_means(rows, ["series", "x"])
    colours = arm_colours(list(dict.fromkeys(runs["series"])))
    seeds = dict.fromkeys([*map(seed_key, sorted(set(runs["seed"]))), MEAN])
    return Part(
        anchor=Anchor.UPDATES,
        heading="Memory updates",
        pieces=(
            Switches({"Series": colours, "Seeds": seeds if len(seeds) > len(_WORDS) else {}}),
            *_line_figure(runs, colours),
            *_layer_figure(rows),
            *_table(runs),
        ),
        tables={
            "update-correlations": rows.rename(columns={"x": "step"})[
                ["measure", "step", "layer", "seed", "value"]
            ]
        },
        findings=tuple(_findings(runs)),
    )


def _line_figure(runs: pd.DataFrame, colours: dict[str, str]) -> Iterator[Piece]:
    if has_order(runs["x"]):
        drawn = lines_over(runs, "pretraining step", "rank correlation", colours, intervals=True)
        yield Figure(
            "Over pretraining.",
            "Rank correlation, over the memory vectors of a layer, of the norm of their gradient "
            "or of their update with their mean coefficient; mean over layers.",
            [Panel(drawn.update_layout(showlegend=False))],
        )


def _layer_figure(rows: pd.DataFrame) -> Iterator[Piece]:
    yield Figure(
        "Layer by layer.",
        "Mean over seeds. Blue: larger coefficients go with larger gradients or updates; red: "
        "with smaller ones.",
        [
            Panel(layer_heatmap(found, "", signed=True, form="+.2f", reach=1.0), str(series))
            for series, found in rows.groupby("series", sort=False)
        ],
    )


def _table(runs: pd.DataFrame) -> Iterator[Piece]:
    means = over_seeds(runs, ["series", "x"])
    cells = {(row["x"], row["series"]): with_interval(row, nats) for _, row in means.iterrows()}
    names = list(dict.fromkeys(means["series"]))
    yield from text_table(
        "Memory updates",
        "; ".join(f"{_WORDS[name]}: {text}" for name, text in MEASURES[Table.UPDATES].items())
        + ". Mean over layers and seeds, with 95 % intervals over seeds.",
        ["", *names],
        [
            [f"step {step:,}", *(cells.get((step, name), "") for name in names)]
            for step in sorted(set(means["x"]))
        ],
    )


def _findings(runs: pd.DataFrame) -> Iterator[str]:
    last = runs[runs["x"] == runs["x"].max()]
    means = last.groupby("series", sort=False)["value"].mean()
    told = [f"{nats(value, 2)} for {name}" for name, value in means.items()]
    yield (
        "The rank correlation of memory vectors' mean coefficients is "
        f"{' and '.join(told)} at pretraining step {last['x'].iloc[0]:,}."
    )
