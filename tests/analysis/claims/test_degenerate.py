"""Data without a spread, without a number or without a second of anything stop no ledger."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.claims import CLAIMS, claim_named, judge
from analysis.correlations import checkpoint_correlation
from analysis.significance import ScaleError
from tests.analysis.claims.claim_records import alone, judged, rows_for

FOLLOWS = "acquisition-follows-entropy"
CONTRAST = "weakening-inactive-vectors-hurts"


def of_own_runs(frame):
    return frame.assign(trajectory=[f"run {seed}" for seed in frame["seed"]])


def perfect(seeds, steps=None):
    """Entropy wanders, in each seed its own way, and acquisition follows it to the letter."""
    frame = rows_for(claim_named(FOLLOWS), 1.0, seeds=seeds)
    random = np.random.default_rng(5)
    order = {step: place for place, step in enumerate(sorted(set(frame["step"])))}
    walks = np.cumsum(random.normal(size=(seeds, len(order))), axis=1)
    values = np.array(
        [walks[s, order[t]] for s, t in zip(frame["seed"], frame["step"], strict=True)]
    )
    outcome = (frame["measure"] == "A").to_numpy()
    return of_own_runs(frame.assign(value=np.where(outcome, 0.5 + values / 100, values)))


@pytest.mark.parametrize("seeds", [3, 5])
def test_perfect_following_in_every_seed_is_supported(seeds):
    found = judged(FOLLOWS, perfect(seeds))
    assert found.verdict == "supported"
    # Eight differences beside their gaps: steps of a rank correlation are 12 / (8^3 - 8).
    half = 6 / (8**3 - 8)
    centre = math.atanh(1 - half)
    hidden = centre - math.atanh(1 - 2 * half)
    t = centre / (hidden / math.sqrt(seeds - 1))
    # The nine residuals give a smaller p-value: the larger one counts.
    assert found.p_value == pytest.approx(stats.t.sf(t, seeds - 1), rel=1e-9)
    assert found.effect == pytest.approx(1 - half, rel=1e-12)
    assert found.interval.low < found.effect < found.interval.high <= 1
    assert found.test.count("all alike") == 2


def test_perfect_following_the_other_way_is_contradicted():
    frame = perfect(3)
    frame["value"] *= np.where(frame["measure"] == "A", -1, 1)
    assert judged(FOLLOWS, frame).verdict == "contradicted"


def test_seeds_with_the_same_middling_correlation_say_what_a_spread_of_rank_steps_says():
    random = np.random.default_rng(2)
    x, y = np.cumsum(random.normal(size=(2, 9)), axis=1)
    found = checkpoint_correlation(np.stack([x] * 3), np.stack([y] * 3), np.arange(9), "seed")
    for one in (found.levels, found.differences, found.detrended):
        assert one.interval.low < one.effect < one.interval.high
        assert 0 < one.p_value <= 1
    still = checkpoint_correlation(np.stack([x] * 3), np.stack([x] * 3), np.arange(9), "seed")
    assert still.levels.p_value < 0.05


def test_pearson_correlations_of_one_in_every_seed_are_finite():
    x = np.cumsum(np.random.default_rng(3).normal(size=(3, 8)), axis=1)
    found = checkpoint_correlation(x, 2 * x, np.arange(8), "seed", "pearson")
    assert found.levels.effect == pytest.approx(1, abs=1e-11)
    assert np.isfinite([*found.levels.interval[:2], found.p_value]).all()
    assert found.p_value < 0.01


def test_a_drift_that_all_seeds_share_leaves_the_test_of_what_follows():
    # Levels fall alike in all seeds, so their rank correlation is 1 in each.
    frame = perfect(3)
    frame["value"] -= 50 * np.log2(frame["step"])
    found = judged(FOLLOWS, frame)
    assert found.verdict == "supported"


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("slope", [0.01, 1 / 3])
def test_equal_steps_are_no_spread_whatever_rounding_makes_of_them(own, slope):
    x = np.cumsum(np.random.default_rng(1).normal(size=(3, 9)), axis=1)
    y = np.stack([26.45 + slope * np.arange(9)] * 3)
    assert np.ptp(np.diff(y[0])) > 0
    with pytest.raises(ScaleError, match="needs a spread"):
        checkpoint_correlation(x, y, np.arange(9), "seed" if own else "checkpoint")


CHANGES = {
    "all the same": lambda f: f.assign(value=0.5),
    "all zero": lambda f: f.assign(value=0.0),
    "ones and zeros": lambda f: f.assign(value=(f["value"] > f["value"].median()).astype(float)),
    "one seed": lambda f: f[f["seed"] == 0],
    "no rows": lambda f: f[:0],
    "not a number": lambda f: f.assign(value=np.nan),
    "one that is not": lambda f: f.assign(value=[np.nan, *f["value"][1:]]),
    "infinite": lambda f: f.assign(value=[np.inf, *f["value"][1:]]),
    "huge": lambda f: f.assign(value=1e308 * np.sign(f["value"])),
    "every seed alike": lambda f: f.assign(
        value=f.groupby(["measure", "step"] if "step" in f else ["measure"])["value"].transform(
            "first"
        )
    ),
}


def one_of_each_design():
    """Claims whose tests take different paths."""
    found = {}
    for one in map(alone, CLAIMS.values()):
        parts = [one.design, *getattr(one.design, "parts", ())]
        paths = [(type(part), getattr(part, "base", 0) is None) for part in parts]
        found.setdefault(repr((paths, one.least, one.is_question)), one)
    return found.values()


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_no_data_stop_a_ledger(change):
    for one in one_of_each_design():
        frame = CHANGES[change](rows_for(one, 1.0, seeds=3, clusters=8))
        (found,) = judge([one], {one.table: frame})
        if found.effect is None:
            assert found.verdict == "not tested at this scale"
            assert found.test
        else:
            assert 0 <= found.p_value <= 1, one.identifier
            assert found.interval.low <= found.effect <= found.interval.high, one.identifier
        if change == "all zero" and found.effect == 0:
            assert found.verdict in ("inconclusive", "not tested at this scale"), one.identifier
        if change in ("one seed", "no rows", "not a number"):
            assert found.effect is None, one.identifier


def test_what_is_not_finite_leaves_its_own_claims_untested_and_no_others():
    names = ("once-ends-below-its-start", CONTRAST)
    frames = [rows_for(claim_named(name), 1.0) for name in names]
    frames[0].loc[3, "value"] = np.nan
    found = judge(
        [claim_named(name) for name in names], {claim_named(names[0]).table: pd.concat(frames)}
    )
    assert found[0].test == (
        "1 of 5 values of the rows that it is about are not finite: leave these out of everything "
        "that is tested with them"
    )
    assert found[1].verdict == "supported"


def test_identical_arms_differ_by_nothing_however_they_were_summed():
    frame = rows_for(claim_named(CONTRAST), 0.0, noise=0.0)
    edited = frame["factor"] == 0.5
    # Three tenths, and what a sum of tenths makes of it.
    frame["value"] = np.where(edited, 0.1 + 0.2, 0.3)
    assert frame["value"].nunique() == 2
    found = judged(CONTRAST, frame)
    assert (found.effect, found.interval[:2], found.verdict) == (0, (0, 0), "inconclusive")
    assert found.p_value == 1
    # A thousand and a bit: the rounding of seeds is no spread of the bit.
    frame["value"] = np.where(edited, 999.9, 1000.0) + frame["seed"]
    found = judged(CONTRAST, frame)
    assert "which are all alike" in found.test
    assert found.p_value == pytest.approx(2.0**-5)
