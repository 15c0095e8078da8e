"""What both reports on runs are made of: arms from folders, their tables, sentences and sections.

Example:
    >>> plain_records(pd.DataFrame({"arm": ["none"], "low": [float("nan")]}))
    [{'arm': 'none', 'low': None}]
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter
from typing import Any

import pandas as pd
import plotly.graph_objects as go

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
    save_report,
    titled,
)
from analysis.figures import colours_of, dots_by_name
from analysis.numbers import (
    capital,
    command_line,
    count,
    nats,
    one_seed,
    p_text,
    points,
    runs_in_words,
    share,
    shown_path,
    signed,
    signed_nats,
    signed_points,
    steps_text,
    value_range,
    with_interval,
)
from analysis.runs import Recorded
from probes.cli import progress, refuse_existing
from training.ckl_config import CKL_RECIPES
from training.pretrain_config import PRETRAIN_RECIPES
from training.recipes import command_words, from_json, recipe_named
from training.remix import REMIX_RECIPES

MOST_ARMS = 4
"""So many arms have sentences of their own; of more, the lowest and the highest are named."""
LEVEL = 0.05
"""The level of tests."""
_HASH = 12
"""Characters of a hash that are shown."""
_RECIPES: Mapping[str, Mapping[str, Callable[[], Any]]] = {
    "training.pretrain": PRETRAIN_RECIPES,
    "training.ckl": CKL_RECIPES,
    "training.remix": REMIX_RECIPES,
}
_SHOWS: Mapping[str, Callable[[Any], str]] = {
    **{"nats": nats, "share": share, "points": points, "p": p_text, "count": count},
    **{"+nats": signed_nats, "+points": signed_points, "steps": steps_text, "capital": capital},
    "+2": lambda value: signed(value, lambda size: nats(size, 2)),
    "words": lambda value: str(value).replace("_", " "),
}
"""How values are shown, by what texts call it."""
Cells = Mapping[str, str]
"""Texts of a column, by what the rows are called."""


@dataclass(frozen=True)
class Summary:
    """Arms, all tables that a report is made from, and what `more` is written beside them."""

    arms: tuple[Any, ...]
    tables: Mapping[str, pd.DataFrame]
    more: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> pd.DataFrame:
        """The table of that name."""
        return self.tables[name]

    @property
    def names(self) -> list[str]:
        """What its arms are called."""
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
    refuse_folder(arguments.out, name)
    folders = [*arguments.runs, *([arguments.base] if arguments.base else [])]
    arms = arms_of([read(folder) for folder in dict.fromkeys(folders)])
    if arguments.base is None:
        return arms, None
    path = arguments.base.expanduser()
    return arms, next(arm for arm in arms for run in arm.runs if run.path == path)


def refuse_folder(out: Path, name: str) -> None:
    """Refuse a folder that no report can be written to, before any work is done."""
    if (out / f"{name}.json").is_file():
        return
    if out.is_dir() and any(out.iterdir()):
        raise ValueError(f"--out {out} exists and holds no report; give another folder")
    refuse_existing(out, overwrite=False, known=())


def plain_records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain values, None for what is missing or has no number."""
    rows = table.astype(object).to_dict(orient="records")
    return [{str(name): _plain(value) for name, value in row.items()} for row in rows]


def _plain(value: Any) -> Any:
    """As JSON takes it: it has no infinity either."""
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
        self.colours = colours_of(summary.names)
        self.tables = {table.title: table for table in tables if table.rows}

    def section(self, heading: str, *parts: Any, tables: Sequence[str] = ()) -> Section:
        """A section of these parts, and of the tables whose titles begin so."""
        every: list[Any] = [*parts, *titled(self.tables, *tables)]
        return Section(heading, every)

    def dots(self, table: pd.DataFrame, x_title: str, heading: str, **style: Any) -> list[Panel]:
        """A number of every arm, where there is one."""
        ends = {end: float("nan") for end in ("low", "high") if end not in table}
        drawn = dots_by_name(table.assign(**ends), self.colours, x_title, **style)
        return [Panel(drawn, heading or None)] if len(table) else []

    def dots_by(self, by: str, table: pd.DataFrame, x_title: str, **style: Any) -> list[Panel]:
        """The same for each value of a column."""
        groups = table.groupby(by, sort=False)
        return [p for one, rows in groups for p in self.dots(rows, x_title, str(one), **style)]


def figure(title: str, caption: str, panels: Sequence[Panel]) -> list[Figure]:
    """A figure, where it has panels."""
    return [Figure(title, caption, panels)] if panels else []


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


class _Sayer(Formatter):
    """Fills texts in from a row; see `say`."""

    def __init__(self, row: Any) -> None:
        self.row = row

    def format_field(self, value: Any, format_spec: str) -> str:
        name, interval, ending = format_spec.partition("~")
        if name not in _SHOWS:
            return format(value, format_spec)
        if pd.isna(value):
            return ""
        if not interval:
            return _SHOWS[name](value)
        ends = {end: self.row[f"{end}{ending}"] for end in ("low", "high")}
        return with_interval(pd.Series({"value": value, **ends}), _SHOWS[name])


def say(text: str, row: Any) -> str:
    """A text in which names of columns are filled in from a row.

    "{slope:+nats}" shows a number as a difference in nats (`_SHOWS`), "{slope:+nats~}" with the
    interval from `low` to `high`, "{rho:nats~_differences}" from `low_differences`. What is missing
    is empty.
    """
    return _Sayer(row).vformat(text, (), row)


def texts(table: pd.DataFrame, text: str) -> list[str]:
    """A text for every row."""
    return [say(text, row) for _, row in table.iterrows()]


def cells(table: pd.DataFrame, text: str) -> dict[str, str]:
    """A text for every arm."""
    return dict(zip(table["arm"].astype(str), texts(table, text), strict=True))


def table_of(title: str, frame: pd.DataFrame, columns: Mapping[str, str], note: str) -> Table:
    """A table with a row for each row of a frame; its columns are texts by their headings."""
    rows = zip(*(texts(frame, text) for text in columns.values()), strict=True)
    return Table.of_rows(title, tuple(columns), rows, note=note).without_empty()


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
        f"{over}{one_seed(rows['seeds'])} (Holm, {share(LEVEL)}){': ' if each else ''}"
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
