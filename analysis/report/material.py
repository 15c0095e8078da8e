"""Material: everything that a page is made of, read once, and what runs are called on it.

Names are made of settings in tables of measurements, in the words of the reports of runs, so that
figures made of tables and of runs have the same.

Example:
    >>> row = {"site": "up", "ratio": 0.5, "factor": 2.0, "control": NONE}
    >>> edit_name({**row, "temperature": NONE, "edit_form": "hooks"})
    'up, ratio 0.5, factor 2, as hooks'
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.arms import PLAIN_NAME, UNEDITED_NAME, edit_label
from analysis.claims.ledger import Ledger, read_ledger
from analysis.claims.selection import Settings, rows_with
from analysis.measurements import COLUMNS, NONE, Table, checked
from analysis.numbers import shown_value
from analysis.run_settings import settings_of_runs
from analysis.runs import TrainingRun
from analysis.statistics.tests import ScaleError
from training.choices import Replay

if TYPE_CHECKING:
    from analysis.result_folders import Results

CURVES = 6
"""Arms of which single curves are drawn, unless more are asked for."""
SETTINGS = ("trajectory", "step", "novelty", "batch_size", "learning_rate", "interval", "epochs")
"""Settings of a run of continual knowledge learning, but for its edit and its seed; the trajectory
says the size of the model."""
EDITS = ("site", "ratio", "factor", "control", "temperature", "edit_form")
MIXES = (
    *("mix_first", "mix_later", "mix_ratio", "mix_words", "mix_corpus"),
    *("replay", "replay_ratio", "equal"),
)
_CALLED = {"interval": "injection interval", "novelty": "text"}


@dataclass(frozen=True, kw_only=True)
class Material:
    """What a page is made of; `curves` is how many arms may have their single curves drawn."""

    results: "Results"
    measured: Mapping[Table, pd.DataFrame] = field(default_factory=dict)
    ledger: Ledger | None = None
    curves: int = CURVES

    @cached_property
    def tables(self) -> dict[Table, pd.DataFrame]:
        """All tables, with missing settings made `NONE`; empty where nothing was measured."""
        empty = {table: pd.DataFrame(columns=list(COLUMNS[table])) for table in Table}
        found = empty | {table: checked(table, rows) for table, rows in self.measured.items()}
        acquired = found[Table.ACQUISITION]
        names = zip(acquired["trajectory"], acquired["seed"], strict=True)
        trajectory = [without_seed(name, seed) for name, seed in names]
        return found | {Table.ACQUISITION: acquired.assign(trajectory=trajectory)}

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
    if [name for name, found in vars(results).items() if found] == ["unfinished"]:
        names = ", ".join(map(str, results.unfinished[:3]))
        raise ValueError(
            f"nothing is over of {len(results.unfinished)} run(s) or sweep(s): {names}; go on with "
            "them, with --resume or the same command, and report then"
        )
    if len(results.ledgers) > 1:
        first, second = results.ledgers[:2]
        raise ValueError(f"{first} and {second} are two ledgers; a page shows one, so give one")
    ledger = read_ledger(results.ledgers[0]) if results.ledgers else None
    return Material(results=results, measured=tables_of(results), ledger=ledger, curves=curves)


def varied(rows: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    """The columns in which rows differ."""
    return [name for name in columns if rows[name].nunique() > 1]


def as_numbers(values: pd.Series) -> pd.Series:
    """A setting to sort by; what does not apply comes first."""
    return pd.to_numeric(values, errors="coerce").fillna(-1)


def is_set(values: pd.Series) -> pd.Series:
    """Whether a setting applies, row by row."""
    return values != NONE


def named(
    rows: pd.DataFrame, column: str, name: Callable[[Mapping[str, Any]], str]
) -> pd.DataFrame:
    """Rows with what each is called in a column of its own."""
    names = [name(row) for row in rows.to_dict("records")]
    return rows.assign(**{column: pd.Series(names, index=rows.index, dtype=object)})


def without_seed(name: object, seed: int) -> str:
    """What a model is called, whatever the seed of its own pretraining."""
    return str(name).removesuffix(f"-seed-{seed}")


def control_strengths(rows: pd.DataFrame) -> list[str]:
    """Ratio and factor, where controls differ in them; the names of controls do not say them."""
    return varied(rows[is_set(rows["control"])], ("ratio", "factor"))


def edit_name(row: Mapping[str, Any], said: Sequence[str] = ()) -> str:
    """How a start was edited."""
    known = {name: None if row[name] == NONE else row[name] for name in EDITS}
    label = edit_label(
        {
            "resuscitation_ratio": known["ratio"],
            "resuscitation_factor": known["factor"],
            "resuscitation_site": known["site"],
            "control": known["control"],
            "attention_temperature": known["temperature"],
            "temperature_schedule": "constant",
            "edit_form": known["edit_form"],
            # Where nothing is resuscitated, what stands in for it is an edit of one's own.
            "edit": [known["control"]] if known["ratio"] is None and known["control"] else [],
        }
    )
    strengths = [n for n in ("ratio", "factor") if n in said and row["control"] != NONE]
    return ", ".join([label, *(f"{name} {row[name]:g}" for name in strengths)])


def run_name(row: Mapping[str, Any], said: Sequence[str]) -> str:
    """What tells runs of continual knowledge learning apart, in the settings that are said."""
    start = [str(row["trajectory"])] if "trajectory" in said else []
    start += [f"step {row['step']:,}"] if "step" in said and row["step"] != NONE else []
    parts = [" at ".join(start)] if start else []
    for name in dict.fromkeys(said):
        if name not in ("trajectory", "step") and row[name] != NONE:
            parts.append(f"{_CALLED.get(name, name).replace('_', ' ')} {shown_value(row[name])}")
    return ", ".join(parts) or "all runs"


def unedited_runs(runs: Sequence[TrainingRun]) -> list[TrainingRun]:
    """Runs whose start was not edited."""
    return [run for run in runs if edit_label(run.configuration) == UNEDITED_NAME]


def names_of(runs: Sequence[TrainingRun], said: Sequence[str]) -> list[str]:
    """What the page calls runs of continual knowledge learning."""
    names = []
    for run, row in zip(runs, settings_of_runs(runs), strict=True):
        known = {name: NONE if value is None else value for name, value in row.items()}
        known["trajectory"] = without_seed(known["trajectory"], run.seed)
        names.append(run_name(known, said))
    return names


def memory_name(row: Mapping[str, Any], said: Sequence[str]) -> str:
    """What is done beside plain training of one stage after the other."""
    places = {"mix_first": "at A", "mix_later": "at B" if row["stages"] == 2 else "later"}
    parts = [f"{row[name]} {where}" for name, where in places.items() if row[name] != NONE]
    if row["equal"] != NONE:
        parts = [f"{PLAIN_NAME}, as many {row['equal']} as with a mix"]
    if row["replay"] != NONE:
        kind = "self-generated replay" if row["replay"] == Replay.SELF else "replay"
        parts.append(f"{kind} of {100 * row['replay_ratio']:g} %")
    if (edit := edit_name(row, said)) != UNEDITED_NAME:
        parts.append(f"{edit} before A")
    amounts = {
        "mix_ratio": "\N{MULTIPLICATION SIGN}{:g}",
        "mix_words": "{:g} words",
        "mix_corpus": "{}",
    }
    said_amounts = [name for name in amounts if name in said and row[name] != NONE]
    return ", ".join([*(parts or [PLAIN_NAME]), *(amounts[n].format(row[n]) for n in said_amounts)])
