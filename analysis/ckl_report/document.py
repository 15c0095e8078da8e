"""The document of runs of continual knowledge learning: Markdown that can be kept with results.

It says what was found, how it is defined, which commands made it, and from which weights, texts and
versions; it names no folder of the machine that it was made on.

Example:
    >>> Path("ckl.md").write_text(ckl_markdown(summary, command))            # doctest: +SKIP
"""

from collections.abc import Sequence

from analysis.ckl_report.arms import Arm
from analysis.ckl_report.findings import findings
from analysis.ckl_report.summary import CklSummary, command_line, provenance
from analysis.ckl_report.tables import text_tables
from analysis.text_tables import markdown_lines

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


def deck(arms: Sequence[Arm]) -> str:
    """What the runs are, in a sentence."""
    runs = sum(len(arm.runs) for arm in arms)
    first = arms[0].runs[0].manifest["inputs"]["knowledge"]
    seeds = sorted({len(arm.seeds) for arm in arms})
    each = "1 seed" if seeds == [1] else f"{' or '.join(map(str, seeds))} seeds"
    return (
        f"{runs} runs of continual knowledge learning: {len(arms)} "
        f"{'arm' if len(arms) == 1 else 'arms'}, {each} each; {first['passages']} passages with "
        f"{first['probes']} probes."
    )


def commands_of(arms: Sequence[Arm]) -> dict[str, list[str]]:
    """The commands that make the runs of every arm."""
    return {arm.name: [command_line(run) for run in arm.runs] for arm in arms}
