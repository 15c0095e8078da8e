"""One page from any set of results: `python -m analysis.report`.

Takes results of any command, the ledger of `analysis.reproduce` among them, or folders with results
below them; runs that are not over are named. Writes the page `--out`, one self-contained file, and
beside it, in `<name>-tables/`, the numbers behind the figures as CSV.

Example:
    $ python -m analysis.report runs/lab --out runs/lab/report.html
    $ python -m analysis.report runs/tiny runs/study runs/edits --out report.html --title "Tiny"
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from probes.cli import command_main

PROGRAM = "analysis.report"
_ENDING = ".html"
_OURS = "mnemoscope · report"  # stands on every page of this command


@dataclass(frozen=True, kw_only=True)
class ReportArguments:
    """One page from any set of results."""

    results: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Results, or folders with results below them."""
    out: Path
    """The page, a file that ends in .html; an earlier page is replaced."""
    title: str | None = None
    """The page's title."""
    curves: int = 6
    """How many arms have their single curves drawn; 0 for none."""
    debug: bool = False
    """Show the traceback of an error."""


def _run(arguments: ReportArguments, given: Sequence[str]) -> None:
    _refuse(arguments)
    from analysis.numbers import command_line
    from analysis.report.page import TITLE, write_page
    from analysis.report.parts import read_material

    material = read_material(list(dict.fromkeys(arguments.results)), curves=arguments.curves)
    command = command_line(PROGRAM, given)
    write_page(material, arguments.out, command=command, title=arguments.title or TITLE)
    for path in material.results.unfinished:
        print(f"not over, so not counted: {path}")
    print(f"page: {arguments.out}")


def _refuse(arguments: ReportArguments) -> None:
    out = arguments.out
    if arguments.curves < 0:
        raise ValueError(f"--curves must be 0 or more, found {arguments.curves}")
    if not arguments.results:
        raise ValueError("no results were given; give results, or folders with results below them")
    if out.suffix != _ENDING:
        raise ValueError(f"--out {out} must end in {_ENDING}; give the name of a page")
    if out.is_dir():
        raise ValueError(f"--out {out} is a folder; give the name of a page in it")
    if out.exists() and _OURS not in out.read_text(encoding="utf-8", errors="replace"):
        raise ValueError(f"--out {out} is there and is no page of {PROGRAM}; give another name")


main = command_main(ReportArguments, _run, program=PROGRAM)

if __name__ == "__main__":
    sys.exit(main())
