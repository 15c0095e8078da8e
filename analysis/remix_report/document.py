"""The document of runs of continual memorization: Markdown that can be kept with results.

It says what was found, how it is defined, which commands made it, and from which weights, data and
versions; it names no folder of the machine that it was made on.

Example:
    >>> Path("remix.md").write_text(remix_markdown(summary, command))        # doctest: +SKIP
"""

from collections.abc import Mapping, Sequence
from typing import Any

from analysis.remix_report.arms import RemixArm
from analysis.remix_report.findings import findings
from analysis.remix_report.summary import RemixSummary, commands_of, provenance
from analysis.remix_report.tables import text_tables
from analysis.text_tables import markdown_lines

TITLE = "What was learnt by heart, and what was kept"
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


def remix_markdown(summary: RemixSummary, command: str) -> str:
    """The whole document.

    Args:
        summary: of the runs.
        command: that made it.
    """
    lines = [
        f"# {TITLE}",
        "",
        deck(summary.arms),
        "",
        f"    {command}",
        "",
        *(f"- {name}: {words}" for name, words in provenance(summary.arms).items()),
        "",
        "What was found:",
        "",
        *(f"- {sentence}" for sentence in findings(summary)),
        "",
        "How it is defined:",
        "",
        *(f"- {text}" for text in DEFINITIONS),
    ]
    for found in text_tables(summary):
        lines += ["", *markdown_lines(found)]
    lines += ["", "## The runs", "", "Each with `--out` and a folder of its own.", ""]
    for name, commands in commands_of(summary.arms).items():
        lines += [f"{name}:", "", *(f"    {one}" for one in commands), ""]
    return "\n".join(lines).rstrip() + "\n"


def deck(arms: Sequence[RemixArm]) -> str:
    """What the runs are, in a sentence."""
    runs = sum(len(arm.chains) for arm in arms)
    seeds = sorted({len(arm.seeds) for arm in arms})
    each = "1 seed" if seeds == [1] else f"{' or '.join(map(str, seeds))} seeds"
    configuration = arms[0].chains[0].configuration
    learnt = ", then ".join(
        f"{count} items of {name}"
        for name, count in zip(configuration["data"], _counts(configuration), strict=True)
    )
    return (
        f"{runs} run{'s' if runs > 1 else ''} of continual memorization: {len(arms)} "
        f"{'arm' if len(arms) == 1 else 'arms'}, {each} each; {learnt}."
    )


def _counts(configuration: Mapping[str, Any]) -> list[int]:
    items: list[int] = configuration["items"]
    return items * len(configuration["data"]) if len(items) == 1 else items
