"""Matching, trends, connections and verdicts, against loops and SciPy; bad tables."""

import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.claims import CLAIMS, claim_named, judge
from analysis.significance import holm
from tests.analysis.claims.claim_records import judged, rows_for

SEEDS, ITEMS = 5, 11


def test_a_contrast_is_a_t_test_over_seeds_and_flipped_signs_over_items():
    name = "weakening-inactive-vectors-hurts"
    frame = rows_for(claim_named(name), 0.05)
    by_seed, by_item = [], {}
    for seed in range(SEEDS):
        found = []
        for item in sorted(set(frame["cluster"])):
            pair = {}
            for _, row in frame.iterrows():
                if (row["seed"], row["cluster"]) == (seed, item):
                    pair["edited" if row["factor"] == 0.5 else "plain"] = row["value"]
            found.append(pair["edited"] - pair["plain"])
            by_item.setdefault(item, []).append(found[-1])
        by_seed.append(np.mean(found))
    items = np.array([np.mean(values) for values in by_item.values()])
    over_seeds = stats.ttest_1samp(by_seed, 0, alternative="less").pvalue
    flips = 1 - 2 * ((np.arange(2**ITEMS)[:, None] >> np.arange(ITEMS)) & 1)
    over_items = np.mean((flips * items).mean(axis=1) <= items.mean() + 1e-12)
    found = judged(name, frame)
    assert found.effect == pytest.approx(np.mean(by_seed), rel=1e-12)
    assert found.p_value == pytest.approx(max(over_seeds, over_items), rel=1e-9)
    ends = [stats.t.interval(0.95, len(v) - 1, np.mean(v), stats.sem(v)) for v in (by_seed, items)]
    assert found.interval.low == pytest.approx(min(low for low, _ in ends), rel=1e-12)
    assert found.interval.high == pytest.approx(max(high for _, high in ends), rel=1e-12)
    assert (found.n, found.seeds) == (ITEMS, SEEDS)


def test_rows_are_compared_only_where_all_other_settings_agree():
    name = "weakening-inactive-vectors-hurts"
    frame = rows_for(claim_named(name), 0.5)
    alone = frame[frame["factor"] == 0.5].assign(batch_size=64, value=-1e6)
    assert judged(name, pd.concat([frame, alone])) == judged(name, frame)
    both = pd.concat([frame, frame.assign(batch_size=64)])
    assert judged(name, both).effect == pytest.approx(judged(name, frame).effect, rel=1e-12)
    with pytest.raises(
        ValueError, match=r"weakening-.*: 110 rows of .* differ in their value only"
    ):
        judged(name, pd.concat([frame, frame.assign(value=frame["value"] + 1)]))


def test_the_order_of_rows_does_not_matter():
    for name in ("entropy-falls-in-each-layer", "three-stages", "acquisition-follows-entropy"):
        frame = rows_for(claim_named(name), 0.3)
        other = judged(name, frame.iloc[::-1])
        assert other.effect == pytest.approx(judged(name, frame).effect, rel=1e-12)
        assert other.p_value == pytest.approx(judged(name, frame).p_value, rel=1e-9)


def test_a_trend_is_a_least_squares_line_of_each_seed():
    name = "acquisition-falls-with-age"
    frame = rows_for(claim_named(name), 0.5)
    lines = []
    for seed in range(SEEDS):
        ours = frame[frame["seed"] == seed].sort_values("step")["value"].to_numpy()
        lines.append(np.polyfit(np.arange(len(ours)), ours, 1)[0] * (len(ours) - 1))
    found = judged(name, frame)
    assert found.effect == pytest.approx(np.mean(lines), rel=1e-12)
    expected = stats.ttest_1samp(lines, 0, alternative="less").pvalue
    assert found.p_value == pytest.approx(expected, rel=1e-9)


def test_an_axis_with_one_value_is_no_trend():
    name = "longer-random-mix-hurts"
    frame = rows_for(claim_named(name), 0.5)
    one = frame[frame["mix_words"] == 10]
    assert judged(name, one).test == "mix_words has 1 value in common, 3 are needed"


def test_a_stray_run_at_another_checkpoint_takes_nothing_away():
    name = "acquisition-falls-with-age"
    frame = rows_for(claim_named(name), 0.5)
    stray = frame[frame["seed"] == 0].head(1).assign(step=77)
    assert judged(name, pd.concat([frame, stray])) == judged(name, frame)
    short = frame[frame["step"] < 50].assign(batch_size=64, value=1e6)
    assert judged(name, pd.concat([frame, short])) == judged(name, frame)


