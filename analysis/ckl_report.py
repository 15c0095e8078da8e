"""What runs of continual knowledge learning acquired and forgot: `python -m analysis.ckl_report`.

Runs that differ in nothing but their seed are an arm; edited arms are compared with unedited ones.
Writes findings, tables and where they are from as `ckl.md` and as an interactive page `ckl.html`,
all numbers as `ckl.json` and `tables/*.csv`. Scores are log-probabilities in nats.

Example:
    $ python -m analysis.ckl_report runs/ckl-0 runs/ckl-1 runs/ckl-2 --out runs/report
    $ python -m analysis.ckl_report runs/study/runs/* --out runs/study/report
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from probes.cli import command_main

if TYPE_CHECKING:
    from analysis.arms import CklArm

PROGRAM = "analysis.ckl_report"
NAME = "ckl"  # the name of the report's files


@dataclass(frozen=True, kw_only=True)
class ArmsArguments:
    """Which runs a report is about, and where it goes."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run directories of one training command; all must be over."""
    out: Path
    """Folder for the report; made if it is not there, and an earlier report is replaced."""
    base: Path | None = None
    """Run whose arm all others are compared with; without one, each is compared with the arm of the
    same settings that has no edit, no mix and no replay."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True, kw_only=True)
class CklReportArguments(ArmsArguments):
    """Report what runs of continual knowledge learning acquired and forgot."""


def _run(arguments: CklReportArguments, given: Sequence[str]) -> None:
    from analysis.arm_report import read_arms
    from analysis.arms import ckl_arms
    from analysis.numbers import command_line
    from analysis.runs import read_run

    arms, base = read_arms(arguments, NAME, read_run, ckl_arms)
    write_report(arms, arguments.out, command_line(PROGRAM, given), base=base)


def write_report(
    arms: "Sequence[CklArm]", out: Path, command: str, *, base: "CklArm | None" = None
) -> None:
    """Summarise arms, print it, and write the report into a folder."""
    from analysis.arm_report import write_summary
    from analysis.ckl_page import sections
    from analysis.ckl_summary import DEFINITIONS, findings, provenance, summarise

    summary = summarise(arms, base)
    first = arms[0].runs[0].manifest["inputs"]["knowledge"]
    write_summary(
        summary,
        out,
        NAME,
        command=command,
        units="nats; A, F and accuracies are shares",
        title="What was acquired and what was forgotten",
        kind="continual knowledge learning",
        first=f"{first['passages']} passages with {first['probes']} probes",
        findings=findings(summary),
        definitions=DEFINITIONS,
        provenance=provenance(arms),
        sections=sections(summary),
    )


main = command_main(CklReportArguments, _run, program=PROGRAM)

if __name__ == "__main__":
    sys.exit(main())
