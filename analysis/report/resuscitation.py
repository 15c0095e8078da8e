"""Resuscitation: what edits of the start do to acquisition, to the end score and to forgetting.

Shares of the edited start flatter an edit that spoils it, so that A is also given against the
unedited start, and K as it is. Differences are to unedited runs of the same seed.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import pandas as pd
import plotly.graph_objects as go

from analysis.arm_figures import arm_colours
from analysis.arms import UNEDITED_NAME
from analysis.claims.choices import Anchor
from analysis.claims.selection import ROWS, Settings
from analysis.document import Figure, Panel, Switches
from analysis.document import Part as Piece
from analysis.measurements import Table
from analysis.numbers import nats, points, share, signed, with_interval
from analysis.report.figures import add_reference, arm_dots, has_order, lines_over
from analysis.report.material import Material, as_numbers, is_set, varied
from analysis.report.names import (
    EDITS,
    SETTINGS,
    control_strengths,
    edit_name,
    run_name,
    with_names,
)
from analysis.report.over_seeds import differences, over_seeds, run_means
from analysis.report.parts import Part, even_figure, text_table, wide_figure


@dataclass(frozen=True)
class _Measure:
    """What runs are compared in."""

    name: str
    settings: Settings
    form: str
    show: Callable[[float], str]
    difference: Callable[[float], str]


Drawing: TypeAlias = Callable[[pd.DataFrame, pd.DataFrame, _Measure], go.Figure]
"""A figure of means and of single seeds."""
_UNEDITED_START: Settings = {**ROWS["acquired"], "against": "unedited start"}
_MEASURES = (
    _Measure("A, from its own start", ROWS["acquired"], ".1%", share, points),
    _Measure("A, from the unedited start", _UNEDITED_START, ".1%", share, points),
    _Measure("K, last injection", ROWS["known"], ".3f", nats, lambda value: f"{nats(value)} nats"),
    _Measure("F, end", ROWS["forgotten"], ".1%", share, points),
    _Measure("P, end", ROWS["downstream"], ".1%", share, points),
)
_AXES = {"factor": "amplifying factor", "ratio": "resuscitation ratio"}
_OTHER = {"factor": "ratio", "ratio": "factor"}
_TEMPERATURE = "attention temperature"
_KEPT = ("panel", "arm", "seed", "value", *EDITS, *SETTINGS)


def resuscitation_part(material: Material) -> Part | None:
    """The part; None where no start was edited."""
    runs = _runs(material)
    if runs.empty or (runs["arm"] == UNEDITED_NAME).all():
        return None
    here, where = _most_edited(runs)
    names = sorted(here["arm"].unique(), key=lambda name: name != UNEDITED_NAME)
    colours = arm_colours(names)
    keys = ["panel", "arm"]
    means = over_seeds(here, keys)
    moved = _differences(here)
    gained = over_seeds(moved, keys)
    lines, ages = _lines(here), _by_age(runs)
    line_colours = arm_colours(list(dict.fromkeys([*lines["series"], *ages["series"]])))
    return Part(
        anchor=Anchor.RESUSCITATION,
        heading="Resuscitation and other edits",
        pieces=(
            Switches({"Edits": colours, "Lines": line_colours}),
            _level_figure(here, means, colours, where),
            *_difference_figure(moved, gained, colours),
            *_dose_figures(lines, here, line_colours),
            *_age_figure(ages, line_colours),
            *_table(names, means, gained),
        ),
        tables={
            "edits": means,
            "edits-less-unedited": gained,
            **({"edits-by-age": over_seeds(ages, ["panel", "series", "x"])} if len(ages) else {}),
        },
        findings=tuple(_findings(gained)),
    )


def _runs(material: Material) -> pd.DataFrame:
    """A number of every run and measure, with what was done to its start."""
    tables = []
    for measure in _MEASURES:
        rows = material.rows(Table.ACQUISITION, measure.settings)
        if rows.empty:
            continue
        means = run_means(rows, [*EDITS, *SETTINGS])
        told = control_strengths(means)
        names = [edit_name(row, told) for row in means.to_dict("records")]
        tables.append(with_names(means, "arm", names).assign(panel=measure.name))
    if not tables:
        return pd.DataFrame(columns=list(_KEPT))
    # An unedited start is the same against itself.
    found = pd.concat(tables, ignore_index=True)[list(_KEPT)]
    own = found[(found["panel"] == _MEASURES[0].name) & (found["arm"] == UNEDITED_NAME)]
    if _MEASURES[1].name in set(found["panel"]):
        found = pd.concat([found, own.assign(panel=_MEASURES[1].name)], ignore_index=True)
    return found.drop_duplicates([name for name in _KEPT if name != "value"])


def _most_edited(runs: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The runs of the settings under which most edits were tried, of these the oldest start."""
    kinds = runs[runs["arm"] != UNEDITED_NAME].groupby(list(SETTINGS), sort=False)["arm"].nunique()
    most = kinds[kinds == kinds.max()].reset_index().sort_values("step", key=as_numbers)
    chosen = most.iloc[-1][list(SETTINGS)]
    same = (runs[list(SETTINGS)] == chosen).all(axis=1)
    return runs[same], run_name(chosen.to_dict(), ["trajectory", "step", *varied(runs, SETTINGS)])


