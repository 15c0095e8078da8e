"""What both reports on runs are made of: arms from folders, tables, figures, sentences, sections.

Arms keep their colour in all figures of a report.

Example:
    >>> plain_records(pd.DataFrame({"arm": ["none"], "low": [float("nan")]}))
    [{'arm': 'none', 'low': None}]
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from analysis import figures
from analysis.document import (
    Code,
    Facts,
    Fold,
    Panel,
    Report,
    Section,
    Settings,
    Table,
    save_report,
    titled,
)
from analysis.numbers import (
    command_line,
    label,
    one_seed,
    runs_in_words,
    say,
    share,
    shown_path,
    texts,
    value_range,
)
from analysis.runs import Recorded
from probes.cli import progress, refuse_foreign
from training.ckl_config import CKL_RECIPES
from training.pretrain_config import PRETRAIN_RECIPES
from training.recipes import command_words, from_json, recipe_named
from training.remix import REMIX_RECIPES

MOST_ARMS = 4
"""So many arms have sentences of their own; of more, the lowest and the highest are named."""
LEVEL = 0.05  # the level of tests
_HASH = 12  # characters of a hash that are shown
_RECIPES: Mapping[str, Mapping[str, Callable[[], Any]]] = {
    "training.pretrain": PRETRAIN_RECIPES,
    "training.ckl": CKL_RECIPES,
    "training.remix": REMIX_RECIPES,
}
Cells = Mapping[str, str]  # texts of a column, by what the rows are called


@dataclass(frozen=True)
class Summary:
    """Arms, all tables that a report is made from, and what `more` is written beside them."""

    arms: tuple[Any, ...]
    tables: Mapping[str, pd.DataFrame]
    more: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> pd.DataFrame:
        return self.tables[name]

    @property
    def names(self) -> list[str]:
        return [arm.name for arm in self.arms]


def summarised(arms: Sequence[Any], found: Iterable[Mapping[str, Any]], count: int) -> Summary:
    """A summary from so many steps, each of which finds tables or what else there is to say."""
    every: dict[str, Any] = {}
    with progress(f"{len(arms)} arms, tables", count) as advance:
        for some in found:
            every |= some
            advance(1)
    tables = {name: value for name, value in every.items() if isinstance(value, pd.DataFrame)}
    more = {name: value for name, value in every.items() if name not in tables}
    return Summary(tuple(arms), tables, more)


def read_arms(
    arguments: Any,
    name: str,
    read: Callable[[Path], Any],
    arms_of: Callable[[Sequence[Any]], list[Any]],
) -> tuple[list[Any], Any]:
    """The arms of the runs that a command is given, and the arm of its base."""
    refuse_foreign(arguments.out, f"{name}.json", "report")
    folders = [*arguments.runs, *([arguments.base] if arguments.base else [])]
    arms = arms_of([read(folder) for folder in dict.fromkeys(folders)])
    if arguments.base is None:
        return arms, None
    path = arguments.base.expanduser()
    return arms, next(arm for arm in arms for run in arm.runs if run.path == path)


def plain_records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain values, None for what is missing or has no number."""
    rows = table.astype(object).to_dict(orient="records")
    return [{str(name): _plain(value) for name, value in row.items()} for row in rows]


def _plain(value: Any) -> Any:
    if pd.isna(value) or (isinstance(value, float) and math.isinf(value)):
        return None
    return value.item() if hasattr(value, "item") else value


def write_summary(
    summary: Summary,
    out: Path,
    name: str,
    *,
    command: str,
    units: str,
    kind: str,
    first: str,
    sections: Iterable[Section],
    provenance: Mapping[str, str],
    **parts: Any,
) -> None:
    """Print the report on arms of a `kind` of training, which learnt what `first` says; write it.

    Sections without parts are left out; `parts` are what else a report has.
    """
    runs = {arm.name: [command_of(run.manifest) for run in arm.runs] for arm in summary.arms}
    known: list[Any] = [Code(command), Facts(provenance), Fold("The runs", [Settings(runs)])]
    counts = {"arms": len(runs), "runs": sum(map(len, runs.values()))}
    how_many = runs_in_words(f"of {kind}", **counts, seeds={len(arm.seeds) for arm in summary.arms})
    report = Report(
        kicker=f"mnemoscope · {kind}",
        deck=f"{how_many}; {first}.",
        command=command,
        provenance=provenance,
        runs=runs,
        sections=[*(one for one in sections if one.parts), Section("Provenance", known)],
        **parts,
    )
    content = {
        **{"command": command, "units": units, "provenance": provenance, "runs": runs},
        **{"findings": report.findings, **summary.more},
        "tables": {of: plain_records(table) for of, table in summary.tables.items()},
    }
    files = {f"tables/{of}": table for of, table in summary.tables.items()}
    save_report(report, out, name, content=content, tables=files)


