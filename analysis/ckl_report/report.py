"""The report of runs of continual knowledge learning: what they acquired, kept and forgot."""

from collections.abc import Iterator, Sequence

import pandas as pd

from analysis import arm_figures as figures
from analysis.arm_figures import arm_colours, dots_by_arm
from analysis.arm_report import commands_of
from analysis.arms import CklArm
from analysis.ckl_comparisons import K_INJECTED, outcomes_of
from analysis.ckl_measures import ALL_KINDS, ALL_TASKS, MET, knowledge_over_steps
from analysis.ckl_report.findings import KNOWLEDGE_ENTROPY, findings
from analysis.ckl_report.summary import CklSummary, provenance
from analysis.ckl_report.tables import acquired_text, forgotten_text, means_over_seeds, text_tables
from analysis.document import (
    Code,
    Facts,
    Figure,
    Fold,
    Panel,
    Report,
    Section,
    Settings,
    Table,
    Where,
    titled,
)
from analysis.metrics import HELD_OUT
from analysis.numbers import nats, runs_in_words
from analysis.observations import TEXT
from analysis.runs import Moment

DEFINITIONS = (
    "K is the mean log-probability of the targets of knowledge probes, in nats: over a passage's "
    "probes, then over passages. A is its change since the start, divided by its size at the "
    "start; F is the fall of P, the mean accuracy of the downstream tasks, divided by P at the "
    "start. Both are positive where something was acquired, or forgotten. The start is the model "
    "that training began from; where it was edited, changes since the unedited start are given "
    "too, since an edit that spoils the start makes A large.",
    "Intervals hold for 95 of 100 draws of passages (A, K, curves), questions (P, F) or subjects "
    "(facts), not for other seeds; what seeds do is given beside them. Held-out passages were "
    "never met and show what training does to the probes of any such passage.",
    "Source: Kim et al., \u201cKnowledge Entropy Decay during Language Model Pretraining Hinders "
    "New Knowledge Acquisition\u201d, ICLR 2025, Eq. 4 and 5; Chang et al., \u201cHow Do Large "
    "Language Models Acquire Factual Knowledge During Pretraining?\u201d, NeurIPS 2024, section "
    "3.3, for effectivity, retainability and forgetting curves.",
)


def ckl_report(summary: CklSummary, command: str) -> Report:
    """What runs of continual knowledge learning acquired, kept and forgot."""
    colours = arm_colours([arm.name for arm in summary.arms])
    tables = {table.title: table for table in text_tables(summary)}
    origin = provenance(summary.arms)
    runs = commands_of(summary.arms)
    return Report(
        title="What was acquired and what was forgotten",
        kicker="mnemoscope · continual knowledge learning",
        deck=_deck(summary.arms),
        findings=findings(summary),
        definitions=DEFINITIONS,
        command=command,
        provenance=origin,
        runs=runs,
        sections=[
            Section(
                "What was acquired",
                [
                    _terminal_table(summary),
                    _knowledge_figure(summary, colours),
                    _acquisition_figure(summary, colours),
                    *titled(tables, "What was acquired", "A by exposure"),
                ],
            ),
            *_trajectory_section(summary, colours, tables),
            *_comparison_section(summary, colours, tables),
            Section(
                "What was kept",
                [
                    *_text_figure(summary, colours),
                    *titled(tables, "What was kept", "The downstream tasks", "Entropies"),
                ],
            ),
            *_curve_section(summary, colours, tables),
            Section(
                "Provenance", [Code(command), Facts(origin), Fold("The runs", [Settings(runs)])]
            ),
        ],
    )


def _deck(arms: Sequence[CklArm]) -> str:
    """What the runs are, in a sentence."""
    first = arms[0].runs[0].manifest["inputs"]["knowledge"]
    found = runs_in_words(
        "of continual knowledge learning",
        arms=len(arms),
        runs=sum(len(arm.runs) for arm in arms),
        seeds={len(arm.seeds) for arm in arms},
    )
    return f"{found}; {first['passages']} passages with {first['probes']} probes."


def _terminal_table(summary: CklSummary) -> Table:
    """K, A and F, a row for each arm, as far as a terminal has room for them."""
    columns = {
        "\nK, start": _starts(summary),
        "A of passages met,\nlast injection": _acquired(summary),
        "\nA, end": _acquired(summary, moment=Moment.END, interval=False),
        "held out,\nlast inj.": _acquired(summary, exposure=HELD_OUT, interval=False),
        "\nF, end": _forgotten(summary),
    }
    names = [arm.name for arm in summary.arms]
    rows = list(zip(names, *columns.values(), strict=True))
    found = Table.of_rows("K in nats, A and F", ("\narm", *columns), rows, where=Where.TERMINAL)
    return found.without_empty()


def _starts(summary: CklSummary) -> list[str]:
    k = means_over_seeds(summary.knowledge, exposure=MET, kind=ALL_KINDS, moment=Moment.START)
    scores = k.set_index("arm")["score"]
    return [nats(scores[arm.name]) for arm in summary.arms]


def _acquired(
    summary: CklSummary,
    *,
    moment: str = Moment.INJECTED,
    exposure: str = MET,
    interval: bool = True,
) -> list[str]:
    return [
        acquired_text(summary, arm, moment, exposure=exposure, interval=interval)
        for arm in summary.arms
    ]