def test_a_contrast_counts_its_base_as_often_as_it_says():
    name = "replay-does-not-suffice"
    for effect, verdict in ((0.04, "supported"), (-0.04, "contradicted")):
        # The base is 1, so that after B 0.9 - effect is right, on either side of 0.9.
        frame = rows_for(claim_named(name), effect, noise=0.001)
        found = judged(name, frame)
        assert (found.effect, found.verdict) == (pytest.approx(-effect, abs=0.005), verdict)
        after = frame[frame["moment"] == "after B"]["value"].mean()
        assert after == pytest.approx(0.9 - effect, abs=0.005)


def test_the_early_checkpoint_is_a_fifth_of_the_way_on():
    name = "middle-checkpoint-knows-most"
    frame = rows_for(claim_named(name), 1.0)
    for step, verdict in ((10, "supported"), (200, "contradicted"), (1000, "contradicted")):
        better = frame["value"] + 5.0 * (frame["step"] == step)
        assert judged(name, frame.assign(value=better)).verdict == verdict


def test_a_question_is_tested_two_sided():
    name = "adam-and-coefficients"
    frame = rows_for(claim_named(name), 0.2)
    wide = frame.pivot(index="seed", columns="measure", values="value")
    expected = stats.ttest_1samp(wide["updates"] - wide["gradients"], 0).pvalue
    found = judged(name, frame)
    assert found.p_value == pytest.approx(expected, rel=1e-9)
    assert found.p_against is None


def test_a_model_without_a_step_is_its_own_last_checkpoint():
    name = "weakening-inactive-vectors-hurts"
    frame = rows_for(claim_named(name), 1.0)
    assert judged(name, frame.assign(step=None)) == judged(name, frame)
    middle = claim_named("middle-checkpoint-knows-most")
    found = judged(middle.identifier, rows_for(middle, 1.0).assign(step=None))
    assert found.test == "no row has a step"


def test_a_common_drift_is_not_a_connection():
    name = "acquisition-follows-entropy"
    steps = 100 * 2 ** np.arange(9)
    noise = np.random.default_rng(3)
    frame = rows_for(claim_named(name), 1.0)
    down = {step: -5.0 * place for place, step in enumerate(steps)}
    values = np.array([down[step] for step in frame["step"]]) + noise.normal(size=len(frame))
    found = judged(name, frame.assign(value=values))
    assert found.verdict == "inconclusive"
    a = frame.assign(value=values).groupby(["measure", "step"])["value"].mean()
    assert stats.spearmanr(a["A"], a["knowledge entropy"]).pvalue < 1e-3


def test_a_model_of_another_size_with_one_checkpoint_changes_no_connection():
    frame = rows_for(claim_named("acquisition-follows-entropy"), 0.9)
    alone = judged("acquisition-follows-entropy", frame)
    last = frame[frame["step"] == frame["step"].max()]
    other = last.assign(trajectory="smaller", parameters=7)
    assert judged("acquisition-follows-entropy", pd.concat([frame, other])) == alone
    assert alone.effect is not None


def test_the_cause_is_that_of_the_runs_whose_outcome_it_is():
    frame = rows_for(claim_named("forgetting-follows-entropy"), 0.9)
    alone = judged("forgetting-follows-entropy", frame)
    # Runs on other text have an entropy of their start, and no forgetting that is tested.
    entropy = frame[frame["measure"] == "knowledge entropy"]
    other = entropy.assign(novelty="familiar", trajectory="other", value=-3 * entropy["value"])
    assert judged("forgetting-follows-entropy", pd.concat([frame, other])) == alone


@pytest.mark.parametrize("measure", ["A", "knowledge entropy"])
@pytest.mark.parametrize("slope", [0.0, 1.0])
def test_what_does_not_move_or_moves_alike_follows_nothing(measure, slope):
    frame = rows_for(claim_named("acquisition-follows-entropy"), 0.9)
    rows = frame["measure"] == measure
    frame.loc[rows, "value"] = slope * frame.loc[rows, "step"].rank(method="dense")
    found = judged("acquisition-follows-entropy", frame)
    assert str(found.verdict) == "not tested at this scale"
    # Over uneven steps a line has nothing left beside the gaps.
    reason = "needs a spread" if slope == 0.0 else "nothing is left to correlate|needs a spread"
    assert re.search(reason, found.test)
    assert "x: knowledge entropy of the start, y: acquisition" in found.test


def test_seeds_with_runs_of_their_own_are_what_is_counted():
    name = "acquisition-follows-entropy"
    frame = rows_for(claim_named(name), 1.0)
    own = frame.assign(trajectory=[f"run {seed}" for seed in frame["seed"]])
    found = judged(name, own)
    assert "t-test over 5 seeds" in found.test
    mixed = frame.assign(trajectory=[f"run {seed % 2}" for seed in frame["seed"]])
    assert "2 pretraining runs for 5 seeds" in judged(name, mixed).test