class View:
    """A summary as its page draws it: with a colour for every arm, and its tables."""

    def __init__(self, summary: Summary, tables: Iterable[Table]) -> None:
        self.summary = summary
        self.colours = figures.colours_of(summary.names)
        self.tables = {table.title: table for table in tables if table.rows}

    def section(self, heading: str, *parts: Any, tables: Sequence[str] = ()) -> Section:
        """A section of these parts, and of the tables whose titles begin so."""
        every: list[Any] = [*parts, *titled(self.tables, *tables)]
        return Section(heading, every)

    def dots(self, table: pd.DataFrame, x_title: str, heading: str, **style: Any) -> list[Panel]:
        """A number of every arm, where there is one."""
        ends = {end: float("nan") for end in ("low", "high") if end not in table}
        drawn = figures.dots_by_name(table.assign(**ends), self.colours, x_title, **style)
        return [Panel(drawn, heading or None)] if len(table) else []

    def dots_by(self, by: str, table: pd.DataFrame, x_title: str, **style: Any) -> list[Panel]:
        """The same for each value of a column."""
        groups = table.groupby(by, sort=False)
        return [p for one, rows in groups for p in self.dots(rows, x_title, str(one), **style)]


def panels(table: pd.DataFrame, by: str, draw: Callable[[pd.DataFrame], go.Figure]) -> list[Panel]:
    """A plot for each value of a column."""
    return [
        Panel(draw(rows), str(value).replace("_", " ") or None)
        for value, rows in table.groupby(by, sort=False)
    ]


def arm_table(
    title: str, columns: Mapping[str, Cells], rows: Iterable[str] | None = None, **settings: Any
) -> Table:
    """A table from columns by heading, without those that are empty.

    `rows` are what rows are called, in order; without them they stand as columns have them.
    """
    names = dict.fromkeys(name for cells in columns.values() for name in cells)
    names = names if rows is None else dict.fromkeys(rows)
    filled = [(name, *(column.get(name, "") for column in columns.values())) for name in names]
    header = (settings.pop("corner", ""), *columns)
    filled = filled if any(columns.values()) else []
    return Table.of_rows(title, header, filled, **settings).without_empty()


def cells(table: pd.DataFrame, text: str) -> dict[str, str]:
    """A text for every arm."""
    return dict(zip(table["arm"].astype(str), texts(table, text), strict=True))


def columns_of(
    table: pd.DataFrame, heading: str, text: str, row: str = "{arm}"
) -> dict[str, dict[str, str]]:
    """Columns of texts from a long table; `heading` and `row` are filled in too."""
    found: dict[str, dict[str, str]] = {}
    for _, values in table.iterrows():
        found.setdefault(say(heading, values), {})[say(row, values)] = say(text, values)
    return found


def each_or_range(
    what: str, rows: pd.DataFrame, value: str, sentence: str, *, most: int = MOST_ARMS
) -> Iterator[str]:
    """A sentence for each row of a few arms; of more, one about the least and the most `value`."""
    if len(rows) <= most:
        yield from texts(rows, sentence)
        return
    name = value.strip("{}").partition(":")[0]
    yield value_range(
        what, dict(rows.set_index("arm")[name]), lambda number: say(value, {name: number})
    )


def differing(what: str, rows: pd.DataFrame, value: str, *, over: str, beside: str = "") -> str:
    """How many arms differ from their bases, and by how much."""
    differ = rows[rows["p_holm"] < LEVEL]
    shown = zip(differ["arm"], texts(differ, value), texts(differ, beside), strict=True)
    # Rounding alone can differ the same way in every item.
    each = [f"{arm} by {text}{more}" for arm, text, more in shown if re.search("[1-9]", text)]
    if less := len(differ) - len(each):
        each.append(f"{less} by less than the digits shown")
    return (
        f"In {what}, {len(differ)} of {len(rows)} arms differ from their base beyond chance over "
        f"{over} (Holm, {share(LEVEL)}{one_seed(rows['seeds'])}){': ' if each else ''}"
        f"{'; '.join(each)}."
    )


def provenance_of(
    runs: Sequence[Recorded],
    learnt: Mapping[str, Iterable[str]],
    held_out: Iterable[Mapping[str, Any]],
) -> dict[str, str]:
    """Models, data, held-out texts and versions behind the numbers, in words."""
    return {
        "starts": in_order(f"{r.start.label} (weights {r.start.sha256[:_HASH]})" for r in runs),
        **{name: in_order(texts) for name, texts in learnt.items()},
        "held out": in_order(
            f"{shown_path(name)}, {text['tokens']:,} tokens (text {text['sha256'][:_HASH]})"
            for texts in held_out
            for name, text in texts.items()
        ),
        "versions": in_order(
            ", ".join(f"{name} {version}" for name, version in run.manifest["versions"].items())
            for run in runs
        ),
    }


def in_order(texts: Iterable[str]) -> str:
    """Different texts in the order in which they come, as one."""
    return "; ".join(dict.fromkeys(texts)) or "none"


