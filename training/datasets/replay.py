"""Replay: some of what an earlier stage taught, shown again in a later one.

Of the items of the earlier stage a share r is drawn without replacement, the **replay ratio**; the
paper has 0.01, 0.05 and 0.1 (`replayed`). The items of a small ratio are among those of a larger
one with the same seed. Without access to the earlier items or their answers, a model can write what
it replays by itself: `training.datasets.self_replay`.

Items of a replay count for a source of their own, so that their loss is told from that of new items
of the same data set.

Source: Chen et al., "Continual Memorization of Factoids in Large Language Models", 2024: section
3.2, A.2 and table 4.

Example:
    >>> from training.datasets.conversations import factoid_conversations
    >>> from training.datasets.factoids import load_factoids
    >>> earlier = factoid_conversations(load_factoids("kvr", limit=128))
    >>> len(replayed(earlier, 0.05, seed=0))
    6
"""

import random
from collections.abc import Sequence
from dataclasses import replace

from training.datasets.conversations import Conversation
from training.datasets.shares import share_of

REPLAY_SOURCE = "replay"


def replay_size(earlier: int, ratio: float) -> int:
    """How many of `earlier` items to show again, rounded down (`training.datasets.shares`).

    Raises:
        ValueError: the ratio is not above 0 and at most 1, or comes to less than one item.
    """
    if ratio > 1:
        raise ValueError(
            f"the replay ratio is {ratio:g}: give at most 1, which shows every earlier item again"
        )
    return share_of(earlier, ratio, "the replay ratio")


def replayed(earlier: Sequence[Conversation], ratio: float, seed: int) -> list[Conversation]:
    """A share of the items of an earlier stage.

    Args:
        earlier: all that the earlier stage taught.
        ratio: which share of them, above 0 and at most 1.
        seed: decides which.

    Returns:
        The items in an order drawn by the seed, under source "replay".

    Raises:
        ValueError: the ratio is out of range, or comes to less than one item.
    """
    size = replay_size(len(earlier), ratio)
    return [replace(item, source=REPLAY_SOURCE) for item in in_drawn_order(earlier, seed)[:size]]


def in_drawn_order(items: Sequence[Conversation], seed: int) -> list[Conversation]:
    """Items in an order drawn by a seed; their first ones are a fair sample."""
    drawn = list(items)
    random.Random(seed).shuffle(drawn)
    return drawn
