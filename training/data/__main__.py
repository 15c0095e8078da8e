"""The data sets, corpora and models of the hub, as a command.

python -m training.data list
python -m training.data check --only popqa c4
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from tyro.conf import Positional

from probes.cli import command_main, progress

if TYPE_CHECKING:
    from training.data.hub_check import Entry, Found


class _Action(StrEnum):
    LIST = "list"
    CHECK = "check"


@dataclass(frozen=True, kw_only=True)
class HubArguments:
    """List what has a name here and is of the hub, or try to read it as training does."""

    action: Positional[_Action] = _Action.LIST
    """list: names, addresses, licences; check: read the start of each, and say which fail."""
    only: tuple[str, ...] = ()
    """Names of some; all."""
    timeout: float = 60.0
    """Seconds after which one is given up."""
    debug: bool = False
    """Show the traceback of an error."""


def _found(entries: Sequence["Entry"], timeout: float) -> "list[Found]":
    import datasets
    from huggingface_hub import logging

    from training.data.hub_check import checked

    datasets.disable_progress_bars()
    logging.set_verbosity_error()
    with progress("tried", len(entries)) as advance:
        found = []
        for one in checked(entries, timeout):
            found.append(one)
            advance(1)
        return found


def _run(arguments: HubArguments, _words: Sequence[str]) -> None:
    from probes.shown import Table, print_tables
    from training.data.hub_check import OK, chosen_entries

    if arguments.timeout <= 0:
        raise ValueError(f"--timeout is {arguments.timeout:g}: give a positive number of seconds")
    entries = chosen_entries(arguments.only)
    if arguments.action is _Action.LIST:
        listed = [(entry.name, entry.address, entry.licence) for entry in entries]
        print_tables([Table.of_rows("Of the hub", ("name", "address", "licence"), listed)])
        return
    found = _found(entries, arguments.timeout)
    header = ("name", "address", "read", "outcome")
    rows = [(one.entry.name, one.entry.address, one.read, one.outcome) for one in found]
    print_tables([Table.of_rows("Read as training reads it", header, rows)])
    failed = [one.entry.name for one in found if one.outcome != OK]
    if failed:
        raise ValueError(f"{len(failed)} of {len(found)} failed: {', '.join(failed)}")


main = command_main(HubArguments, _run, program="training.data")

if __name__ == "__main__":
    sys.exit(main())
