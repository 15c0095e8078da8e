"""Checks that the tests of this package share; each refuses in one line.

Data that allow no test, because they are too few or do not vary, are a `ScaleError`: no verdict.

Example:
    >>> import numpy as np
    >>> check_number(3, 4, "pairs", "an interval of a correlation")
    Traceback (most recent call last):
    ValueError: found 3 pairs: an interval of a correlation needs 4 or more
"""

import numpy as np
from jaxtyping import Float, Shaped

ROUNDING = 1e-13
"""Share of the largest number within which two numbers are the same."""


class ScaleError(ValueError):
    """There is too little to test anything, or nothing that varies: no verdict, for or against."""


def check_number(found: int, least: int, what: str, purpose: str) -> None:
    """Refuse too few data.

    Args:
        found: how many there are.
        least: how many are needed.
        what: to call them.
        purpose: what needs them.

    Raises:
        ScaleError: there are fewer.
    """
    if found < least:
        raise ScaleError(f"found {found} {what}: {purpose} needs {least} or more")


def check_finite(values: Shaped[np.ndarray, "..."], what: str) -> None:
    """Refuse what is missing or infinite.

    Raises:
        ScaleError: a value is not finite.
    """
    if not (finite := np.isfinite(values)).all():
        raise ScaleError(
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
        ScaleError: they are all the same.
    """
    if is_constant(values):
        raise ScaleError(
            f"all {len(values)} values of {what} are {values[0]:.6g}: {tested} needs a spread"
        )


def is_constant(values: Shaped[np.ndarray, "point"]) -> bool:
    """Whether values differ by no more than rounding."""
    wide = values.astype(np.float64)
    return bool(np.ptp(wide) <= ROUNDING * np.abs(wide).max(initial=0.0))


def without_rounding(
    values: Float[np.ndarray, "point"], scale: float
) -> Float[np.ndarray, "point"]:
    """Values made the same where they differ by the rounding of larger numbers alone.

    Args:
        values: such as differences, which may be far smaller than what they are made from.
        scale: the size of what they are made from; values that are 0 beside it become 0.
    """
    if not len(values) or not np.isfinite(values).all():
        return values
    least = ROUNDING * scale
    order = np.argsort(values, kind="stable")
    groups = np.concatenate([[0], np.cumsum(np.diff(values[order]) > least)])
    found = np.empty_like(values)
    # Of a group of one the value itself: a mean could round it.
    found[order] = values[order][np.searchsorted(groups, groups)]
    return np.where(np.abs(found) <= least, 0.0, found)
