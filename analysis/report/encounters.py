"""Encounters: what each meeting with a passage adds, how it fades, and which probes gain most.

Knowledge is the mean log-probability of probes' targets, in nats, over a passage's probes, then
over passages, then over seeds, with the best after each encounter where probes were scored often
enough (`analysis.encounter_measures`).
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis import arm_figures
from analysis.arms import CklArm, ckl_arms, pooled
from analysis.ckl_measures import ALL_KINDS, knowledge_over_steps
from analysis.claims.choices import Anchor
from analysis.claims.selection import ROWS
from analysis.document import Panel, Switches
from analysis.document import Part as Piece
from analysis.encounter_measures import curve_tables, encounter_steps, look_grid
from analysis.encounters import find_local_maxima
from analysis.figures import colours_of, dots
from analysis.measurements import Table
from analysis.metrics import HELD_OUT
from analysis.numbers import MINUS, nats, steps_text, with_interval
from analysis.report import parts
from analysis.report.material import (
    SETTINGS,
    Material,
    as_numbers,
    named,
    names_of,
    run_name,
    unedited_runs,
    varied,
    without_seed,
)
from analysis.report.parts import Part
from analysis.runs import TrainingRun

KINDS = ("memorization", "semantic", "compositional")
_EXPOSURES = ("paraphrase", "duplication", "once", HELD_OUT)
_MOST_STEPS = 400
"""Points of a curve that a figure can show."""
_CURVES = ("arm", "exposure", "step", "score")


def encounters_part(material: Material) -> Part | None:
    """The part; None where no unedited run of continual knowledge learning is over."""
    effectivity = {**ROWS["unedited"], **ROWS["per passage"], "measure": "effectivity"}
    rows = material.rows(Table.ACQUISITION, {**effectivity, "kind": KINDS})
    rows = rows.sort_values("step", key=as_numbers, kind="stable")
    said = varied(rows, SETTINGS)
    arms = chosen_arms(material.results.runs, material.curves)
    arms = pooled(arms, names_of([arm.runs[0] for arm in arms], said))
    runs = parts.run_means(named(rows, "arm", lambda row: run_name(row, said)), ["arm", "kind"])
    gains = parts.over_seeds(runs, ["arm", "kind"])
    if not arms and gains.empty:
        return None
    colours = colours_of([*gains["arm"], *(arm.name for arm in arms)])
    curves, maxima = probe_curves(arms)
    _, fits, points, without = curve_tables(arms)
    fits = fits[fits["kind"] == ALL_KINDS]
    by_kind = gains.assign(panel=gains["kind"]).sort_values("kind", key=_place, kind="stable")
    return Part(
        anchor=Anchor.ENCOUNTERS,
        heading="Encounters",
        pieces=(
            Switches({"Runs": colours}),
            *parts.figure(
                "Knowledge scores during training.",
                "The mean log-probability of probes' targets, every passage counting the same, "
                "mean over the seeds of a run's settings; a panel for each exposure. Marks at the "
                "bottom are encounters, where all passages of the panel are met at the same "
                "steps; open dots are the best between an encounter and the next.",
                _curve_panels(arms, curves, maxima, colours),
            ),
            *_fading(points, fits, without, colours),
            *parts.figure(
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
        findings=tuple(_findings(gains, fits)),
    )


def _place(kinds: pd.Series) -> pd.Series:
    return kinds.map(KINDS.index)


def chosen_arms(runs: Sequence[TrainingRun], most: int) -> list[CklArm]:
    """Unedited arms, so many of them, evenly spread over all in the order of their names."""
    groups: dict[str, list[TrainingRun]] = {}
    for run in unedited_runs(runs):
        settings = dict(run.configuration)
        seed = settings.pop("seed")
        model = without_seed(settings.pop("model"), seed)
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
        drawn = arm_figures.knowledge_over_steps(rows, colours, met)
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
            parts.linked(arm_figures.forgetting_curves(rows, colours), axis),
            str(exposure).replace("_", " "),
        )
        for exposure, rows in points.groupby("exposure", sort=False)
    ]
    yield from parts.figure(
        "How gains fade.",
        "Dots: the share of all gains that is left, after the last local maximum; lines: fitted "
        "in the logarithm of the steps. The table has their slopes, R², and the step at which "
        "none would be left.",
        panels,
    )
    yield from parts.table(
        "Forgetting curves",
        "Slope of the share left, per decade of steps, with its interval over passages; the "
        "threshold is the step at which the line reaches zero, beyond the last evaluation where "
        "it is in brackets.",
        pd.DataFrame([_fit_cells(row) for _, row in fits.iterrows()], columns=_FIT).set_index(""),
    )
    if without:
        yield f"Without a forgetting curve: {'; '.join(dict.fromkeys(without.values()))}."


_FIT = ("", "exposure", "slope", "R²", "threshold (steps)", "best by AIC", "passages")


def _fit_cells(row: pd.Series) -> tuple[str, ...]:
    threshold = steps_text(row["threshold"])
    slope = with_interval(row, lambda value: f"{value:.3f}".replace("-", MINUS), "slope")
    return (
        *(row["arm"], row["exposure"].replace("_", " "), slope, f"{row['r_squared']:.2f}"),
        f"({threshold})" if row["threshold"] > row["last"] else threshold,
        *(row["best_by_aic"].replace("_", " "), str(row["passages"])),
    )


def _findings(gains: pd.DataFrame, fits: pd.DataFrame) -> Iterator[str]:
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
