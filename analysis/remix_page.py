"""What the report on continual memorization shows: tables, figures and sections.

Shares in percent, log-probabilities in nats. A number in brackets is an interval over items.
"""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from analysis.arm_report import (
    Cells,
    Summary,
    View,
    arm_table,
    by_layer,
    cells,
    columns_of,
    over_stages,
    panels,
)
from analysis.document import Panel, Section, Table, Where, figure, table_of
from analysis.figures import lines
from analysis.numbers import POINTS, count, guessed, texts
from analysis.observations import ENTROPY, NEURONS, RECALLED, TASKS, guessing, rows_where
from analysis.remix_curves import DEPTH_KEYS
from analysis.remix_measures import LOG_PROB, SHARE, retained
from analysis.remix_summary import last_moment, text_rows, untaught
from analysis.runs import TOKENS, Moment

MAIN = "What was kept"
_DEPTHS = {
    "share_found": ("share readable at some layer", ".1%"),
    "mean_first_layer": ("mean first layer", ".2f"),
    "effective_layers": ("effective number of first layers", ".2f"),
}

SHARES = "{value:share~}"


def sections(summary: Summary) -> list[Section]:
    """The sections of the report, but for its provenance."""
    view = View(summary, tables_of(summary))
    return [_kept_section(view), *_training_sections(view), *_later_sections(view)]


def tables_of(summary: Summary) -> list[Table]:
    """All tables; those without rows are not shown."""
    return [
        _main_table(summary),
        *_row_tables(summary),
        *_spread_tables(summary),
        _stage_table(summary),
        _level_table(summary),
        *_depth_tables(summary),
    ]


def _main_table(summary: Summary) -> Table:
    recalls, last, first = summary["recalls"], last_moment(summary), summary.arms[0]
    differences = retained(summary["differences"], last)

    def shares(items: str, moment: str) -> tuple[str, Cells]:
        return f"{items}, {moment}", cells(retained(recalls, moment, items), SHARES)

    kept = rows_where(summary["kept"], items="A", moment=last)
    text = "{measure}, {moment} (change)"
    columns = {
        **dict(shares("A", moment) for moment in first.moments[1:]),
        "of what was learnt": cells(kept, "{value:share}"),
        f"A, {last}, against the base": cells(differences, "{effect:+points~}"),
        "p": cells(differences, "{p_holm:p}"),
        **dict(shares(stage, last) for stage in first.stages[1:]),
        **dict(shares(name, at) for name in untaught(summary) for at in (Moment.START, last)),
        **columns_of(text_rows(summary), text, "{value:nats} ({change:+nats})"),
        "seeds": {arm.name: str(len(arm.seeds)) for arm in summary.arms},
    }
    return arm_table(
        MAIN,
        columns,
        summary.names,
        note="The share of items that are right, mean over seeds; A is what stage A taught, and so "
        "on. \u201cOf what was learnt\u201d is the share of the items right after stage A that "
        "are right at the end. Differences from the base of an arm are paired by item and seed, in "
        "percentage points; p is adjusted over the arms (Holm).",
    )


def _terminal_table(summary: Summary) -> Table:
    recalls, last, first = summary["recalls"], last_moment(summary), summary.arms[0]
    differences = retained(summary["differences"], last)
    columns = {
        f"A,\n{moment}": cells(
            retained(recalls, moment), SHARES if moment == last else "{value:share}"
        )
        for moment in first.moments[1:]
    }
    columns["against\nthe base"] = cells(differences, "{effect:+points}")
    columns["p,\nHolm"] = cells(differences, "{p_holm:p}")
    for stage in first.stages[1:]:
        columns[f"{stage},\n{last}"] = cells(retained(recalls, last, stage), "{value:share}")
    title = "Share of items that are right, mean over seeds"
    return arm_table(title, columns, summary.names, corner="\narm", where=Where.TERMINAL)


