"""Local maxima, effectivity and retainability: by hand, by loops, and as the released scripts do."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from analysis.encounters import (
    OutlierRule,
    effectivity,
    find_local_maxima,
    mean_without_outliers,
    net_gain,
    retainability,
)
from tests.reference import official_metrics
from tests.refusals import refused

WINDOW, INJECTIONS, N_STEPS = 5, [0, 11, 22], 61


def noisy_log_probs(n_probes=13, seed=0):
    """Random walks that jump at each encounter and then fall back."""
    generator = np.random.default_rng(seed)
    steps = np.arange(N_STEPS)
    gains = sum(np.where(steps > s, 1.5 * np.exp(-(steps - s) / 29), 0.0) for s in INJECTIONS)
    noise = generator.normal(0, 0.2, (n_probes, N_STEPS))
    return -6 + generator.normal(0, 1, (n_probes, 1)) + gains + noise


def retained_by_loops(log_probs, offset):
    """The definition, one probe at a time; None where there was no gain."""
    found = []
    for row in log_probs:
        after = [row[t] for t in range(INJECTIONS[-1] + 1, INJECTIONS[-1] + WINDOW + 1)]
        best = INJECTIONS[-1] + 1 + after.index(max(after))
        gain = row[best] - row[INJECTIONS[0]]
        found.append((row[best + offset] - row[INJECTIONS[0]]) / gain if gain > 0 else None)
    return found


def test_by_hand():
    # Encounters in the batches of updates 2 and 6; entry t is after t updates.
    log = torch.tensor([-4.0, -5.0, -3.0, -3.0, -3.5, -4.0, -2.0, -3.0, -4.0, -5.0, -6.0])
    maxima = find_local_maxima(log, [1, 5], window=3)
    assert maxima.steps.tolist() == [2, 6]  # the first of the equals at 2 and 3
    assert maxima.before.tolist() == [-5.0, -4.0]
    assert effectivity(log, [1, 5], window=3).tolist() == [2.0, 2.0]
    # From -5 before the first encounter to -2 after the last.
    assert net_gain(log, [1, 5], window=3).item() == 3.0
    assert retainability(log, [1, 5], [0, 1, 2], window=3).tolist() == pytest.approx(
        [1, 2 / 3, 1 / 3]
    )


def test_an_encounter_counts_from_the_update_whose_batch_holds_it():
    # Highest just before the encounter, which is not after it; and just beyond the window.
    log = np.array([-9.0, -1.0, -3.0, -2.0, -4.0, -1.0])
    assert find_local_maxima(log, [1], window=3).steps.tolist() == [3]
    assert effectivity(log, [1], window=3).tolist() == [-1.0]


@pytest.mark.parametrize("kind", [torch.from_numpy, np.asarray])
def test_against_loops(kind):
    log = noisy_log_probs()
    log[3] = np.linspace(-3, -8, N_STEPS)  # a probe that only ever loses
    found = retainability(kind(log), INJECTIONS, range(1, 30, 3), window=WINDOW)
    assert isinstance(found, type(kind(log)))
    for column, offset in enumerate(range(1, 30, 3)):
        expected = [np.nan if r is None else r for r in retained_by_loops(log, offset)]
        # The same double precision operations.
        np.testing.assert_allclose(found[:, column], expected, rtol=1e-14)
    gains = effectivity(kind(log), INJECTIONS, window=WINDOW)
    for i, s in enumerate(INJECTIONS):
        expected = [max(row[s + 1 : s + WINDOW + 1]) - row[s] for row in log]
        np.testing.assert_allclose(gains[:, i], expected, rtol=1e-14)


def test_leading_axes_and_half_precision():
    log = torch.from_numpy(noisy_log_probs(n_probes=14)).to(torch.bfloat16)
    shaped = log.view(7, 2, N_STEPS)
    for function, extra in ((effectivity, ()), (net_gain, ()), (retainability, ([1, 2, 4],))):
        flat = function(log, INJECTIONS, *extra, window=WINDOW)
        found = function(shaped, INJECTIONS, *extra, window=WINDOW)
        assert found.dtype == torch.float64
        assert_close(found, flat.view(7, 2, *flat.shape[1:]), rtol=0, atol=0, equal_nan=True)
        # bfloat16 values are exact in float64, so only the maths could differ.
        wide = function(log.double(), INJECTIONS, *extra, window=WINDOW)
        assert_close(flat, wide, rtol=0, atol=0, equal_nan=True)


def test_every_probe_may_have_injections_of_its_own():
    log = noisy_log_probs()
    steps = np.stack([np.array([i, i + 7]) for i in range(len(log))])
    together = retainability(log, steps, [1, 3, 7], window=WINDOW)
    gains = effectivity(log, steps, window=WINDOW)
    for row in range(len(log)):
        alone = retainability(log[row], steps[row].tolist(), [1, 3, 7], window=WINDOW)
        np.testing.assert_array_equal(together[row], alone)
        np.testing.assert_array_equal(
            gains[row], effectivity(log[row], steps[row].tolist(), window=WINDOW)
        )


def test_the_probe_set_is_the_same_at_every_offset():
    log = noisy_log_probs(n_probes=23, seed=4)
    log[[2, 5]] -= np.linspace(0, 9, N_STEPS)
    found = retainability(log, INJECTIONS, range(31), window=WINDOW, min_gain=2.8)
    kept = np.asarray(net_gain(log, INJECTIONS, window=WINDOW)) > 2.8
    assert 0 < kept.sum() < 21
    assert (np.isnan(found).any(axis=1) == ~kept).all()
    assert (np.isnan(found).all(axis=1) == ~kept).all()
    assert (found[kept, 0] == 1).all()


def test_official_is_the_released_script():
    log = noisy_log_probs(n_probes=37, seed=2)
    log[4] -= np.linspace(0, 5, N_STEPS)  # loses: kept, with its sign turned
    log[7, 23:28] = log[7, 0]  # gains exactly nothing: skipped
    log[9] += np.where(np.arange(N_STEPS) > 22, 30.0, 0.0)  # an outlier
    losses = (-log).tolist()
    arguments = {"window": WINDOW, "compat": "official"}
    gains = effectivity(log, INJECTIONS, **arguments)
    assert np.isnan(gains[7]).all()
    for rule, multiplier in (("official", 2.0), ("paper", 1.5)):
        expected = official_metrics.effectivity(losses, INJECTIONS, WINDOW, multiplier)
        # Sums of a hundred doubles in another order.
        found = mean_without_outliers(gains[~np.isnan(gains).any(axis=1)].reshape(-1), rule)
        assert float(found) == pytest.approx(expected, rel=1e-12)
        assert float(mean_without_outliers(gains.reshape(-1), rule)) == float(found)
    shares = retainability(log, INJECTIONS, range(34), **arguments)
    curve = mean_without_outliers(shares, "official")
    expected = [official_metrics.retainability_at(losses, INJECTIONS, t, WINDOW) for t in range(34)]
    np.testing.assert_allclose(100 * curve, expected, rtol=1e-12)


def test_official_starts_at_entry_0_and_keeps_probes_that_lost():
    log = np.array([[-5.0, -4.0, -3.0, -3.5, -3.75], [-3.0, -4.0, -5.0, -6.0, -6.5]])
    # Encounter in update 2: the start is entry 1 by the definition, entry 0 by the script.
    found = retainability(log, [1], [0, 1, 2], window=1)
    assert found[0].tolist() == [1.0, 0.5, 0.25]
    assert np.isnan(found[1]).all()
    official = retainability(log, [1], [0, 1, 2], window=1, compat="official")
    assert official.tolist() == [[1.0, 0.75, 0.625], [1.0, 1.5, 1.75]]


def test_outliers_by_hand_and_by_column():
    # Quartiles 2 and 4, so the fences are -1 and 7 by the paper, -2 and 8 by the code.
    values = np.array([1.0, 2.0, 3.0, 4.0, 7.5])
    assert float(mean_without_outliers(values, OutlierRule.PAPER)) == 2.5
    assert float(mean_without_outliers(values, "official")) == 3.5
    both = torch.from_numpy(np.stack([values, values[::-1] * 2, values * 0 + 7], axis=1))
    assert mean_without_outliers(both, "paper").tolist() == [2.5, 5.0, 7.0]


LOG = np.linspace(-5, -3, 31)[None].repeat(3, axis=0)
BAD = {
    "nan": (lambda f: f(np.where(LOG > -3.01, np.nan, LOG), [0], window=5), "finite, found 3 of 93"),
    "short log": (lambda f: f(LOG, [0, 26], window=5), r"up to 31, found 31 entries"),
    "overlap": (lambda f: f(LOG, [0, 4], window=5), "at least a window of 5 updates apart, found 4"),
    "order": (lambda f: f(LOG, [9, 0], window=5), "rising"),
    "none": (lambda f: f(LOG, [], window=5), "injection steps are empty"),
    "negative": (lambda f: f(LOG, [-1, 9], window=5), "whole numbers of at least 0, found -1"),
    "fraction": (lambda f: f(LOG, np.array([0.5]), window=5), "whole numbers of at least 0, found 0.5"),
    "no window": (lambda f: f(LOG, [0], window=0), "window must be at least 1"),
    "other probes": (lambda f: f(LOG, np.array([[1], [2]]), window=5), r"\[2\] probes"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_one_line(case):
    call, message = BAD[case]
    with refused(message):
        call(effectivity)


@pytest.mark.parametrize(
    ("offsets", "message"),
    [([1, 6], "longest possible offset is 5"), ([], "offsets are empty"), ([-1], "found -1")],
)
def test_bad_offsets_are_refused_in_one_line(offsets, message):
    with pytest.raises(ValueError, match=message):
        retainability(LOG, [20], offsets, window=5)


def test_the_longest_offset_is_allowed_wherever_the_maxima_are():
    # The maximum is at the end of the window: the last entry is 5 after it.
    assert retainability(LOG, [20], [5], window=5).shape == (3, 1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((3, 2), np.nan), "all 3 NaN"),
        (np.array([[1.0, np.nan], [1.0, 2.0]]), "found 1 of 2"),
    ],
)
def test_bad_values_have_no_mean(values, message):
    with pytest.raises(ValueError, match=message):
        mean_without_outliers(values)


def test_an_unknown_choice_is_refused():
    with pytest.raises(ValueError, match="compat must be one of"):
        effectivity(LOG, [0], window=5, compat="released")
    with pytest.raises(ValueError, match="'iqr' is not a valid OutlierRule"):
        mean_without_outliers(LOG, "iqr")
