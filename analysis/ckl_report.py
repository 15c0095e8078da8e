"""What runs of continual knowledge learning acquired and forgot: `python -m analysis.ckl_report`.

Runs that differ in nothing but their seed are an arm. Of every arm: knowledge K, acquisition A and
forgetting F, text and earlier facts, gains of encounters and how they fade, entropies; over starts
of different ages, how all of it follows knowledge entropy; and edited arms against unedited ones.
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
NAME = "ckl"
"""The name of the report's files."""
DEFINITIONS = (
    "K is the mean log-probability of the targets of knowledge probes, in nats: over a passage's "
    "probes, then over passages. A is its change since the start, divided by its size at the "
    "start; F is the fall of P, the mean accuracy of the downstream tasks, divided by P at the "
    "start. Both are positive where something was acquired, or forgotten. The start is the model "
    "that training began from; where it was edited, changes since the unedited start are given "
    "too, since an edit that spoils the start makes A large.",
    "Intervals hold for 95 of 100 draws of passages (A, K, curves), questions (P, F) or subjects "
    "(facts), not for other seeds; the range over seeds is given beside them. Held-out passages "
    "were never met and show what training does to the probes of any such passage.",
    "Source: Kim et al., \u201cKnowledge Entropy Decay during Language Model Pretraining Hinders "
    "New Knowledge Acquisition\u201d, ICLR 2025, Eq. 4 and 5; Chang et al., \u201cHow Do Large "
    "Language Models Acquire Factual Knowledge During Pretraining?\u201d, NeurIPS 2024, section "
    "3.3, for effectivity, retainability and forgetting curves.",
)


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
    from analysis.ckl_findings import findings
    from analysis.ckl_page import sections
    from analysis.ckl_summary import summarise

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
        provenance=_provenance(arms),
        sections=sections(summary),
    )


def _provenance(arms: "Sequence[CklArm]") -> dict[str, str]:
    """Models, texts and versions behind the numbers, in words."""
    from analysis.arm_report import provenance_of
    from analysis.numbers import shown_path

    runs = [run for arm in arms for run in arm.runs]
    inputs = [run.manifest["inputs"] for run in runs]
    learnt = {
        "trained on": [
            f"{shown_path(host['corpus'])}, {host['documents']:,} documents in {host['rows']:,} "
            f"rows of {host['row_length']} (rows {host['content_hash'][:12]})"
            for host in (found["data"]["host"] for found in inputs)
        ],
        "knowledge": [
            f"{one['name']}, {one['passages']} passages and {one['probes']} probes "
            f"(text {one['sha256'][:12]})"
            for one in (found["knowledge"] for found in inputs)
        ],
    }
    return provenance_of(runs, learnt, [found.get("held_out", {}) for found in inputs])


main = command_main(CklReportArguments, _run, program=PROGRAM)

if __name__ == "__main__":
    sys.exit(main())
