"""Writing: the page and the tables behind its figures, beside each other."""

from pathlib import Path

from analysis.document import html
from analysis.report.material import Material
from analysis.report.page import MEASURED, page_report
from probes.cli import output_folder, progress

_TABLES = "{}-tables"


def write_page(material: Material, out: Path, *, command: str, title: str) -> None:
    """Write a page, and its tables as CSV into a folder beside it."""
    with progress("parts of the page", len(MEASURED)) as advance:
        report, tables = page_report(material, title, command, on_part=advance)
    with output_folder(out.with_name(_TABLES.format(out.stem))) as folder:
        for name, table in tables.items():
            table.to_csv(folder / f"{name}.csv", index=False)
    out.write_text(html(report), encoding="utf-8")
