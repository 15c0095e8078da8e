"""Everything that is known of arms of continual memorization, and findings from it.

Up to four arms have sentences of their own; of more, the lowest and the highest are named.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from analysis import remix_curves as curves
from analysis import remix_measures as measures
from analysis.arm_report import (
    MOST_ARMS,
    Summary,
    cells,
    differing,
    each_or_range,
    provenance_of,
    summarised,
)
from analysis.arms import RemixArm
from analysis.depth import Depth, Spread
from analysis.numbers import capital, shown_path, texts
from analysis.observations import TEXT, rows_where
from analysis.remix_curves import DEPTH_KEYS, STAGES
from analysis.remix_measures import retained
from analysis.runs import Moment

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


def summarise(
    arms: Sequence[RemixArm],
    base: RemixArm | None = None,
    depths: tuple[pd.DataFrame, pd.DataFrame] | None = None,
) -> Summary:
    """All tables of some arms."""

    def tables() -> Iterator[dict[str, Any]]:
        yield {"recalls": measures.recall_table(arms)}
        yield {"differences": measures.difference_table(arms, base)}
        yield {"curves": curves.curves_of(arms, curves.recalls, "items", "measure")}
        yield {"sources": curves.curves_of(arms, curves.losses_by_source, "source")}
        cosines = curves.curves_of(arms, curves.gradient_cosines, "pair")
        yield {"alignments": cosines, "signs": curves.sign_table(arms)}
        yield {"terms": curves.term_table(arms, base), "drift": measures.drift_table(arms)}
        yield {"kept": measures.kept_table(arms), "stages": measures.stage_table(arms)}
        yield {"relearning": curves.relearning_table(arms), "spills": curves.spill_table(arms)}
        readable, moved = depths or (pd.DataFrame(), pd.DataFrame())
        yield {"levels": measures.level_table(arms), "depths": readable, "depth_changes": moved}

    return summarised(arms, tables(), 9)


def findings(summary: Summary) -> list[str]:
    """What stands out."""
    return [
        *_capped(summary),
        *_unequal(summary),
        *_kept(summary),
        *_compared(summary),
        *_later(summary),
        *_text(summary),
        *_others(summary),
        *_relearnt(summary),
        *_gradients(summary),
        *_depths(summary),
    ]


def last_moment(summary: Summary) -> str:
    """After the last stage of the first arm."""
    return str(summary.arms[0].moments[-1])


def untaught(summary: Summary) -> list[str]:
    """Lists that no stage taught: facts that the start knew before, say."""
    names = summary["recalls"]["items"].unique()
    return [str(name) for name in names if name not in summary.arms[0].stages]


def text_rows(summary: Summary) -> pd.DataFrame:
    """Held-out text after the last stage."""
    return rows_where(summary["levels"], group=TEXT, moment=last_moment(summary))


def _capped(summary: Summary) -> Iterator[str]:
    stages = summary["stages"]
    for stage, found in rows_where(stages, status="cap reached").groupby("stage", sort=False):
        reasons = found["reason"].unique()
        example = f" ({reasons[0]})" if len(reasons) == 1 else ""
        yield (
            f"Stage {stage} ended at its cap, with its rule not fulfilled, in {len(found)} of "
            f"{(stages['stage'] == stage).sum()} runs{example}."
        )


def _unequal(summary: Summary) -> Iterator[str]:
    steps = summary["stages"].groupby(["stage", "arm"], sort=False)["steps"].mean()
    for stage, found in steps.groupby(level="stage", sort=False):
        if (least := found.min()) < (most := found.max()):
            yield (
                f"Stage {stage} took from {least:,.0f} updates ({found.idxmin()[1]}) to "
                f"{most:,.0f} ({found.idxmax()[1]}): arms differ in their training time, too."
            )


def _kept(summary: Summary) -> Iterator[str]:
    moments = summary.arms[0].moments[1:]
    tables = {moment: retained(summary["recalls"], moment) for moment in moments}
    if len(summary.arms) > MOST_ARMS:
        for moment, table in tables.items():
            if len(table):
                what = f"The share of A that is right {moment}"
                yield from each_or_range(what, table, "{value:share}", "", most=0)
        return
    single = retained(summary["recalls"], moments[-1], seeds=True)
    seeds = single.groupby("arm")["value"].agg(["min", "max", "size"]).query("size > 1")
    spread = cells(seeds.reset_index(), " (seeds {min:share} to {max:share})")
    shown = {m: cells(table, f"{{value:share~}} {m}") for m, table in tables.items()}
    for arm in summary.names:
        parts = [known[arm] for known in shown.values() if arm in known]
        if parts:
            yield (
                f"{capital(arm)}: of the items of stage A, the share that is right is "
                f"{', '.join(parts)}{spread.get(arm, '')}."
            )


def _compared(summary: Summary) -> Iterator[str]:
    rows = retained(summary["differences"], last_moment(summary))
    if len(rows):
        within = (rows["seed_low"] <= 0) & (rows["seed_high"] >= 0)
        verbs = within.map({True: "holds", False: "excludes"})
        beyond = " (its interval over seeds " + verbs + " 0)"
        rows = rows.assign(seed=beyond.where(rows["seed_low"].notna(), ""))
        what = f"what is right of A {last_moment(summary)}"
        yield differing(what, rows, "{effect:+points~}", over="items", beside="{seed}")


def _later(summary: Summary) -> Iterator[str]:
    last = last_moment(summary)
    for stage in summary.arms[0].stages[1:]:
        what = f"The share of {stage} that is right {last}"
        sentence = f"Of the items of stage {stage}, {{value:share~}} are right {last}."
        rows = retained(summary["recalls"], last, stage)
        yield from each_or_range(what, rows, "{value:share}", sentence, most=1)


def _text(summary: Summary) -> Iterator[str]:
    for measure, rows in text_rows(summary).groupby("measure", sort=False):
        what = f"The change of {measure} since the start"
        sentence = "{measure:capital} changed by {change:+nats} since the start."
        yield from each_or_range(what, rows, "{change:+nats}", sentence, most=1)


def _others(summary: Summary) -> Iterator[str]:
    recalls, last = summary["recalls"], last_moment(summary)
    for items in untaught(summary):
        before = cells(retained(recalls, Moment.START, items), "{value:share} at the start and ")
        rows = retained(recalls, last, items)[:MOST_ARMS]
        rows = rows.assign(was=[before.get(arm, "") for arm in rows["arm"]])
        yield from texts(
            rows, f"{{arm:capital}}: of {items}, {{was}}{{value:share~}} {last} are right."
        )


def _relearnt(summary: Summary) -> Iterator[str]:
    rows = summary["spills"]
    beyond = " beyond items never taught" * bool(rows["never_taught"].notna().any())
    yield from each_or_range(
        f"What came back{beyond} of the items of A that were not taught again, while others were,",
        rows.astype({"spill_over": float}),
        "{spill_over:+points}",
        "{arm:capital}: while a few items of A were taught again, of the others "
        f"{{spill_over:+points}} came back{beyond}.",
        most=1,
    )


def _gradients(summary: Summary) -> Iterator[str]:
    rows = rows_where(summary["signs"], pair="A and B", stage="B")
    if rows.empty:
        return
    counts = {name: int(rows[name].sum()) for name in ("looks", "negative", "positive", "untold")}
    unclear = f"; in {counts['untold']} the sign is not clear" * bool(counts["untold"])
    yield (
        "In stage B, a small step that learns B makes the loss on A larger in "
        f"{counts['negative']} of {counts['looks']} evaluations, smaller in {counts['positive']}"
        f"{unclear}."
    )


def _depths(summary: Summary) -> Iterator[str]:
    if summary["depth_changes"].empty:
        return
    # One row for every change, whatever the number of its tests.
    changes = summary["depth_changes"].drop_duplicates(["arm", "seed", *DEPTH_KEYS])
    for (compared, before, later), rows in changes.groupby(list(DEPTH_KEYS), sort=False):
        what = f"From {before} to {later}" if compared == STAGES else f"Against the base, {later}"
        verdicts = pd.concat([rows["depth"], rows["spread"]]).value_counts()
        numbers = {kind: verdicts.get(str(kind), 0) for kind in (*Depth, *Spread)}
        moves = (Depth.EARLIER, Depth.LATER, Spread.MORE_LAYERS, Spread.FEWER_LAYERS)
        earlier, deeper, more, fewer = (numbers[kind] for kind in moves)
        if not (earlier or deeper or more or fewer):
            yield f"{what}, no move of the answers of A in depth is shown in {len(rows)} runs."
            continue
        yield (
            f"{what}, the answers of A become readable earlier in {earlier} and later in {deeper} "
            f"of {len(rows)} runs, in more layers in {more} and in fewer in {fewer}; in the others "
            "no move is shown."
        )


def provenance(arms: Sequence[RemixArm]) -> dict[str, str]:
    """Models, data and versions behind the numbers, in words."""

    def described(found: Mapping[str, Any]) -> str:
        return (
            f"{found['items']:,} items of {shown_path(found['name'])} "
            f"({shown_path(found['source'])}; licence: {found['licence']}; rows "
            f"{found['content_hash'][:12]})"
        )

    chains = [chain for arm in arms for chain in arm.runs]
    stages = [pair for chain in chains for pair in chain.manifest["inputs"]["stages"].items()]
    learnt = {
        words: [f"{name}: {described(found[of])}" for name, found in stages if of in found]
        for of, words in (("data", "learnt"), ("mix", "mixed in"))
    }
    runs = [stage.run for chain in chains for stage in chain.stages.values()]
    held_out = [run.manifest["inputs"].get("held_out", {}) for run in runs]
    return provenance_of(chains, learnt, held_out)