def _forgotten(summary: CklSummary) -> list[str]:
    f = means_over_seeds(summary.forgotten, task=ALL_TASKS, moment=Moment.END)
    f = f[f["against"] == Moment.START].set_index("arm")
    return [forgotten_text(f.loc[arm.name]) if arm.name in f.index else "" for arm in summary.arms]


def _knowledge_figure(summary: CklSummary, colours: dict[str, str]) -> Figure:
    run = summary.arms[0].runs[0]
    injections = sorted(run.injections["step"].unique().tolist())
    panels = [
        Panel(figures.knowledge_over_steps(rows, colours, injections), heading)
        for exposure, heading in ((MET, "passages met"), (HELD_OUT, "held-out passages"))
        if not (rows := scores_over_steps(summary, held_out=exposure == HELD_OUT)).empty
    ]
    return Figure(
        "Knowledge scores during training.",
        "The mean log-probability of the probes' targets, every passage counting the same, a line "
        "for each arm (mean over seeds). Marks at the bottom are injections of the first arm. What "
        "held-out passages gain is not knowledge of them.",
        panels,
    )


def scores_over_steps(summary: CklSummary, *, held_out: bool) -> pd.DataFrame:
    """K at every look, mean over seeds."""
    exposure = HELD_OUT if held_out else MET
    found = []
    for arm in summary.arms:
        if exposure == MET or (arm.runs[0].probe_scores.items["exposure"] == HELD_OUT).any():
            steps, scores = knowledge_over_steps(arm, exposure)
            found.append(pd.DataFrame({"arm": arm.name, "step": steps, "score": scores}))
    return pd.concat(found) if found else pd.DataFrame(columns=["arm", "step", "score"])


def _acquisition_figure(summary: CklSummary, colours: dict[str, str]) -> Figure:
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

    return Figure(
        "Acquisition of every arm.",
        "The change of K since the start as a share of its size. Full dots with intervals over "
        "passages: passages that were met; faint dots: single seeds; open dots: held-out passages.",
        [panel(Moment.INJECTED), panel(Moment.END)],
    )


def _trajectory_section(
    summary: CklSummary, colours: dict[str, str], tables: dict[str, Table]
) -> Iterator[Section]:
    points = summary.trajectory
    if points.empty:
        return
    measures = [name for name in outcomes_of(points) if points[name].notna().any()][:2]
    entropy = [KNOWLEDGE_ENTROPY] if KNOWLEDGE_ENTROPY in points.columns else []
    yield Section(
        "Over the trajectory",
        [
            Figure(
                "What starts of different ages have, and what became of them.",
                "Each dot is a start: a checkpoint of one pretraining run.",
                [
                    Panel(figures.over_pretraining(points, name, colours), name)
                    for name in [*entropy, *measures]
                ],
            ),
            *(
                Figure(
                    "Against the knowledge entropy of the start.",
                    "Numbers are pretraining steps. Two things that both change with age "
                    "correlate without having to do with each other; the table has first "
                    "differences as well.",
                    [
                        Panel(figures.against_entropy(points, kind, name, colours), name)
                        for name in measures
                    ],
                )
                for kind in entropy
            ),
            *titled(tables, "Rank correlations", "Over the trajectory"),
        ],
    )


def _comparison_section(
    summary: CklSummary, colours: dict[str, str], tables: dict[str, Table]
) -> Iterator[Section]:
    rows = summary.comparisons[summary.comparisons["measure"] == K_INJECTED]
    if rows.empty:
        return
    yield Section(
        "Arms against their bases",
        [
            Figure(
                "Difference in K of passages met, right after the last injection.",
                "Arm less base, in nats, paired by passage and seed, with intervals over "
                "passages. On the dotted line both know as much.",
                [
                    Panel(
                        dots_by_arm(
                            rows.rename(columns={"effect": "value"}), colours, "nats", form="+.3f"
                        )
                    )
                ],
            ),
            *titled(tables, "Arms against their bases"),
        ],
    )


def _text_figure(summary: CklSummary, colours: dict[str, str]) -> Iterator[Figure]:
    rows = summary.changes[
        (summary.changes["group"] == TEXT)
        & (summary.changes["moment"] == Moment.END)
        & (summary.changes["against"] == Moment.START)
    ].rename(columns={"change": "value"})
    if rows.empty:
        return
    yield Figure(
        "Held-out text, from the start to the end.",
        "The change in bits per byte; to the right, text is predicted worse than before.",
        [
            Panel(dots_by_arm(ours, colours, "change", form="+.3f"), str(measure))
            for measure, ours in rows.groupby("measure", sort=False)
        ],
    )


def _curve_section(
    summary: CklSummary, colours: dict[str, str], tables: dict[str, Table]
) -> Iterator[Section]:
    if summary.retained.empty:
        return
    yield Section(
        "How gains fade",
        [
            Figure(
                "Forgetting curves.",
                "Dots: the share of all gains that is left, after the last local maximum; lines: "
                "fitted in the logarithm of the steps.",
                [
                    Panel(figures.forgetting_curves(rows, colours), str(name).replace("_", " "))
                    for name, rows in summary.retained.groupby("exposure", sort=False)
                ],
            ),
            *titled(tables, "Forgetting curves", "Effectivity"),
        ],
    )
