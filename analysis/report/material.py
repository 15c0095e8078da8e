"""Material: everything that a page is made of, read once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from analysis.claims.ledger import Ledger, read_ledger
from analysis.claims.selection import Settings, rows_with
from analysis.measurements import COLUMNS, NONE, Table, checked
from analysis.report.names import without_seed
from analysis.statistics.tests import ScaleError

if TYPE_CHECKING:
    from analysis.result_folders import Results

CURVES = 6
"""Arms of which single curves are drawn, unless more are asked for."""


@dataclass(frozen=True, kw_only=True)
class Material:
    """What a page is made of.

    Attributes:
        results: where they are.
        measured: the tables that claims are tested on; those without rows are missing.
        ledger: verdicts; None where there is none.
        curves: how many arms may have their single curves drawn.
    """

    results: "Results"
    measured: Mapping[Table, pd.DataFrame] = field(default_factory=dict)
    ledger: Ledger | None = None
    curves: int = CURVES

    @cached_property
    def tables(self) -> dict[Table, pd.DataFrame]:
        """All tables, with missing settings made `NONE`; empty where nothing was measured."""
        found = {
            table: checked(table, self.measured[table])
            if table in self.measured
            else pd.DataFrame(columns=list(COLUMNS[table]))
            for table in Table
        }
        acquired = found[Table.ACQUISITION]
        names = zip(acquired["trajectory"], acquired["seed"], strict=True)
        found[Table.ACQUISITION] = acquired.assign(
            trajectory=[without_seed(name, seed) for name, seed in names]
        )
        return found

    def rows(self, table: Table, settings: Settings) -> pd.DataFrame:
        """The rows of a table that have some settings; see `rows_with`."""
        try:
            return rows_with(self.tables[table], settings)
        except ScaleError:
            return self.tables[table].iloc[:0]


def read_material(paths: Sequence[Path], *, curves: int = CURVES) -> Material:
    """Find results and read what was measured."""
    from analysis.result_folders import find_results, tables_of

    results = find_results(paths)
    kinds = {name: found for name, found in vars(results).items() if found}
    if [*kinds] == ["unfinished"]:
        names = ", ".join(map(str, results.unfinished[:3]))
        raise ValueError(
            f"nothing is over of {len(results.unfinished)} run(s) or sweep(s): {names}; go on with "
            "them, with --resume or the same command, and report then"
        )
    if len(results.ledgers) > 1:
        first, second = results.ledgers[:2]
        raise ValueError(f"{first} and {second} are two ledgers; a page shows one, so give one")
    return Material(
        results=results,
        measured=tables_of(results),
        ledger=read_ledger(results.ledgers[0]) if results.ledgers else None,
        curves=curves,
    )


def varied(rows: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    """Those of some columns in which rows differ."""
    return [name for name in columns if rows[name].nunique() > 1]


def as_numbers(values: pd.Series) -> pd.Series:
    """A setting to sort by; what does not apply comes first."""
    return pd.to_numeric(values, errors="coerce").fillna(-1)


def is_set(values: pd.Series) -> pd.Series:
    """Whether a setting applies, row by row."""
    return values != NONE
