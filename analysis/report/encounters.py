"""Encounters: what each meeting with a passage adds, how it fades, and which probes gain most."""

from collections.abc import Iterator, Sequence

import pandas as pd

from analysis import arm_figures
from analysis.arm_figures import arm_colours
from analysis.arms import CklArm
from analysis.ckl_measures import ALL_KINDS
from analysis.claims.choices import Anchor
from analysis.claims.selection import (
    ROWS,
)
from analysis.document import Panel, Switches
from analysis.document import Part as Piece
from analysis.encounter_measures import curve_tables
from analysis.measurements import Table
from analysis.metrics import HELD_OUT
from analysis.numbers import MINUS, nats, steps_text, with_interval
from analysis.report.figures import arm_dots, linked, mark_maxima
from analysis.report.material import Material, as_numbers, varied
from analysis.report.names import SETTINGS, run_name, with_names
from analysis.report.over_seeds import over_seeds, run_means
from analysis.report.parts import Part, even_figure, text_table, wide_figure
from analysis.report.run_curves import chosen_arms, injection_steps, named_arms, probe_curves
from analysis.report.switches import keyed

KINDS = ("memorization", "semantic", "compositional")
_EXPOSURES = ("paraphrase", "duplication", "once", HELD_OUT)
_EFFECTIVITY = {
    **{"measure": "effectivity", "exposure": "met", "moment": None, "against": None},
    **ROWS["unedited"],
}


def encounters_part(material: Material) -> Part | None:
    """The part; None where no unedited run of continual knowledge learning is over."""
    rows = _gain_rows(material)
    told = varied(rows, SETTINGS)
    arms = named_arms(chosen_arms(material.results.runs, material.curves), told)
    gains = _gains(rows, told)
    if not arms and gains.empty:
        return None
    names = list(dict.fromkeys([*gains["arm"], *(arm.name for arm in arms)]))
    colours = arm_colours(names)
    curves, maxima = probe_curves(arms)
    _, fits, points, without = curve_tables(arms)
    fits = fits[fits["kind"] == ALL_KINDS]
    tables = {
        "probe-curves": curves,
        "local-maxima": maxima,
        "forgetting-curves": fits,
        "effectivity": gains,
    }
    return Part(
        anchor=Anchor.ENCOUNTERS,
        heading="Encounters",
        pieces=(
            Switches({"Runs": colours}),
            *_curve_figure(arms, curves, maxima, colours),
            *_fading(points, fits, without, colours),
            *_gain_figure(gains, colours),
        ),
        tables={name: rows for name, rows in tables.items() if len(rows)},
        findings=tuple(_findings(gains, fits)),
    )


def _curve_figure(
    arms: Sequence[CklArm], curves: pd.DataFrame, maxima: pd.DataFrame, colours: dict[str, str]
) -> Iterator[Piece]:
    panels = []
    for exposure in _EXPOSURES:
        rows = curves[curves["exposure"] == exposure]
        if rows.empty:
            continue
        met = injection_steps(arms[0].runs[0], exposure)
        of_arms = {name: colours[name] for name in rows["arm"].unique()}
        drawn = arm_figures.knowledge_over_steps(rows, of_arms, met)
        best = maxima[maxima["exposure"] == exposure]
        drawn = keyed(mark_maxima(drawn, best, colours, "nats"), of_arms)
        panels.append(Panel(linked(drawn, "step"), exposure.replace("_", " ")))
    if panels:
        yield even_figure(
            "Knowledge scores during training.",
            "The mean log-probability of probes' targets, every passage counting the same, mean "
            "over the seeds of a run's settings; a panel for each exposure. Marks at the bottom "
            "are encounters, where all passages of the panel are met at the same steps; open dots "
            "are the best between an encounter and the next.",
            panels,
        )


def _fading(
    points: pd.DataFrame, fits: pd.DataFrame, without: dict[str, str], colours: dict[str, str]
) -> Iterator[Piece]:
    if len(points):
        yield even_figure(
            "How gains fade.",
            "Dots: the share of all gains that is left, after the last local maximum; lines: "
            "fitted in the logarithm of the steps. The table has their slopes, R², and the step "
            "at which none would be left.",
            [
                Panel(
                    linked(
                        keyed(arm_figures.forgetting_curves(rows, colours), colours),
                        "steps after the last maximum",
                    ),
                    str(exposure).replace("_", " "),
                )
                for exposure, rows in points.groupby("exposure", sort=False)
            ],
        )
    yield from text_table(
        "Forgetting curves",
        "Slope of the share left, per decade of steps, with its interval over passages; the "
        "threshold is the step at which the line reaches zero, beyond the last look where it is in "
        "brackets.",
        ["", "exposure", "slope", "R²", "threshold (steps)", "best by AIC", "passages"],
        [_fit_cells(row) for _, row in fits.iterrows()],
    )
    if without:
        reasons = dict.fromkeys(without.values())
        yield f"Without a forgetting curve: {'; '.join(reasons)}."


def _fit_cells(row: pd.Series) -> list[str]:
    beyond = row["threshold"] > row["last"]
    threshold = steps_text(row["threshold"])
    slope = with_interval(row, lambda value: f"{value:.3f}".replace("-", MINUS), "slope")
    return [
        *(row["arm"], row["exposure"].replace("_", " "), slope, f"{row['r_squared']:.2f}"),
        *(
            f"({threshold})" if beyond else threshold,
            row["best_by_aic"].replace("_", " "),
            str(row["passages"]),
        ),
    ]


def _gain_rows(material: Material) -> pd.DataFrame:
    rows = material.rows(Table.ACQUISITION, _EFFECTIVITY)
    return rows[rows["kind"].isin(KINDS)].sort_values("step", key=as_numbers, kind="stable")


def _gains(rows: pd.DataFrame, told: Sequence[str]) -> pd.DataFrame:
    """Effectivity: columns `arm`, `kind`, `value`, `low`, `high`, `seeds`."""
    named = with_names(rows, "arm", [run_name(row, told) for row in rows.to_dict("records")])
    return over_seeds(run_means(named, ["arm", "kind"]), ["arm", "kind"])


def _gain_figure(gains: pd.DataFrame, colours: dict[str, str]) -> Iterator[Piece]:
    panels = [
        Panel(arm_dots(rows, colours, "nats", form=".3f"), kind)
        for kind in KINDS
        if len(rows := gains[gains["kind"] == kind])
    ]
    if panels:
        yield wide_figure(
            "What an encounter adds, by kind of probe.",
            "Effectivity: the local maximum after an encounter less the log-probability before "
            "it, mean over encounters and passages met, with 95 % intervals over seeds. A maximum "
            "over noise is above 0 where nothing was learnt.",
            panels,
        )


def _findings(gains: pd.DataFrame, fits: pd.DataFrame) -> Iterator[str]:
    means = gains.groupby("kind")["value"].mean()
    told = [f"{nats(means[kind])} nats for {kind} probes" for kind in KINDS if kind in means]
    if told:
        yield f"An encounter adds {', '.join(told)}, mean over all unedited runs."
    if len(fits):
        low, high = fits["slope"].min(), fits["slope"].max()
        ends = " to ".join(dict.fromkeys(f"{-100 * value:.0f}" for value in (high, low)))
        yield (
            f"Over a decade of steps {ends} % of the gain are lost, by {len(fits)} forgetting "
            "curves."
        ).replace("-", MINUS)