def _differences(runs: pd.DataFrame) -> pd.DataFrame:
    """Edited runs less unedited ones of the same seed, start and other settings."""
    unedited = runs["arm"] == UNEDITED_NAME
    return differences(runs[~unedited], runs.loc[unedited, ["panel", *SETTINGS, "seed", "value"]])


def _panels(means: pd.DataFrame, seeds: pd.DataFrame, draw: Drawing) -> list[Panel]:
    return [
        Panel(draw(rows, seeds[seeds["panel"] == measure.name], measure), measure.name)
        for measure in _MEASURES
        if len(rows := means[means["panel"] == measure.name])
    ]


def _level_figure(
    runs: pd.DataFrame, means: pd.DataFrame, colours: dict[str, str], where: str
) -> Figure:
    def draw(rows: pd.DataFrame, seeds: pd.DataFrame, measure: _Measure) -> go.Figure:
        from_zero = measure.show is share
        form = measure.form
        return arm_dots(rows, colours, "", seeds=seeds, form=form, from_zero=from_zero)

    return wide_figure(
        "Edited starts beside the unedited one.",
        f"Starts: {where}. Dots: means over seeds with 95 % intervals over seeds; faint dots: "
        "single seeds. K is the mean log-probability of probes of passages met, in nats; A its "
        "change since the start as a share; F and P are of the downstream tasks.",
        _panels(means, runs, draw),
    )


def _difference_figure(
    moved: pd.DataFrame, gained: pd.DataFrame, colours: dict[str, str]
) -> Iterator[Piece]:
    def draw(rows: pd.DataFrame, seeds: pd.DataFrame, measure: _Measure) -> go.Figure:
        return arm_dots(rows, colours, "", seeds=seeds, form=f"+{measure.form}")

    if len(gained):
        yield wide_figure(
            "Less unedited runs of the same seeds.",
            "On the dotted line an edit makes no difference. To the right more is acquired, or "
            "known in the end, or (F) more forgotten.",
            _panels(gained, moved, draw),
        )


def _lines(runs: pd.DataFrame) -> pd.DataFrame:
    """Edits of one kind along what varies, `x`, by `axis` and `series`."""
    plain = runs[is_set(runs["site"]) & ~is_set(runs["temperature"])]
    found = []
    for axis, other in _OTHER.items():
        series = [f"{row['site']}, {other} {row[other]:g}" for row in plain.to_dict("records")]
        found.append(with_names(plain, "series", series).assign(axis=axis, x=plain[axis]))
    warm = runs[is_set(runs["temperature"]) & ~is_set(runs["ratio"])]
    found.append(warm.assign(axis="temperature", series=_TEMPERATURE, x=warm["temperature"]))
    rows = pd.concat(found, ignore_index=True)
    points_of = rows.groupby(["axis", "series", "panel"])["x"].transform("nunique")
    return rows[points_of > 1] if len(rows) else rows


