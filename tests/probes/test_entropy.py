"""The formulas against SciPy, hand-worked numbers and the limits."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy as scipy_entropy
from torch.testing import assert_close

from probes.entropy import knowledge_entropy, next_token_entropy, official_knowledge_entropy


def test_knowledge_entropy_is_scipys_entropy_of_normalised_means():
    means = torch.rand(5, 13, generator=torch.Generator().manual_seed(1))
    expected = [scipy_entropy(row) for row in means.double().numpy()]
    # float64 on both sides; sums of 13 terms in another order.
    assert_close(knowledge_entropy(means).numpy(), np.array(expected), rtol=1e-14, atol=0)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_uniform_means_reach_the_maximum_whatever_their_scale(scale):
    entropy = knowledge_entropy(torch.full((2, 7), scale, dtype=torch.float64))
    assert_close(entropy, torch.full((2,), math.log(7), dtype=torch.float64), rtol=1e-14, atol=0)


def test_one_active_memory_vector_has_entropy_exactly_zero():
    means = torch.zeros(1, 11)
    means[0, 4] = 0.3
    assert knowledge_entropy(means).item() == 0.0


def test_official_formula_is_lower_by_its_epsilon():
    means = torch.rand(1, 8192, generator=torch.Generator().manual_seed(2)) + 0.5
    difference = official_knowledge_entropy(means) - knowledge_entropy(means)
    # First order in 1e-9: each of 8192 terms loses 1e-9; the next order is a million times smaller.
    assert difference.item() == pytest.approx(-8192 * 1e-9, rel=1e-3)


def test_next_token_entropy_is_scipys_entropy_of_softmax():
    logits = 5 * torch.randn(3, 2, 17, generator=torch.Generator().manual_seed(3)).double()
    expected = scipy_entropy(logits.softmax(-1).numpy(), axis=-1)
    assert_close(next_token_entropy(logits).numpy(), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("temperature", "expected"), [(1e9, math.log(19)), (1e-9, 0.0)])
def test_next_token_entropy_at_the_limits_of_temperature(temperature, expected):
    logits = torch.randn(1, 19, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    assert next_token_entropy(logits / temperature).item() == pytest.approx(expected, abs=1e-12)


def test_half_precision_logits_are_widened_before_the_softmax():
    logits = torch.randn(4, 997, generator=torch.Generator().manual_seed(5)).bfloat16()
    expected = scipy_entropy(logits.double().softmax(-1).numpy(), axis=-1)
    # The bf16 values are exact in float32, so only float32 rounding of 997 terms is left.
    assert_close(next_token_entropy(logits).double().numpy(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("bad", [[[0.0, 0.0]], [[1.0, -0.5]], [[1.0, math.nan]], [[1.0, math.inf]]])
def test_means_that_are_no_weights_are_refused(bad):
    with pytest.raises(ValueError, match=r"layer 0 must be finite, non-negative and not all zero"):
        knowledge_entropy(torch.tensor(bad))
