"""Acquisition, forgetting and K: the papers' tables, loops over items, and coverage of intervals."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from analysis.ckl_measures import knowledge_scores
from analysis.metrics import acquisition, forgetting
from analysis.significance import ClusterBootstrap
from tests.refusals import refused

# Tables 1 and 2 of the paper, at 118k, 369k, 554k and 738k pretraining steps: A and F in percent, K
# and P after training. K and P before training are what all five rows agree on.
K_BEFORE = (-0.3755, -0.3725, -0.3720, -0.3710)
P_BEFORE = (60.3, 62.7, 63.6, 64.6)
TABLES = {
    "baseline": ((25.2, 24.8, 21.4, 18.8), (10.5, 12.9, 17.0, 19.5), (-0.281, -0.280, -0.293, -0.301), (54.0, 54.6, 52.8, 52.0)),
    "batch 2048": ((8.9, 7.8, 1.0, -92.2), (2.2, 3.5, 5.5, 44.9), (-0.342, -0.344, -0.368, -0.714), (59.0, 60.5, 60.1, 35.6)),
    "rate 1e-3": ((17.3, 15.7, 10.7, 5.0), (16.7, 20.3, 23.0, 23.5), (-0.310, -0.314, -0.332, -0.353), (50.3, 49.9, 49.0, 49.4)),
    "rate 1e-4": ((21.6, 23.0, 23.7, 22.6), (2.4, 3.2, 4.6, 7.3), (-0.294, -0.287, -0.284, -0.287), (58.9, 60.7, 60.6, 59.9)),
    "3 epochs": ((28.8, 28.0, 25.9, 24.5), (14.8, 17.4, 20.1, 23.1), (-0.267, -0.268, -0.276, -0.280), (51.4, 51.7, 50.8, 49.7)),
}  # fmt: skip


def rounding(before, after, digit):
    """How far a share can be off when both scores and the percentage are rounded."""
    return (digit / 2) * (1 + abs(after / before)) / abs(before) + 0.0005


@pytest.mark.parametrize("row", TABLES)
def test_the_papers_tables_in_their_own_sign(row):
    acquired, forgotten, k_after, p_after = TABLES[row]
    for stage in range(4):
        k, p = (K_BEFORE[stage], k_after[stage]), (P_BEFORE[stage], p_after[stage])
        assert acquisition(*k) == pytest.approx(acquired[stage] / 100, abs=rounding(*k, 1e-3))
        assert forgetting(*p) == pytest.approx(forgotten[stage] / 100, abs=rounding(*p, 0.1))
        assert acquisition(*k, convention="printed") == -acquisition(*k)
        assert forgetting(*p, convention="printed") == forgetting(*p)


def test_by_hand():
    # Less surprise is acquired, in the tables' sign; Eq. 4 as printed says the opposite.
    assert acquisition(-4.0, -3.0) == 0.25
    assert acquisition(-4.0, -3.0, convention="printed") == -0.25
    assert forgetting(60.0, 45.0) == 0.25
    assert forgetting(0.5, 0.75) == -0.5
    # A downstream score that is a log-probability: lower is forgotten.
    assert forgetting(-2.0, -3.0) == 0.5
    assert forgetting(-2.0, -3.0, convention="printed") == -0.5
    assert acquisition(torch.tensor(-4.0), np.float32(-3)) == 0.25
    assert type(acquisition(-4, -3)) is float


def test_an_edited_start_inflates_acquisition():
    unedited, edited, after = -0.371, -0.95, -0.29
    assert acquisition(edited, after) == pytest.approx(0.695, abs=5e-4)
    assert acquisition(unedited, after) == pytest.approx(0.218, abs=5e-4)


def probe_table(generator, *, exposures=(("once", 7), ("paraphrase", 11)), shift=0.0, spread=1.0):
    """Three kinds of 2, 3 and 5 probes for every passage, which have a level of their own."""
    rows, passage = [], 0
    for exposure, count in exposures:
        for _ in range(count):
            level = generator.normal(-4 + shift, spread)
            for kind, n in (("memorization", 2), ("semantic", 3), ("compositional", 5)):
                for probe in range(n):
                    rows.append((passage, exposure, kind, probe, level + generator.normal(0, 0.5)))
            passage += 1
    return pd.DataFrame(rows, columns=["passage", "exposure", "kind", "probe", "log_prob"])


def k_by_loops(table):
    """The mean over passages of the mean over their probes."""
    sums = {}
    for row in table.itertuples():
        sums.setdefault(row.passage, []).append(row.log_prob)
    return sum(sum(v) / len(v) for v in sums.values()) / len(sums)


def test_tables_of_probes_against_loops():
    generator = np.random.default_rng(0)
    before, after = probe_table(generator), probe_table(generator, shift=1.0)
    uneven = before.index[3:7]
    before, after = before.drop(uneven), after.drop(uneven)
    found = acquisition(before, after.sample(frac=1, random_state=0))
    k = k_by_loops(before), k_by_loops(after)
    # Means of a hundred doubles in another order.
    assert (found.before, found.after) == pytest.approx(k, rel=1e-13)
    assert float(found) == found.value == pytest.approx((k[1] - k[0]) / abs(k[0]), rel=1e-12)
    assert (found.n_clusters, found.n_items) == (18, 176)
    assert found.interval.low < found.value < found.interval.high
    assert found.interval == acquisition(before, after).interval
    # The weighted mean over exposures, as the paper writes it.
    by_exposure = [k_by_loops(before[before.exposure == e]) for e in ("once", "paraphrase")]
    assert found.before == pytest.approx((7 * by_exposure[0] + 11 * by_exposure[1]) / 18, rel=1e-13)


def test_an_array_is_a_table_with_passages_first():
    generator = np.random.default_rng(1)
    values = generator.normal(-4, 1, (2, 13, 5))
    rows = [(p, q, *values[:, p, q]) for p in range(13) for q in range(5)]
    table = pd.DataFrame(rows, columns=["passage", "probe", "before", "after"])
    tables = [table.rename(columns={name: "log_prob"}) for name in ("before", "after")]
    expected = acquisition(*tables)
    for kind in (np.asarray, torch.from_numpy):
        found = acquisition(kind(values[0]), kind(values[1]))
        assert found.value == pytest.approx(expected.value, rel=1e-12)
        assert found.interval[:2] == pytest.approx(expected.interval[:2], rel=1e-12)


def test_downstream_score_weighs_tasks_alike():
    generator = np.random.default_rng(2)
    sizes = {"sciq": 101, "piqa": 211, "openbook_qa": 53}
    rows = [(task, item) for task, n in sizes.items() for item in range(n)]
    tables = [pd.DataFrame(rows, columns=["task", "item"]) for _ in range(2)]
    for table, skill in zip(tables, (0.8, 0.6), strict=True):
        table["score"] = (generator.random(len(rows)) < skill).astype(int)
    p = [table.groupby("task").score.mean().mean() for table in tables]
    found = forgetting(*tables)
    assert found.value == pytest.approx((p[0] - p[1]) / p[0], rel=1e-12)
    # The delta method, with the variance of each task over its number of items.
    residuals = tables[1].score - p[1] / p[0] * tables[0].score
    variance = residuals.groupby(tables[0].task).apply(lambda r: r.var() / len(r)).sum() / 9
    half = 1.96 * np.sqrt(variance) / p[0]
    # Two thousand replicates place a 2.5 % quantile to about 5 % of the half width.
    assert found.interval.low == pytest.approx(found.value - half, abs=0.1 * half)
    assert found.interval.high == pytest.approx(found.value + half, abs=0.1 * half)


def test_intervals_draw_passages_and_not_probes():
    generator = np.random.default_rng(3)
    before, after = generator.normal(-4, 1, (2, 17, 3))
    once = acquisition(before, after).interval
    many = acquisition(before.repeat(29, axis=1), after.repeat(29, axis=1)).interval
    assert (many.low, many.high) == pytest.approx((once.low, once.high), rel=1e-12)


def test_intervals_stay_within_exposures():
    # Exposures differ, passages of one do not: nothing is left to vary.
    rows = [(p, "once" if p < 5 else "paraphrase", 0, -3.0 if p < 5 else -2.0) for p in range(12)]
    before = pd.DataFrame(rows, columns=["passage", "exposure", "probe", "log_prob"])
    after = before.assign(log_prob=before.log_prob + (before.exposure == "paraphrase"))
    found = acquisition(before, after)
    assert found.value == pytest.approx(7 / 29)
    assert found.interval[:2] == pytest.approx((7 / 29, 7 / 29))
    blind = [table.drop(columns="exposure") for table in (before, after)]
    assert acquisition(*blind).interval.width > 0.1


def test_intervals_cover_the_truth_at_their_level():
    generator, trials, covered = np.random.default_rng(4), 500, 0
    for trial in range(trials):
        before = generator.normal(-4, 0.7, (13, 1)) + generator.normal(0, 0.5, (13, 5))
        gain = generator.gamma(2.0, 0.5, (13, 1))
        bootstrap = ClusterBootstrap(replicates=1000, seed=trial)
        low, high, _ = acquisition(before, before + gain, bootstrap=bootstrap).interval
        covered += low <= 0.25 <= high
    # 95 % give or take four standard errors of a share of 500 (1 point each); the gains are skewed,
    # which costs a point or two from so few passages.
    assert 0.90 <= covered / trials <= 0.985


def test_a_mean_has_about_the_t_interval():
    sample = np.random.default_rng(5).normal(size=11)
    found = ClusterBootstrap(level=0.9, replicates=40000).mean_interval(sample)
    expected = stats.t.interval(0.9, 10, loc=sample.mean(), scale=stats.sem(sample))
    # The bootstrap distribution has the sample's own skewness, which shifts both ends alike.
    assert found.width == pytest.approx(expected[1] - expected[0], rel=0.05)
    assert found.level == 0.9


def test_one_passage_gives_no_interval():
    assert acquisition(np.array([[-4.0, -3.0]]), np.array([[-2.0, -1.0]])).interval is None
    # Every other draw scores 0 before: a share of it has no bounds.
    assert forgetting(np.array([0.0, 1.0]), np.array([0.0, 0.0])).interval is None


def test_intervals_are_the_same_twice_and_take_a_seed():
    before, after = np.random.default_rng(6).normal(-4, 1, (2, 13, 5))
    first = acquisition(before, after).interval
    assert acquisition(before, after).interval == first
    assert acquisition(before, after, bootstrap=ClusterBootstrap(seed=1)).interval != first


def test_knowledge_scores_against_loops():
    table = probe_table(np.random.default_rng(7), exposures=(("once", 5), ("held_out", 3)))
    found = knowledge_scores(table)
    assert found.columns.tolist() == [
        "exposure",
        "kind",
        "score",
        "low",
        "high",
        "passages",
        "probes",
    ]
    assert len(found) == 6
    for row in found.itertuples():
        group = table[(table.exposure == row.exposure) & (table.kind == row.kind)]
        assert row.score == pytest.approx(k_by_loops(group), rel=1e-13)
        assert (row.passages, row.probes) == (group.passage.nunique(), len(group))
        assert row.low < row.score < row.high
    once = table[table.exposure == "once"]
    whole = knowledge_scores(once, by=())
    assert len(whole) == 1
    assert whole.score[0] == pytest.approx(k_by_loops(once), rel=1e-13)


def test_knowledge_scores_by_step():
    generator = np.random.default_rng(8)
    tables = [probe_table(generator).assign(step=step) for step in (0, 160, 320)]
    found = knowledge_scores(pd.concat(tables, ignore_index=True), by=("step", "exposure"))
    assert found.step.tolist() == [0, 0, 160, 160, 320, 320]
    expected = [k_by_loops(t[t.exposure == e]) for t in tables for e in ("once", "paraphrase")]
    assert found.score.tolist() == pytest.approx(expected, rel=1e-13)


def test_a_group_of_one_passage_has_no_interval():
    found = knowledge_scores(probe_table(np.random.default_rng(9), exposures=(("once", 1),)))
    assert found.low.isna().all()
    assert found.low.dtype == float


GOOD = probe_table(np.random.default_rng(10), exposures=(("once", 3),))
MIXED = probe_table(np.random.default_rng(10), exposures=(("once", 3), ("held_out", 2)))
BAD = {
    "zero": ((0.0, 1.0), "found 0 before"),
    "nan": ((float("nan"), 1.0), "a score must be finite, found nan"),
    "kinds": ((GOOD, -3.0), "found a table and a number"),
    "shapes": ((np.ones((2, 3)), np.ones((3, 2))), r"found an array \[2, 3\] and an array \[3, 2\]"),
    "empty": ((np.ones(0), np.ones(0)), r"found an array \[0\]"),
    "nan items": ((np.array([1.0, np.nan]), np.ones(2)), "scores of items must be finite"),
    "unpaired": ((GOOD, GOOD.drop(index=4)), "found 30 and 29, of which 1 are in one table only"),
    "twice": ((pd.concat([GOOD, GOOD]), GOOD), "found 30 of 60 rows repeated"),
    "missing": ((GOOD.drop(columns="log_prob"), GOOD), "add log_prob"),
    "other columns": ((GOOD, GOOD.rename(columns={"kind": "depth"}).drop_duplicates(["passage", "probe"])), "name items alike"),
    "nan in a table": ((GOOD.assign(log_prob=GOOD.log_prob.where(GOOD.index > 1)), GOOD), "found 2 of 30 values"),
    "no rows": ((GOOD[:0], GOOD), "no rows"),
    "held out": ((MIXED, MIXED), "found 40% of rows held out"),
    "two exposures": ((GOOD.assign(exposure=["once", "paraphrase"] * 15),) * 2, "every passage must have one exposure"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_scores_are_refused_in_one_line(case):
    scores, message = BAD[case]
    with refused(message):
        acquisition(*scores)


def test_bad_settings_are_refused_in_one_line():
    with pytest.raises(ValueError, match="convention must be one of"):
        acquisition(-1, -1, convention="eq4")
    with pytest.raises(ValueError, match="level must be between 0 and 1, found 95"):
        ClusterBootstrap(level=95.0)
    with pytest.raises(ValueError, match="at least 100"):
        ClusterBootstrap(replicates=10)
    with pytest.raises(ValueError, match="add depth"):
        knowledge_scores(GOOD, by=("depth",))
    with pytest.raises(ValueError, match="held out"):
        knowledge_scores(MIXED, by=("kind",))
