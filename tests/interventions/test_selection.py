"""Selection against NumPy, entropies against SciPy, the factor against a dense scan."""

import numpy as np
import pytest
import torch
from scipy.stats import entropy as scipy_entropy

from interventions.choices import Selection
from interventions.neurons import inactive, multipliers, solve_factor
from probes.entropy import knowledge_entropy
from tests.refusals import refused


def means(seed=0, layers=3, width=29):
    drawn = np.random.default_rng(seed).lognormal(sigma=1.0, size=(layers, width))
    return torch.from_numpy(drawn)


def total_entropy(coefficients):
    return float(sum(scipy_entropy(row) for row in coefficients.numpy()))


@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.5, 0.77, 1.0])
def test_by_quantile_all_up_to_numpys_linear_quantile_are_inactive(ratio):
    coefficients = means()
    # Ties at the bound must all be in.
    coefficients[1, :7] = np.quantile(coefficients[1].numpy(), 0.5)
    found = inactive(coefficients, ratio, Selection.QUANTILE)
    for row, chosen in zip(coefficients.numpy(), found, strict=True):
        assert chosen.tolist() == (row <= np.quantile(row, ratio)).tolist()


@pytest.mark.parametrize(("ratio", "count"), [(0.1, 3), (0.5, 14), (0.77, 22), (1.0, 29)])
def test_by_count_it_is_exactly_the_least_active_and_ties_go_by_index(ratio, count):
    coefficients = means()
    coefficients[2] = 1.0
    found = inactive(coefficients, ratio, Selection.EXACT)
    for row, chosen in zip(coefficients.tolist(), found.tolist(), strict=True):
        order = sorted(range(len(row)), key=lambda i: (row[i], i))
        assert {i for i, yes in enumerate(chosen) if yes} == set(order[:count])


def test_a_multiplied_neuron_has_factor_times_the_mean_unless_capped():
    coefficients = means()
    chosen = inactive(coefficients, 0.5, Selection.QUANTILE)
    for cap in (None, 3.0):
        scale = multipliers(coefficients, chosen, 1.7, cap)
        for layer in range(3):
            mean = sum(coefficients[layer].tolist()) / 29
            for neuron in range(29):
                c, u = float(coefficients[layer, neuron]), float(scale[layer, neuron])
                expected = 1.7 * mean / c if chosen[layer, neuron] else 1.0
                if cap is not None and chosen[layer, neuron]:
                    expected = min(expected, cap)
                assert u == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("cap", [None, 4.0])
def test_the_factor_is_the_smallest_that_reaches_the_target(cap):
    coefficients = means(3)
    chosen = inactive(coefficients, 0.6, Selection.QUANTILE)

    def total(factor):
        return total_entropy(coefficients * multipliers(coefficients, chosen, factor, cap))

    before = total_entropy(coefficients)
    target = before + 0.3
    factor = solve_factor(coefficients, chosen, target, cap)
    assert total(factor) == pytest.approx(target, abs=1e-9)
    assert all(total(smaller) < target for smaller in np.geomspace(1e-5, factor * 0.9999, 300))


def test_a_target_just_below_the_summit_is_found_and_one_above_is_refused():
    coefficients = means(4)
    chosen = inactive(coefficients, 0.5, Selection.QUANTILE)
    means_of_layers = coefficients.mean(dim=1, keepdim=True).numpy()
    factors = np.geomspace(0.1, 10, 4001)[:, None, None]
    edited = np.where(chosen.numpy(), factors * means_of_layers, coefficients.numpy())
    scan = scipy_entropy(edited, axis=2).sum(axis=1)
    # The scan's steps are 1e-3 of a factor wide, and the summit is flat: its height is off by 1e-7.
    target = max(scan) - 1e-6
    factor = solve_factor(coefficients, chosen, target)
    found = total_entropy(coefficients * multipliers(coefficients, chosen, factor))
    assert found == pytest.approx(target, abs=1e-9)
    with refused(rf"highest is {max(scan):.4f}, at factor"):
        solve_factor(coefficients, chosen, max(scan) + 1e-5)
    with pytest.raises(ValueError, match="which every factor reaches"):
        solve_factor(coefficients, chosen, 1.0)


def test_at_the_summit_of_one_layer_edited_neurons_equal_the_weighted_geometric_mean():
    coefficients = means(5, layers=1)
    chosen = inactive(coefficients, 0.5, Selection.QUANTILE)
    others = coefficients[~chosen]
    # Setting the derivative of the entropy to zero gives ln x = sum c ln c / sum c of the others.
    summit = ((others * others.log()).sum() / others.sum()).exp()
    best = float(knowledge_entropy(torch.where(chosen, summit, coefficients)).sum())
    factor = solve_factor(coefficients, chosen, best - 1e-9)
    # The summit is flat: 1e-9 nats below it lie about 1e-4 of the factor away.
    assert factor * float(coefficients.mean()) == pytest.approx(float(summit), rel=3e-4)
