"""What the report on continual knowledge learning shows: tables, figures and sections.

K in nats, A and F in percent. A number in brackets is an interval over passages or questions; what
stands under "seeds" are the least and the most of single seeds.
"""

from collections.abc import Iterator, Mapping

import pandas as pd

from analysis.arm_report import (
    Cells,
    Summary,
    View,
    arm_table,
    cells,
    columns_of,
    forgetting_curves,
    knowledge_over_steps,
    over_pretraining,
    panels,
)
from analysis.ckl_measures import ALL_KINDS, MET, outcomes_of, scores_over_steps
from analysis.ckl_summary import (
    END,
    INJECTED,
    K_INJECTED,
    KNOWLEDGE_ENTROPY,
    START,
    acquired_rows,
    acquired_seeds,
    facts_by_guessing,
    forgotten_rows,
    moved_rows,
    with_shows,
)
from analysis.document import Figure, Panel, Section, Table, Where, figure, table_of
from analysis.metrics import HELD_OUT
from analysis.numbers import NOT_TESTED, texts
from analysis.observations import ENTROPIES, ENTROPY, RECALLED, TEXT, rows_where
from analysis.runs import Moment

SHARE = "{value:share~}"


def sections(summary: Summary) -> list[Section]:
    """The sections of the report, but for its provenance."""
    view = View(summary, tables_of(summary))
    return [_acquired_section(view), *_other_sections(view)]


def tables_of(summary: Summary) -> list[Table]:
    """All tables; those without rows are not shown."""
    return [
        _acquired_table(summary),
        *_spread_tables(summary),
        _kept_table(summary),
        *_row_tables(summary),
        *_trajectory_tables(summary),
    ]


def _acquired(summary: Summary, moment: str, text: str = SHARE, **where: str) -> Cells:
    return cells(acquired_rows(summary, moment, **where), text)


def _acquired_table(summary: Summary) -> Table:
    k = rows_where(summary["knowledge"], seed=None, exposure=MET, kind=ALL_KINDS)
    beyond = rows_where(summary["beyond"], moment=INJECTED)
    columns = {
        **{f"K, {m}": cells(rows_where(k, moment=m), "{score:nats}") for m in Moment},
        "A, last injection": _acquired(summary, INJECTED),
        "seeds": acquired_seeds(summary),
        "A, end": _acquired(summary, END),
        "A, last injection, against the unedited start": _acquired(
            summary, INJECTED, against=Moment.UNEDITED
        ),
        "A of held-out passages, last injection": _acquired(summary, INJECTED, exposure=HELD_OUT),
        "gain beyond theirs, nats": cells(beyond, "{value:+nats~}"),
    }
    return arm_table(
        "What was acquired",
        columns,
        summary.names,
        note="K of all passages that were met, in nats, and its change as a share of its size "
        "before, A. Held-out passages were never met: what they gain is not knowledge of them.",
    )


def _terminal_table(summary: Summary) -> Table:
    k = rows_where(summary["knowledge"], seed=None, exposure=MET, kind=ALL_KINDS, moment=START)
    brief = "{value:share}"
    columns = {
        "\nK, start": cells(k, "{score:nats}"),
        "A of passages met,\nlast injection": _acquired(summary, INJECTED),
        "\nA, end": _acquired(summary, END, brief),
        "held out,\nlast inj.": _acquired(summary, INJECTED, brief, exposure=HELD_OUT),
        **columns_of(forgotten_rows(summary), "\nF, end", "{f}"),
    }
    rows, where = summary.names, Where.TERMINAL
    return arm_table("K in nats, A and F", columns, rows, corner="\narm", where=where)


def _spread_tables(summary: Summary) -> Iterator[Table]:
    for moment in (INJECTED, END):
        rows = rows_where(summary["acquired"], seed=None, against=START, moment=moment)
        whole = rows["kind"] == ALL_KINDS
        part = rows["exposure"].str.replace("_", " ").where(whole, rows["kind"])
        rows = rows.assign(part=part)[whole | (rows["exposure"] == MET)]
        yield arm_table(
            f"A by exposure and by kind of probe, {moment}",
            columns_of(rows, "{part}", SHARE),
            summary.names,
            note="Against the start that training began from. Kinds are of all passages that were "
            "met.",
        )
    levels = rows_where(summary["levels"], seed=None, group=ENTROPY)
    columns: dict[str, Cells] = {}
    for kind in ENTROPIES.values():
        for moment in (Moment.UNEDITED, START, END):
            rows = rows_where(levels, measure=kind, moment=moment)
            columns[f"{kind}, {moment}"] = cells(rows, "{value:nats}")
    note = "In nats: summed over layers, next-token entropy a mean over positions."
    yield arm_table("Entropies", columns, summary.names, note=note)
    gains = rows_where(summary["gains"], kind=ALL_KINDS)
    yield arm_table(
        "Effectivity",
        columns_of(gains, "{encounter}", "{gain:nats~}", row="{arm}, {exposure}"),
        note="What each encounter gained at its local maximum, in nats. A maximum over noise is a "
        "little too high, so it is positive where nothing was learnt.",
    )


