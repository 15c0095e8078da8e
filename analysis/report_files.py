"""Report files: where a report may go, what is written there, and its numbers as JSON takes them.

A report called `ckl` is `ckl.md`, `ckl.html` and `ckl.json`, and `tables/*.csv`.

Example:
    >>> plain_records(pd.DataFrame({"arm": ["none"], "low": [float("nan")]}))
    [{'arm': 'none', 'low': None}]
"""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

DATA, DOCUMENT, PAGE = ".json", ".md", ".html"
TABLES = "tables"


def refuse_folder(out: Path, name: str) -> None:
    """Refuse a folder that no report can be written to, before any work is done.

    Args:
        out: the folder.
        name: of the report; an earlier one of that name may be replaced.

    Raises:
        ValueError: it is none, holds something else, or cannot be made.
    """
    from probes.output_folder import refuse_existing

    if (out / f"{name}.json").is_file():
        return
    if out.is_dir() and any(out.iterdir()):
        raise ValueError(f"--out {out} exists and holds no report; give another folder")
    refuse_existing(out, overwrite=False, known=())


def write_report_files(
    out: Path,
    name: str,
    *,
    content: Mapping[str, Any],
    tables: Mapping[str, pd.DataFrame],
    document: str,
    page: str,
) -> None:
    """Write a report into a folder.

    Args:
        out: the folder; made if it is not there.
        name: of the report.
        content: all numbers, for JSON.
        tables: by the names of their files.
        document: Markdown.
        page: HTML.
    """
    (out / TABLES).mkdir(parents=True, exist_ok=True)
    for each, table in tables.items():
        table.to_csv(out / TABLES / f"{each}.csv", index=False)
    numbers = json.dumps(content, indent=1, allow_nan=False) + "\n"
    for ending, text in ((DATA, numbers), (DOCUMENT, document), (PAGE, page)):
        (out / f"{name}{ending}").write_text(text, encoding="utf-8")
    print(f"page: {out / name}{PAGE}")


def plain_records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain values, None for what is missing or has no number."""
    rows = table.astype(object).to_dict(orient="records")
    return [{str(name): _plain(value) for name, value in row.items()} for row in rows]


def in_order(texts: Iterable[str]) -> str:
    """Different texts in the order in which they come, as one."""
    return "; ".join(dict.fromkeys(texts)) or "none"


def _plain(value: Any) -> Any:
    """As JSON takes it: it has no infinity either."""
    if pd.isna(value) or (isinstance(value, float) and math.isinf(value)):
        return None
    return value.item() if hasattr(value, "item") else value