def _row_tables(summary: Summary) -> Iterator[Table]:
    rows = rows_where(summary["differences"], match=TOKENS, measure=SHARE)
    ends = texts(rows, "[{seed_low:+points}, {seed_high:+points}]")
    over = [text.replace(POINTS, "").replace("[, ]", "") for text in ends]
    yield table_of(
        "Arms against their bases",
        rows.assign(over=over),
        {
            "": "{arm}, less {base}: {items}, {moment}",
            "difference": "{effect:+points~}",
            "p": "{p_value:p}",
            "p, Holm": "{p_holm:p}",
            "over seeds": "{over}",
            "p over seeds": "{seed_p_value:p}",
            "seeds": "{seeds}",
            "items": "{count:count}",
        },
        note="Differences in the share of items that are right, in percentage points. The interval "
        "and p over items are about these runs (paired permutations over items of their mean over "
        "seeds; McNemar's exact test of one seed); those over seeds (t) are about other seeds.",
    )
    yield table_of(
        "Gradients",
        summary["signs"],
        {
            "": "{arm}: stage {stage}, {pair}",
            "cosine": "{cosine:nats}",
            "positive": "{positive:count}",
            "negative": "{negative:count}",
            "not clear": "{untold:count}",
        },
        note="The cosine of the gradients of two samples, mean over evaluations and seeds, and in "
        "how many evaluations their product is positive or negative beyond its interval over "
        "items; the sign is not clear where a gradient is near zero too. M is the mix.",
    )
    terms = summary["terms"]
    verdicts = terms["sign"].map({1: "helps", -1: "harms"}).astype(object).fillna("not clear")
    yield table_of(
        "First step of stage B",
        terms.assign(sign=verdicts),
        {
            "": "{arm}, seed {seed}",
            "share of the mix": "{mix_share:share}",
            "first term": "{delta_1:+nats}",
            "second term": "{delta_2:+nats~}",
            "mixing": "{sign}",
            "near zero": "{near_zero}",
        },
        note="What mixing saves of the loss on A, in nats a token, to first order: by where stage "
        "B begins (the first term), and by what its first step does, for a learning rate of 1 "
        "(the second), with intervals over items. These say where training sets out, not where "
        "it ends.",
    )


def _spread_tables(summary: Summary) -> Iterator[Table]:
    recalls, last = summary["recalls"], last_moment(summary)
    means = retained(recalls, last)
    single = retained(recalls, last, seeds=True).sort_values("seed", kind="stable")
    yield arm_table(
        f"A, {last}, seed by seed",
        {
            **columns_of(single, "seed {seed}", "{value:share}"),
            "mean": cells(means, "{value:share}"),
            "deviation": cells(means, "{deviation:points}"),
        },
        means["arm"],
        note="The share of the items of stage A that are right. The deviation is between seeds.",
    )
    rows = rows_where(recalls, measure=SHARE, seed=None, moment=last)
    by_match = columns_of(rows, "{match}", SHARES, row="{arm}: {items}")
    yield arm_table(
        "What counts as right",
        by_match if len(by_match) > 1 else {},
        note=f"The share of items that are right {last}: \u201ctokens\u201d is the most probable "
        "token at every place of the answer, given the right ones before; the others compare the "
        "answer that the model gives by itself.",
    )
    drift = rows_where(summary["drift"], level=["model", "module"])
    drift = drift.assign(module=drift["module"].fillna("all").astype(str).str.replace("_", " "))
    yield arm_table(
        "Weight drift",
        columns_of(drift, "{module}", "{relative:share}", row="{arm}: stage {stage}"),
        note="How far weights are at the end of a stage from where it began, as a share of their "
        "size there, mean over seeds.",
    )
    kinds = {"again": "taught again", "other": "others", "never_taught": "never taught"}
    spills = summary["spills"]
    columns = {
        words: cells(spills.dropna(subset=name), f"{{{name}_before:share}} to {{{name}:share}}")
        for name, words in kinds.items()
    }
    yield arm_table(
        "Relearning",
        columns | {"spill-over": cells(spills, "{spill_over:+points~}")},
        note="Shares of right items before a few of stage A are taught again and after it, mean "
        "over seeds. Spill-over: the rise of the others beyond that of items never taught, in "
        "points, with the least and the most of seeds in brackets.",
    )


def _stage_table(summary: Summary) -> Table:
    def status(found: pd.Series) -> str:
        numbers = found.value_counts().items()
        return ", ".join(f"{name} ({n})" if len(found) > 1 else str(name) for name, n in numbers)

    def spread(values: pd.Series) -> str:
        return " to ".join(dict.fromkeys([count(int(values.min())), count(int(values.max()))]))

    def shared(found: pd.Series) -> str:
        return "yes" if found.all() else ""

    groups = summary["stages"].groupby(["arm", "stage"], sort=False)
    shows = {"status": status, "steps": spread, "trained_tokens": spread, "shared": shared}
    return table_of(
        "How stages ended",
        groups.agg(shows).reset_index(),
        {
            "": "{arm}: {stage}",
            "status": "{status}",
            "updates": "{steps}",
            "trained tokens": "{trained_tokens}",
            "shared": "{shared}",
        },
        note="Updates and trained tokens of single runs, from the least to the most. A stage whose "
        "rule was not fulfilled ended at its cap. Shared stages were run once for several arms.",
    )