def _dose_figures(
    lines: pd.DataFrame, runs: pd.DataFrame, colours: dict[str, str]
) -> Iterator[Piece]:
    unedited = runs[runs["arm"] == UNEDITED_NAME].groupby("panel")["value"].mean()
    titles = {**_AXES, "temperature": _TEMPERATURE}
    for axis, title in titles.items():
        rows = lines[lines["axis"] == axis]
        if rows.empty or not has_order(rows["x"]):
            continue
        panels = []
        for measure in _MEASURES:
            found = rows[rows["panel"] == measure.name]
            if found.empty:
                continue
            of = {name: colours[name] for name in found["series"].unique()}
            drawn = lines_over(found, title, "", of, form=measure.form, intervals=True)
            if measure.name in unedited:
                drawn = add_reference(drawn, float(unedited[measure.name]), UNEDITED_NAME)
            panels.append(Panel(drawn, measure.name))
        yield even_figure(
            f"Against the {title}.",
            "Thick lines: means over seeds, with 95 % intervals over seeds; thin ones: single "
            "seeds; the dotted line is the unedited start.",
            panels,
        )


def _by_age(runs: pd.DataFrame) -> pd.DataFrame:
    """Differences of edits that were tried at two ages of the start or more."""
    moved = _differences(runs[is_set(runs["step"])])
    if moved.empty:
        return moved.assign(series=[], x=[])
    told = varied(moved, [name for name in SETTINGS if name != "step"])
    names = [
        ", ".join([row["arm"], *([run_name(row, told)] if told else [])])
        for row in moved.to_dict("records")
    ]
    rows = with_names(moved, "series", names).assign(x=moved["step"])
    several = rows.groupby(["panel", "series"])["x"].transform("nunique") > 1
    return rows[several]


def _age_figure(rows: pd.DataFrame, colours: Mapping[str, str]) -> Iterator[Piece]:
    panels = []
    for measure in _MEASURES:
        found = rows[rows["panel"] == measure.name]
        if len(found):
            of = {name: colours[name] for name in found["series"].unique()}
            form = f"+{measure.form}"
            drawn = lines_over(found, "pretraining step", "", of, form=form, intervals=True)
            panels.append(Panel(add_reference(drawn, 0.0, UNEDITED_NAME), measure.name))
    if panels:
        yield even_figure(
            "What edits add, by the age of the start.",
            "Edited less unedited runs of the same seed and start.",
            panels,
        )


def _table(names: list[str], means: pd.DataFrame, gained: pd.DataFrame) -> Iterator[Piece]:
    there = [measure for measure in _MEASURES if measure.name in set(means["panel"])]
    levels = means.set_index(["panel", "arm"])
    moved = gained.set_index(["panel", "arm"]) if len(gained) else gained

    def cells(measure: _Measure, name: str) -> tuple[str, str]:
        key = (measure.name, name)
        return (
            with_interval(levels.loc[key], measure.show) if key in levels.index else "",
            with_interval(moved.loc[key], lambda value: signed(value, measure.difference))
            if key in moved.index
            else "",
        )

    header = [part for measure in there for part in (measure.name, "less unedited")]
    yield from text_table(
        "Edited starts",
        "Means over seeds, with 95 % intervals over seeds where there are several.",
        ["", *header],
        [[name, *(text for one in there for text in cells(one, name))] for name in names],
    )


def _findings(gained: pd.DataFrame) -> Iterator[str]:
    measures = {
        _MEASURES[2].name: "the highest K after the last injection",
        _MEASURES[0].name: "the largest A, from its own start",
    }
    by_name = {measure.name: measure for measure in _MEASURES}
    for name, words in measures.items():
        rows = gained[(gained["panel"] == name) & gained["arm"].str.contains("factor")]
        if rows.empty:
            continue
        best = rows.loc[rows["value"].idxmax()]
        change = signed(best["value"], by_name[name].difference)
        yield (
            f"Of {len(rows)} {'resuscitation' if len(rows) == 1 else 'resuscitations'}, "
            f"\u201c{best['arm']}\u201d has {words}: {change} against unedited runs, "
            f"{_sureness(best)}."
        )


def _sureness(row: pd.Series) -> str:
    if pd.isna(row["low"]):
        return f"{row['seeds']} seed{'s' if row['seeds'] > 1 else ''}, so without an interval"
    verb = "includes" if row["low"] <= 0 <= row["high"] else "excludes"
    return f"{row['seeds']} seeds, an interval that {verb} no change"
