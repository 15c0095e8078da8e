"""What was measured of models: entropies and updates over pretraining, lenses, and edits.

What models acquire and lose stands by the age of the checkpoint that they were taught from.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from analysis.arms import ckl_arms
from analysis.ckl_measures import level_table
from analysis.claims.choices import Anchor
from analysis.claims.selection import ROWS
from analysis.document import Panel, figure
from analysis.document import Part as Piece
from analysis.edit_sweep_page import trade_off
from analysis.figures import colours_of, heatmap, histogram
from analysis.lens_figures import rank_ticks
from analysis.measurements import MEASURES, Table
from analysis.memory_updates import MEASURES as UPDATE_MEASURES
from analysis.numbers import capital, course, label, nats, share, shown_path, visible, with_interval
from analysis.observations import FACTS, RECALLED, TEXT
from analysis.report import parts
from analysis.runs import Moment, TrainingRun

STEP = "pretraining step"
_MOST_CORPORA = 3  # corpora of which layers are drawn
_WORDS = {"A": "acquisition A, last injection", "F": "forgetting F, end"}


def pretraining_part(material: parts.Material) -> parts.Part | None:
    """The part; None where nothing was measured over two checkpoints or more."""
    entropies = _entropies(material)
    outcomes = _outcomes(material)
    if entropies.empty and outcomes.empty:
        return None
    both = pd.concat([entropies, outcomes], ignore_index=True)
    scores = _scores(material)
    colours = colours_of(pd.concat([both["series"], scores["series"]]))
    panels = outcomes["measure"].replace(_WORDS)
    return parts.Part(
        anchor=Anchor.TRAJECTORIES,
        heading="Over pretraining",
        pieces=(
            parts.seed_switches("Series", colours, both["seed"]),
            *figure(
                "Entropies over pretraining.",
                "Totals of the model, each on a scale of its own: thin lines are single "
                "pretraining runs, thick ones the mean over their seeds.",
                parts.line_panels(
                    entropies.assign(panel=entropies["measure"].map(_name)),
                    *(STEP, "nats", colours),
                    intervals=False,
                ),
            ),
            *_one_scale(entropies),
            *figure(
                "What models trained on from these checkpoints acquire and forget.",
                "Unedited starts, by their age, which is the same axis as above. A: passages met, "
                "right after the last injection, against the start; F: downstream tasks at the "
                "end, or, where no model answers these better than by guessing, the change of "
                "held-out text and of facts from pretraining.",
                parts.line_panels(
                    outcomes.assign(panel=panels),
                    *(STEP, "", colours),
                    form={panel: ".1%" if panel in _WORDS.values() else ".3f" for panel in panels},
                ),
            ),
            *figure(
                "Scores before and after.",
                "Unedited starts, by their age. K: log-probability of probes of passages met, in "
                "nats, at the start and right after the last injection; P: accuracy of tasks, "
                "at the start and at the end.",
                parts.line_panels(
                    scores.assign(panel=scores["measure"]),
                    *(STEP, "", colours),
                    form={"K": ".3f", "P": ".1%"},
                ),
            ),
            *_layers(material),
            *_table(both),
        ),
        tables={
            "entropies": entropies.rename(columns={"x": "step"}),
            "outcomes-by-age": outcomes.rename(columns={"x": "step"}),
            "scores-by-age": scores.rename(columns={"x": "step"}),
        },
        findings=tuple(_findings(both, entropies["measure"].unique()[:1].tolist())),
    )


def _entropies(material: parts.Material) -> pd.DataFrame:
    """Totals: columns `measure`, `series` (the corpus), `x`, `seed`, `value`."""
    rows = material.rows(Table.PRETRAINING, {"layer": None})
    rows = rows.rename(columns={"corpus": "series", "step": "x"})
    return _in_order(rows[["measure", "series", "x", "seed", "value"]])


def _outcomes(material: parts.Material) -> pd.DataFrame:
    """The same of acquisition and forgetting, and of text and facts where F is not tested."""
    rows, said = _unedited(material, "acquired", "forgotten")
    found = _in_order(parts.run_means(rows, ["measure", "series", "x"]))
    if found.empty or "F" in set(found["measure"]):
        return found
    changes = text_changes(material.results.runs, said)
    return pd.concat([found, _in_order(changes)], ignore_index=True)


def _scores(material: parts.Material) -> pd.DataFrame:
    rows, _ = _unedited(material, "known before", "known", "downstream before", "downstream")
    when = rows["moment"].eq(Moment.START).map({True: "before", False: "after"})
    return _in_order(
        parts.run_means(
            rows.assign(series=rows["series"] + ", " + when), ["measure", "series", "x"]
        )
    )


def _unedited(material: parts.Material, *wanted: str) -> tuple[pd.DataFrame, list[str]]:
    """Rows of unedited runs from checkpoints with a step, and what their series are named by."""
    named_rows = [{**ROWS[one], **ROWS["unedited"]} for one in wanted]
    rows = pd.concat([material.rows(Table.ACQUISITION, one) for one in named_rows])
    rows = rows[parts.is_set(rows["step"])]
    others = [name for name in parts.SETTINGS if name not in ("trajectory", "step")]
    said = ["trajectory", *parts.varied(rows, others)]
    return parts.named(rows, "series", lambda row: parts.run_name(row, said)).rename(
        columns={"step": "x"}
    ), said


def text_changes(
    runs: Sequence[TrainingRun], said: Sequence[str] = ("trajectory",)
) -> pd.DataFrame:
    """What moved from the start to the end of every unedited run from a checkpoint with a step.

    Text and earlier facts measure forgetting where no model answers the downstream tasks better
    than by guessing: bits per byte rise, and log-probabilities (nats) of facts fall.
    """
    columns = ["measure", "series", "x", "seed", "value"]
    chosen = [run for run in parts.unedited_runs(runs) if run.start.step is not None]
    if not chosen:
        return pd.DataFrame(columns=columns)
    arms = ckl_arms(chosen)
    levels = level_table(arms)
    wanted = levels["group"].isin([TEXT, FACTS]) & (levels["measure"] != RECALLED)
    single = levels[wanted & levels["seed"].notna()]
    wide = single.pivot_table("value", ["arm", "seed", "measure"], "moment", sort=False)
    moved = (wide[Moment.END] - wide[Moment.START]).dropna().rename("value").reset_index()
    places = [(arm.name, run) for arm in arms for run in arm.runs]
    keys = [(arm, run.seed, run.start.step) for arm, run in places]
    known = pd.DataFrame(keys, columns=["arm", "seed", "x"])
    found = moved.merge(known.assign(series=parts.names_of([run for _, run in places], said)))
    return found.assign(measure="change of " + found["measure"])[columns]


def _in_order(rows: pd.DataFrame) -> pd.DataFrame:
    """Series with two steps or more, by step."""
    typed = rows.astype({"x": float, "value": float}).astype({"x": int}) if len(rows) else rows
    several = typed.groupby(["measure", "series"])["x"].transform("nunique") > 1
    return typed[several].sort_values("x", kind="stable").reset_index(drop=True)


def _one_scale(rows: pd.DataFrame) -> Iterator[Piece]:
    for corpus, found in rows.groupby("series", sort=False):
        scaled = parts.between_ends(found.assign(series=found["measure"]))
        if scaled["series"].nunique() > 1:
            axes = (STEP, "from least to most", colours_of(scaled["series"]))
            (panel,) = parts.line_panels(scaled, *axes, intervals=False)
            # A line is the mean of all runs: no switch applies to it.
            for trace in panel.plot.data:
                trace.update(name=label(trace.meta["keys"][0]), meta=None)
            yield from figure(
                "The same on one scale.",
                f"Means over seeds on {corpus}, each from its least (0) to its most (1), to "
                "compare when they move.",
                [Panel(panel.plot.update_layout(showlegend=True))],
            )
            return


def _name(measure: str) -> str:
    words = MEASURES[Table.PRETRAINING].get(measure, measure).removesuffix(", nats")
    return f"{words} ({measure})" if "|" in measure or "(" in measure else words


def _layers(material: parts.Material) -> Sequence[Piece]:
    rows = material.rows(Table.PRETRAINING, {"measure": "|c|"})
    rows = rows[parts.is_set(rows["layer"])].rename(columns={"step": "x"})
    panels = []
    for corpus, found in list(rows.groupby("corpus", sort=False))[:_MOST_CORPORA]:
        on = f", {corpus}" if rows["corpus"].nunique() > 1 else ""
        typed = found.astype({"value": float}).sort_values("x")
        means = typed.groupby(["layer", "x"], as_index=False)["value"].mean()
        first = means.sort_values("x").groupby("layer")["value"].transform("first")
        moved = means.assign(value=means["value"] - first)
        change = parts.layer_heatmap(moved, unit="nats", signed=True, form="+.3f")
        levels = parts.layer_heatmap(found, unit="nats", signed=False)
        panels.append(Panel(levels, f"knowledge{on}"))
        panels.append(Panel(change, f"change since the first checkpoint{on}"))
    return figure(
        "Knowledge entropy layer by layer.",
        "Mean over seeds. On the right each layer less its value at the first checkpoint: blue "
        "where it has risen, red where it has fallen.",
        panels if rows["x"].nunique() > 1 else [],
    )


def _table(both: pd.DataFrame) -> Sequence[Piece]:
    means = parts.over_seeds(both, ["series", "x", "measure"])
    means = means.assign(name=[f"{row.series}, step {row.x:,}" for row in means.itertuples()])
    cells = parts.crossed(
        means,
        *("name", "measure"),
        lambda row: with_interval(row, share if row["measure"] in _WORDS else nats),
    )
    names = [
        f"{series}, step {step:,}"
        for series, rows in both.groupby("series", sort=False)
        for step in sorted(set(rows["x"]))
    ]
    return parts.table(
        "Over pretraining",
        "Means over seeds, with 95 % intervals over seeds where there are several. Entropies in "
        "nats.",
        cells.loc[names, list(both["measure"].unique())].rename(columns=_WORDS),
    )


def _findings(both: pd.DataFrame, first: Sequence[str]) -> Iterator[str]:
    """How each went: knowledge entropy first, then what follows it, then the other entropies."""
    words = {"A": "Acquisition", "F": "Forgetting"}
    for measure in dict.fromkeys([*first, *words, "attention", "next-token"]):
        of_measure = both[both["measure"] == measure]
        if of_measure.empty:
            continue
        line = of_measure[of_measure["series"] == of_measure["series"].iloc[0]]
        means, number = line.groupby("x")["value"].mean(), line["seed"].nunique()
        what = words.get(measure) or f"{capital(_name(measure))} over {line['series'].iloc[0]}"
        places = [f"at pretraining step {step:,}" for step in means.index]
        shown = share if measure in words else lambda value: f"{nats(value, 2)} nats"
        of = f"mean of {number} seeds" if number > 1 else "one seed"
        yield f"{what} {course(means.tolist(), places, shown)} ({of})."


def updates_part(material: parts.Material) -> parts.Part | None:
    """Correlations of gradients and updates with coefficients; None where none were measured."""
    rows = material.rows(Table.UPDATES, {}).rename(columns={"step": "x"}).astype({"value": float})
    if rows.empty:
        return None
    rows = rows.assign(series=rows["measure"].map(UPDATE_MEASURES))
    runs = parts.run_means(rows, ["series", "x"])
    colours = colours_of(runs["series"])
    means = parts.over_seeds(runs, ["x", "series"]).sort_values("x", kind="stable")
    cells = parts.crossed(means, "x", "series", lambda row: with_interval(row, nats))
    defined = (f"{UPDATE_MEASURES[name]}: {text}" for name, text in MEASURES[Table.UPDATES].items())
    last = means[means["x"] == means["x"].max()]
    said = [f"{nats(row.value, 2)} for {row.series}" for row in last.itertuples()]
    lines = list(parts.line_panels(runs.assign(panel=""), STEP, "rank correlation", colours))
    return parts.Part(
        anchor=Anchor.UPDATES,
        heading="Memory updates",
        pieces=(
            parts.seed_switches("Series", colours, runs["seed"]),
            *figure(
                "Over pretraining.",
                "Rank correlation, over the memory vectors of a layer, of the norm of their "
                "gradient or of their update with their mean coefficient; mean over layers.",
                [Panel(one.plot) for one in lines] if runs["x"].nunique() > 1 else [],
            ),
            *figure(
                "Layer by layer.",
                "Mean over seeds. Blue: larger coefficients go with larger gradients or updates; "
                "red: with smaller ones.",
                [
                    Panel(parts.layer_heatmap(found, signed=True, form="+.2f", reach=1.0), name)
                    for name, found in rows.groupby("series", sort=False)
                ],
            ),
            *parts.table(
                "Memory updates",
                f"{'; '.join(defined)}. Mean over layers and seeds, with 95 % intervals over "
                "seeds.",
                cells.rename(index=lambda step: f"step {step:,}"),
            ),
        ),
        tables={
            "update-correlations": rows.rename(columns={"x": "step"})[
                ["measure", "step", "layer", "seed", "value"]
            ]
        },
        findings=(
            "The rank correlation of memory vectors' mean coefficients is "
            f"{' and '.join(said)} at pretraining step {last['x'].iloc[0]:,}.",
        ),
    )


EDIT_TABLE = "edits.csv"
_NEEDED = (
    *("items", "first_layer_histogram", "layer_labels"),
    *("model", "d_vocab", "k", "share_found"),
)
_MOST_ITEMS, _MOST_SWEEPS, _TICK_LENGTH = 40, 4, 18


def readable_part(material: parts.Material) -> parts.Part | None:
    """The part; None where there is neither a lens nor a sweep of edits."""
    lenses = {shown_path(str(path)): _lens(path) for path in material.results.lens_results}
    sweeps = {shown_path(str(path)): _sweep(path) for path in material.results.edit_sweeps}
    if not lenses and not sweeps:
        return None
    chosen = list(sweeps.items())[:_MOST_SWEEPS]
    items = {name: _items(lens) for name, lens in lenses.items()}
    return parts.Part(
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
        findings=tuple(_lens_findings(lenses)),
    )


def _lens(folder: Path) -> Mapping[str, Any]:
    file = folder / "lens.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    if missing := [name for name in _NEEDED if name not in content]:
        raise ValueError(
            f"{file} was written by another version, found no {missing[0]!r}; make it anew with "
            "analysis.logit_lens"
        )
    return content


def _sweep(folder: Path) -> pd.DataFrame:
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


def _lens_findings(lenses: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for lens in list(lenses.values())[:1]:
        mean, number = lens.get("mean_first_layer"), len(lens["items"])
        where = "" if mean is None else f", on average first at layer {mean:.1f}"
        yield (
            f"In {shown_path(lens['model'])}, {share(lens['share_found'])} of {number} targets "
            f"are readable at some layer{where}."
        )
