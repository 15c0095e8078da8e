"""Token weights and blocks, on rows small enough to work out by hand."""

import torch
from torch.testing import assert_close

from probes.choices import Weighting
from probes.corpus.token_batch import as_token_batch
from probes.corpus_means import spread, weigh


def test_instance_weights_of_a_row_add_up_to_one_and_pads_are_dropped():
    batch = as_token_batch(
        {"input_ids": torch.ones(2, 3, dtype=torch.long), "attention_mask": [[1, 1, 1], [0, 1, 0]]}
    )
    found = weigh(batch, Weighting.INSTANCE, n_blocks=5)
    third = 1 / 3
    expected = torch.tensor([[third, third, third, 0], [0, 0, 0, 1]], dtype=torch.float64)
    assert_close(found.matrix, expected)
    assert found.blocks.tolist() == [0, 1]
    assert found.tokens.tolist() == [0, 1, 2, 4]


def test_token_weights_are_all_one_and_full_rows_need_no_selection():
    batch = as_token_batch({"input_ids": torch.ones(2, 3, dtype=torch.long)})
    found = weigh(batch, Weighting.TOKEN, n_blocks=5)
    assert found.tokens is None
    assert_close(found.matrix.sum(dim=0), torch.ones(6, dtype=torch.float64))


def test_documents_of_a_packed_row_go_to_blocks_in_turn():
    batch = as_token_batch(
        {"input_ids": torch.ones(1, 6, dtype=torch.long), "segment_ids": [[3, 3, 4, 5, 5, 6]]}
    )
    found = weigh(batch, Weighting.TOKEN, n_blocks=3)
    assert found.blocks.tolist() == [0, 1, 2]
    assert found.matrix.tolist() == [[1, 1, 0, 0, 0, 1], [0, 0, 1, 0, 0, 0], [0, 0, 0, 1, 1, 0]]


def test_values_on_pads_may_be_nan():
    batch = spread(torch.tensor([[1.0, 0.0]]).double(), torch.zeros(1, 2, dtype=torch.long))
    sums = batch.sums(torch.tensor([[2.0], [float("nan")]]))
    assert sums.tolist() == [[2.0]]
