r"""What runs of continual memorization learnt and kept: `python -m analysis.remix_report`.

Runs that differ in nothing but their seed are an arm. Of every arm: the share of each stage's items
that is right after every stage, with intervals; the difference from plain training of one stage
after the other, paired by item and seed, with p-values adjusted for the number of arms; what was
known while stages were trained, the loss on every source, gradients, weight drift, text, entropies,
and what came back when a few items were taught again. With `--localization` also where in depth the
items are readable before and after each stage. Writes into `--out`:

- `remix.md`: findings and tables, with the commands, weights, data and versions behind them
- `remix.html`: the same with interactive figures, one self-contained page
- `remix.json`: all numbers, and `tables/*.csv`, one file for each table

Example:
    $ python -m analysis.remix_report runs/plain runs/remix --out runs/report
    $ python -m analysis.remix_report runs/study/runs/* --out runs/study/report --localization
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from probes.cli import command_main, progress

if TYPE_CHECKING:
    from analysis.arms import RemixArm
    from analysis.remix_report.summary import RemixSummary

NAME = "remix"
"""Of the report's files."""


@dataclass(frozen=True, kw_only=True)
class RemixReportArguments:
    """Report what runs of continual memorization learnt and kept."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run directories of training.remix; all must be over."""
    out: Path
    """Folder for the report; made if it is not there, and an earlier report is replaced."""
    base: Path | None = None
    """Run whose arm all others are compared with; without one, each is compared with the arm of the
    same settings that has no mix, no replay and no edit."""
    localization: bool = False
    """Load the models before and after each stage, and see where in depth items are readable."""
    localization_items: int = 64
    """Items of stage A that are looked at for it."""
    device: str | None = None
    """For that: cpu or cuda; cuda where there is one."""
    debug: bool = False
    """Show the traceback of an error."""


def _run(arguments: RemixReportArguments, given: Sequence[str]) -> None:
    from analysis.arm_report import read_folders, refuse_folder
    from analysis.arms import arm_with, remix_arms
    from analysis.numbers import command_line
    from analysis.runs import read_chain

    if arguments.localization_items < 1:
        raise ValueError(
            f"--localization-items must be 1 or more, found {arguments.localization_items}"
        )
    refuse_folder(arguments.out, NAME)
    arms = remix_arms(read_folders(arguments.runs, arguments.base, read_chain))
    command = command_line("analysis.remix_report", given)
    write_report(
        arms,
        arguments.out,
        command,
        base=arm_with(arms, arguments.base),
        localized=arguments.localization_items if arguments.localization else None,
        device=arguments.device,
    )


def write_report(
    arms: "Sequence[RemixArm]",
    out: Path,
    command: str,
    *,
    base: "RemixArm | None" = None,
    localized: int | None = None,
    device: str | None = None,
) -> "RemixSummary":
    """Summarise arms, print it, and write the report into a folder."""
    from analysis.arm_report import save_summary
    from analysis.remix_curves import depth_tables
    from analysis.remix_report.report import remix_report
    from analysis.remix_report.summary import STEPS, summarise

    depths = None if localized is None else depth_tables(arms, localized, base, device=device)
    with progress(f"{len(arms)} arms, tables", STEPS) as advance:
        summary = summarise(arms, base, depths=depths, on_step=advance)
    report = remix_report(summary, command)
    units = "log-probabilities and entropies in nats; the rest are shares"
    save_summary(report, summary, out, NAME, units=units)
    return summary


main = command_main(RemixReportArguments, _run, program="analysis.remix_report")
