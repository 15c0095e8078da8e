"""The report of runs of continual memorization: what they learnt by heart, and what was kept."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from analysis.arm_figures import arm_colours, by_layer, dots_by_arm, over_stages, relearning_curves
from analysis.arm_report import commands_of
from analysis.arms import RemixArm
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
from analysis.numbers import p_text, runs_in_words
from analysis.observations import ENTROPY
from analysis.remix_measures import LOG_PROB, SHARE, retained
from analysis.remix_report.depth_view import depth_section
from analysis.remix_report.findings import findings
from analysis.remix_report.summary import RemixSummary, provenance
from analysis.remix_report.tables import MAIN, moments_after, shares, signed_points, text_tables
from analysis.runs import TOKENS

DEFINITIONS = (
    "An item is right if every token of its answer, the end included, is the most probable one "
    "given the right ones before it, which is when the model gives the answer by itself, but for "
    "ties. The share of the items of stage A that are right after a later stage is its retention.",
    "Intervals of shares are Wilson's, with as many independent answers as the spread between "
    "items shows there to be; they are about other items, not about other seeds. Arms are compared "
    "item by item and seed by seed; how far seeds agree is given beside it.",
    "An arm is called by what it has beside plain training of one stage after the other: what is "
    "mixed in at which stage, which share of earlier items is shown again, how the model was "
    "edited. Its base is the arm that has none of that. Mixing makes a stage longer; the control "
    "with as many steps trains on its own items alone for that long.",
    "Source: Chen et al., \u201cContinual Memorization of Factoids in Large Language Models\u201d, "
    "2024.",
)
Tables = dict[str, Table]
Colours = dict[str, str]


def remix_report(summary: RemixSummary, command: str) -> Report:
    """What runs of continual memorization learnt and kept."""
    colours = arm_colours([arm.name for arm in summary.arms])
    tables = {table.title: table for table in text_tables(summary)}
    origin, runs = provenance(summary.arms), commands_of(summary.arms)
    shown = titled(tables, MAIN, "Arms against", "A, after", "What counts", "How stages")
    return Report(
        title="What was learnt by heart, and what was kept",
        kicker="mnemoscope · continual memorization",
        deck=_deck(summary.arms),
        findings=findings(summary),
        definitions=DEFINITIONS,
        command=command,
        provenance=origin,
        runs=runs,
        sections=[
            Section(
                MAIN,
                [
                    _terminal_table(summary),
                    _kept_figure(summary, colours),
                    *_curve_figure(summary, colours),
                    *shown,
                ],
            ),
            *_source_section(summary, colours),
            *_gradient_section(summary, colours, tables),
            *_drift_section(summary, colours, tables),
            *depth_section(summary, colours, tables),
            *_relearning_section(summary, colours, tables),
            *_level_section(summary, colours, tables),
            Section(
                "Provenance", [Code(command), Facts(origin), Fold("The runs", [Settings(runs)])]
            ),
        ],
    )


def _deck(arms: Sequence[RemixArm]) -> str:
    """What the runs are, in a sentence."""
    configuration = arms[0].runs[0].configuration
    learnt = ", then ".join(
        f"{count} items of {name}"
        for name, count in zip(configuration["data"], _counts(configuration), strict=True)
    )
    found = runs_in_words(
        "of continual memorization",
        arms=len(arms),
        runs=sum(len(arm.runs) for arm in arms),
        seeds={len(arm.seeds) for arm in arms},
    )
    return f"{found}; {learnt}."


def _counts(configuration: Mapping[str, Any]) -> list[int]:
    items: list[int] = configuration["items"]
    return items * len(configuration["data"]) if len(items) == 1 else items


def _terminal_table(summary: RemixSummary) -> Table:
    """What every arm kept, as far as a terminal has room for it."""
    columns = _brief_columns(summary)
    rows = [
        (arm.name, *(cells.get(arm.name, "") for cells in columns.values())) for arm in summary.arms
    ]
    title = "Share of items that are right, mean over seeds"
    found = Table.of_rows(title, ("\narm", *columns), rows, where=Where.TERMINAL)
    return found.without_empty()


def _brief_columns(summary: RemixSummary) -> dict[str, dict[str, str]]:
    last = summary.last_moment
    *earlier, final = moments_after(summary)
    differences = retained(summary.differences, last)
    found = {f"A,\n{moment}": shares(summary, "A", moment, interval=False) for moment in earlier}
    found[f"A,\n{final}"] = shares(summary, "A", final)
    found["against\nthe base"] = {
        str(arm): signed_points(row["effect"]) for arm, row in differences.iterrows()
    }
    found["p,\nHolm"] = {str(arm): p_text(row["p_holm"]) for arm, row in differences.iterrows()}
    for stage in summary.arms[0].stages[1:]:
        found[f"{stage},\n{last}"] = shares(summary, stage, last, interval=False)
    return found


def _kept_figure(summary: RemixSummary, colours: Colours) -> Figure:
    rows = summary.recalls
    rows = rows[(rows["match"] == TOKENS) & (rows["measure"] == SHARE)]
    last, first = summary.last_moment, summary.arms[0].moments[1]

    def panel(items: str, before: str) -> Panel:
        ours = rows[rows["items"] == items]
        at = ours[ours["moment"] == last]
        drawn = dots_by_arm(
            at[at["seed"].isna()],
            colours,
            "share right",
            seeds=at[at["seed"].notna()],
            controls=ours[(ours["moment"] == before) & ours["seed"].isna()],
            control_name=before,
            form=".1%",
        )
        return Panel(drawn, f"{items}, {last}")

    there = [stage for stage in summary.arms[0].stages if (rows["items"] == stage).any()]
    return Figure(
        "What is right after the last stage.",
        "Full dots: the share of a stage's items that is right, mean over seeds, with intervals "
        "over items; faint dots: single seeds; open dots: the same items earlier, those of A after "
        "stage A, others at the start.",
        [panel(stage, first if stage == "A" else "start") for stage in there],
    )


def _curve_figure(summary: RemixSummary, colours: Colours) -> Iterator[Figure]:
    ours = summary.curves[summary.curves["items"] == "A"]
    panels = []
    for measure, title, form in ((SHARE, "share right", ".1%"), (LOG_PROB, "nats", ".3f")):
        rows = ours[ours["measure"] == measure]
        if len(rows):
            drawn = over_stages(rows, colours, summary.arms[0].stages, title, form=form, band=True)
            panels.append(Panel(drawn, f"items of stage A, {measure}"))
    if panels:
        yield Figure(
            "What became of stage A.",
            "Lines: the items of stage A while it and the later stages were trained, mean over "
            "seeds, shaded from the least to the most. Stages are drawn equally wide, whatever "
            "number of updates they took; point at a line for its step.",
            panels,
        )


def _source_section(summary: RemixSummary, colours: Colours) -> Iterator[Section]:
    if summary.sources.empty:
        return
    drawn = over_stages(
        summary.sources, colours, summary.arms[0].stages, "nats a token", dashes="source"
    )
    drawn.update_yaxes(type="log")
    yield Section(
        "Loss by source",
        [
            Figure(
                "The training loss on each source.",
                "Full lines and dashes tell sources: the items of a stage by its letter, mixes and "
                "replay by their names. Each point is a mean over a stretch of updates.",
                [Panel(drawn)],
            )
        ],
    )


def _gradient_section(summary: RemixSummary, colours: Colours, tables: Tables) -> Iterator[Section]:
    if summary.alignments.empty:
        return
    panels = [
        Panel(over_stages(rows, colours, summary.arms[0].stages, "cosine"), str(pair))
        for pair, rows in summary.alignments.groupby("pair", sort=False)
    ]
    yield Section(
        "Gradients",
        [
            Figure(
                "Cosines between gradients.",
                "Below 0, a small step that learns the one set makes the loss on the other "
                "larger. M is the mix. A cosine says nothing where a gradient is near zero, as "
                "that of A is once it is learnt: the table counts the looks whose sign can be "
                "told.",
                panels,
            ),
            *titled(tables, "Gradients", "First step"),
        ],
    )


def _drift_section(summary: RemixSummary, colours: Colours, tables: Tables) -> Iterator[Section]:
    rows = summary.drift[summary.drift["level"] == "layer"].rename(columns={"relative": "value"})
    if rows.empty:
        return
    panels = [
        Panel(by_layer(found, colours, "share of the weights' size"), f"stage {stage}")
        for stage, found in rows.groupby("stage", sort=False)
    ]
    yield Section(
        "Weight drift",
        [
            Figure(
                "How far weights have moved in a stage, layer by layer.",
                "The Frobenius norm of the difference over that of the weights at the stage's "
                "start.",
                panels,
            ),
            *titled(tables, "Weight drift"),
        ],
    )


def _relearning_section(
    summary: RemixSummary, colours: Colours, tables: Tables
) -> Iterator[Section]:
    rows = summary.relearning
    if rows.empty:
        return
    yield Section(
        "Relearning",
        [
            Figure(
                "What comes back when a few items of stage A are taught again.",
                "Full lines: the items that were taught again; dashed: the other items of stage "
                "A; dotted: items of the same form that were never taught, which show what the "
                "form alone brings. What comes back beyond that was out of reach, not erased.",
                [Panel(relearning_curves(rows[rows["measure"] == SHARE], colours, "share right"))],
            ),
            *titled(tables, "Relearning"),
        ],
    )


def _level_section(summary: RemixSummary, colours: Colours, tables: Tables) -> Iterator[Section]:
    ours = summary.levels[summary.levels["group"] == ENTROPY]
    panels = []
    for measure, rows in ours.groupby("measure", sort=False):
        moved = rows[rows["moment"] == summary.last_moment]
        if len(moved):
            drawn = moved.drop(columns="value").rename(columns={"change": "value"})
            drawn = drawn.assign(low=float("nan"), high=float("nan"))
            panels.append(Panel(dots_by_arm(drawn, colours, "nats"), str(measure)))
    drawn_figures = [
        Figure(
            "Entropies, from the start to the end.",
            "The change since the start, mean over seeds.",
            panels,
        )
    ]
    yield Section(
        "Text and entropies",
        [*(drawn_figures if panels else []), *titled(tables, "Text, tasks and entropies")],
    )