def test_the_last_layer_must_fall_more_than_every_other():
    name = "entropy-falls-most-in-the-last-layer"
    frame = rows_for(claim_named(name), 1.0, noise=0.01)
    # The first layer now falls as the last one does, the middle one does not.
    steep = frame["layer"] == 0
    place = np.log2(frame["step"] / 10) / 8
    frame.loc[steep, "value"] -= 2 * place[steep]
    assert judged(name, frame).verdict == "contradicted"


def test_one_rising_layer_is_enough_against_all():
    name = "entropy-falls-in-each-layer"
    frame = rows_for(claim_named(name), 1.0, noise=0.01)
    rising = frame["layer"] == 1
    frame.loc[rising, "value"] *= -1
    assert judged(name, frame).verdict == "contradicted"


def test_the_effect_of_several_is_that_of_the_weakest():
    name = "entropy-falls-in-each-layer"
    frame = rows_for(claim_named(name), 1.0, noise=0.01)
    frame.loc[frame["layer"] == 1, "value"] *= 0.5
    found = judged(name, frame)
    # The noise of a line over five seeds is well below 0.02.
    assert found.effect == pytest.approx(-0.5, abs=0.02)
    # The others are near -1: the interval is that of the weakest, not of all.
    assert -0.6 < found.interval.low < found.effect < found.interval.high < -0.4
    assert found.test.endswith("the weakest of 3")


def test_seeds_that_are_all_alike_need_more_of_them():
    name = "once-ends-below-its-start"
    for seeds, verdict in ((3, "inconclusive"), (5, "supported")):
        found = judged(name, rows_for(claim_named(name), 1.0, noise=0.0, seeds=seeds))
        assert found.p_value == pytest.approx(2.0**-seeds, rel=1e-12)
        assert (found.verdict, found.interval[:2]) == (verdict, (-1.0, -1.0))
        assert "which are all alike" in found.test


def test_levels_hold_for_a_family():
    family = [one for one in CLAIMS.values() if one.family == "mixes and stages"]
    # They share a table; the sets learnt first keep their rows apart.
    frames = [rows_for(one, 0.05).assign(first=one.identifier) for one in family]
    picked = [judge([one], {one.table: pd.concat(frames)})[0].p_value for one in family]
    together = judge(family, {family[0].table: pd.concat(frames)})
    assert [found.p_value for found in together] == pytest.approx(list(holm(picked)), rel=1e-12)
    assert len(family) == 7


def test_what_was_not_tested_does_not_count_in_its_family():
    one = claim_named("gradients-follow-coefficients")
    frame = rows_for(one, 1.0)
    family = [other for other in CLAIMS.values() if other.family == one.family]
    found = judge(family, {one.table: frame})
    assert found[0].p_value == judged(one.identifier, frame).p_value
    assert found[1].verdict == "not tested at this scale"
    assert (found[1].effect, found[1].interval, found[1].figure) == (None, None, None)


def test_a_sentence_tells_the_number_and_how_sure_it_is():
    found = judged(
        "once-ends-below-its-start", rows_for(claim_named("once-ends-below-its-start"), 0.5)
    )
    assert found.sentence.startswith(
        "Supported: at the last checkpoint passages that are met once end below their start "
        "(A of passages met once: \N{MINUS SIGN}"
    )
    assert "points" in found.sentence
    assert found.sentence.endswith("acquisition and entropy; n 5, 5 seeds).")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda f: f.drop(columns="seed"), "lacks the columns seed and has the unknown ones none"),
        (lambda f: f.assign(sead=1), "lacks the columns none and has the unknown ones sead"),
        (lambda f: f.assign(measure="k"), "has an unknown measure 'k'; choose from K, P"),
        (lambda f: f.assign(seed=None), "has 0 values that are not finite and 5 rows without"),
    ],
)
def test_a_table_that_is_none_is_refused_in_a_line(change, complaint):
    name = "once-ends-below-its-start"
    with pytest.raises(ValueError, match=complaint) as error:
        judged(name, change(rows_for(claim_named(name), 1.0)))
    assert "\n" not in str(error.value)


def test_bad_requests_are_refused_in_a_line():
    with pytest.raises(ValueError, match=r"^there is no claim 'entropy-fals'; did you mean 'entr"):
        claim_named("entropy-fals")
    with pytest.raises(ValueError, match=r"^there is no claim '\?'; choose from entropy-falls, "):
        claim_named("?")
    one = claim_named("entropy-falls")
    with pytest.raises(ValueError, match="'entropy-falls' was given 2 times; give it once"):
        judge([one, one], {})
