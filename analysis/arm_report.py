"""Reports of runs: their folders, the tables they are made from, and what is behind the numbers.

Example:
    >>> plain_records(pd.DataFrame({"arm": ["none"], "low": [float("nan")]}))
    [{'arm': 'none', 'low': None}]
"""

import math
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd

from analysis.numbers import shown_path
from training.ckl_config import CKL_RECIPES, CklConfig
from training.pretrain_config import PRETRAIN_RECIPES, PretrainConfig
from training.recipes import command_words, from_json, recipe_named
from training.remix.config import RemixConfig
from training.remix.recipes import REMIX_RECIPES

if TYPE_CHECKING:
    from analysis.document import Report
    from analysis.runs import Recorded


Each = TypeVar("Each")
_HASH = 12
"""Characters of a hash that are shown."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Tables of arms; subclasses have a field for each."""

    arms: tuple[Any, ...]

    def tables(self) -> dict[str, pd.DataFrame]:
        """All tables by their names."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: table for name, table in found.items() if isinstance(table, pd.DataFrame)}


def counting(on_table: Callable[[int], None] | None) -> Callable[[Each], Each]:
    """A function that hands back what it is given and says that one more is made."""

    def made(found: Each) -> Each:
        if on_table is not None:
            on_table(1)
        return found

    return made


def read_folders(
    folders: Sequence[Path], base: Path | None, read: Callable[[Path], Each]
) -> list[Each]:
    """The runs that a report is of, each once, and that of the base."""
    return [read(folder) for folder in dict.fromkeys([*folders, *([base] if base else [])])]


def save_summary(
    report: "Report", summary: Summary, out: Path, name: str, *, units: str, **more: Any
) -> None:
    """Print a report and write it, its numbers as JSON and its tables as CSV."""
    from analysis.document import save_report

    tables = summary.tables()
    content = {
        "command": report.command,
        "units": units,
        "provenance": report.provenance,
        "runs": report.runs,
        "findings": report.findings,
        **more,
        "tables": {name: plain_records(table) for name, table in tables.items()},
    }
    files = {f"tables/{name}": table for name, table in tables.items()}
    save_report(report, out, name, content=content, tables=files)


def commands_of(arms: Sequence[Any]) -> dict[str, list[str]]:
    """The commands that make the runs of every arm."""
    return {arm.name: [command_of(run.manifest) for run in arm.runs] for arm in arms}


def provenance_of(
    runs: "Sequence[Recorded]",
    told: Mapping[str, Iterable[str]],
    held_out: Iterable[Mapping[str, Any]],
) -> dict[str, str]:
    """Models, data, held-out texts and versions behind the numbers, in words."""
    return {
        "starts": in_order(f"{r.start.label} (weights {r.start.sha256[:_HASH]})" for r in runs),
        **{name: in_order(texts) for name, texts in told.items()},
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


def refuse_folder(out: Path, name: str) -> None:
    """Refuse a folder that no report can be written to, before any work is done."""
    from probes.cli import refuse_existing

    if (out / f"{name}.json").is_file():
        return
    if out.is_dir() and any(out.iterdir()):
        raise ValueError(f"--out {out} exists and holds no report; give another folder")
    refuse_existing(out, overwrite=False, known=())


def plain_records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain values, None for what is missing or has no number."""
    rows = table.astype(object).to_dict(orient="records")
    return [{str(name): _plain(value) for name, value in row.items()} for row in rows]


def in_order(texts: Iterable[str]) -> str:
    """Different texts in the order in which they come, as one."""
    return "; ".join(dict.fromkeys(texts)) or "none"


def _plain(value: Any) -> Any:
    """As JSON takes it: it has no infinity either."""
    if pd.isna(value) or (isinstance(value, float) and math.isinf(value)):
        return None
    return value.item() if hasattr(value, "item") else value


_PROGRAMS: Mapping[str, tuple[type[Any], Any]] = {
    "training.pretrain": (PretrainConfig, PRETRAIN_RECIPES),
    "training.ckl": (CklConfig, CKL_RECIPES),
    "training.remix": (RemixConfig, REMIX_RECIPES),
}


def command_of(manifest: Mapping[str, Any]) -> str:
    """The command that makes a run, but for where it goes."""
    program = str(manifest["command"])
    kind, recipes = _PROGRAMS[program]
    try:
        config = from_json(kind, {**manifest["configuration"], **manifest["execution"]})
    except ValueError:
        return f"python -m {program} --recipe {manifest['recipe']} # of another version"
    words = command_words(config, recipe_named(manifest["recipe"], recipes), manifest["recipe"])
    return shlex.join(["python", "-m", program, *map(shown_path, words)])
