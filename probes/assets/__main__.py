"""The offline models and texts, as a command.

python -m probes.assets list
python -m probes.assets fetch general smollm2-135m-instruct-q4
"""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from probes.assets import ASSETS, asset_names, cache_home, fetch, find_asset, is_here
from probes.assets.store import HOME_VARIABLE
from probes.cli import complain

PROGRAM = "python -m probes.assets"


class _Parser(argparse.ArgumentParser):
    """Reports a mistake in one plain line."""

    def error(self, message: str) -> NoReturn:
        raise SystemExit(complain(PROGRAM, ValueError(message)))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog=PROGRAM, description="The offline models and texts.")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", metavar="{list,fetch}")
    commands.add_parser("list", help="what there is, with licences (the default)")
    fetching = commands.add_parser("fetch", help="fetch and build assets, print their paths")
    fetching.add_argument("names", nargs="+", metavar="NAME", help=", ".join(asset_names()))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code, 2 for bad input."""
    arguments = _parser().parse_args(argv)
    try:
        if arguments.command == "fetch":
            for asset in [find_asset(name) for name in arguments.names]:
                print(fetch(asset.name))
        else:
            _print_list()
    except ValueError as error:
        if arguments.debug:
            raise
        return complain(PROGRAM, error)
    return 0


def _print_list() -> None:
    """A table of the assets on the terminal, and the licences of what they contain."""
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "kind", "download", "here", "what it is", box=None)
    table.columns[0].no_wrap = True
    sharing: dict[str, list[str]] = {}
    for asset in ASSETS:
        here = "yes" if is_here(asset.name) else "no"
        size = f"{asset.package.size / 1e6:.0f} MB"
        table.add_row(asset.name, asset.kind.value, size, here, asset.summary)
        sharing.setdefault(asset.licence, []).append(asset.name)
    console = Console()
    console.print(table)
    console.print("\nlicences of the contents")
    for licence, names in sharing.items():
        console.print(f" {', '.join(names)}: {licence}", highlight=False)
    console.print(f"\ncache: {cache_home()} (set {HOME_VARIABLE} to move it)", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
