"""Report files: where a report may go, and its numbers as JSON takes them.

Example:
    >>> plain_records(pd.DataFrame({"arm": ["none"], "low": [float("nan")]}))
    [{'arm': 'none', 'low': None}]
"""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd


def refuse_folder(out: Path, name: str) -> None:
    """Refuse a folder that no report can be written to, before any work is done."""
    from probes.cli import refuse_existing

    if (out / f"{name}.json").is_file():
        return
    if out.is_dir() and any(out.iterdir()):
        raise ValueError(f"--out {out} exists and holds no report; give another folder")
    refuse_existing(out, overwrite=False, known=())


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