def command_of(manifest: Mapping[str, Any]) -> str:
    """The command that makes a run, but for where it goes."""
    program, name = str(manifest["command"]), manifest["recipe"]
    recipe = recipe_named(name, _RECIPES[program])
    try:
        config = from_json(type(recipe), {**manifest["configuration"], **manifest["execution"]})
    except ValueError:
        return f"python -m {program} --recipe {name} # of another version"
    return command_line(program, command_words(config, recipe, name))


Colours = Mapping[str, str]  # colours by the names of arms


def knowledge_over_steps(
    table: pd.DataFrame, colours: Colours, injections: Sequence[int]
) -> go.Figure:
    """K at every evaluation, a line for each arm; ticks at the bottom are injections."""
    titles, hover = ("step", "K (nats)"), "step {step}: <b>{score:.3f}</b> nats"
    of: dict[str, Any] = {"by": "arm", "colours": colours, "titles": titles, "keys": True}
    figure = figures.lines(table, "step", "score", hover=hover, **of)
    if len(table):
        low, high = table["score"].min(), table["score"].max()
        figure.add_scatter(
            x=list(injections),
            y=[low - 0.04 * (high - low)] * len(injections),
            mode="markers",
            marker={"symbol": "line-ns-open", "color": figures.REFERENCE_COLOUR, "size": 8},
            name="injections",
            showlegend=False,
            hovertemplate="injection after %{x} updates<extra></extra>",
        )
    return figure


def forgetting_curves(points: pd.DataFrame, colours: Colours) -> go.Figure:
    """The share of gains that is left, with the lines fitted to it."""
    titles = ("steps after the last maximum", "share of the gain left")
    hover = "{offset} steps: <b>{retained:.1%}</b>"
    of: dict[str, Any] = {"by": "arm", "colours": colours, "titles": titles, "keys": True}
    figure = figures.dots(points, "offset", "retained", hover=hover, size=6, **of)
    figures.lines(points, "offset", "fitted", width=1.4, onto=figure, **of)
    figure.update_xaxes(type="log", dtick="D2" if len(points) else None)
    return figure.update_yaxes(tickformat=".0%")


def over_pretraining(points: pd.DataFrame, x: str, measure: str, colours: Colours) -> go.Figure:
    """A number of every start against its pretraining step, or against an entropy of it.

    Over steps, which are `x = "step"`, there is a line for each series.
    """
    over_steps, is_share = x == "step", measure[0] in "AF"
    x_title = "pretraining step of the start" if over_steps else f"{x} of the start (nats)"
    figure = figures.empty(x_title, measure)
    if over_steps:
        grey = dict.fromkeys(points["series"], figures.REFERENCE_COLOUR)
        figures.lines(points, x, measure, by="series", colours=grey, width=1.2, onto=figure)
    steps = {} if over_steps else {"text": "step", "textposition": "top center"}
    hover = f"{{{x}:,}}, <b>{{{measure}:{'.1%' if is_share else '.3f'}}}</b>"
    mode = "markers" if over_steps else "markers+text"
    of = {"by": "arm", "colours": colours, "hover": hover, "mode": mode, "onto": figure, **steps}
    figures.dots(points, x, measure, size=9, **of)
    return figure.update_layout(showlegend=False).update_yaxes(
        tickformat=".0%" if is_share else None
    )


def over_stages(
    table: pd.DataFrame,
    colours: Colours,
    stages: Sequence[str],
    y_title: str,
    *,
    form: str = ".3f",
    dashes: str | None = None,
    band: bool = False,
    log: bool = False,
) -> go.Figure:
    """Curves over the stages, a line for each arm; the boundaries of stages are marked."""
    figure = figures.lines(
        table,
        "place",
        "value",
        by=["arm", *([dashes] if dashes else [])],
        colours=colours,
        titles=("stage", y_title),
        hover=f"stage {{stage}}, step {{step:,.0f}}: <b>{{value:{form}}}</b>",
        ends=("low", "high") if band else None,
        band=band,
        keys=True,
    )
    for place in range(1, len(stages)):
        figures.mark(figure, x=place, width=1.2)
    names = list(map(label, stages))
    middles = [place + 0.5 for place in range(len(stages))]
    figure.update_xaxes(range=[-0.02, len(stages) + 0.02], tickvals=middles, ticktext=names)
    figure.update_xaxes(showgrid=False)
    return figure.update_yaxes(
        tickformat=form if "%" in form else None, type="log" if log else None
    )


def by_layer(table: pd.DataFrame, colours: Colours, x_title: str) -> go.Figure:
    """A number of every layer, a line for each arm; layer 0 at the bottom."""
    of: dict[str, Any] = {"by": "arm", "colours": colours, "titles": (x_title, "layer")}
    of |= {"hover": "layer {layer}: <b>{value:.3g}</b>", "mode": "lines+markers"}
    figure = figures.lines(table.astype({"layer": int}), "value", "layer", width=1.4, size=7, **of)
    return figures.layer_axis(figure, int(table["layer"].max()) + 1)