def _level_table(summary: Summary) -> Table:
    columns, moments = {}, summary.arms[0].moments
    for (measure, group), rows in summary["levels"].groupby(["measure", "group"], sort=False):
        show = "{value:share}" if group in (NEURONS, TASKS) else "{value:nats}"
        for moment in moments:
            columns[f"{measure}, {moment}"] = cells(rows_where(rows, moment=moment), show)
    stages = (stage for arm in summary.arms for run in arm.runs for stage in run.stages.values())
    chance = guessed(guessing(stage.run.task_scores for stage in stages))
    chance = f"; {chance}" if chance and (summary["levels"]["measure"] == RECALLED).any() else ""
    return arm_table(
        "Text, tasks and entropies",
        columns,
        summary.names,
        note="Means over seeds. Entropies in nats, summed over layers; next-token entropy a mean "
        f"over positions; dormant neurons a mean over layers{chance}.",
    )


def _depth_tables(summary: Summary) -> Iterator[Table]:
    if summary["depths"].empty:
        return
    by = ["arm", "checkpoint"]
    yield table_of(
        "Where answers become readable",
        summary["depths"].groupby(by, sort=False).mean(numeric_only=True).reset_index(),
        {
            "": "{arm}: {checkpoint}",
            "readable": "{share_found:share}",
            "first layer": "{mean_first_layer:nats}",
            "effective layers": "{effective_layers:nats}",
            "rank area": "{rank_area:share}",
        },
        note="By the lens, means over seeds: the share of answers whose first token is among the "
        "ten top tokens at some layer, the mean of these first layers, how many effective layers "
        "they lie in, and the rank area of all answers. Arms with edits by hooks are left out.",
    )
    changes, keys = summary["depth_changes"], ["arm", *DEPTH_KEYS]
    means = changes.groupby([*keys, "test"], sort=False)["effect"].mean().reset_index()
    tests = means["test"].str.replace("_", " ").replace("found", "readable")
    row = "{arm}: {before} to {after}"
    columns = columns_of(means.assign(test=tests), "{test}", "{effect:+.2f}", row)
    single = changes.drop_duplicates([*keys, "seed"]).groupby(keys, sort=False)
    for verdict in ("depth", "spread"):
        joined = single[verdict].agg(", ".join).reset_index()
        columns |= columns_of(joined, verdict, f"{{{verdict}}}", row)
    yield arm_table(
        "Whether answers moved",
        columns,
        note="Changes, mean over seeds; those of layers are of answers readable before and after. "
        "The verdicts are those of single seeds, with p-values adjusted over the four tests.",
    )


def _kept_section(view: View) -> Section:
    summary, last, first = view.summary, last_moment(view.summary), view.summary.arms[0]
    dots = []
    for stage in first.stages:
        before = first.moments[1] if stage == "A" else Moment.START
        dots += view.dots(
            retained(summary["recalls"], last, stage),
            "share right",
            f"{stage}, {last}",
            seeds=retained(summary["recalls"], last, stage, seeds=True),
            controls=retained(summary["recalls"], before, stage),
            control_name=before,
            form=".1%",
        )
    curves = rows_where(summary["curves"], items="A")
    curves = curves.assign(heading="items of stage A, " + curves["measure"])
    shares, scores = (rows_where(curves, measure=measure) for measure in (SHARE, LOG_PROB))
    curves = [
        *_over_stages(view, shares, "heading", "share right", form=".1%", band=True),
        *_over_stages(view, scores, "heading", "nats", band=True),
    ]
    return view.section(
        MAIN,
        _terminal_table(summary),
        *figure(
            "What is right after the last stage.",
            "Full dots: the share of a stage's items that is right, mean over seeds, with "
            "intervals over items; faint dots: single seeds; open dots: the same items earlier, "
            "those of A after stage A, others at the start.",
            dots,
        ),
        *figure(
            "What became of stage A.",
            "Lines: the items of stage A while it and the later stages were trained, mean over "
            "seeds, shaded from the least to the most. Stages are drawn equally wide; point at a "
            "line for its step.",
            curves,
        ),
        tables=(MAIN, "Arms against", "A, after", "What counts", "How stages"),
    )


