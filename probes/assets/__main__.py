"""The offline models and texts, as a command.

python -m probes.assets list
python -m probes.assets fetch general smollm2-135m-instruct-q4
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from tyro.conf import Positional

from probes.cli import command_main


class _Action(StrEnum):
    LIST = "list"
    FETCH = "fetch"


@dataclass(frozen=True, kw_only=True)
class AssetsArguments:
    """List the offline models and texts, or fetch some of them."""

    action: Positional[_Action] = _Action.LIST
    """list: what there is, with licences; fetch: fetch and build assets, print their paths."""
    names: Positional[tuple[str, ...]] = ()
    """What to fetch."""
    debug: bool = False
    """Show the traceback of an error."""


def _run(arguments: AssetsArguments, _words: Sequence[str]) -> None:
    from probes.assets import fetch, find_asset

    if arguments.action is _Action.LIST:
        if arguments.names:
            raise ValueError("list takes no names; fetch does")
        _print_list()
        return
    if not arguments.names:
        raise ValueError("fetch needs the name of an asset; list shows what there is")
    for asset in [find_asset(name) for name in arguments.names]:
        print(fetch(asset.name))


def _print_list() -> None:
    from probes.assets import ASSETS, cache_home, is_here
    from probes.assets.store import HOME_VARIABLE
    from probes.shown import Table, print_tables

    rows = [
        (
            asset.name,
            asset.kind.value,
            f"{asset.package.size / 1e6:.0f} MB",
            "yes" if is_here(asset.name) else "no",
            asset.summary,
        )
        for asset in ASSETS
    ]
    header = ("name", "kind", "download", "here", "what it is")
    print_tables([Table.of_rows("Offline models and texts", header, rows)])
    sharing: dict[str, list[str]] = {}
    for asset in ASSETS:
        sharing.setdefault(asset.licence, []).append(asset.name)
    print("licences of the contents")
    for licence, names in sharing.items():
        print(f" {', '.join(names)}: {licence}")
    print(f"\ncache: {cache_home()} (set {HOME_VARIABLE} to move it)")


main = command_main(AssetsArguments, _run, program="probes.assets")

if __name__ == "__main__":
    sys.exit(main())
