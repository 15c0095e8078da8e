"""Which items of a set are taken, and in which order: limit, offset and seed mean the same for all.

Items come in an order drawn by `seed`, `None` keeping that of the source; `offset` of them are left
out, and then at most `limit` taken. With one seed, limit 2,000 and limit 2,000 with offset 2,000
share nothing, which makes a second set of the same kind.

Example:
    >>> chosen("letters", list("abcd"), limit=2, offset=1, seed=None)
    ('b', 'c')
"""

import random
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


def check_numbers(limit: int | None, offset: int) -> None:
    """Refuse a limit or an offset that no set can meet.

    Raises:
        ValueError: the limit is not positive, or the offset is negative.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}: give a positive number, or leave it out for all items")
    if offset < 0:
        raise ValueError(f"offset is {offset}: give 0 or more")


def chosen(
    name: str, items: Sequence[Item], *, limit: int | None, offset: int, seed: int | None
) -> tuple[Item, ...]:
    """The items from `offset` on, at most `limit`, in the order of the seed.

    Args:
        name: of the set, for errors.
        items: all of them, in the order of the source.
        limit: at most so many; None for all.
        offset: leave out so many first.
        seed: of the order; None for the source's own.

    Raises:
        ValueError: there are not more items than `offset`.
    """
    if offset >= len(items):
        raise ValueError(
            f"offset is {offset}, but {name} has {len(items)} items: give a smaller one"
        )
    ordered = list(items)
    if seed is not None:
        random.Random(seed).shuffle(ordered)
    return tuple(ordered[offset:][:limit])
