"""The page of runs of continual memorization: findings, figures, tables, where it is from.

Example:
    >>> Path("remix.html").write_text(remix_page(summary, command))          # doctest: +SKIP
"""

from collections.abc import Iterator

from analysis.arm_figures import arm_colours, dots_by_arm
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
from analysis.remix_report.chains import TOKENS
from analysis.remix_report.document import DEFINITIONS, TITLE, deck
from analysis.remix_report.figures import by_layer, over_stages, relearning_curves
from analysis.remix_report.findings import findings
from analysis.remix_report.levels import ENTROPY
from analysis.remix_report.page_depth import depth_section
from analysis.remix_report.recalls import LOG_PROB, SHARE
from analysis.remix_report.summary import RemixSummary, commands_of, provenance
from analysis.remix_report.tables import MAIN, text_tables
from analysis.text_tables import TextTable, drawn_tables

Tables = dict[str, TextTable]
Colours = dict[str, str]


def remix_page(summary: RemixSummary, command: str) -> str:
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
            MAIN,
            _kept_figure(summary, colours),
            *_curve_figure(summary, colours),
            *drawn_tables(tables, MAIN, "Arms against", "A, after", "What counts", "How stages"),
        ),
        *_source_section(summary, colours),
        *_gradient_section(summary, colours, tables),
        *_drift_section(summary, colours, tables),
        *depth_section(summary, colours, tables),
        *_relearning_section(summary, colours, tables),
        *_level_section(summary, colours, tables),
        section("Definitions", *(paragraph(text) for text in DEFINITIONS)),
        section(
            "Provenance",
            paragraph(element("code", command)),
            definitions(provenance(summary.arms)),
            details("The runs", as_json(commands_of(summary.arms))),
        ),
    ]
    kicker = "mnemoscope · continual memorization"
    return page(TITLE, body, kicker=kicker, deck=deck(summary.arms))


def _kept_figure(summary: RemixSummary, colours: Colours) -> Html:
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
    return figure(
        "What is right after the last stage.",
        "Full dots: the share of a stage's items that is right, mean over seeds, with intervals "
        "over items; faint dots: single seeds; open dots: the same items earlier, those of A after "
        "stage A, others at the start.",
        [panel(stage, first if stage == "A" else "start") for stage in there],
    )


def _curve_figure(summary: RemixSummary, colours: Colours) -> Iterator[Html]:
    ours = summary.curves[summary.curves["items"] == "A"]
    panels = []
    for measure, title, form in ((SHARE, "share right", ".1%"), (LOG_PROB, "nats", ".3f")):
        rows = ours[ours["measure"] == measure]
        if len(rows):
            drawn = over_stages(rows, colours, summary.arms[0].stages, title, form=form, band=True)
            panels.append(Panel(drawn, f"items of stage A, {measure}"))
    if panels:
        yield figure(
            "What became of stage A.",
            "Lines: the items of stage A while it and the later stages were trained, mean over "
            "seeds, shaded from the least to the most. Stages are drawn equally wide, whatever "
            "number of updates they took; point at a line for its step.",
            panels,
        )


def _source_section(summary: RemixSummary, colours: Colours) -> Iterator[Html]:
    if summary.sources.empty:
        return
    drawn = over_stages(
        summary.sources, colours, summary.arms[0].stages, "nats a token", dashes="source"
    )
    drawn.update_yaxes(type="log")
    yield section(
        "Loss by source",
        figure(
            "The training loss on each source.",
            "Full lines and dashes tell sources: the items of a stage by its letter, mixes and "
            "replay by their names. Each point is a mean over a stretch of updates.",
            [Panel(drawn)],
        ),
    )


def _gradient_section(summary: RemixSummary, colours: Colours, tables: Tables) -> Iterator[Html]:
    if summary.alignments.empty:
        return
    panels = [
        Panel(over_stages(rows, colours, summary.arms[0].stages, "cosine"), str(pair))
        for pair, rows in summary.alignments.groupby("pair", sort=False)
    ]
    yield section(
        "Gradients",
        figure(
            "Cosines between gradients.",
            "Below 0, a small step that learns the one set makes the loss on the other larger. M "
            "is the mix. A cosine says nothing where a gradient is near zero, as that of A is once "
            "it is learnt: the table counts the looks whose sign can be told.",
            panels,
        ),
        *drawn_tables(tables, "Gradients", "First step"),
    )


def _drift_section(summary: RemixSummary, colours: Colours, tables: Tables) -> Iterator[Html]:
    rows = summary.drift[summary.drift["level"] == "layer"].rename(columns={"relative": "value"})
    if rows.empty:
        return
    panels = [
        Panel(by_layer(found, colours, "share of the weights' size"), f"stage {stage}")
        for stage, found in rows.groupby("stage", sort=False)
    ]
    yield section(
        "Weight drift",
        figure(
            "How far weights have moved in a stage, layer by layer.",
            "The Frobenius norm of the difference over that of the weights at the stage's start.",
            panels,
        ),
        *drawn_tables(tables, "Weight drift"),
    )


def _relearning_section(summary: RemixSummary, colours: Colours, tables: Tables) -> Iterator[Html]:
    rows = summary.relearning
    if rows.empty:
        return
    yield section(
        "Relearning",
        figure(
            "What comes back when a few items of stage A are taught again.",
            "Full lines: the items that were taught again; dashed: the other items of stage A; "
            "dotted: items of the same form that were never taught, which show what the form alone "
            "brings. What comes back beyond that was out of reach, not erased.",
            [Panel(relearning_curves(rows[rows["measure"] == SHARE], colours, "share right"))],
        ),
        *drawn_tables(tables, "Relearning"),
    )


def _level_section(summary: RemixSummary, colours: Colours, tables: Tables) -> Iterator[Html]:
    ours = summary.levels[summary.levels["group"] == ENTROPY]
    panels = []
    for measure, rows in ours.groupby("measure", sort=False):
        moved = rows[rows["moment"] == summary.last_moment]
        if len(moved):
            drawn = moved.drop(columns="value").rename(columns={"change": "value"})
            drawn = drawn.assign(low=float("nan"), high=float("nan"))
            panels.append(Panel(dots_by_arm(drawn, colours, "nats"), str(measure)))
    drawn_figure = (
        figure(
            "Entropies, from the start to the end.",
            "The change since the start, mean over seeds.",
            panels,
        )
        if panels
        else Html()
    )
    yield section(
        "Text and entropies", drawn_figure, *drawn_tables(tables, "Text, tasks and entropies")
    )
