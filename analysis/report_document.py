"""The document of a report: Markdown that can be kept with results.

It says what was found, how it is defined, which commands made it, and from which weights, data and
versions; it names no folder of the machine that it was made on.

Example:
    >>> runs_in_words("of this or that", arms=2, runs=6, seeds={3})
    '6 runs of this or that: 2 arms, 3 seeds each'
"""

from collections.abc import Collection, Mapping, Sequence

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


def runs_in_words(what: str, *, arms: int, runs: int, seeds: Collection[int]) -> str:
    """How many runs, arms and seeds there are.

    Args:
        what: the runs are of.
        arms: how many.
        runs: how many.
        seeds: how many each arm has; several numbers where arms differ.
    """
    each = f"{' or '.join(map(str, sorted(seeds)))} seed{'' if set(seeds) == {1} else 's'}"
    return (
        f"{runs} {'run' if runs == 1 else 'runs'} {what}: {arms} "
        f"{'arm' if arms == 1 else 'arms'}, {each} each"
    )
