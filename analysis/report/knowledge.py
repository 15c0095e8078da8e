"""Continual knowledge learning: what encounters add and how it fades, and what edits do to it.

Knowledge is the mean log-probability of probes' targets, in nats, over a passage's probes, then
over passages, then over seeds. Shares of an edited base flatter an edit that spoils it, so that A
is also given against the unedited base, and K as it is. Differences are to unedited runs of the
same seed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis import arm_report
from analysis.arms import UNEDITED_NAME, CklArm, ckl_arms, pooled
from analysis.ckl_measures import ALL_KINDS, knowledge_over_steps
from analysis.claims.choices import Anchor
from analysis.claims.selection import ROWS, Settings
from analysis.document import Panel, Switches, figure, table_of
from analysis.document import Part as Piece
from analysis.encounter_measures import curve_tables, encounter_steps, look_grid
from analysis.encounters import find_local_maxima
from analysis.figures import colours_of, dots
from analysis.measurements import Table
from analysis.metrics import HELD_OUT
from analysis.numbers import MINUS, nats, points, share, signed, steps_text, with_interval
from analysis.report import parts
from analysis.runs import TrainingRun

KINDS = ("memorization", "semantic", "compositional")
_EXPOSURES = ("paraphrase", "duplication", "once", HELD_OUT)
_MOST_STEPS = 400  # points of a curve that a figure can show
_CURVES = ("arm", "exposure", "step", "score")


def encounters_part(material: parts.Material) -> parts.Part | None:
    """The part; None where no unedited run of continual knowledge learning is over."""
    effectivity = {**ROWS["unedited"], **ROWS["per passage"], "measure": "effectivity"}
    rows = material.rows(Table.ACQUISITION, {**effectivity, "kind": KINDS})
    rows = rows.sort_values("step", key=parts.as_numbers, kind="stable")
    said = parts.varied(rows, parts.SETTINGS)
    arms = chosen_arms(material.results.runs, material.curves)
    arms = pooled(arms, parts.names_of([arm.runs[0] for arm in arms], said))
    runs = parts.run_means(
        parts.named(rows, "arm", lambda row: parts.run_name(row, said)), ["arm", "kind"]
    )
    gains = parts.over_seeds(runs, ["arm", "kind"])
    if not arms and gains.empty:
        return None
    colours = colours_of([*gains["arm"], *(arm.name for arm in arms)])
    curves, maxima = probe_curves(arms)
    _, fits, points, without = curve_tables(arms)
    fits = fits[fits["kind"] == ALL_KINDS]
    by_kind = pd.concat(gains[gains["kind"] == kind].assign(panel=kind) for kind in KINDS)
    return parts.Part(
        anchor=Anchor.ENCOUNTERS,
        heading="Encounters",
        pieces=(
            Switches({"Runs": colours}),
            *figure(
                "Knowledge scores during training.",
                "The mean log-probability of probes' targets, every passage counting the same, "
                "mean over the seeds of a run's settings; a panel for each exposure. Marks at the "
                "bottom are encounters, where all passages of the panel are met at the same "
                "steps; open dots are the best between an encounter and the next.",
                _curve_panels(arms, curves, maxima, colours),
            ),
            *_fading(points, fits, without, colours),
            *figure(
                "What an encounter adds, by kind of probe.",
                "Effectivity: the local maximum after an encounter less the log-probability "
                "before it, mean over encounters and passages met, with 95 % intervals over "
                "seeds. A maximum over noise is above 0 where nothing was learnt.",
                parts.dot_panels(by_kind, colours, "nats", form=".3f"),
                is_wide=True,
            ),
        ),
        tables={
            "probe-curves": curves,
            "local-maxima": maxima,
            "forgetting-curves": fits,
            "effectivity": gains,
        },
        findings=tuple(_encounter_findings(gains, fits)),
    )


def chosen_arms(runs: Sequence[TrainingRun], most: int) -> list[CklArm]:
    """Unedited arms, so many of them, evenly spread over all in the order of their names."""
    groups: dict[str, list[TrainingRun]] = {}
    for run in parts.unedited_runs(runs):
        settings = dict(run.configuration)
        seed = settings.pop("seed")
        model = parts.without_seed(settings.pop("model"), seed)
        groups.setdefault(f"{model} {settings}", []).append(run)
    every = list(groups.values())
    if not every or most < 1:
        return []
    return ckl_arms([run for place in parts.thinned(len(every), most) for run in every[place]])


def probe_curves(arms: Sequence[CklArm]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores of arms over steps, by exposure, and their best after each encounter."""
    curves, maxima = ([pd.DataFrame(columns=list(_CURVES))] for _ in range(2))
    for arm in arms:
        grid = look_grid(arm.runs)
        for exposure in map(str, arm.runs[0].probe_scores.items["exposure"].unique()):
            steps, scores = knowledge_over_steps(arm, exposure)
            shown = parts.thinned(len(steps), _MOST_STEPS)
            of = {"arm": arm.name, "exposure": exposure}
            curves.append(pd.DataFrame({**of, "step": steps[shown], "score": scores[shown]}))
            met = injection_steps(arm.runs[0], exposure)
            if isinstance(grid, str) or not met:
                continue
            on_grid = scores[np.searchsorted(steps, grid.steps)]
            places = [step // grid.every for step in met]
            best = find_local_maxima(on_grid, places, grid.window)
            found = {"step": grid.steps[best.steps], "score": best.log_probs}
            maxima.append(pd.DataFrame({**of, **found}))
    # An empty table would make numbers objects.
    joined = [pd.concat(some[1:] or some, ignore_index=True) for some in (curves, maxima)]
    return joined[0], joined[1]


def injection_steps(run: TrainingRun, exposure: str) -> list[int]:
    """When passages of an exposure are met; empty where they are met at different times."""
    items = run.probe_scores.items
    passages = set(items.loc[items["exposure"] == exposure, "passage"])
    met = encounter_steps(run)
    times = {tuple(met[passage].tolist()) for passage in passages & set(met)}
    return list(times.pop()) if len(times) == 1 else []


def _curve_panels(
    arms: Sequence[CklArm], curves: pd.DataFrame, maxima: pd.DataFrame, colours: dict[str, str]
) -> Iterator[Panel]:
    for exposure in _EXPOSURES:
        rows = curves[curves["exposure"] == exposure]
        if rows.empty:
            continue
        met = injection_steps(arms[0].runs[0], exposure)
        drawn = arm_report.knowledge_over_steps(rows, colours, met)
        best = maxima[maxima["exposure"] == exposure]
        hover = "local maximum, step {step:,}: <b>{score:.3f}</b> nats"
        of: dict[str, Any] = {"by": "arm", "colours": colours, "keys": True, "onto": drawn}
        dots(best, "step", "score", hover=hover, size=7, marker_symbol="circle-open", **of)
        yield Panel(parts.linked(drawn, "step"), exposure.replace("_", " "))


def _fading(
    points: pd.DataFrame, fits: pd.DataFrame, without: dict[str, str], colours: dict[str, str]
) -> Iterator[Piece]:
    axis = "steps after the last maximum"
    panels = [
        Panel(
            parts.linked(arm_report.forgetting_curves(rows, colours), axis),
            str(exposure).replace("_", " "),
        )
        for exposure, rows in points.groupby("exposure", sort=False)
    ]
    yield from figure(
        "How gains fade.",
        "Dots: the share of all gains that is left, after the last local maximum; lines: fitted "
        "in the logarithm of the steps. The table has their slopes, R², and the step at which "
        "none would be left.",
        panels,
    )
    steps = [
        f"({steps_text(row.threshold)})" if row.threshold > row.last else steps_text(row.threshold)
        for row in fits.itertuples()
    ]
    yield table_of(
        "Forgetting curves",
        fits.assign(steps=steps),
        {
            "": "{arm}",
            "exposure": "{exposure:words}",
            "slope": "{slope:nats~}",
            "R²": "{r_squared:.2f}",
            "threshold (steps)": "{steps}",
            "best by AIC": "{best_by_aic:words}",
            "passages": "{passages}",
        },
        "Slope of the share left, per decade of steps, with its interval over passages; the "
        "threshold is the step at which the line reaches zero, beyond the last evaluation where "
        "it is in brackets.",
    )
    if without:
        yield f"Without a forgetting curve: {'; '.join(dict.fromkeys(without.values()))}."


def _encounter_findings(gains: pd.DataFrame, fits: pd.DataFrame) -> Iterator[str]:
    means = gains.groupby("kind")["value"].mean()
    said = [f"{nats(means[kind])} nats for {kind} probes" for kind in KINDS if kind in means]
    if said:
        yield f"An encounter adds {', '.join(said)}, mean over all unedited runs."
    if len(fits):
        low, high = fits["slope"].min(), fits["slope"].max()
        ends = " to ".join(dict.fromkeys(f"{-100 * value:.0f}" for value in (high, low)))
        yield (
            f"Over a decade of steps {ends} % of the gain are lost, by {len(fits)} forgetting "
            "curves."
        ).replace("-", MINUS)


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
_AXES = {"factor": "amplifying factor", "ratio": "resuscitation ratio", "temperature": _TEMPERATURE}
_KEPT = ("panel", "arm", "seed", "value", *parts.EDITS, *parts.SETTINGS)


def resuscitation_part(material: parts.Material) -> parts.Part | None:
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
    return parts.Part(
        anchor=Anchor.RESUSCITATION,
        heading="Resuscitation and other edits",
        pieces=(
            Switches({"Edits": colours, "Lines": line_colours}),
            *figure(
                "Edited starts beside the unedited one.",
                f"Starts: {where}. Dots: means over seeds with 95 % intervals over seeds; faint "
                "dots: single seeds. K is the mean log-probability of probes of passages met, in "
                "nats; A its change since the start as a share; F and P are of the downstream "
                "tasks.",
                # Levels of shares begin at zero.
                parts.dot_panels(means, colours, seeds=here, form=_FORMS, marks_zero=_IS_SHARE),
                is_wide=True,
            ),
            *figure(
                "Less unedited runs of the same seeds.",
                "On the dotted line an edit makes no difference. To the right more is acquired, "
                "or known in the end, or (F) more forgotten.",
                parts.dot_panels(gained, colours, seeds=moved, form=_SIGNED),
                is_wide=True,
            ),
            *_dose_figures(doses, here, line_colours),
            *figure(
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
        findings=tuple(_edit_findings(gained)),
    )


def _runs(material: parts.Material) -> pd.DataFrame:
    tables = [pd.DataFrame(columns=list(_KEPT))]
    for panel, measure in _MEASURES.items():
        rows = material.rows(Table.ACQUISITION, measure.settings)
        means = parts.run_means(rows, [*parts.EDITS, *parts.SETTINGS])
        said = parts.control_strengths(means)
        tables.append(
            parts.named(means, "arm", partial(parts.edit_name, said=said)).assign(panel=panel)
        )
    found = pd.concat([one for one in tables if len(one)] or tables[:1], ignore_index=True)
    # An unedited start is the same against itself.
    own = found[(found["panel"] == _OWN) & (found["arm"] == UNEDITED_NAME)]
    if _UNEDITED in set(found["panel"]):
        found = pd.concat([found, own.assign(panel=_UNEDITED)], ignore_index=True)
    kept = found[list(_KEPT)]
    return kept.drop_duplicates([name for name in _KEPT if name != "value"])


def _most_edited(runs: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The runs of the settings under which most edits were tried, of these the oldest start."""
    kinds = (
        runs[runs["arm"] != UNEDITED_NAME]
        .groupby(list(parts.SETTINGS), sort=False)["arm"]
        .nunique()
    )
    most = kinds[kinds == kinds.max()].reset_index().sort_values("step", key=parts.as_numbers)
    chosen = most.iloc[-1][list(parts.SETTINGS)]
    same = (runs[list(parts.SETTINGS)] == chosen).all(axis=1)
    return runs[same], parts.run_name(
        chosen.to_dict(), ["trajectory", "step", *parts.varied(runs, parts.SETTINGS)]
    )


def _differences(runs: pd.DataFrame) -> pd.DataFrame:
    """Edited runs less unedited ones of the same seed, start and other settings."""
    unedited = runs["arm"] == UNEDITED_NAME
    return parts.differences(
        runs[~unedited], runs.loc[unedited, ["panel", *parts.SETTINGS, "seed", "value"]]
    )


def _doses(runs: pd.DataFrame) -> pd.DataFrame:
    """Edits of one kind along what varies, `x`, by `axis` and `series`."""
    plain = runs[parts.is_set(runs["site"]) & ~parts.is_set(runs["temperature"])]
    warm = runs[parts.is_set(runs["temperature"]) & ~parts.is_set(runs["ratio"])]
    by_factor = parts.named(plain, "series", lambda row: f"{row['site']}, ratio {row['ratio']:g}")
    by_ratio = parts.named(plain, "series", lambda row: f"{row['site']}, factor {row['factor']:g}")
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
        yield from figure(
            f"Against the {title}.",
            "Thick lines: means over seeds, with 95 % intervals over seeds; thin ones: single "
            "seeds; the dotted line is the unedited start.",
            parts.line_panels(
                *(doses[doses["axis"] == axis], title, "", colours), form=_FORMS, unedited=unedited
            ),
        )


def _by_age(runs: pd.DataFrame) -> pd.DataFrame:
    moved = _differences(runs[parts.is_set(runs["step"])])
    said = parts.varied(moved, [name for name in parts.SETTINGS if name != "step"])

    def name(row: Mapping[str, object]) -> str:
        return ", ".join([str(row["arm"]), *([parts.run_name(row, said)] if said else [])])

    rows = parts.named(moved, "series", name).assign(x=moved["step"])
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


def _edit_findings(gained: pd.DataFrame) -> Iterator[str]:
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
