"""Comparing: two results of one kind, number by number, or one line that says why not.

Example:
    >>> import pandas as pd
    >>> tables = [pd.DataFrame({"layer": [0, 1], "value": values}) for values in ([1, 2], [3, 5])]
    >>> paired(*tables, "tables")["difference"].tolist()
    [2, 3]
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from probes.shown import Result

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Difference(Result):
    """Two results of one kind, and the second less the first.

    Attributes:
        first: one of them.
        second: the other.
        names: what tells them apart.
        numbers: a row for every number that both have: what it is of, `first`, `second` and
            `difference`.
    """

    first: Any
    second: Any
    names: tuple[str, str]
    numbers: "pd.DataFrame"

    def to_dataframe(self) -> Any:
        """A row for every number that both have, with `first`, `second` and `difference`."""
        return self.numbers

    def _facts(self) -> dict[str, Any]:
        return {"": f"{self.names[1]} less {self.names[0]}", "numbers": len(self.numbers)}


def paired(first: "pd.DataFrame", second: "pd.DataFrame", what: str) -> "pd.DataFrame":
    """Two tidy tables as one: their `value` as `first` and `second`, and the `difference`.

    Raises:
        ValueError: they have no row in common.
    """
    keys = [name for name in first.columns if name != "value"]
    both = first.merge(second, on=keys, suffixes=("_first", "_second"))
    if both.empty:
        raise ValueError(f"the two {what} have no number in common; measure the same of both")
    both = both.rename(columns={"value_first": "first", "value_second": "second"})
    return both.assign(difference=both["second"] - both["first"])


def require_same(what: str, both: Iterable[Any], advice: str) -> None:
    """Refuse two results that differ in what they must share.

    Raises:
        ValueError: they differ in it.
    """
    first, second = both
    if first != second:
        raise ValueError(f"the two differ in {what}: {first} and {second}; {advice}")


def require_kind(first: Any, second: Any) -> None:
    """Refuse to compare a result with something else.

    Raises:
        ValueError: the second is of another class.
    """
    if type(first) is not type(second):
        kinds = (type(one).__name__ for one in (first, second))
        raise ValueError("{} cannot be compared with {}; give another of its kind".format(*kinds))