def _over_stages(view: View, rows: pd.DataFrame, by: str, title: str, **style: Any) -> list[Panel]:
    stages = view.summary.arms[0].stages
    return panels(rows, by, lambda ours: over_stages(ours, view.colours, stages, title, **style))


def _training_sections(view: View) -> Iterator[Section]:
    summary = view.summary
    sources = summary["sources"].assign(of="")
    sources = _over_stages(view, sources, "of", "nats a token", dashes="source", log=True)
    yield view.section(
        "Loss by source",
        *figure(
            "The training loss on each source.",
            "Full lines and dashes tell sources: the items of a stage by its letter, mixes and "
            "replay by their names. Each point is a mean over a stretch of updates.",
            sources,
        ),
    )
    yield view.section(
        "Gradients",
        *figure(
            "Cosines between gradients.",
            "Below 0, a small step that learns the one set makes the loss on the other larger. M "
            "is the mix. Where a gradient is near zero, as that of A is once it is learnt, the "
            "cosine says nothing: the table counts the evaluations whose sign is clear.",
            _over_stages(view, summary["alignments"], "pair", "cosine"),
        ),
        tables=("Gradients", "First step"),
    )
    layers = rows_where(summary["drift"], level="layer").rename(columns={"relative": "value"})
    layers = layers.assign(stage="stage " + layers["stage"].astype(str))
    size = "share of the weights' size"
    yield view.section(
        "Weight drift",
        *figure(
            "How far weights have moved in a stage, layer by layer.",
            "The Frobenius norm of the difference over that of the weights at the stage's start.",
            panels(layers, "stage", lambda rows: by_layer(rows, view.colours, size)),
        ),
        tables=("Weight drift",),
    )


def _depth_section(view: View) -> Section:
    summary, last, first = view.summary, last_moment(view.summary), view.summary.arms[0].moments[1]
    depths = []
    for measure, (title, form) in _DEPTHS.items() if len(summary["depths"]) else ():
        rows = summary["depths"].dropna(subset=measure).rename(columns={measure: "value"})
        seeds, before = (rows_where(rows, checkpoint=moment) for moment in (last, first))
        means, earlier = (
            one.groupby("arm", sort=False, as_index=False)["value"].mean()
            for one in (seeds, before)
        )
        depths += view.dots(
            means, "", title, form=form, seeds=seeds, controls=earlier, control_name=first
        )
    return view.section(
        "Where in depth",
        *figure(
            "Where the answers of stage A become readable.",
            "Full dots: after the last stage, mean over seeds; faint dots: single seeds; open "
            "dots: after stage A. First layers are those of answers that are readable.",
            depths,
        ),
        tables=("Where answers", "Whether answers"),
    )


def _later_sections(view: View) -> Iterator[Section]:
    summary, last = view.summary, last_moment(view.summary)
    yield _depth_section(view)
    relearnt = rows_where(summary["relearning"], measure=SHARE)
    titles, hover = ("steps of relearning", "share right"), "step {step}: <b>{value:.1%}</b>"
    of: dict[str, Any] = {
        "by": ["arm", "of"],
        "colours": view.colours,
        "titles": titles,
        "hover": hover,
    }
    drawn = lines(relearnt, "step", "value", mode="lines+markers", width=1.6, size=5, **of)
    drawn.update_yaxes(tickformat=".0%").update_layout(showlegend=False)
    yield view.section(
        "Relearning",
        *figure(
            "What comes back when a few items of stage A are taught again.",
            "Full lines: the items that were taught again; dotted: the other items of stage A; "
            "dashed: items of the same form that were never taught. What comes back beyond those "
            "was out of reach, not erased.",
            [Panel(drawn)] if len(relearnt) else [],
        ),
        tables=("Relearning",),
    )
    moved = rows_where(summary["levels"], group=ENTROPY, moment=last)
    moved = moved.drop(columns="value").rename(columns={"change": "value"})
    yield view.section(
        "Text and entropies",
        *figure(
            "Entropies, from the start to the end.",
            "The change since the start, mean over seeds.",
            view.dots_by("measure", moved, "nats"),
        ),
        tables=("Text, tasks and entropies",),
    )
