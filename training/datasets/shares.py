"""How many items a ratio asks for.

The product is rounded down, so a share is never larger than was asked for. What lies within a
millionth of a whole number is that number: 0.29 of 100 is 29, although the floating-point product
is 28.999999999999996. A ratio that comes to no item at all is refused, since a mix or a replay that
is silently empty would be taken for one that does nothing.

Example:
    >>> share_of(100, 0.29, "the mix ratio"), share_of(128, 0.01, "the replay ratio")
    (29, 1)
"""

import math

_DECIMALS = 6


def share_of(items: int, ratio: float, what: str) -> int:
    """So many items are `ratio` times `items`, rounded down.

    Args:
        items: how many items the ratio refers to.
        ratio: positive and finite; above 1 for more items than there are.
        what: what the ratio is called, for errors.

    Raises:
        ValueError: the ratio is not positive and finite, or comes to less than one item.
    """
    if not (math.isfinite(ratio) and ratio > 0):
        raise ValueError(
            f"{what} is {ratio:g}: give a positive number, or leave it out for no such items"
        )
    found = math.floor(round(items * ratio, _DECIMALS))
    if found < 1:
        raise ValueError(
            f"{what} is {ratio:g}, which of {items} items is less than one: give a larger ratio or "
            f"more items, or leave it out"
        )
    return found
