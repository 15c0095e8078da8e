"""What runs of continual memorization learnt and kept: `python -m analysis.remix_report`.

Runs that differ in nothing but their seed are an arm. Of every arm: the share of each stage's items
that is right after every stage; the difference from plain training of one stage after the other;
what was known while stages were trained, losses by source, gradients, weight drift, text,
entropies, and what came back when a few items were taught again; with `--localization` also where
in depth the items are readable. Writes findings, tables and where they are from as `remix.md` and
as an interactive page `remix.html`, all numbers as `remix.json` and `tables/*.csv`.

Example:
    $ python -m analysis.remix_report runs/plain runs/remix --out runs/report
    $ python -m analysis.remix_report runs/study/runs/* --out runs/study/report --localization
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from probes.cli import command_main

if TYPE_CHECKING:
    import pandas as pd

    from analysis.arm_report import Summary
    from analysis.arms import RemixArm

PROGRAM = "analysis.remix_report"
NAME = "remix"
"""The name of the report's files."""
DEFINITIONS = (
    "An item is right if every token of its answer, the end included, is the most probable one "
    "given the right ones before it, which is when the model gives the answer by itself, but for "
    "ties. The share of the items of stage A that are right after a later stage is its retention.",
    "Intervals of shares are Wilson's, with as many independent answers as the spread between "
    "items shows there to be; they are about other items, not about other seeds. Arms are compared "
    "item by item and seed by seed; how far seeds agree is given beside it.",
    "An arm is called by what it has beside plain training of one stage after the other: what is "
    "mixed in at which stage, which share of earlier items is shown again, how the model was "
    "edited. Its base is the arm that has none of that. Mixing makes a stage longer; the control "
    "with as many steps trains on its own items alone for that long.",
    "Source: Chen et al., \u201cContinual Memorization of Factoids in Large Language Models\u201d, "
    "2024.",
)


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
    from analysis.remix_findings import findings
    from analysis.remix_page import sections

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
        provenance=_provenance(arms),
        sections=sections(summary),
    )


def summarise(
    arms: "Sequence[RemixArm]",
    base: "RemixArm | None" = None,
    depths: "tuple[pd.DataFrame, pd.DataFrame] | None" = None,
) -> "Summary":
    """All tables of some arms."""
    import pandas as pd

    from analysis import remix_curves as curves
    from analysis import remix_measures as measures
    from analysis.arm_report import summarised

    def tables() -> Iterator[dict[str, Any]]:
        yield {"recalls": measures.recall_table(arms)}
        yield {"differences": measures.difference_table(arms, base)}
        yield {"curves": curves.recall_curves(arms)}
        yield {"sources": curves.source_curves(arms)}
        yield {"alignments": curves.alignment_curves(arms), "signs": curves.sign_table(arms)}
        yield {"terms": curves.term_table(arms, base), "drift": measures.drift_table(arms)}
        yield {"kept": measures.kept_table(arms), "stages": measures.stage_table(arms)}
        yield {"relearning": curves.relearning_table(arms), "spills": curves.spill_table(arms)}
        readable, moved = depths or (pd.DataFrame(), pd.DataFrame())
        yield {"levels": measures.level_table(arms), "depths": readable, "depth_changes": moved}

    return summarised(arms, tables(), 9)


def _provenance(arms: "Sequence[RemixArm]") -> dict[str, str]:
    """Models, data and versions behind the numbers, in words."""
    from analysis.arm_report import provenance_of
    from analysis.numbers import shown_path

    def described(found: Mapping[str, Any]) -> str:
        return (
            f"{found['items']:,} items of {shown_path(found['name'])} "
            f"({shown_path(found['source'])}; licence: {found['licence']}; rows "
            f"{found['content_hash'][:12]})"
        )

    chains = [chain for arm in arms for chain in arm.runs]
    stages = [pair for chain in chains for pair in chain.manifest["inputs"]["stages"].items()]
    learnt = {
        words: [f"{name}: {described(found[of])}" for name, found in stages if of in found]
        for of, words in (("data", "learnt"), ("mix", "mixed in"))
    }
    runs = [stage.run for chain in chains for stage in chain.stages.values()]
    held_out = [run.manifest["inputs"].get("held_out", {}) for run in runs]
    return provenance_of(chains, learnt, held_out)


main = command_main(RemixReportArguments, _run, program=PROGRAM)

if __name__ == "__main__":
    sys.exit(main())
