"""What runs of continual memorization learnt and kept: `python -m analysis.remix_report`.

Runs that differ in nothing but their seed are an arm, which is compared with plain training of one
stage after the other; `--localization` shows where in depth items are readable. Writes findings,
tables and where they are from as `remix.md` and as an interactive page `remix.html`, all numbers as
`remix.json` and `tables/*.csv`.

Example:
    $ python -m analysis.remix_report runs/plain runs/remix --out runs/report
    $ python -m analysis.remix_report runs/study/runs/* --out runs/study/report --localization
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.ckl_report import ArmsArguments
from probes.cli import command_main

if TYPE_CHECKING:
    from analysis.arms import RemixArm

PROGRAM = "analysis.remix_report"
NAME = "remix"  # the name of the report's files


@dataclass(frozen=True, kw_only=True)
class RemixReportArguments(ArmsArguments):
    """Report what runs of continual memorization learnt and kept."""

    localization: bool = False
    """Load the models before and after each stage, and see where in depth items are readable."""
    localization_items: int = 64
    """Items of stage A that are looked at for it."""
    device: str | None = None
    """For that: cpu or cuda; cuda where there is one."""


def _run(arguments: RemixReportArguments, given: Sequence[str]) -> None:
    from analysis.arm_report import read_arms
    from analysis.arms import remix_arms
    from analysis.numbers import command_line
    from analysis.runs import read_chain

    items = arguments.localization_items
    if items < 1:
        raise ValueError(f"--localization-items must be 1 or more, found {items}")
    arms, base = read_arms(arguments, NAME, read_chain, remix_arms)
    write_report(
        arms,
        arguments.out,
        command_line(PROGRAM, given),
        base=base,
        localized=items if arguments.localization else None,
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
) -> None:
    """Summarise arms, print it, and write the report into a folder."""
    from analysis.arm_report import write_summary
    from analysis.remix_curves import depth_tables
    from analysis.remix_page import sections
    from analysis.remix_summary import DEFINITIONS, findings, provenance, summarise

    depths = None if localized is None else depth_tables(arms, localized, base, device=device)
    summary = summarise(arms, base, depths)
    configuration = arms[0].runs[0].configuration
    data, items = configuration["data"], configuration["items"]
    items = items * len(data) if len(items) == 1 else items
    write_summary(
        summary,
        out,
        NAME,
        command=command,
        units="log-probabilities and entropies in nats; the rest are shares",
        title="What was learnt by heart, and what was kept",
        kind="continual memorization",
        first=", then ".join(f"{n} items of {of}" for of, n in zip(data, items, strict=True)),
        findings=findings(summary),
        definitions=DEFINITIONS,
        provenance=provenance(arms),
        sections=sections(summary),
    )


main = command_main(RemixReportArguments, _run, program=PROGRAM)

if __name__ == "__main__":
    sys.exit(main())
