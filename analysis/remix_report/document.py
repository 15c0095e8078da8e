"""The document of runs of continual memorization: what is said of them in Markdown.

Example:
    >>> Path("remix.md").write_text(remix_markdown(summary, command))        # doctest: +SKIP
"""

from collections.abc import Mapping, Sequence
from typing import Any

from analysis.remix_report.arms import RemixArm
from analysis.remix_report.findings import findings
from analysis.remix_report.summary import RemixSummary, commands_of, provenance
from analysis.remix_report.tables import text_tables
from analysis.report_document import markdown_document, runs_in_words

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
    return markdown_document(
        title=TITLE,
        deck=deck(summary.arms),
        command=command,
        provenance=provenance(summary.arms),
        findings=findings(summary),
        definitions=DEFINITIONS,
        tables=text_tables(summary),
        commands=commands_of(summary.arms),
    )


def deck(arms: Sequence[RemixArm]) -> str:
    """What the runs are, in a sentence."""
    configuration = arms[0].chains[0].configuration
    learnt = ", then ".join(
        f"{count} items of {name}"
        for name, count in zip(configuration["data"], _counts(configuration), strict=True)
    )
    found = runs_in_words(
        "of continual memorization",
        arms=len(arms),
        runs=sum(len(arm.chains) for arm in arms),
        seeds={len(arm.seeds) for arm in arms},
    )
    return f"{found}; {learnt}."


def _counts(configuration: Mapping[str, Any]) -> list[int]:
    items: list[int] = configuration["items"]
    return items * len(configuration["data"]) if len(items) == 1 else items
