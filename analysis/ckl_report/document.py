"""The document of runs of continual knowledge learning: what is said of them in Markdown.

Example:
    >>> Path("ckl.md").write_text(ckl_markdown(summary, command))            # doctest: +SKIP
"""

from collections.abc import Sequence

from analysis.ckl_report.arms import Arm
from analysis.ckl_report.findings import findings
from analysis.ckl_report.summary import CklSummary, command_line, provenance
from analysis.ckl_report.tables import text_tables
from analysis.report_document import markdown_document, runs_in_words

TITLE = "What was acquired and what was forgotten"
DEFINITIONS = (
    "K is the mean log-probability of the targets of knowledge probes, in nats: over a passage's "
    "probes, then over passages. A is its change since the start, divided by its size at the "
    "start; F is the fall of P, the mean accuracy of the downstream tasks, divided by P at the "
    "start. Both are positive where something was acquired, or forgotten. The start is the model "
    "that training began from; where it was edited, changes since the unedited start are given "
    "too, since an edit that spoils the start makes A large.",
    "Intervals hold for 95 of 100 draws of passages (A, K, curves), questions (P, F) or subjects "
    "(facts), not for other seeds; what seeds do is given beside them. Held-out passages were "
    "never met and show what training does to the probes of any such passage.",
    "Source: Kim et al., \u201cKnowledge Entropy Decay during Language Model Pretraining Hinders "
    "New Knowledge Acquisition\u201d, ICLR 2025, Eq. 4 and 5; Chang et al., \u201cHow Do Large "
    "Language Models Acquire Factual Knowledge During Pretraining?\u201d, NeurIPS 2024, section "
    "3.3, for effectivity, retainability and forgetting curves.",
)


def ckl_markdown(summary: CklSummary, command: str) -> str:
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


def deck(arms: Sequence[Arm]) -> str:
    """What the runs are, in a sentence."""
    first = arms[0].runs[0].manifest["inputs"]["knowledge"]
    found = runs_in_words(
        "of continual knowledge learning",
        arms=len(arms),
        runs=sum(len(arm.runs) for arm in arms),
        seeds={len(arm.seeds) for arm in arms},
    )
    return f"{found}; {first['passages']} passages with {first['probes']} probes."


def commands_of(arms: Sequence[Arm]) -> dict[str, list[str]]:
    """The commands that make the runs of every arm."""
    return {arm.name: [command_line(run) for run in arm.runs] for arm in arms}
