"""Over pretraining: entropies of checkpoints, and what models acquire and lose after them."""

from collections.abc import Callable, Iterator
from functools import partial

import pandas as pd

from analysis.arm_figures import arm_colours
from analysis.claims.choices import Anchor
from analysis.claims.selection import (
    ROWS,
)
from analysis.document import Panel, Switches
from analysis.document import Part as Piece
from analysis.measurements import MEASURES, Table
from analysis.numbers import capital, course, nats, share, with_interval
from analysis.report.figures import between_ends, has_order, layer_heatmap, lines_over
from analysis.report.material import Material, is_set, varied
from analysis.report.names import SETTINGS, run_name, with_names
from analysis.report.over_seeds import over_seeds, run_means
from analysis.report.parts import Part, even_figure, text_table
from analysis.report.run_curves import text_changes
from analysis.report.switches import MEAN, seed_key
from analysis.theme import label

STEP = "pretraining step"
_TOLD = 3
"""Entropies that the head of the page has a sentence on."""
_MOST_CORPORA = 3
"""Corpora of which layers are drawn."""
_WORDS = {"A": "acquisition A, last injection", "F": "forgetting F, end"}
_OTHERS = ("trajectory", *(name for name in SETTINGS if name not in ("trajectory", "step")))


def pretraining_part(material: Material) -> Part | None:
    """The part; None where nothing was measured over two checkpoints or more."""
    entropies = _entropies(material)
    outcomes = _outcomes(material)
    if entropies.empty and outcomes.empty:
        return None
    colours = arm_colours(list(dict.fromkeys([*entropies["series"], *outcomes["series"]])))
    seeds = sorted({*entropies["seed"], *outcomes["seed"]})
    return Part(
        anchor=Anchor.TRAJECTORIES,
        heading="Over pretraining",
        pieces=(
            Switches(
                {
                    "Series": colours,
                    "Seeds": dict.fromkeys([*map(seed_key, seeds), MEAN]),
                }
            ),
            *_entropy_figures(entropies, colours),
            *_outcome_figure(outcomes, colours),
            *_layer_figure(material),
            *_table(entropies, outcomes),
        ),
        tables={
            name: rows.rename(columns={"x": "step"})
            for name, rows in (("entropies", entropies), ("outcomes-by-age", outcomes))
            if len(rows)
        },
        findings=_findings(entropies, outcomes),
    )


def _entropies(material: Material) -> pd.DataFrame:
    """Totals: columns `measure`, `series` (the corpus), `x`, `seed`, `value`."""
    rows = material.rows(Table.PRETRAINING, {"layer": None})
    rows = rows.rename(columns={"corpus": "series", "step": "x"})
    return _in_order(rows[["measure", "series", "x", "seed", "value"]])


def _outcomes(material: Material) -> pd.DataFrame:
    """The same of acquisition and forgetting, and of text and facts where F is not tested."""
    rows = pd.concat(
        [
            material.rows(Table.ACQUISITION, {**wanted, **ROWS["unedited"]})
            for wanted in (ROWS["acquired"], ROWS["forgotten"])
        ]
    )
    rows = rows[is_set(rows["step"])]
    told = ["trajectory", *varied(rows, _OTHERS[1:])]
    named = with_names(rows, "series", [run_name(row, told) for row in rows.to_dict("records")])
    found = _in_order(run_means(named.rename(columns={"step": "x"}), ["measure", "series", "x"]))
    if found.empty or "F" in set(found["measure"]):
        return found
    changes = text_changes(material.results.runs, told)
    return pd.concat([found, _in_order(changes)], ignore_index=True)


def _in_order(rows: pd.DataFrame) -> pd.DataFrame:
    """Series with two steps or more, by step."""
    typed = rows.astype({"x": float, "value": float}).astype({"x": int}) if len(rows) else rows
    several = typed.groupby(["measure", "series"])["x"].transform("nunique") > 1
    return typed[several].sort_values("x", kind="stable").reset_index(drop=True)


def _entropy_figures(rows: pd.DataFrame, colours: dict[str, str]) -> Iterator[Piece]:
    if rows.empty:
        return
    yield even_figure(
        "Entropies over pretraining.",
        "Totals of the model, each on a scale of its own: thin lines are single pretraining runs, "
        "thick ones the mean over their seeds.",
        [
            Panel(lines_over(found, STEP, "nats", colours), _name(measure))
            for measure, found in rows.groupby("measure", sort=False)
        ],
    )
    for corpus, found in rows.groupby("series", sort=False):
        scaled = between_ends(found.drop(columns="series").rename(columns={"measure": "series"}))
        if scaled["series"].nunique() > 1:
            measures = arm_colours(list(scaled["series"].unique()))
            drawn = lines_over(scaled, STEP, "from least to most", measures)
            # A line is the mean of all runs: no switch applies to it.
            for trace in drawn.data:
                trace.update(name=label(trace.meta["keys"][0]), meta=None)
            yield even_figure(
                "The same on one scale.",
                f"Means over seeds on {corpus}, each from its least (0) to its most (1), to "
                "compare when they move.",
                [Panel(drawn.update_layout(showlegend=True))],
            )
            break