def _kept_table(summary: Summary) -> Table:
    moved, forgotten = moved_rows(summary), forgotten_rows(summary)
    chance = facts_by_guessing(summary) if (moved["measure"] == RECALLED).any() else ""
    worth = f"; {chance}; an untrained model, to which short values are likelier, can recall more"
    columns = {
        **columns_of(forgotten, "P", "{before:share} to {after:share}"),
        **columns_of(forgotten, "F", "{f}"),
        **columns_of(moved, "{measure}", "{before:{show}} to {after:{show}}: {change:{by}~}"),
    }
    return arm_table(
        "What was kept",
        columns,
        summary.names,
        note="From the start to the end, and the change; its interval over the subjects of "
        "facts. P is the mean accuracy of the downstream tasks, F its fall as a share of its "
        "size before, with its interval over questions. A rise in bits per byte is "
        f"forgetting, and so is a fall in facts{worth if chance else ''}.",
    )


def _row_tables(summary: Summary) -> Iterator[Table]:
    chances, curves = summary["chances"], summary["curves"]
    yield table_of(
        "The downstream tasks at the start, against guessing",
        chances.assign(above=chances["above"].map({True: "yes", False: "no"})),
        {
            "": "{arm}, {moment}",
            "task": "{task}",
            "accuracy": "{score:share~}",
            "guessing": "{chance:share}",
            "above": "{above}",
            "questions": "{questions:count}",
        },
        note="Intervals of all tasks of a start hold together. Where no task stands above "
        "guessing, there is nothing to forget, and F is not tested.",
    )
    kinds = (", " + curves["kind"].astype(str)).where(curves["kind"] != ALL_KINDS, "")
    yield table_of(
        "Forgetting curves",
        curves.assign(which=kinds),
        {
            "": "{arm}, {exposure}{which}",
            "slope": "{slope:+nats~}",
            "threshold, steps": "{threshold:steps}",
            "R\N{SUPERSCRIPT TWO}": "{r_squared:nats}",
            "offsets": "{first} to {last}",
            "probes that gained": "{probes} of {all_probes}",
        },
        note="The share of all gains that is left falls in a straight line over the logarithm of "
        "the steps since the last local maximum: its slope per decade, where it reaches zero (the "
        "learnability threshold), and how well the line fits. Probes count by what they gained.",
    )
    yield table_of(
        "Arms against their bases",
        with_shows(summary["comparisons"]),
        {
            "": "{arm}, less {base}",
            "measure": "{measure}",
            "difference": "{effect:{by}~}",
            "p": "{p_value:p}",
            "p, Holm": "{p_holm:p}",
            "paired by": "{clusters} {of}, {seeds} seeds",
        },
        note="Differences in nats (P in points), paired by item and seed; paired permutation "
        "tests over what is counted in the last column, adjusted by Holm's method over the "
        "arms of a measure.",
    )


def _trajectory_tables(summary: Summary) -> Iterator[Table]:
    found, correlations = summary["trajectory"], summary["correlations"]
    if found.empty:
        return
    several = found["series"].nunique() > 1
    names = texts(found, "{series}, step {step:,}" if several else "step {step:,}")
    kinds = [name for name in ENTROPIES.values() if name in found.columns]
    moved = with_shows(pd.DataFrame({"measure": outcomes_of(found)}))
    shows = dict.fromkeys(kinds, "nats") | dict(zip(moved["measure"], moved["by"], strict=True))
    columns = {}
    for name, show in shows.items():
        show = "share" if name[0] in "AF" else show
        shown = texts(found[[name]].rename(columns={name: "value"}), f"{{value:{show}}}")
        none = NOT_TESTED if name[0] == "F" else ""
        columns[name] = {row: text or none for row, text in zip(names, shown, strict=True)}
    yield arm_table(
        "Over the trajectory",
        columns,
        corner="start",
        note="Starts by the steps of their pretraining: entropies of the start in nats, and what "
        "became of it.",
    )
    yield table_of(
        "Rank correlations with entropies of the start",
        correlations,
        {
            "": "{series}: {outcome}; {entropy}" if several else "{outcome}; {entropy}",
            "starts": "{starts}",
            "levels": "{rho:+nats~}",
            "p": "{p_value:p}",
            "differences": "{rho_differences:+nats~_differences}",
            "p of differences": "{p_value_differences:p}",
        },
        note="Spearman's over starts, with its interval; differences are from each start to the "
        "next, which a common trend does not move.",
    )


