"""Row packing: which examples share a row, so that a batch costs as little as it can.

Examples are dealt to a number of rows, the longest first, each to the row that is the emptiest so
far; the fullest row says how long all become. More rows are shorter and hold more pads; fewer are
longer, and attention, which under a document mask computes what it then discards, grows with the
square of the length. Every number of rows is tried, and the one that takes the fewest
multiplications is kept: for R rows of length L

    R * L * (TOKEN_COST + 2 L)

over the width of a model and its layers, 2 L of them for the attention scores of a token and their
weighted sum.

Source: Graham, "Bounds on multiprocessing timing anomalies", 1969 (longest first to the emptiest).

Example:
    >>> packed_rows([30, 9, 19, 10])
    [[0], [2], [3, 1]]
    >>> packed_rows([300, 90, 190, 110], longest_row=400)
    [[0, 1], [2, 3]]
"""

import heapq
from collections.abc import Sequence

TOKEN_COST = 4096
"""Multiplications of a token in a layer, attention left out, over the width of the model. That of
models of a hundred million parameters, halved as masked attention is slow at multiplying. Little
hangs on it: ten times as many make rows two thirds longer, with three pads in a hundred less."""


def packed_rows(lengths: Sequence[int], *, longest_row: int | None = None) -> list[list[int]]:
    """Which examples share a row, the first the longest in each.

    Args:
        lengths: tokens of each example.
        longest_row: tokens that a row may have, as far as examples are not longer themselves; None
            for those of the longest example.
    """
    longest = max(lengths)
    limit = max(longest, longest_row or 0)
    fewest = -(-sum(lengths) // limit)
    dealt = (_dealt(lengths, rows) for rows in range(fewest, len(lengths) + 1))
    fitting = [rows for rows in dealt if _row_length(rows, lengths) <= limit]
    return min(fitting, key=lambda rows: _cost(len(rows), _row_length(rows, lengths)))


def _dealt(lengths: Sequence[int], n_rows: int) -> list[list[int]]:
    """The longest first, each to the emptiest row."""
    rows: list[list[int]] = [[] for _ in range(n_rows)]
    loads = [(0, row) for row in range(n_rows)]
    for example in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        load, row = loads[0]
        rows[row].append(example)
        heapq.heapreplace(loads, (load + lengths[example], row))
    return rows


def _row_length(rows: Sequence[Sequence[int]], lengths: Sequence[int]) -> int:
    return max(sum(lengths[i] for i in row) for row in rows)


def _cost(rows: int, length: int) -> int:
    return rows * length * (TOKEN_COST + 2 * length)