def _name(measure: str) -> str:
    words = MEASURES[Table.PRETRAINING].get(measure, measure).removesuffix(", nats")
    return f"{words} ({measure})" if "|" in measure or "(" in measure else words


def _outcome_figure(rows: pd.DataFrame, colours: dict[str, str]) -> Iterator[Piece]:
    if rows.empty:
        return
    yield even_figure(
        "What models trained on from these checkpoints acquire and forget.",
        "Unedited starts, by their age, which is the same axis as above. A: passages met, right "
        "after the last injection, against the start; F: downstream tasks at the end, or, where "
        "no model answers these better than by guessing, the change of held-out text and of "
        "facts from pretraining.",
        [
            Panel(
                lines_over(found, STEP, "", colours, form=_form(measure), intervals=True),
                _WORDS.get(measure, measure),
            )
            for measure, found in rows.groupby("measure", sort=False)
        ],
    )


def _form(measure: str) -> str:
    return ".1%" if measure in _WORDS else ".3f"


def _layer_figure(material: Material) -> Iterator[Piece]:
    rows = material.rows(Table.PRETRAINING, {"measure": "|c|"})
    rows = rows[is_set(rows["layer"])].rename(columns={"step": "x"})
    if rows.empty or not has_order(rows["x"]):
        return
    panels = []
    for corpus, found in list(rows.groupby("corpus", sort=False))[:_MOST_CORPORA]:
        named = f", {corpus}" if rows["corpus"].nunique() > 1 else ""
        panels.append(Panel(layer_heatmap(found, "nats", signed=False), f"knowledge{named}"))
        changes = _since_first(found)
        panels.append(
            Panel(
                layer_heatmap(changes, "nats", signed=True, form="+.3f"),
                f"change since the first checkpoint{named}",
            )
        )
    yield even_figure(
        "Knowledge entropy layer by layer.",
        "Mean over seeds. On the right each layer less its value at the first checkpoint: blue "
        "where it has risen, red where it has fallen.",
        panels,
    )


def _since_first(rows: pd.DataFrame) -> pd.DataFrame:
    means = rows.astype({"value": float}).groupby(["layer", "x"], as_index=False)["value"].mean()
    first = means.sort_values("x").groupby("layer")["value"].transform("first")
    return means.sort_values("x").assign(value=lambda table: table["value"] - first)


def _table(entropies: pd.DataFrame, outcomes: pd.DataFrame) -> Iterator[Piece]:
    every = pd.concat([entropies, outcomes], ignore_index=True)
    if every.empty:
        return
    measures = list(every["measure"].unique())
    means = over_seeds(every, ["series", "x", "measure"])
    cells = {(row["series"], row["x"], row["measure"]): _cell(row) for _, row in means.iterrows()}
    rows = [
        [f"{series}, step {step:,}", *(cells.get((series, step, name), "") for name in measures)]
        for series in every["series"].unique()
        for step in sorted(every.loc[every["series"] == series, "x"].unique())
    ]
    yield from text_table(
        "Over pretraining",
        "Means over seeds, with 95 % intervals over seeds where there are several. Entropies in "
        "nats.",
        ["", *(_WORDS.get(name, name) for name in measures)],
        rows,
    )


def _cell(row: pd.Series) -> str:
    return with_interval(row, share if row["measure"] in _WORDS else nats)


def _findings(entropies: pd.DataFrame, outcomes: pd.DataFrame) -> tuple[str, ...]:
    """Knowledge entropy first, then what follows it, then the other entropies."""
    first, *others = [*_entropy_findings(entropies)] or [""]
    return tuple(filter(None, (first, *_outcome_findings(outcomes), *others)))


def _entropy_findings(rows: pd.DataFrame) -> Iterator[str]:
    wanted = [*rows["measure"].unique()[:1], "attention", "next-token"]
    for measure in wanted[:_TOLD]:
        found = rows[rows["measure"] == measure]
        for corpus, line in found.groupby("series", sort=False):
            yield _moved(
                f"{capital(_name(measure))} over {corpus}", line, partial(nats, digits=2), " nats"
            )
            break


def _outcome_findings(rows: pd.DataFrame) -> Iterator[str]:
    for measure, word in (("A", "Acquisition"), ("F", "Forgetting")):
        found = rows[rows["measure"] == measure]
        for _, line in found.groupby("series", sort=False):
            yield _moved(word, line, share, "")
            break


def _moved(what: str, line: pd.DataFrame, show: Callable[[float], str], unit: str) -> str:
    """How a mean over seeds went from the first step to the last, and beyond both in between."""
    means = line.groupby("x")["value"].mean()
    number = line["seed"].nunique()
    of = f"mean of {number} seeds" if number > 1 else "one seed"
    places = [f"at pretraining step {step:,}" for step in means.index]
    return f"{what} {course(means.tolist(), places, lambda value: show(value) + unit)} ({of})."
