"""Measurements: the tables that reports, claims and the page read, and what is in their columns.

There are four, one for each kind of run. All have a row for each value, with `measure`, `value`
and `seed`; `cluster` names the passage, question or fact that a value belongs to, and is missing
for what is a number of a whole run. The other columns are settings: an effect is a difference
between rows that agree in all of them but the ones that a claim varies. A setting that does not
apply is missing. Rows without a number (forgetting that is not tested, say) are left out.
Amounts of training (`AMOUNTS`: updates, encounters) are no settings, but rows that are compared
have to agree in these too, unless a claim says otherwise; trained tokens stand beside them.

| table          | a row is                                         | made by                      |
|----------------|--------------------------------------------------|------------------------------|
| `PRETRAINING`  | an entropy of a checkpoint                       | `analysis.entropy_measures`  |
| `UPDATES`      | a correlation over the memory vectors of a layer | `analysis.entropy_measures`  |
| `ACQUISITION`  | a score of a run of continual knowledge learning | `analysis.ckl_rows`          |
| `MEMORIZATION` | a score of a run of continual memorization       | `analysis.remix_rows`        |

`measurements.csv` says what each column means, what each table can have values of, and in which
unit; in all tables `seed` is the same in runs that are compared. A moment is a `Moment` of
`analysis.runs`, or "after A", "after B"; measures of `PRETRAINING` are those of `trajectory.csv`.

Example:
    >>> sorted(COLUMNS[Table.PRETRAINING])
    ['corpus', 'layer', 'measure', 'seed', 'step', 'value']
"""

import csv
from enum import StrEnum
from pathlib import Path

import numpy as np
import pandas as pd

NONE = "(none)"
"""What a missing setting is called in tables that were `checked`."""
SOURCE = "source"
"""The column, in tables that are being made, that says which result a row is from."""


class Table(StrEnum):
    """Kinds of measurements."""

    PRETRAINING = "pretraining"
    ACQUISITION = "acquisition"
    MEMORIZATION = "memorization"
    UPDATES = "updates"


with Path(__file__).with_suffix(".csv").open(encoding="utf-8", newline="") as _file:
    _DESCRIBED = list(csv.DictReader(_file))
COLUMNS, MEASURES = (
    {
        table: {
            row["name"]: row["meaning"]
            for row in _DESCRIBED
            if row["table"] == table and row["kind"] in kinds
        }
        for table in Table
    }
    for kinds in (("column", "amount", "beside"), ("measure",))
)
"""What is in a column and what a measure is, by table and name."""
AMOUNTS, _BESIDE = (
    {
        table: tuple(
            row["name"] for row in _DESCRIBED if (row["table"], row["kind"]) == (table, kind)
        )
        for table in Table
    }
    for kind in ("amount", "beside")
)
"""Columns that say how much a run was trained, by table."""
BY_ITEM = frozenset(row["name"] for row in _DESCRIBED if row["by_item"])
"""Measures that have a value for each passage, question or fact."""


def settings_of(table: Table) -> tuple[str, ...]:
    """The columns of a table that describe a row, `seed` and `cluster` among them."""
    others = ("measure", "value", *AMOUNTS[table], *_BESIDE[table])
    return tuple(name for name in COLUMNS[table] if name not in others)


def checked(table: Table, frame: pd.DataFrame, *, finite: bool = True) -> pd.DataFrame:
    """A table that claims can be tested on, with missing settings made `NONE`."""
    wanted = COLUMNS[table]
    missing = [name for name in wanted if name not in frame.columns]
    unknown = [str(name) for name in frame.columns if name not in wanted]
    if missing or unknown:
        raise ValueError(
            f"the table {table.value!r} lacks the columns {', '.join(missing) or 'none'} and has "
            f"the unknown ones {', '.join(unknown) or 'none'}; give {', '.join(wanted)}"
        )
    others = sorted(set(frame["measure"].astype(str)) - set(MEASURES[table]))
    if others:
        raise ValueError(
            f"the table {table.value!r} has an unknown measure {others[0]!r}; choose from "
            f"{', '.join(MEASURES[table])}"
        )
    values = frame["value"].to_numpy(dtype=float)
    wrong = int((~np.isfinite(values)).sum()) if finite else 0
    if wrong or frame["seed"].isna().any():
        raise ValueError(
            f"the table {table.value!r} has {wrong} values that are not finite and "
            f"{int(frame['seed'].isna().sum())} rows without a seed; leave these out"
        )
    named = frame.reset_index(drop=True).astype({"value": float})
    for column in (*settings_of(table), *AMOUNTS[table]):
        kept = named[column].astype(object)
        named[column] = kept.where(named[column].notna(), NONE)
    return named


def of_one_source_each(table: Table, frame: pd.DataFrame) -> pd.DataFrame:
    """A table without its `SOURCE`, if it has every value once."""
    keys = [*settings_of(table), "measure"]
    repeated = frame[frame.duplicated(keys, keep=False)]
    if len(repeated):
        first = repeated.iloc[0]
        groups = repeated.groupby(keys, sort=False, dropna=False)[SOURCE]
        one, other, *_ = next(sources for _, sources in groups)
        raise ValueError(
            f"{one} and {other} both have {first['measure']!r} of seed {first['seed']} with the "
            f"same settings of the table {table.value!r}; give one of them"
        )
    return frame.drop(columns=SOURCE).reset_index(drop=True)
