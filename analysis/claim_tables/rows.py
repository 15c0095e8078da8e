"""Rows: one value of a run of continual knowledge learning, without the settings of the run.

Fields are columns of `Table.ACQUISITION` (`analysis.claims.measurements`).

Example:
    >>> Row("F", 0.1, moment="end", against="start").cluster is None
    True
"""

from typing import NamedTuple


class Row(NamedTuple):
    """A value; what does not apply to it is None."""

    measure: str
    value: float
    exposure: str | None = None
    kind: str | None = None
    moment: str | None = None
    against: str | None = None
    cluster: str | None = None
    spacing: str | None = None
