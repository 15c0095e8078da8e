"""The page of runs of continual knowledge learning: findings, figures, tables, where it is from.

Example:
    >>> Path("ckl.html").write_text(ckl_page(summary, command))              # doctest: +SKIP
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from analysis.arm_figures import arm_colours, dots_by_arm
from analysis.ckl_report import figures
from analysis.ckl_report.arms import Moment
from analysis.ckl_report.comparisons import K_INJECTED
from analysis.ckl_report.document import DEFINITIONS, commands_of, deck
from analysis.ckl_report.findings import findings
from analysis.ckl_report.kept_findings import KNOWLEDGE_ENTROPY
from analysis.ckl_report.levels import TEXT
from analysis.ckl_report.scores import ALL_KINDS, MET
from analysis.ckl_report.summary import CklSummary, provenance
from analysis.ckl_report.tables import text_tables
from analysis.ckl_report.trajectory import outcomes_of
from analysis.item_tables import HELD_OUT
from analysis.page import (
    Html,
    Panel,
    as_json,
    bullets,
    definitions,
    details,
    element,
    figure,
    page,
    paragraph,
    section,
)
from analysis.text_tables import TextTable, drawn_tables


def ckl_page(summary: CklSummary, command: str) -> str:
    """The whole page, as one HTML document.

    Args:
        summary: of the runs.
        command: that made it.
    """
    colours = arm_colours([arm.name for arm in summary.arms])
    tables = {found.title: found for found in text_tables(summary)}
    body = [
        bullets(findings(summary), class_="findings"),
        section(
            "What was acquired",
            _knowledge_figure(summary, colours),
            _acquisition_figure(summary, colours),
            *drawn_tables(tables, "What was acquired", "A by exposure"),
        ),
        *_trajectory_section(summary, colours, tables),
        *_comparison_section(summary, colours, tables),
        section(
            "What was kept",
            *_text_figure(summary, colours),
            *drawn_tables(tables, "What was kept", "The downstream tasks", "Entropies"),
        ),
        *_curve_section(summary, colours, tables),
        section("Definitions", *(paragraph(text) for text in DEFINITIONS)),
        section(
            "Provenance",
            paragraph(element("code", command)),
            definitions(provenance(summary.arms)),
            details("The runs", as_json(commands_of(summary.arms))),
        ),
    ]
    return page(
        "What was acquired and what was forgotten",
        body,
        kicker="mnemoscope · continual knowledge learning",
        deck=deck(summary.arms),
    )


def _knowledge_figure(summary: CklSummary, colours: dict[str, str]) -> Html:
    run = summary.arms[0].runs[0]
    injections = sorted(run.injections["step"].unique().tolist())
    panels = [
        Panel(figures.knowledge_over_steps(rows, colours, injections), heading)
        for exposure, heading in ((MET, "passages met"), (HELD_OUT, "held-out passages"))
        if not (rows := scores_over_steps(summary, held_out=exposure == HELD_OUT)).empty
    ]
    return figure(
        "Knowledge scores during training.",
        "The mean log-probability of the probes' targets, every passage counting the same, a line "
        "for each arm (mean over seeds). Marks at the bottom are injections of the first arm. What "
        "held-out passages gain is not knowledge of them.",
        panels,
    )


def scores_over_steps(summary: CklSummary, *, held_out: bool) -> pd.DataFrame:
    """K at every look, mean over seeds.

    Args:
        summary: of the runs.
        held_out: of held-out passages; otherwise of all others.

    Returns:
        Columns `arm`, `step`, `score` in nats.
    """
    found = []
    for arm in summary.arms:
        scores = [run.probe_scores for run in arm.runs]
        items = scores[0].items
        wanted = ((items["exposure"] == HELD_OUT) == held_out).to_numpy()
        if not wanted.any():
            continue
        passages = pd.factorize(items["passage"][wanted])[0]
        weights = 1 / np.bincount(passages)[passages]
        mean = np.mean([s.log_probs for s in scores], axis=0)[:, wanted] @ weights / weights.sum()
        found.append(pd.DataFrame({"arm": arm.name, "step": scores[0].steps, "score": mean}))
    return pd.concat(found) if found else pd.DataFrame(columns=["arm", "step", "score"])


def _acquisition_figure(summary: CklSummary, colours: dict[str, str]) -> Html:
    a = summary.acquired[
        (summary.acquired["kind"] == ALL_KINDS) & (summary.acquired["against"] == Moment.START)
    ]

    def panel(moment: str) -> Panel:
        rows = a[a["moment"] == moment]
        means, single = rows[rows["seed"].isna()], rows[rows["seed"].notna()]
        drawn = dots_by_arm(
            means[means["exposure"] == MET],
            colours,
            "A",
            seeds=single[single["exposure"] == MET],
            controls=means[means["exposure"] == HELD_OUT],
            form=".1%",
        )
        return Panel(drawn, str(moment))

    return figure(
        "Acquisition of every arm.",
        "The change of K since the start as a share of its size. Full dots with intervals over "
        "passages: passages that were met; faint dots: single seeds; open dots: held-out passages.",
        [panel(Moment.INJECTED), panel(Moment.END)],
    )


def _trajectory_section(
    summary: CklSummary, colours: dict[str, str], tables: dict[str, TextTable]
) -> Iterator[Html]:
    points = summary.trajectory
    if points.empty:
        return
    measures = [name for name in outcomes_of(points) if points[name].notna().any()][:2]
    entropy = [KNOWLEDGE_ENTROPY] if KNOWLEDGE_ENTROPY in points.columns else []
    yield section(
        "Over the trajectory",
        figure(
            "What starts of different ages have, and what became of them.",
            "Each dot is a start: a checkpoint of one pretraining run.",
            [
                Panel(figures.over_pretraining(points, name, colours), name)
                for name in [*entropy, *measures]
            ],
        ),
        *(
            figure(
                "Against the knowledge entropy of the start.",
                "Numbers are pretraining steps. Two things that both change with age correlate "
                "without having to do with each other; the table has first differences as well.",
                [
                    Panel(figures.against_entropy(points, kind, name, colours), name)
                    for name in measures
                ],
            )
            for kind in entropy
        ),
        *drawn_tables(tables, "Rank correlations", "Over the trajectory"),
    )


def _comparison_section(
    summary: CklSummary, colours: dict[str, str], tables: dict[str, TextTable]
) -> Iterator[Html]:
    rows = summary.comparisons[summary.comparisons["measure"] == K_INJECTED]
    if rows.empty:
        return
    yield section(
        "Arms against their bases",
        figure(
            "Difference in K of passages met, right after the last injection.",
            "Arm less base, in nats, paired by passage and seed, with intervals over passages. On "
            "the dotted line both know as much.",
            [
                Panel(
                    dots_by_arm(
                        rows.rename(columns={"effect": "value"}), colours, "nats", form="+.3f"
                    )
                )
            ],
        ),
        *drawn_tables(tables, "Arms against their bases"),
    )


def _text_figure(summary: CklSummary, colours: dict[str, str]) -> Iterator[Html]:
    rows = summary.changes[
        (summary.changes["group"] == TEXT)
        & (summary.changes["moment"] == Moment.END)
        & (summary.changes["against"] == Moment.START)
    ].rename(columns={"change": "value"})
    if rows.empty:
        return
    yield figure(
        "Held-out text, from the start to the end.",
        "The change in bits per byte; to the right, text is predicted worse than before.",
        [
            Panel(dots_by_arm(ours, colours, "change", form="+.3f"), str(measure))
            for measure, ours in rows.groupby("measure", sort=False)
        ],
    )


def _curve_section(
    summary: CklSummary, colours: dict[str, str], tables: dict[str, TextTable]
) -> Iterator[Html]:
    if summary.retained.empty:
        return
    yield section(
        "How gains fade",
        figure(
            "Forgetting curves.",
            "Dots: the share of all gains that is left, after the last local maximum; lines: "
            "fitted in the logarithm of the steps.",
            [
                Panel(figures.forgetting_curves(rows, colours), str(name).replace("_", " "))
                for name, rows in summary.retained.groupby("exposure", sort=False)
            ],
        ),
        *drawn_tables(tables, "Forgetting curves", "Effectivity"),
    )
