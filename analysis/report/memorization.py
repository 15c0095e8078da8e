"""Memorization: what is right of stage A after each stage, by what was mixed in or shown again."""

from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from analysis.arm_figures import arm_colours, over_stages
from analysis.arms import PLAIN_NAME
from analysis.claims.choices import Anchor
from analysis.document import Panel, Switches
from analysis.document import Part as Piece
from analysis.measurements import NONE, Table
from analysis.numbers import points, share, signed
from analysis.report.figures import arm_dots, has_order, lines_over
from analysis.report.material import Material, is_set, varied
from analysis.report.names import EDITS, MIXES, control_strengths, memory_name, with_names
from analysis.report.over_seeds import over_seeds, run_means
from analysis.report.parts import Part, even_figure, text_table, wide_figure
from analysis.report.run_curves import StageCurves, stage_curves
from analysis.report.switches import keyed

_DATA = ("first", "later", "stages", "familiar")
_AMOUNTS = {
    "mix_ratio": "items mixed in, over the stage's own",
    "mix_words": "words of an item mixed in",
}
_DEPTHS = {
    "first layer": ("mean first layer", ".2f"),
    "effective layers": ("effective number of first layers", ".2f"),
}
_RIGHT = "share right"


def memorization_part(material: Material) -> Part | None:
    """The part; None where no run of continual memorization is over."""
    runs = _runs(material)
    told = _told(runs)
    curves = stage_curves(material.results.chains, material.curves, told)
    if runs.empty and not curves:
        return None
    right = runs[runs["measure"] == _RIGHT]
    names = list(dict.fromkeys([*runs["arm"], *(name for one in curves for name in one.arms)]))
    colours = arm_colours(_plain_first(names))
    amounts = _amounts(right)
    lines = arm_colours(list(dict.fromkeys(amounts["series"])))
    summary = _summary(right)
    depth = tuple(_depth_figure(runs, colours))
    tables = {"share-right": summary, "stage-curves": _curve_table(curves)}
    return Part(
        anchor=Anchor.MEMORIZATION,
        heading="Memorization",
        pieces=(
            Switches({"Arms": colours, "Lines": lines}),
            *_right_figure(right, colours),
            *_stage_figures(curves, colours),
            *(dose := tuple(_amount_figure(amounts, lines))),
            *depth,
            *_tables(summary),
        ),
        tables={name: rows for name, rows in tables.items() if len(rows)},
        findings=tuple(_findings(summary)),
        anchors=(*([Anchor.MIXES] if dose else []), *([Anchor.DEPTH] if depth else [])),
    )


def _plain_first(names: Sequence[str]) -> list[str]:
    return sorted(names, key=lambda name: not name.startswith(PLAIN_NAME))


def _runs(material: Material) -> pd.DataFrame:
    """A number of every run, measure and moment, with what it was trained on."""
    rows = material.rows(Table.MEMORIZATION, {})
    keys = ["measure", "moment", *_DATA, *MIXES, *EDITS]
    runs = run_means(rows, keys)
    every, told = runs.to_dict("records"), _told(runs)
    named = with_names(runs, "arm", [memory_name(row, told) for row in every])
    return with_names(named, "data", _data_names(every))


def _told(runs: pd.DataFrame) -> list[str]:
    """Amounts in which mixes differ, and strengths in which controls of edits do."""
    return [*varied(runs[is_set(runs["mix_ratio"])], list(_AMOUNTS)), *control_strengths(runs)]


def _data_names(runs: Sequence[Mapping[str, object]]) -> list[str]:
    """What each run learnt; whether the start knew the facts only where names need it."""
    sets = [f"{run['first']}, then {run['later']}" for run in runs]
    known: dict[str, set[object]] = {name: set() for name in sets}
    for name, run in zip(sets, runs, strict=True):
        known[name].add(run["familiar"])
    several = len({run["familiar"] for run in runs}) > 1
    words: dict[object, str] = {True: ", known facts", False: ", new facts"}
    return [
        name + words.get(run["familiar"], "")
        if (several and run["familiar"] is True) or {NONE, False} <= known[name]
        else name
        for name, run in zip(sets, runs, strict=True)
    ]


def _last(moments: pd.Series) -> str:
    return str(max(set(moments)))


def _right_figure(right: pd.DataFrame, colours: dict[str, str]) -> Iterator[Piece]:
    panels = []
    for data, rows in right.groupby("data", sort=False):
        last = _last(rows["moment"])
        ends, first = rows[rows["moment"] == last], rows[rows["moment"] != last]
        first = first[first["moment"] == "after A"]
        drawn = arm_dots(
            over_seeds(ends, ["arm"]),
            colours,
            "share right",
            seeds=ends,
            controls=over_seeds(first, ["arm"]) if len(first) else None,
            control_name="after A",
            form=".0%",
        )
        panels.append(Panel(drawn, f"{data}: {last}"))
    if panels:
        yield wide_figure(
            "What is right of stage A after the last stage.",
            "Full dots: the share of the facts of stage A that is right, mean over seeds, with "
            "95 % intervals over seeds; faint dots: single seeds; open dots: the same facts right "
            "after stage A.",
            panels,
        )


