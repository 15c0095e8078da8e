"""Verification: do results agree with what the papers report? A table, and the command's body.

`verification.csv` has a row for each published number: where it is printed, what is printed, what
was measured, how both stand to each other, and why.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.claims.choices import Paper
from analysis.claims.measurements import Table
from analysis.published.comparing import Agreement, Measured
from analysis.published.measured import Comparison, verify
from analysis.published.records import Published
from analysis.published.result_rows import Said
from analysis.statistics.bootstrap import LEVEL

NAME = "verification"
_SETTINGS = ("recipe", "checkpoint", "first", "mix", "mix later", "replay ratio", "later")
_OTHERS = ("model", "corpus")
_OURS = ("ours", "low", "high", "change", "change_low", "change_high", "rows", "seeds")
_ENDINGS = (".md", ".csv", ".json")
_SAYINGS = {
    Agreement.MATCH: "match",
    Agreement.DIRECTION_ONLY: "hold in direction only",
    Agreement.DISAGREES: "disagree",
    Agreement.WITHIN_CHANCE: "cannot be told from chance",
    Agreement.NOT_COMPARABLE: "are not comparable",
}


def cell_of(published: Published) -> str:
    """Which number of its table or figure a published number is, in words."""
    told = [published.conditions[name] for name in _SETTINGS if name in published.conditions]
    if not told:
        told = [published.conditions[name] for name in _OTHERS if name in published.conditions]
    shown = ", ".join(told)
    return (
        shown
        if published.paper is Paper.CONTINUAL_MEMORIZATION
        else f"{published.measure}: {shown}"
    )


def headline(comparisons: Sequence[Comparison]) -> str:
    """How many published numbers stand how to ours, in a sentence."""
    counts = Counter(one.agreement for one in comparisons)
    parts = [f"{counts[agreement]} {words}" for agreement, words in _SAYINGS.items()]
    compared = [one for one in comparisons if one.agreement is not Agreement.NOT_COMPARABLE]
    doubted = sum(bool(one.inconsistencies) for one in compared)
    said = f" {doubted} of those compared are from inconsistent sources." if doubted else ""
    return f"Of {len(comparisons)} published numbers {', '.join(parts)}.{said}"


def verification_table(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """A row for each published number, in the order of the papers; values in its unit."""
    return pd.DataFrame([_row(one) for one in comparisons])


def verify_command(paths: Sequence[Path], out: Path | None) -> None:
    """Compare results with the published numbers, print it, and write it where that is wanted."""
    from analysis.claim_tables.folders import find_results, tables_of
    from analysis.published.result_settings import settings_of_results

    if out is not None:
        _refuse(out)
    results = find_results(paths)
    verify_tables(tables_of(results), out, settings_of_results(results))


def verify_tables(
    tables: Mapping[Table, pd.DataFrame],
    out: Path | None,
    settings: Mapping[Table, Said] | None = None,
) -> list[Comparison]:
    """Compare tables of results with the published numbers; print it, and write it where wanted."""
    from analysis.published.verification_texts import print_verification

    if out is not None:
        _refuse(out)
    comparisons = verify(tables, settings)
    print_verification(comparisons)
    if out is not None:
        write_verification(comparisons, out)
    return comparisons


def write_verification(comparisons: Sequence[Comparison], out: Path) -> None:
    """Write the document, the table, and both as data."""
    from analysis.published.verification_texts import verification_markdown
    from analysis.report_files import plain_records

    table = verification_table(comparisons)
    content: Mapping[str, Any] = {
        "headline": headline(comparisons),
        "level": LEVEL,
        "counts": {str(each): int((table["verdict"] == each).sum()) for each in Agreement},
        "numbers": plain_records(table),
    }
    texts = (
        verification_markdown(comparisons),
        table.to_csv(index=False),
        json.dumps(content, indent=1, allow_nan=False) + "\n",
    )
    out.mkdir(parents=True, exist_ok=True)
    for ending, text in zip(_ENDINGS, texts, strict=True):
        (out / f"{NAME}{ending}").write_text(text, encoding="utf-8")
    print(f"document: {out / NAME}.md")


def _refuse(out: Path) -> None:
    """Refuse a folder before any work is done."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; give a folder, which need not exist")
    taken = [out / f"{NAME}{ending}" for ending in _ENDINGS if (out / f"{NAME}{ending}").exists()]
    if taken and len(taken) < len(_ENDINGS):
        raise ValueError(f"--out {out} holds a {taken[0].name} of another origin; give another one")


def _row(one: Comparison) -> dict[str, Any]:
    published, measured = one.published, one.measured
    theirs = {
        "paper": str(published.paper),
        "place": published.place,
        "cell": cell_of(published),
        "number": published.identifier,
        "unit": published.unit,
        "published": published.value,
        "published_low": published.low,
        "published_high": published.high,
        "published_change": published.change,
        "published_direction": None if published.direction is None else str(published.direction),
        "compared_with": published.change_from or None,
    }
    ours: dict[str, Any] = {} if measured is None else _ours(measured)
    return {
        **theirs,
        **dict.fromkeys(_OURS),
        **ours,
        "verdict": str(one.agreement),
        "why": one.why,
        "differs_in": ", ".join(one.unmet),
        "inconsistencies": ", ".join(one.inconsistencies),
    }


def _ours(measured: Measured) -> dict[str, Any]:
    ends, change_ends = (
        (None, None) if each is None else each[:2]
        for each in (measured.interval, measured.change_interval)
    )
    found = (measured.value, *ends, measured.change, *change_ends, measured.rows, measured.seeds)
    return dict(zip(_OURS, found, strict=True))
