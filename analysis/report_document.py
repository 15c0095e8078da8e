"""The document of a report: Markdown that can be kept with results.

It says what was found, how it is defined, which commands made it, and from which weights, data and
versions; it names no folder of the machine that it was made on.
"""

from collections.abc import Mapping, Sequence

from analysis.text_tables import TextTable, markdown_lines


def markdown_document(
    *,
    title: str,
    deck: str,
    command: str,
    provenance: Mapping[str, str],
    findings: Sequence[str],
    definitions: Sequence[str],
    tables: Sequence[TextTable],
    commands: Mapping[str, Sequence[str]],
) -> str:
    """The whole document.

    Args:
        title: its heading.
        deck: what the runs are, in a sentence.
        command: that made the report.
        provenance: what the runs are from, in words, by name.
        findings: sentences.
        definitions: paragraphs.
        tables: what there is to look up.
        commands: that make the runs of every arm, by its name.
    """
    lines = [
        f"# {title}",
        "",
        deck,
        "",
        f"    {command}",
        "",
        *(f"- {name}: {words}" for name, words in provenance.items()),
        "",
        "What was found:",
        "",
        *(f"- {sentence}" for sentence in findings),
        "",
        "How it is defined:",
        "",
        *(f"- {text}" for text in definitions),
    ]
    for table in tables:
        lines += ["", *markdown_lines(table)]
    lines += ["", "## The runs", "", "Each with `--out` and a folder of its own.", ""]
    for name, makers in commands.items():
        lines += [f"{name}:", "", *(f"    {one}" for one in makers), ""]
    return "\n".join(lines).rstrip() + "\n"
