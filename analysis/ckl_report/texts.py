"""How the numbers of a measure of continual knowledge learning are shown: in percent, or in nats.

Example:
    >>> signed_by("facts recalled")(0.25), signed_by("knowledge entropy")(0.25)
    ('+25.0 points', '+0.250')
"""

from collections.abc import Callable

from analysis.report_texts import nats, points, share, signed


def shown_by(measure: str) -> Callable[[float], str]:
    """How numbers of a measure are shown: those that are shares in percent."""
    return share if measure.startswith(("facts recalled", "dormant", "P,")) else nats


def signed_by(measure: str) -> Callable[[float], str]:
    """How differences of a measure are shown: those of shares in percentage points."""
    show = points if shown_by(measure) is share else nats
    return lambda value: signed(value, show)
