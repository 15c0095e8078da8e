r"""What runs of continual knowledge learning acquired and forgot: `python -m analysis.ckl_report`.

Runs that differ in nothing but their seed are an arm. Of every arm and every run: knowledge K at
the start, right after the last injection and later, by exposure and kind of probe; acquisition A
and forgetting F against the start, edited and not; text and earlier facts, which still measure
forgetting where a model only guesses at the tasks; what encounters gained and how it faded; the
entropies; over starts of different ages, how all of it follows knowledge entropy; and edited arms
against unedited ones. Writes into `--out`:

- `ckl.md`: findings and tables, with the commands, weights, texts and versions behind them
- `ckl.html`: the same with interactive figures, one self-contained page
- `ckl.json`: all numbers, and `tables/*.csv`, one file for each table

Scores are log-probabilities in nats; definitions are in `analysis.metrics` and in the document.

Example:
    $ python -m analysis.ckl_report runs/ckl-0 runs/ckl-1 runs/ckl-2 --out runs/report
    $ python -m analysis.ckl_report runs/study/runs/* --out runs/study/report
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from probes.cli import command_main, progress

if TYPE_CHECKING:
    from analysis.arms import CklArm
    from analysis.ckl_report.summary import CklSummary

NAME = "ckl"
"""Of the report's files."""


@dataclass(frozen=True, kw_only=True)
class CklReportArguments:
    """Report what runs of continual knowledge learning acquired and forgot."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run directories of training.ckl; all must be over."""
    out: Path
    """Folder for the report; made if it is not there, and an earlier report is replaced."""
    base: Path | None = None
    """Run whose arm all others are compared with; without one, edited arms are compared with the
    unedited arm of the same settings."""
    debug: bool = False
    """Show the traceback of an error."""


def _run(arguments: CklReportArguments, given: Sequence[str]) -> None:
    from analysis.arm_report import read_folders, refuse_folder
    from analysis.arms import arm_with, ckl_arms
    from analysis.numbers import command_line
    from analysis.runs import read_run

    refuse_folder(arguments.out, NAME)
    arms = ckl_arms(read_folders(arguments.runs, arguments.base, read_run))
    command = command_line("analysis.ckl_report", given)
    write_report(arms, arguments.out, command, base=arm_with(arms, arguments.base))


def write_report(
    arms: "Sequence[CklArm]", out: Path, command: str, *, base: "CklArm | None" = None
) -> "CklSummary":
    """Summarise arms, print it, and write the report into a folder."""
    from analysis.arm_report import save_summary
    from analysis.ckl_report.report import ckl_report
    from analysis.ckl_report.summary import TABLES, summarise

    with progress(f"{len(arms)} arms, tables", TABLES) as advance:
        summary = summarise(arms, base, on_table=advance)
    report = ckl_report(summary, command)
    units = "nats; A, F and accuracies are shares"
    save_summary(report, summary, out, NAME, units=units, without_curve=dict(summary.without_curve))
    return summary


main = command_main(CklReportArguments, _run, program="analysis.ckl_report")
