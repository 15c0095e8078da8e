"""Tables of runs with planted scores: A, K, F, curves, correlations and comparisons known by hand."""

import numpy as np
import pandas as pd
import pytest

from tests.analysis.ckl_runs import UP, arms_from, make_run


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Three seeds, whose gains are 0.9, 1 and 1.1, and an edited arm that gains half."""
    out = tmp_path_factory.mktemp("runs")
    found = [make_run(out / f"plain-{seed}", seed=seed, gain=0.9 + 0.1 * seed) for seed in range(3)]
    edited = [
        make_run(
            *(out / f"up-{seed}",),
            **{"seed": seed, "gain": 0.45 + 0.05 * seed, "edit": UP, "shift": -1.0},
            **{"unedited": True, "right": (11, 9)},
        )
        for seed in range(3)
    ]
    return [*found, *edited]


@pytest.fixture(scope="module")
def arms(folders):
    return arms_from(*folders[::-1])


@pytest.fixture(scope="module")
def summary(arms):
    from analysis.ckl_report.summary import summarise

    return summarise(arms)


def one(table, **where):
    """The only row with these values; a seed of None is the mean over seeds."""
    for name, value in where.items():
        table = table[table[name].isna() if value is None else table[name] == value]
    assert len(table) == 1
    return table.iloc[0]


def test_runs_that_differ_in_their_seed_are_an_arm(arms):
    assert [(arm.name, arm.seeds) for arm in arms] == [
        ("up", (0, 1, 2)),
        ("unedited", (0, 1, 2)),
    ]
    assert arms[0].moments == {"start": 0, "last injection": 20, "10 steps later": 30, "end": 60}
    assert arms[0].base_key == arms[1].base_key
    assert arms_from(arms[0].runs[0].path)[0].name == "tiny at step 200, up, ratio 0.5, factor 2"


def test_k_and_a_by_exposure_and_seed(summary):
    # Five of ten passages gain 2, five gain 1: 1.5 of 6.
    a = one(
        summary.acquired,
        arm="unedited",
        seed=None,
        moment="last injection",
        exposure="met",
        kind="all",
    )
    assert (a["before"], a["after"]) == pytest.approx((-6, -4.5))
    assert a["value"] == pytest.approx(0.25)
    assert a["low"] < 0.25 < a["high"]
    assert (a["passages"], a["probes"]) == (10, 30)
    seeds = summary.acquired.query("arm == 'unedited' and moment == 'last injection'")
    seeds = seeds[(seeds["exposure"] == "met") & seeds["seed"].notna()]
    assert seeds["value"].tolist() == pytest.approx([0.225, 0.25, 0.275])
    once = one(
        summary.knowledge,
        arm="unedited",
        seed=None,
        moment="last injection",
        exposure="once",
        kind="all",
    )
    assert once["score"] == pytest.approx(-5)
    # Forty steps later 1 - 0.25 log10(40) and 1 - 0.5 log10(40) of the gains are left.
    end = one(summary.acquired, arm="unedited", seed=None, moment="end", exposure="met", kind="all")
    left = 0.5 * 2 * (1 - 0.25 * np.log10(40)) + 0.5 * (1 - 0.5 * np.log10(40))
    assert end["value"] == pytest.approx(left / 6)
    held_out = one(
        summary.acquired, arm="unedited", seed=None, moment="end", exposure="held_out", kind="all"
    )
    assert held_out["value"] == pytest.approx(0.1 / 8)


def test_tables_agree_with_the_library_functions(arms, summary):
    """The same K, A and intervals as from tables of probes, computed one by one."""
    import analysis

    arm = arms[0]
    before, after = arm.probes("unedited start"), arm.probes("end")
    met = before["exposure"] != "held_out"
    for exposure, kind, rows in [
        ("met", "all", met),
        ("once", "semantic", (before["exposure"] == "once") & (before["kind"] == "semantic")),
        ("held_out", "all", ~met),
    ]:
        change = analysis.acquisition(before[rows], after[rows])
        found = one(
            summary.acquired,
            arm=arm.name,
            seed=None,
            against="unedited start",
            moment="end",
            exposure=exposure,
            kind=kind,
        )
        assert found["value"] == pytest.approx(change.value)
        assert (found["low"], found["high"]) == pytest.approx(change.interval[:2])
        score = analysis.knowledge_scores(after[rows], by=()).iloc[0]
        found = one(
            summary.knowledge, arm=arm.name, seed=None, moment="end", exposure=exposure, kind=kind
        )
        assert tuple(found[["score", "low", "high"]]) == pytest.approx(
            tuple(score[["score", "low", "high"]])
        )


def test_an_edit_is_compared_with_both_starts(summary):
    where = {
        "arm": "up",
        "seed": None,
        "moment": "last injection",
        "exposure": "met",
        "kind": "all",
    }
    # The edit costs 1 nat, encounters give 0.75.
    assert one(summary.acquired, against="start", **where)["value"] == pytest.approx(0.75 / 7)
    assert one(summary.acquired, against="unedited start", **where)["value"] == pytest.approx(
        -0.25 / 6
    )


def test_what_meeting_passages_made_is_beyond_held_out_ones(summary):
    row = one(summary.beyond, arm="unedited", moment="last injection")
    assert (row["met"], row["held_out"], row["value"]) == pytest.approx((1.5, 0.1, 1.4))
    # Gains do not vary within an exposure, and exposures are as large in every draw.
    assert row["low"] == pytest.approx(1.4)
    assert row["high"] - row["low"] == pytest.approx(0, abs=1e-9)


def test_f_is_tested_where_a_task_stands_above_guessing(summary):
    chances = summary.chances.set_index(["arm", "moment", "task"])
    assert chances.loc[("unedited", "start", "sciq"), "above"]
    assert not chances.loc[("unedited", "start", "piqa"), "above"]
    where = {"arm": "unedited", "seed": None, "moment": "end"}
    f = one(summary.forgotten, task="P", **where)
    assert (f["before"], f["after"], f["value"]) == pytest.approx((0.625, 0.5, 0.2))
    assert f["low"] < 0.2 < f["high"]
    assert f["reason"] != f["reason"]
    piqa = one(summary.forgotten, task="piqa", **where)
    assert np.isnan(piqa["value"])
    assert "no better than guessing: piqa 50.0%" in piqa["reason"]


def test_f_is_not_tested_where_every_task_is_guessed(summary):
    """11 of 40 right, of four choices each: 27.5 percent is not above 25."""
    rows = summary.forgotten[summary.forgotten["arm"] != "unedited"]
    f = one(rows, seed=None, moment="end", task="P", against="start")
    assert np.isnan(f["value"])
    assert f["reason"].startswith("at the start no task is answered better than by guessing: sciq ")
    assert "guessing 25.0%; piqa 50.0%" in f["reason"]


def test_the_level_of_chance_is_shared_out_over_the_tasks(arms, summary):
    from analysis.statistics.bootstrap import ClusterBootstrap

    scores = np.repeat([1.0, 0.0], [30, 10])
    expected = ClusterBootstrap(level=0.975).mean_interval(scores)
    row = one(summary.chances, arm="unedited", task="sciq")
    assert (row["low"], row["high"]) == pytest.approx(expected[:2], abs=0.01)


def test_text_facts_and_entropies_move_as_planted(summary):
    moved = summary.changes.query("arm == 'unedited' and moment == 'end'").set_index("measure")
    assert moved["change"].to_dict() == {
        "bits per byte, general-heldout": 0.25,
        "facts recalled": -0.25,
        "facts, log-probability, seen wording": -1.0,
        "facts, log-probability, unseen wording": -1.0,
        "knowledge entropy": -1.0,
        "next-token entropy": 0.0,
        "dormant neurons": 0.0,
    }
    facts = moved.loc["facts, log-probability, seen wording"]
    assert (facts["low"], facts["high"], facts["seeds"]) == (-1.0, -1.0, 3)
    assert moved.loc["dormant neurons", "before"] == 0.5


def test_curves_have_the_planted_slopes(summary):
    curves = summary.curves[summary.curves["kind"] == "all"].set_index(["arm", "exposure"])
    for exposure, slope in (("paraphrase", -0.25), ("duplication", -0.25), ("once", -0.5)):
        row = curves.loc[("unedited", exposure)]
        assert row["slope"] == pytest.approx(slope)
        assert row["threshold"] == pytest.approx(10 ** (1 / -slope))
        assert row["r_squared"] == pytest.approx(1)
        assert (row["window"], row["every"], row["first"]) == (10, 1, 1)
    gains = summary.gains.query("arm == 'unedited' and kind == 'all'")
    gains = gains.set_index(["exposure", "encounter"])["gain"].to_dict()
    assert gains == pytest.approx(
        {
            **{("paraphrase", 1): 1, ("paraphrase", 2): 1, ("duplication", 1): 1},
            **{("duplication", 2): 1, ("once", 1): 1},
        }
    )
    assert summary.without_curve == {}


def test_a_probe_counts_by_what_it_gained():
    """One of two probes gains 3 and keeps 3, 3, 2.5; the other gains 1 and keeps half of it."""
    from analysis.encounter_measures import LookGrid, MetProbes, curve_of
    from analysis.statistics.bootstrap import DEFAULT_BOOTSTRAP

    log_probs = np.array([[-9, -6, -6, -6, -6, -6.5], [-4, -3, -3, -3.5, -3.5, -3.5]])
    items = pd.DataFrame({"passage": [0, 1]})
    found = MetProbes(items, log_probs, np.zeros((2, 1), dtype=np.int64))
    grid = LookGrid(every=2, looks=6, window=2)
    for bootstrap in (DEFAULT_BOOTSTRAP, None):
        curve, steps = curve_of([found], grid, bootstrap)
        # Offsets are from the maxima, which both have at the first look; each look is two steps.
        assert steps.tolist() == [2, 4, 6]
        assert curve.retainability.tolist() == [4 / 4, 3.5 / 4, 3.5 / 4]
        assert curve.slope < 0


def test_scores_at_every_fourth_step_will_do(tmp_path, monkeypatch):
    """Gains hold up to three steps of drift; here there is none before an encounter."""
    from analysis.encounter_measures import curve_tables

    gains, curves, _, reasons = curve_tables(arms_from(make_run(tmp_path / "a", probe_every=4)))
    paraphrase = gains.query("exposure == 'paraphrase' and kind == 'all'")["gain"].tolist()
    # Looks are at 8, 12, 20: update 20 is the last encounter's, and is scored at once.
    assert paraphrase == pytest.approx([1.0, 1.0])
    assert one(curves, exposure="once", kind="all")["window"] == 8
    assert reasons == {}


@pytest.mark.parametrize(
    ("every", "reason"),
    [
        (5, None),
        (6, None),
        (7, r"scored every 7 steps; .* 2 looks are needed, found 1"),
    ],
)
def test_scores_that_are_too_far_apart_give_no_curve(tmp_path, every, reason):
    import re

    from analysis.encounter_measures import curve_tables

    arms = arms_from(make_run(tmp_path / "a", probe_every=every))
    *_, reasons = curve_tables(arms)
    assert bool(reasons) == bool(reason)
    if reason:
        assert re.search(reason, reasons[arms[0].name])


def test_an_arm_is_compared_with_its_base_passage_by_passage(summary):
    rows = summary.comparisons.set_index("measure")
    row = rows.loc["K of passages met, last injection"]
    # Half of the gain, and the nat that the edit cost: five differ by 2, five by 1.5.
    assert row["effect"] == pytest.approx(-1.75)
    assert row["base"] == "unedited"
    assert row["low"] < -1.75 < row["high"]
    assert (row["clusters"], row["of"], row["seeds"]) == (10, "passages", 3)
    # All ten are lower: two of 2^10 ways are as extreme.
    assert row["p_value"] == pytest.approx(2 / 2**10)
    assert rows.loc["K of held-out passages, last injection", "effect"] == pytest.approx(-1)
    gain = "gain of passages met since the start, last injection"
    assert rows.loc[gain, "effect"] == pytest.approx(-0.75)
    # sciq falls from 20 of 40 to 9 of 40, piqa stays: half of the difference.
    assert rows.loc["P, end", "effect"] == pytest.approx(-11 / 40 / 2)
    assert rows.loc["log-probability of earlier facts, end", "effect"] == 0


def test_p_values_are_adjusted_over_the_arms_of_a_measure(folders, tmp_path):
    from analysis.ckl_comparisons import comparison_table
    from training.recipes import Control

    control = {**UP, "control": Control.RANDOM_ROWS}
    other = make_run(tmp_path / "same", edit=control, gain=0.9)
    found = comparison_table(arms_from(folders[0], folders[3], other))
    found = found[found["measure"] == "K of passages met, last injection"].set_index("arm")
    assert found["p_value"].tolist() == pytest.approx([2 / 2**10, 1])
    assert found["p_holm"].tolist() == pytest.approx([4 / 2**10, 1])
    assert found.loc["random rows", "effect"] == pytest.approx(0)


def test_over_a_trajectory_ranks_and_differences_are_correlated(tmp_path):
    from scipy.stats import spearmanr

    from analysis.ckl_report.summary import summarise

    gains, entropies = [1.0, 1.3, 1.1, 1.6, 1.5], [20.0, 21.0, 20.5, 20.25, 22.0]
    folders = [
        make_run(
            tmp_path / f"{place}",
            revision=f"step-{25 * place:06d}",
            gain=gain,
            entropy=h,
            start=f"a{place}",
        )
        for place, (gain, h) in enumerate(zip(gains, entropies, strict=True))
    ]
    summary = summarise(arms_from(*folders[::-1]))
    assert [arm.name for arm in summary.arms] == [f"step {step}" for step in (100, 75, 50, 25, 0)]
    points = summary.trajectory
    assert points["step"].tolist() == [0, 25, 50, 75, 100]
    assert points["knowledge entropy"].tolist() == entropies
    assert points["A, last injection"].tolist() == pytest.approx([gain * 0.25 for gain in gains])
    row = one(summary.correlations, entropy="knowledge entropy", outcome="A, last injection")
    assert row["rho"] == pytest.approx(spearmanr(entropies, gains).statistic)
    steps = spearmanr(np.diff(entropies), np.diff(gains)).statistic
    assert row["rho_differences"] == pytest.approx(steps)
    assert row["low"] < row["rho"] < row["high"]


def test_starts_that_only_guess_leave_f_out_of_a_trajectory(tmp_path):
    from analysis.ckl_report.summary import summarise

    folders = [
        make_run(
            tmp_path / f"{place}",
            revision=f"step-{25 * place:06d}",
            gain=1.0 + place / 10,
            start=f"a{place}",
            right=(10, 9),
        )
        for place in range(4)
    ]
    summary = summarise(arms_from(*folders))
    assert summary.trajectory["F, end"].isna().all()
    assert "F, end" not in set(summary.correlations["outcome"])
    assert summary.correlations["starts"].tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"done": False}, r"is not over, found 60 of 60 steps; go on with it, with --resume"),
        ({"command": "training.pretrain"}, r"is a run of training.pretrain, not of training.ckl"),
        ({"drop": "lags"}, r"was written by another version, found no setting 'lags'"),
    ],
)
def test_runs_that_cannot_be_reported_are_refused(tmp_path, change, message):
    import json

    run = make_run(tmp_path / "run", done=change.get("done", True))
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["command"] = change.get("command", manifest["command"])
    manifest["configuration"].pop(change.get("drop", "nothing"), None)
    (run / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=message):
        arms_from(run)


def test_a_run_that_was_not_looked_at_after_its_last_injection_is_refused(tmp_path):
    run = make_run(tmp_path / "run")
    lines = (run / "records.jsonl").read_text().splitlines(keepends=True)
    unseen = '{"record": "scores", "step": 20, "items": "knowledge"'
    (run / "records.jsonl").write_text("".join(x for x in lines if not x.startswith(unseen)))
    with pytest.raises(ValueError, match=r"scored no probes at step 20, .* 0 among --lags"):
        arms_from(run)


def test_a_run_that_is_there_twice_is_refused(folders, tmp_path):
    import shutil

    shutil.copytree(folders[0], tmp_path / "copy")
    with pytest.raises(ValueError, match="are the same run; give one of them"):
        arms_from(folders[0], tmp_path / "copy")
    with pytest.raises(ValueError, match="needs at least one run, found none"):
        arms_from()


def test_seeds_with_other_items_are_refused(folders, tmp_path):
    import shutil

    from analysis.ckl_measures import score_tables

    other = shutil.copytree(folders[1], tmp_path / "other")
    rows = (other / "items/knowledge.jsonl").read_text().splitlines(keepends=True)
    (other / "items/knowledge.jsonl").write_text("".join([*rows[3:], *rows[:3]]))
    with pytest.raises(ValueError, match="have the same settings but other items; report them one"):
        score_tables(arms_from(folders[0], other))


def test_an_outcome_that_falls_evenly_has_no_correlation_of_differences():
    """0.3, 0.4 ... differ by steps that are alike but for rounding."""
    from analysis.ckl_comparisons import correlation_table

    points = pd.DataFrame(
        {
            **{"series": "tiny", "arm": list("abcde"), "step": range(5)},
            **{"knowledge entropy": [5.0, 3.0, 4.0, 1.0, 2.0]},
            **{"A, end": 0.1 * np.arange(3, 8)},
        }
    )
    (row,) = correlation_table(points).to_dict("records")
    assert row["rho"] == pytest.approx(-0.8)
    assert np.isnan(row["rho_differences"])
