"""Memorization: what is right of stage A after each stage, by what was mixed in or shown again.

What was right of stage A while later stages were trained is drawn together for runs with the same
data and stages.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd

from analysis.arm_report import over_stages
from analysis.arms import PLAIN_NAME, pooled, remix_arms
from analysis.claims.choices import Anchor
from analysis.document import Panel, Switches, figure
from analysis.document import Part as Piece
from analysis.figures import colours_of
from analysis.measurements import NONE, Table, checked
from analysis.numbers import points, share, shown_path, signed
from analysis.remix_curves import curves_of, recalls
from analysis.remix_measures import SHARE
from analysis.report import parts
from analysis.run_rows import EFFECTIVE_LAYERS, FIRST_LAYER, RIGHT, memorization_table
from analysis.runs import Chain

_DATA = ("first", "later", "stages", "familiar")
_AXES = {"mix ratio": "mix_ratio", "mix words": "mix_words"}
_AMOUNTS = {
    "mix ratio": "items mixed in, over the stage's own",
    "mix words": "words of an item mixed in",
}
"""Panels, what they are along and how it is called."""
_DEPTHS = {FIRST_LAYER: "mean first layer", EFFECTIVE_LAYERS: "effective number of first layers"}
AFTER_FIRST = "after A"
_ARMS_OF_STAGES = 2
"""Times as many arms as others have curves drawn: there is a single panel of them."""


def memorization_part(material: parts.Material) -> parts.Part | None:
    """The part; None where no run of continual memorization is over."""
    runs = _runs(material)
    said = _said(runs)
    curves = list(stage_curves(material.results.chains, material.curves, said))
    if runs.empty and not curves:
        return None
    right = runs[runs["measure"] == RIGHT]
    names = [*runs["arm"], *(name for *_, curve in curves for name in curve["arm"].unique())]
    colours = colours_of(_plain_first(dict.fromkeys(names)))
    amounts = _amounts(right)
    line_colours = colours_of(amounts["series"])
    summary = _summary(right)
    amount = figure(
        "How much is mixed in, and how long its items are.",
        "The share of stage A that is right after the last stage; thick lines: means over seeds, "
        "with 95 % intervals over seeds.",
        parts.line_panels(amounts, _AMOUNTS, "share right", line_colours, form=".0%"),
        anchor=Anchor.MIXES,
    )
    depth = figure(
        "Where in depth the facts of stage A are readable.",
        "After the last stage: the first layer whose readout has the answer's first token among "
        "its ten top tokens, and over how many layers these spread.",
        _depth_panels(runs, colours),
        anchor=Anchor.DEPTH,
        is_wide=True,
    )
    return parts.Part(
        anchor=Anchor.MEMORIZATION,
        heading="Memorization",
        pieces=(
            Switches({"Arms": colours, "Lines": line_colours}),
            *figure(
                "What is right of stage A after the last stage.",
                "Full dots: the share of the facts of stage A that is right, mean over seeds, "
                "with 95 % intervals over seeds; faint dots: single seeds; open dots: the same "
                "facts right after stage A.",
                _right_panels(right, colours),
                is_wide=True,
            ),
            *figure(
                "What became of stage A while later stages were trained.",
                "Lines: mean over seeds. Stages are drawn equally wide, whatever number of "
                "updates they took; point at a line for its step.",
                [_stages_panel(*one, colours) for one in curves],
            ),
            *amount,
            *depth,
            *_tables(summary),
        ),
        tables={
            "share-right": summary,
            "stage-curves": pd.concat(
                [pd.DataFrame(), *(curve.assign(data=data) for data, _, curve in curves)],
                ignore_index=True,
            ),
        },
        findings=tuple(_findings(summary)),
        anchors=(*[Anchor.MIXES] * len(amount), *[Anchor.DEPTH] * len(depth)),
    )


def _plain_first(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: not name.startswith(PLAIN_NAME))


def _runs(material: parts.Material) -> pd.DataFrame:
    rows = material.rows(Table.MEMORIZATION, {})
    runs = parts.run_means(rows, ["measure", "moment", *_DATA, *parts.MIXES, *parts.EDITS])
    with_arms = parts.named(runs, "arm", partial(parts.memory_name, said=_said(runs)))
    # Whether the start knew the facts is said only where names need it.
    known = runs.groupby(["first", "later"])["familiar"].agg(set)
    several = runs["familiar"].nunique() > 1

    def data(row: Mapping[str, Any]) -> str:
        name, familiar = f"{row['first']}, then {row['later']}", row["familiar"]
        words = {True: ", known facts", False: ", new facts"}.get(familiar, "")
        is_mixed = {NONE, False} <= known[row["first"], row["later"]]
        return name + words if is_mixed or (several and familiar is True) else name

    return parts.named(with_arms, "data", data)


def _said(runs: pd.DataFrame) -> list[str]:
    amounts = parts.varied(runs[parts.is_set(runs["mix_ratio"])], list(_AXES.values()))
    return [*amounts, *_texts_said(runs)]


def _texts_said(runs: pd.DataFrame) -> list[str]:
    return [
        *parts.varied(runs[parts.is_set(runs["mix_corpus"])], ["mix_corpus"]),
        *parts.control_strengths(runs),
    ]


def _at_the_end(runs: pd.DataFrame) -> pd.DataFrame:
    return runs[runs["moment"] == runs.groupby("data")["moment"].transform("max")]


def _right_panels(right: pd.DataFrame, colours: dict[str, str]) -> Iterator[Panel]:
    ends = _at_the_end(right)
    ends = ends.assign(panel=ends["data"] + ": " + ends["moment"])
    later = ends[ends["moment"] != AFTER_FIRST].drop_duplicates("data")[["data", "panel"]]
    first = right[right["moment"] == AFTER_FIRST].merge(later, on="data")
    keys = ["panel", "arm"]
    yield from parts.dot_panels(
        *(parts.over_seeds(ends, keys), colours, "share right"),
        seeds=ends,
        controls=parts.over_seeds(first, keys),
        control_name=AFTER_FIRST,
        form=".0%",
    )


def _amounts(right: pd.DataFrame) -> pd.DataFrame:
    """Runs along the amount of their mix, `x`, by `panel` and `series`."""
    found = [right.assign(panel="", series="", x=0.0)[:0]]
    plain = right[(right["replay"] == NONE) & (right["equal"] == NONE)]
    for (panel, axis), other in zip(_AXES.items(), reversed(_AXES.values()), strict=True):
        rows = _at_the_end(plain[parts.is_set(plain[axis])])
        said = [*parts.varied(rows, [other]), *_texts_said(rows)]
        series = parts.named(rows, "series", partial(parts.memory_name, said=said))
        if rows["data"].nunique() > 1:
            series["series"] += ", " + series["data"]
        found.append(series.assign(panel=panel, x=rows[axis]))
    rows = pd.concat([one for one in found if len(one)] or found[:1], ignore_index=True)
    return rows[rows.groupby(["panel", "series"])["x"].transform("nunique") > 1]


def _depth_panels(runs: pd.DataFrame, colours: dict[str, str]) -> Iterator[Panel]:
    for measure, title in _DEPTHS.items():
        ends = _at_the_end(runs[runs["measure"] == measure])
        names = f"{title}, " + ends["data"] if ends["data"].nunique() > 1 else title
        ends = ends.assign(panel=names)
        means = parts.over_seeds(ends, ["panel", "arm"])
        yield from parts.dot_panels(means, colours, seeds=ends, form=".2f", marks_zero=False)


def _summary(right: pd.DataFrame) -> pd.DataFrame:
    keys = ["data", "arm", "moment"]
    ends = right.groupby(keys, sort=False, as_index=False)["value"].agg(least="min", most="max")
    return parts.over_seeds(right, keys).merge(ends, on=keys)


def _tables(summary: pd.DataFrame) -> Iterator[Piece]:
    def cell(row: pd.Series) -> str:
        ends = f" [{share(row['least'])}, {share(row['most'])}]" if row["seeds"] > 1 else ""
        return f"{share(row['value'])}{ends}"

    for data, rows in summary.groupby("data", sort=False):
        cells = parts.crossed(rows.sort_values("moment", kind="stable"), "arm", "moment", cell)
        seeds = rows.groupby("arm")["seeds"].max().astype(str)
        yield from parts.table(
            f"Stage A, by arm: {data}",
            "The share right at each moment, mean over seeds, with the least and the most of them.",
            cells.assign(seeds=seeds).loc[_plain_first(rows["arm"].unique())],
            is_open=True,
        )


def _findings(summary: pd.DataFrame) -> Iterator[str]:
    for data, rows in list(_at_the_end(summary).groupby("data", sort=False))[:2]:
        ends = rows.set_index("arm")["value"]
        others = ends.drop(PLAIN_NAME, errors="ignore")
        if PLAIN_NAME not in ends.index or others.empty:
            continue
        best = str(others.idxmax())
        change = signed(others[best] - ends[PLAIN_NAME], points)
        yield (
            f"Of {data}, {share(ends[PLAIN_NAME])} of stage A is right {rows['moment'].iloc[0]} "
            f"without mixing or replay; most of {len(others)} other arms with {best}: "
            f"{share(others[best])} ({change})."
        )


def _stages_panel(
    data: str, stages: Sequence[str], curve: pd.DataFrame, colours: dict[str, str]
) -> Panel:
    drawn = over_stages(curve, colours, stages, "share right", form=".0%")
    return Panel(drawn.update_layout(showlegend=False), data)


def stage_curves(
    runs: Sequence[Chain], most: int, said: Sequence[str] = ()
) -> Iterator[tuple[str, tuple[str, ...], pd.DataFrame]]:
    """Data, letters of stages, and the share right of stage A over the steps of all stages."""
    sets: dict[tuple[str, ...], list[Chain]] = {}
    for chain in runs:
        names = tuple(shown_path(str(name)) for name in chain.configuration["data"])
        sets.setdefault(names, []).append(chain)
    for (first, *later), chains in sets.items() if most else ():
        arms = remix_arms(chains)
        called: list[str] = []
        for arm in arms:
            rows = checked(Table.MEMORIZATION, memorization_table(arm.runs[:1])[:1])
            called += [parts.memory_name(row, said) for row in rows.to_dict("records")] or [
                arm.name
            ]
        arms = [arm for arm in pooled(arms, called) if arm.stages == arms[0].stages]
        shown = [arms[n] for n in parts.thinned(len(arms), _ARMS_OF_STAGES * most)]
        curve = curves_of(shown, recalls, "items", "measure")
        curve = curve[(curve["items"] == "A") & (curve["measure"] == SHARE)]
        if len(curve):
            data = f"{first}, then {'+'.join(dict.fromkeys(later))}" if later else first
            yield data, arms[0].stages, curve
