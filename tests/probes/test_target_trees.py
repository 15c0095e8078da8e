"""Prefix trees against nested loops: every sequence is there, and sees itself alone."""

import pytest
import torch

from probes.corpus.token_batch import batches_by_length
from probes.target_pass import allowed_nodes, padded_rows, prefix_trees, single_paths
from tests.models import tokens

WIDE = 10**6
"""A model in which attention costs nothing beside the rest, so that all that can be is shared."""


def some_sequences():
    """Random ones, with starts in common, repetitions, and one that another goes on from."""
    stem = tokens(1, 7, seed=1)[0].tolist()
    ends = [tokens(1, n, seed=n)[0].tolist() for n in (1, 5, 3, 11)]
    found = [stem + end for end in ends] + [stem[:4] + end for end in ends] + ends
    return [tuple(row) for row in [*found, stem, stem + ends[1]]]


@pytest.mark.parametrize("d_model", [WIDE, 50, 1])
def test_every_path_spells_its_sequence(d_model):
    sequences = some_sequences()
    trees = prefix_trees(sequences, d_model=d_model)
    found = {number: tree for tree in trees for number in tree.paths}
    assert sorted(found) == list(range(len(sequences)))
    for number, tree in found.items():
        path = tree.paths[number]
        assert tuple(tree.ids[node] for node in path) == sequences[number]
        assert [tree.depths[node] for node in path] == list(range(len(path)))


def test_where_attention_is_free_nothing_is_there_twice():
    sequences = some_sequences()
    starts = {row[: n + 1] for row in sequences for n in range(len(row))}
    assert sum(map(len, prefix_trees(sequences, d_model=WIDE))) == len(starts)


@pytest.mark.parametrize(
    ("sequences", "d_model", "rows"),
    [
        # In tokens of a row without attention, with 6 d = 60: rows of 4 cost 4.27 each. Joined, two
        # that share one token make 7, which cost 7.82, less than 8.53.
        ([(1, 2, 3, 4), (1, 5, 6, 7)], 10, 1),
        # With 6 d = 6 rows cost 6.67 each, joined ones 15.17.
        ([(1, 2, 3, 4), (1, 5, 6, 7)], 1, 2),
        # Nothing in common is never joined, even where attention is all but free.
        ([(1, 2, 3, 4), (5, 2, 3, 4)], WIDE, 2),
        # Equal ones always are.
        ([(1, 2, 3, 4), (1, 2, 3, 4)], 1, 1),
    ],
)
def test_sequences_are_joined_where_that_costs_less(sequences, d_model, rows):
    assert len(prefix_trees(sequences, d_model=d_model)) == rows


def test_a_node_sees_its_own_path_and_nothing_else():
    trees = prefix_trees(some_sequences(), d_model=WIDE)
    assert len(trees) > 2
    allowed = allowed_nodes(trees)
    ids, depths = padded_rows(trees)
    for row, tree in enumerate(trees):
        before = {
            node: set(path[: place + 1])
            for path in tree.paths.values()
            for place, node in enumerate(path)
        }
        for node in range(allowed.shape[1]):
            seen = set(allowed[row, node].nonzero()[:, 0].tolist())
            assert seen == before.get(node, {node})
        assert ids[row, : len(tree)].tolist() == tree.ids
        assert set(ids[row, len(tree) :].tolist()) <= {tree.ids[-1]}
        assert depths[row, : len(tree)].tolist() == tree.depths


def test_what_branches_is_told_from_what_does_not():
    along, off = prefix_trees([(1, 2), (1, 2, 3), (1, 2, 3, 4), (5, 6), (5, 7)], d_model=WIDE)
    assert (along.branches, len(along), along.depth) == (False, 4, 4)
    assert (off.branches, len(off), off.depth) == (True, 3, 2)
    assert off.dissolved() == [tree for tree in _numbered(single_paths([(5, 6), (5, 7)]), start=3)]


def _numbered(trees, start):
    for place, tree in enumerate(trees):
        tree.paths = {start + place: tree.paths[place]}
        yield tree


def test_batches_hold_all_items_and_no_more_than_asked():
    lengths = [3, 19, 7, 7, 2, 5, 30, 1]
    batches = list(batches_by_length(lengths, tokens=20, rows=3))
    assert batches == [[6], [1], [2, 3], [5, 0, 4], [7]]
    alike = list(batches_by_length(lengths, tokens=20, rows=3, more=4, alike=True))
    assert alike == [[6], [1], [2], [3], [5], [0], [4], [7]]


@pytest.mark.parametrize("rows", [1, 3])
def test_masks_of_several_rows_are_padded_to_the_longest(rows):
    trees = single_paths([tuple(range(2, 2 + n)) for n in (5, 2, 3)[:rows]])
    allowed = allowed_nodes(trees)
    for row, tree in enumerate(trees):
        size = len(tree)
        expected = torch.eye(5, dtype=torch.bool)
        expected[:size, :size] = torch.ones(size, size).tril().bool()
        assert torch.equal(allowed[row], expected)