def _acquired_section(view: View) -> Section:
    summary, run = view.summary, view.summary.arms[0].runs[0]
    injections = sorted(run.injections["step"].unique().tolist())
    curves, dots = [], []
    for exposure, heading in ((MET, "passages met"), (HELD_OUT, "held-out passages")):
        rows = scores_over_steps(summary.arms, exposure)
        if len(rows):
            curves.append(Panel(knowledge_over_steps(rows, view.colours, injections), heading))
    for moment in (INJECTED, END):
        where = {"kind": ALL_KINDS, "against": START, "moment": moment, "exposure": MET}
        seeds = rows_where(summary["acquired"], **where).dropna(subset="seed")
        held_out = acquired_rows(summary, moment, exposure=HELD_OUT)
        met = acquired_rows(summary, moment)
        dots += view.dots(met, "A", str(moment), seeds=seeds, controls=held_out, form=".1%")
    return view.section(
        "What was acquired",
        _terminal_table(summary),
        *figure(
            "Knowledge scores during training.",
            "The mean log-probability of the probes' targets, every passage counting the same, a "
            "line for each arm (mean over seeds). Marks at the bottom are injections of the first "
            "arm. What held-out passages gain is not knowledge of them.",
            curves,
        ),
        *figure(
            "Acquisition of every arm.",
            "The change of K since the start as a share of its size. Full dots with intervals over "
            "passages: passages that were met; faint dots: single seeds; open dots: held-out "
            "passages.",
            dots,
        ),
        tables=("What was acquired", "A by exposure"),
    )


def _other_sections(view: View) -> Iterator[Section]:
    summary, colours = view.summary, view.colours
    yield view.section(
        "Over the trajectory",
        *_trajectory_figures(summary["trajectory"], colours),
        tables=("Rank correlations", "Over the trajectory"),
    )
    compared = rows_where(summary["comparisons"], measure=K_INJECTED)
    yield view.section(
        "Arms against their bases",
        *figure(
            "Difference in K of passages met, right after the last injection.",
            "Arm less base, in nats, paired by passage and seed, with intervals over passages. On "
            "the dotted line both know as much.",
            view.dots(compared.rename(columns={"effect": "value"}), "nats", "", form="+.3f"),
        ),
        tables=("Arms against their bases",),
    )
    moved = rows_where(moved_rows(summary), group=TEXT).rename(columns={"change": "value"})
    yield view.section(
        "What was kept",
        *figure(
            "Held-out text, from the start to the end.",
            "The change in bits per byte; to the right, text is predicted worse than before.",
            view.dots_by("measure", moved, "change", form="+.3f"),
        ),
        tables=("What was kept", "The downstream tasks", "Entropies"),
    )
    yield view.section(
        "How gains fade",
        *figure(
            "Forgetting curves.",
            "Dots: the share of all gains that is left, after the last local maximum; lines: "
            "fitted in the logarithm of the steps.",
            panels(summary["retained"], "exposure", lambda rows: forgetting_curves(rows, colours)),
        ),
        tables=("Forgetting curves", "Effectivity"),
    )


def _trajectory_figures(found: pd.DataFrame, colours: Mapping[str, str]) -> Iterator[Figure]:
    if found.empty:
        return
    measures = [name for name in outcomes_of(found) if found[name].notna().any()][:2]
    entropy = [KNOWLEDGE_ENTROPY] if KNOWLEDGE_ENTROPY in found.columns else []
    yield from figure(
        "What starts of different ages have, and what became of them.",
        "Each dot is a start: a checkpoint of one pretraining run.",
        [Panel(over_pretraining(found, "step", m, colours), m) for m in [*entropy, *measures]],
    )
    yield from figure(
        "Against the knowledge entropy of the start.",
        "Numbers are pretraining steps. Two things that both change with age correlate without "
        "having to do with each other; the table has first differences as well.",
        [Panel(over_pretraining(found, kind, m, colours), m) for kind in entropy for m in measures],
    )
