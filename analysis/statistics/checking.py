"""Checks that the tests of this package share; each refuses in one line.

Example:
    >>> import numpy as np
    >>> check_number(3, 4, "pairs", "an interval of a correlation")
    Traceback (most recent call last):
    ValueError: found 3 pairs: an interval of a correlation needs 4 or more
"""

import numpy as np
from jaxtyping import Shaped

_ROUNDING = 1e-13


def check_number(found: int, least: int, what: str, purpose: str) -> None:
    """Refuse too few data.

    Args:
        found: how many there are.
        least: how many are needed.
        what: to call them.
        purpose: what needs them.

    Raises:
        ValueError: there are fewer.
    """
    if found < least:
        raise ValueError(f"found {found} {what}: {purpose} needs {least} or more")


def check_finite(values: Shaped[np.ndarray, "..."], what: str) -> None:
    """Refuse what is missing or infinite.

    Raises:
        ValueError: a value is not finite.
    """
    if not (finite := np.isfinite(values)).all():
        raise ValueError(
            f"{(~finite).sum()} of {values.size} values of {what} are not finite: leave these out "
            f"of everything that is tested with them"
        )


def check_varied(values: Shaped[np.ndarray, "point"], what: str, tested: str) -> None:
    """Refuse values that differ by rounding alone, whose spread says nothing.

    Args:
        values: to look at.
        what: to call them.
        tested: what cannot be done with them.

    Raises:
        ValueError: they are all the same.
    """
    if is_constant(values):
        raise ValueError(
            f"all {len(values)} values of {what} are {values[0]:.6g}: {tested} needs a spread"
        )


def is_constant(values: Shaped[np.ndarray, "point"]) -> bool:
    """Whether values differ by no more than rounding."""
    wide = values.astype(np.float64)
    return bool(np.ptp(wide) <= _ROUNDING * np.abs(wide).max(initial=0.0))