def _stage_figures(curves: Sequence[StageCurves], colours: dict[str, str]) -> Iterator[Piece]:
    panels = [
        Panel(
            keyed(
                over_stages(one.curve, colours, one.stages, "share right", form=".0%", band=False),
                one.arms,
            ),
            one.data,
        )
        for one in curves
    ]
    if panels:
        yield even_figure(
            "What became of stage A while later stages were trained.",
            "Lines: mean over seeds. Stages are drawn equally wide, whatever number of updates "
            "they took; point at a line for its step.",
            panels,
        )


def _amounts(right: pd.DataFrame) -> pd.DataFrame:
    """Runs along the amount of their mix, `x`, by `axis` and `series`."""
    found = []
    for axis, other in zip(_AMOUNTS, reversed(_AMOUNTS), strict=True):
        rows = right[is_set(right[axis]) & (right["replay"] == NONE) & (right["equal"] == NONE)]
        if rows.empty:
            continue
        rows = rows[rows["moment"] == rows.groupby("data")["moment"].transform("max")]
        told = [*varied(rows, [other]), *control_strengths(rows)]
        several = rows["data"].nunique() > 1
        names = [
            ", ".join([memory_name(row, told), *([row["data"]] if several else [])])
            for row in rows.to_dict("records")
        ]
        found.append(with_names(rows, "series", names).assign(axis=axis, x=rows[axis]))
    if not found:
        return pd.DataFrame(columns=["axis", "series", "data", "x", "seed", "value"])
    rows = pd.concat(found, ignore_index=True)
    return rows[rows.groupby(["axis", "series"])["x"].transform("nunique") > 1]


def _amount_figure(rows: pd.DataFrame, colours: dict[str, str]) -> Iterator[Piece]:
    panels = []
    for axis, title in _AMOUNTS.items():
        found = rows[rows["axis"] == axis]
        if found.empty or not has_order(found["x"]):
            continue
        of = {name: colours[name] for name in found["series"].unique()}
        drawn = lines_over(found, title, "share right", of, form=".0%", intervals=True)
        panels.append(Panel(drawn, axis.replace("_", " ")))
    if panels:
        yield even_figure(
            "How much is mixed in, and how long its items are.",
            "The share of stage A that is right after the last stage; thick lines: means over "
            "seeds, with 95 % intervals over seeds.",
            panels,
            Anchor.MIXES,
        )


def _depth_figure(runs: pd.DataFrame, colours: dict[str, str]) -> Iterator[Piece]:
    panels = []
    for measure, (title, form) in _DEPTHS.items():
        rows = runs[runs["measure"] == measure]
        if rows.empty:
            continue
        for data, found in rows.groupby("data", sort=False):
            ends = found[found["moment"] == _last(found["moment"])]
            means = over_seeds(ends, ["arm"])
            drawn = arm_dots(means, colours, "", seeds=ends, form=form, from_zero=False)
            named = f", {data}" if rows["data"].nunique() > 1 else ""
            panels.append(Panel(drawn, f"{title}{named}"))
    if panels:
        yield wide_figure(
            "Where in depth the facts of stage A are readable.",
            "After the last stage: the first layer whose readout has the answer's first token "
            "among its ten top tokens, and over how many layers these spread.",
            panels,
            Anchor.DEPTH,
        )


def _summary(right: pd.DataFrame) -> pd.DataFrame:
    keys = ["data", "arm", "moment"]
    means = over_seeds(right, keys)
    ends = right.groupby(keys, sort=False)["value"].agg(["min", "max"]).reset_index()
    return means.merge(ends.rename(columns={"min": "least", "max": "most"}), on=keys)


def _tables(summary: pd.DataFrame) -> Iterator[Piece]:
    for data, rows in summary.groupby("data", sort=False):
        moments = sorted(rows["moment"].unique())
        cells = {(row["arm"], row["moment"]): _least_to_most(row) for _, row in rows.iterrows()}
        seeds = rows.groupby("arm", sort=False)["seeds"].max()
        yield from text_table(
            f"Stage A, by arm: {data}",
            "The share right at each moment, mean over seeds, with the least and the most of them.",
            ["", *moments, "seeds"],
            [
                [arm, *(cells.get((arm, moment), "") for moment in moments), str(seeds[arm])]
                for arm in _plain_first(list(seeds.index))
            ],
            is_open=True,
        )


def _least_to_most(row: pd.Series) -> str:
    if row["seeds"] == 1:
        return share(row["value"])
    return f"{share(row['value'])} [{share(row['least'])}, {share(row['most'])}]"


def _curve_table(curves: Sequence[StageCurves]) -> pd.DataFrame:
    tables = [one.curve.assign(data=one.data) for one in curves]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _findings(summary: pd.DataFrame) -> Iterator[str]:
    for data, rows in list(summary.groupby("data", sort=False))[:2]:
        last = _last(rows["moment"])
        ends = rows[rows["moment"] == last].set_index("arm")["value"]
        others = ends.drop(PLAIN_NAME, errors="ignore")
        if PLAIN_NAME not in ends.index or others.empty:
            continue
        best = str(others.idxmax())
        change = others[best] - ends[PLAIN_NAME]
        yield (
            f"Of {data}, {share(ends[PLAIN_NAME])} of stage A is right {last} without mixing or "
            f"replay; most of {len(others)} other arms with {best}: {share(others[best])} "
            f"({signed(change, points)})."
        )
