"""Resuscitation: what edits of the start do to acquisition, to the end score and to forgetting.

Shares of the edited start flatter an edit that spoils it, so that A is also given against the
unedited start, and K as it is. Differences are to unedited runs of the same seed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import pandas as pd

from analysis.arms import UNEDITED_NAME
from analysis.claims.choices import Anchor
from analysis.claims.selection import ROWS, Settings
from analysis.document import Part as Piece
from analysis.document import Switches
from analysis.figures import colours_of
from analysis.measurements import Table
from analysis.numbers import nats, points, share, signed, with_interval
from analysis.report import parts
from analysis.report.material import (
    EDITS,
    SETTINGS,
    Material,
    as_numbers,
    control_strengths,
    edit_name,
    is_set,
    named,
    run_name,
    varied,
)
from analysis.report.parts import Part


class _Measure(NamedTuple):
    """What runs are compared in."""

    settings: Settings
    form: str
    show: Callable[[float], str]
    difference: Callable[[float], str]


_OWN, _UNEDITED, _KNOWN = "A, from its own start", "A, from the unedited start", "K, last injection"
_MEASURES = {
    _OWN: _Measure(ROWS["acquired"], ".1%", share, points),
    _UNEDITED: _Measure({**ROWS["acquired"], "against": "unedited start"}, ".1%", share, points),
    _KNOWN: _Measure(ROWS["known"], ".3f", nats, lambda value: f"{nats(value)} nats"),
    "F, end": _Measure(ROWS["forgotten"], ".1%", share, points),
    "P, end": _Measure(ROWS["downstream"], ".1%", share, points),
}
_FORMS = {panel: measure.form for panel, measure in _MEASURES.items()}
_SIGNED = {panel: f"+{form}" for panel, form in _FORMS.items()}
_IS_SHARE = {panel: measure.show is share for panel, measure in _MEASURES.items()}
_BEST = {
    _KNOWN: "the highest K after the last injection",
    _OWN: "the largest A, from its own start",
}
_TEMPERATURE = "attention temperature"
_AXES = {
    "factor": "amplifying factor",
    "ratio": "resuscitation ratio",
    "temperature": _TEMPERATURE,
}
_KEPT = ("panel", "arm", "seed", "value", *EDITS, *SETTINGS)


def resuscitation_part(material: Material) -> Part | None:
    """The part; None where no start was edited."""
    runs = _runs(material)
    if (runs["arm"] == UNEDITED_NAME).all():
        return None
    here, where = _most_edited(runs)
    names = sorted(here["arm"].unique(), key=lambda name: name != UNEDITED_NAME)
    colours = colours_of(names)
    means, moved = parts.over_seeds(here, ["panel", "arm"]), _differences(here)
    gained = parts.over_seeds(moved, ["panel", "arm"])
    doses, ages = _doses(here), _by_age(runs)
    line_colours = colours_of([*doses["series"], *ages["series"]])
    return Part(
        anchor=Anchor.RESUSCITATION,
        heading="Resuscitation and other edits",
        pieces=(
            Switches({"Edits": colours, "Lines": line_colours}),
            *parts.figure(
                "Edited starts beside the unedited one.",
                f"Starts: {where}. Dots: means over seeds with 95 % intervals over seeds; faint "
                "dots: single seeds. K is the mean log-probability of probes of passages met, in "
                "nats; A its change since the start as a share; F and P are of the downstream "
                "tasks.",
                # Levels of shares begin at zero.
                parts.dot_panels(means, colours, seeds=here, form=_FORMS, marks_zero=_IS_SHARE),
                is_wide=True,
            ),
            *parts.figure(
                "Less unedited runs of the same seeds.",
                "On the dotted line an edit makes no difference. To the right more is acquired, "
                "or known in the end, or (F) more forgotten.",
                parts.dot_panels(gained, colours, seeds=moved, form=_SIGNED),
                is_wide=True,
            ),
            *_dose_figures(doses, here, line_colours),
            *parts.figure(
                "What edits add, by the age of the start.",
                "Edited less unedited runs of the same seed and start.",
                parts.line_panels(
                    *(ages, "pretraining step", "", line_colours),
                    form=_SIGNED,
                    unedited=dict.fromkeys(_MEASURES, 0.0),
                ),
            ),
            *_table(names, means, gained),
        ),
        tables={
            "edits": means,
            "edits-less-unedited": gained,
            "edits-by-age": parts.over_seeds(ages, ["panel", "series", "x"]),
        },
        findings=tuple(_findings(gained)),
    )


def _runs(material: Material) -> pd.DataFrame:
    """A number of every run and measure, with what was done to its start."""
    tables = [pd.DataFrame(columns=list(_KEPT))]
    for panel, measure in _MEASURES.items():
        rows = material.rows(Table.ACQUISITION, measure.settings)
        means = parts.run_means(rows, [*EDITS, *SETTINGS])
        said = control_strengths(means)
        tables.append(named(means, "arm", partial(edit_name, said=said)).assign(panel=panel))
    found = pd.concat([one for one in tables if len(one)] or tables[:1], ignore_index=True)
    # An unedited start is the same against itself.
    own = found[(found["panel"] == _OWN) & (found["arm"] == UNEDITED_NAME)]
    if _UNEDITED in set(found["panel"]):
        found = pd.concat([found, own.assign(panel=_UNEDITED)], ignore_index=True)
    kept = found[list(_KEPT)]
    return kept.drop_duplicates([name for name in _KEPT if name != "value"])


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
    return parts.differences(
        runs[~unedited], runs.loc[unedited, ["panel", *SETTINGS, "seed", "value"]]
    )


def _doses(runs: pd.DataFrame) -> pd.DataFrame:
    """Edits of one kind along what varies, `x`, by `axis` and `series`."""
    plain = runs[is_set(runs["site"]) & ~is_set(runs["temperature"])]
    warm = runs[is_set(runs["temperature"]) & ~is_set(runs["ratio"])]
    by_factor = named(plain, "series", lambda row: f"{row['site']}, ratio {row['ratio']:g}")
    by_ratio = named(plain, "series", lambda row: f"{row['site']}, factor {row['factor']:g}")
    found = [
        by_factor.assign(axis="factor", x=plain["factor"]),
        by_ratio.assign(axis="ratio", x=plain["ratio"]),
        warm.assign(series=_TEMPERATURE, axis="temperature", x=warm["temperature"]),
    ]
    rows = pd.concat(found, ignore_index=True)
    return rows[rows.groupby(["axis", "series", "panel"])["x"].transform("nunique") > 1]


def _dose_figures(
    doses: pd.DataFrame, runs: pd.DataFrame, colours: Mapping[str, str]
) -> Iterator[Piece]:
    unedited = runs[runs["arm"] == UNEDITED_NAME].groupby("panel")["value"].mean().to_dict()
    for axis, title in _AXES.items():
        yield from parts.figure(
            f"Against the {title}.",
            "Thick lines: means over seeds, with 95 % intervals over seeds; thin ones: single "
            "seeds; the dotted line is the unedited start.",
            parts.line_panels(
                *(doses[doses["axis"] == axis], title, "", colours), form=_FORMS, unedited=unedited
            ),
        )


def _by_age(runs: pd.DataFrame) -> pd.DataFrame:
    """Differences of edits that were tried at two ages of the start or more."""
    moved = _differences(runs[is_set(runs["step"])])
    said = varied(moved, [name for name in SETTINGS if name != "step"])

    def name(row: Mapping[str, object]) -> str:
        return ", ".join([str(row["arm"]), *([run_name(row, said)] if said else [])])

    rows = named(moved, "series", name).assign(x=moved["step"])
    return rows[rows.groupby(["panel", "series"])["x"].transform("nunique") > 1]


def _table(names: list[str], means: pd.DataFrame, gained: pd.DataFrame) -> Sequence[Piece]:
    def level(row: pd.Series) -> str:
        return with_interval(row, _MEASURES[row["panel"]].show)

    def change(row: pd.Series) -> str:
        measure = _MEASURES[row["panel"]]
        return with_interval(row, lambda value: signed(value, measure.difference))

    levels, moved = (
        parts.crossed(means, "arm", "panel", level),
        parts.crossed(gained, "arm", "panel", change),
    )
    moved = moved.reindex(index=levels.index, columns=levels.columns).fillna("")
    pairs = [part[[panel]] for panel in levels for part in (levels, moved)]
    cells = pd.concat(pairs, axis=1)
    cells.columns = [name for panel in levels for name in (panel, "less unedited")]
    return parts.table(
        "Edited starts",
        "Means over seeds, with 95 % intervals over seeds where there are several.",
        cells.loc[names],
    )


def _findings(gained: pd.DataFrame) -> Iterator[str]:
    for panel, words in _BEST.items():
        rows = gained[(gained["panel"] == panel) & gained["arm"].str.contains("factor")]
        if rows.empty:
            continue
        best = rows.loc[rows["value"].idxmax()]
        sure = f"{best['seeds']} seed{'s' if best['seeds'] > 1 else ''}, so without an interval"
        if pd.notna(best["low"]):
            verb = "includes" if best["low"] <= 0 <= best["high"] else "excludes"
            sure = f"{best['seeds']} seeds, an interval that {verb} no change"
        yield (
            f"Of {len(rows)} {'resuscitation' if len(rows) == 1 else 'resuscitations'}, "
            f"\u201c{best['arm']}\u201d has {words}: "
            f"{signed(best['value'], _MEASURES[panel].difference)} against unedited runs, {sure}."
        )
