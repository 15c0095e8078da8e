"""The tables of `analysis.remix_report`, on planted runs whose numbers are known by hand."""

import pandas as pd
import pytest
from scipy import stats

from tests.analysis.remix_runs import A_ITEMS, arms_from, make_run, study

PLAIN, REPLAY, BOTH = "no mixing", "replay of 10 %", "random at A, generic at B"


@pytest.fixture(scope="module")
def arms(tmp_path_factory):
    return arms_from(*study(tmp_path_factory.mktemp("runs")))


@pytest.fixture(scope="module")
def recalls(arms):
    from analysis.remix_measures import recall_table

    return recall_table(arms)


@pytest.fixture(scope="module")
def differences(arms):
    from analysis.remix_measures import difference_table

    return difference_table(arms)


def one(table, **where):
    """The only row with these values; None stands for missing."""
    for name, value in where.items():
        table = table[table[name].isna() if value is None else table[name] == value]
    assert len(table) == 1, table
    return table.iloc[0]


def test_runs_are_grouped_into_arms_by_what_they_mix_and_replay(arms):
    assert [arm.name for arm in arms] == [PLAIN, REPLAY, BOTH]
    assert [arm.seeds for arm in arms] == [(0, 1)] * 3
    assert [arm.is_plain for arm in arms] == [True, False, False]
    assert len({arm.base_key for arm in arms}) == 1
    assert [arm.runs[0].stages["A"].shared for arm in arms] == [False, True, False]


def test_shares_are_those_that_were_planted(recalls):
    tokens = {"items": "A", "match": "tokens", "measure": "share right"}
    for arm, seed, moment, right in (
        (PLAIN, 0, "start", 0), (PLAIN, 0, "after A", 12), (PLAIN, 0, "after B", 1),
        (PLAIN, 1, "after B", 2), (REPLAY, 1, "after A", 12), (REPLAY, 0, "after B", 6),
        (BOTH, 1, "after B", 11),
    ):  # fmt: skip
        row = one(recalls, arm=arm, seed=seed, moment=moment, **tokens)
        assert row["value"] == pytest.approx(right / A_ITEMS)
        # One seed: Wilson's interval as SciPy has it; both evaluate one closed form.
        found = stats.binomtest(right, A_ITEMS).proportion_ci(method="wilson")
        assert (row["low"], row["high"]) == pytest.approx((found.low, found.high), abs=1e-12)
    mean = one(recalls, arm=PLAIN, seed=None, moment="after B", **tokens)
    assert mean["value"] == pytest.approx(1.5 / A_ITEMS)
    assert mean["deviation"] == pytest.approx((1 / A_ITEMS) / 2**0.5)
    assert (mean["seeds"], mean["count"]) == (2, A_ITEMS)
    scores = {**tokens, "measure": "log-probability"}
    row = one(recalls, arm=REPLAY, seed=None, moment="after B", **scores)
    assert row["value"] == pytest.approx((6 * -0.5 + 7 * -8) / A_ITEMS)
    later = one(recalls, arm=BOTH, seed=0, **{**tokens, "items": "B"}, moment="after B")
    assert later["value"] == pytest.approx(9 / 11)


def test_arms_are_compared_with_the_plain_one_item_by_item(differences):
    where = {"items": "A", "moment": "after B", "measure": "share right"}
    replay = one(differences, arm=REPLAY, **where)
    assert replay["base"] == PLAIN
    # Items 1 (half of the seeds) and 2 to 5 are right with replay and not without.
    changed = [0.5, 1, 1, 1, 1]
    assert replay["effect"] == pytest.approx(sum(changed) / A_ITEMS)
    # By hand: five items may change signs, the rest are 0; only all or none reach the sum.
    assert replay["p_value"] == pytest.approx(2 / 2**5)
    both = one(differences, arm=BOTH, **where)
    # Ten of the eleven items that change do so in both seeds.
    assert both["effect"] == pytest.approx((11 - 1.5) / A_ITEMS)
    # Nine whole items and one half item change: 2 of 2^10 ways.
    assert both["p_value"] == pytest.approx(2 / 2**10, abs=1e-3)
    assert both["p_holm"] == pytest.approx(2 * both["p_value"])
    assert replay["p_holm"] == pytest.approx(replay["p_value"])
    tested = stats.ttest_1samp([5 / A_ITEMS, 4 / A_ITEMS], 0)
    assert replay["seed_p_value"] == pytest.approx(tested.pvalue)
    ends = tested.confidence_interval()
    assert (replay["seed_low"], replay["seed_high"]) == pytest.approx((ends.low, ends.high))


def test_lists_are_compared_from_when_they_were_taught(differences):
    asked = set(zip(differences["items"], differences["moment"], strict=True))
    assert asked == {("A", "after A"), ("A", "after B"), ("B", "after B")}
    assert set(differences["match"]) == {"tokens"}


def test_kept_is_of_what_was_learnt(arms):
    from analysis.remix_measures import kept_table

    table = kept_table(arms)
    row = one(table, arm=PLAIN, items="A", moment="after B")
    # Both seeds learnt 12; seed 0 keeps 1 of them, seed 1 keeps 2.
    assert row["value"] == pytest.approx(3 / 24)
    assert row["learnt"] == pytest.approx(12 / A_ITEMS)
    # The item that mixing brings besides was not learnt in stage A.
    assert one(table, arm=BOTH, items="A", moment="after B")["value"] == pytest.approx(20 / 24)


def test_curves_run_over_the_stages(arms):
    from analysis.remix_curves import recall_curves

    table = recall_curves(arms)
    ours = table[(table["arm"] == PLAIN) & (table["items"] == "A")]
    ours = ours[ours["measure"] == "share right"]
    assert ours["place"].tolist() == pytest.approx(
        [0, 0.25, 0.5, 0.75, 1, 1, 1 + 1 / 3, 1 + 2 / 3, 2]
    )
    assert ours["stage"].tolist() == ["A"] * 5 + ["B"] * 4
    assert ours["step"].tolist() == pytest.approx([0, 10, 20, 30, 40, 0, 10, 20, 30])
    # 12 fall in a straight line to 1 (seed 0: 8 and 5 on the way) and to 2 (seed 1: 9 and 5).
    assert (ours["value"] * A_ITEMS).tolist()[4:] == pytest.approx([12, 12, 8.5, 5, 1.5])
    assert (ours["low"] * A_ITEMS).tolist()[-1] == pytest.approx(1)
    assert (ours["high"] * A_ITEMS).tolist()[-1] == pytest.approx(2)


def test_seeds_that_were_looked_at_elsewhere_are_interpolated():
    from analysis.remix_curves import _mean_over_seeds

    one_seed = (10, pd.Series([0.0, 1.0], [0, 10]))
    other = (20, pd.Series([0.0, 0.4, 0.4], [0, 5, 20]))
    found = _mean_over_seeds([one_seed, other], 1)
    assert found["place"].tolist() == pytest.approx([1, 1.25, 2])
    assert found["value"].tolist() == pytest.approx([0, (0.25 + 0.4) / 2, (1 + 0.4) / 2])
    assert found["low"].tolist() == pytest.approx([0, 0.25, 0.4])
    assert found["step"].tolist() == pytest.approx([0, 0.25 * 15, 15])


def test_losses_are_told_by_source(arms):
    from analysis.remix_curves import source_curves

    table = source_curves(arms)
    assert set(table[table["arm"] == PLAIN]["source"]) == {"A", "B"}
    assert set(table[table["arm"] == BOTH]["source"]) == {"A", "B", "random", "generic"}
    own = table[(table["arm"] == BOTH) & (table["source"] == "A")]
    # 40 updates make 40 points: the planted loss is 4 over the step.
    assert own["value"].tolist() == pytest.approx([4 / step for step in range(1, 41)])


def test_the_share_of_the_mix_is_read_off_the_losses(arms):
    from analysis.remix_curves import loss_share, term_table

    chain = arms[2].runs[0]
    assert loss_share(chain, "B", "generic") == pytest.approx(0.25)
    assert loss_share(chain, "B", "B") == pytest.approx(0.75)
    table = term_table(arms)
    assert table["arm"].tolist() == [BOTH, BOTH]
    row = table.iloc[0]
    # A's loss is 1 at the start of stage B without mixing, and 0.75 with it.
    assert row["delta_1"] == pytest.approx(0.25)
    # 0.75 (-2) + 0.25 (+1) with mixing, less -3 without.
    assert row["delta_2"] == pytest.approx(0.75 * -2 + 0.25 * 1 + 3)
    assert row["sign"] == 1


def test_gradients_drift_levels_and_endings(arms):
    from analysis.remix_curves import alignment_curves, sign_table
    from analysis.remix_measures import drift_table, level_table, stage_table

    cosines = alignment_curves(arms)
    at = cosines[(cosines["arm"] == BOTH) & (cosines["stage"] == "B")]
    assert dict(at.groupby("pair")["value"].mean()) == pytest.approx(
        {"A and B": -2 / 6, "A and M": 1 / 2, "B and M": 0.5 / 3}
    )
    signs = one(sign_table(arms), arm=PLAIN, stage="B", pair="A and B")
    # Two seeds, looks at 0, 10, 20 and 30.
    assert signs[["looks", "positive", "negative", "untold"]].tolist() == [8, 0, 8, 0]
    drift = drift_table(arms)
    # Layer 1: 5 and 12 of 5 and 12; layer 0: 3 and 4 of 6 and 8.
    layer = {"arm": PLAIN, "stage": "A", "level": "layer"}
    assert one(drift, layer=1, **layer)["relative"] == pytest.approx(1)
    assert one(drift, layer=0, **layer)["distance"] == pytest.approx(5)
    levels = level_table(arms)
    text = one(levels, arm=BOTH, moment="after B", group="text")
    # From 2 at the start to 3.5.
    assert (text["value"], text["change"]) == pytest.approx((3.5, 1.5))
    entropy = one(levels, arm=PLAIN, moment="after A", measure="knowledge entropy")
    assert (entropy["value"], entropy["change"]) == pytest.approx((19.5, -0.5))
    stages = stage_table(arms)
    row = one(stages, arm=BOTH, seed=1, stage="B")
    assert (row["status"], row["steps"], row["trained_tokens"]) == ("rule fulfilled", 30, 30 * 192)
    assert stages[stages["arm"] == REPLAY].set_index("stage")["shared"]["A"].all()


def test_relearning_is_a_mean_over_the_runs_that_tried_it(arms):
    from analysis.remix_curves import relearning_table, spill_table

    table = relearning_table(arms)
    assert set(table["arm"]) == {PLAIN, BOTH}
    where = {"arm": PLAIN, "measure": "share right"}
    assert one(table, of="again", step=1, **where)["value"] == pytest.approx(1 / 3)
    assert one(table, of="other", step=2, **where)["value"] == pytest.approx(0.4)
    spills = spill_table(arms)
    row = one(spills, arm=PLAIN)
    assert (row["other_before"], row["other"]) == pytest.approx((0.1, 0.4))
    assert row["never_taught"] == pytest.approx(1 / 7)
    assert row["spill_over"] == pytest.approx(0.3 - 1 / 7)


def test_names_say_controls_edits_self_replay_and_what_else_differs(tmp_path):
    control = {"mix": ("random", "generic"), "no_mix_control": "steps"}
    edit = {"resuscitation_ratio": 0.5, "resuscitation_factor": 2.0}
    given = {
        "a": {}, "b": control, "c": {"replay": "self", "replay_ratio": 0.05}, "d": edit,
        "e": {"mix": ("none", "generic"), "mix_ratio": (1.0, 4.0)},
        "f": {"mix": ("none", "generic")}, "g": {"mix_words": 3},
    }  # fmt: skip
    arms = arms_from(
        *(
            make_run(tmp_path / name, seed=n, **fields)
            for n, (name, fields) in enumerate(given.items())
        )
    )
    assert [arm.name for arm in arms] == [
        # How long the words of a mix would be makes no other arm where there is no mix.
        "no mixing",
        "no mixing, as many steps as with random at A and generic at B, mix ratio 2",
        "self-generated replay of 5 %",
        "up, ratio 0.5, factor 2 before A",
        "generic at B, mix ratio 4",
        "generic at B, mix ratio 2",
    ]
    assert arms[0].seeds == (0, 6)
    assert [arm.is_plain for arm in arms] == [True, *[False] * 5]


def test_arms_of_other_starts_have_bases_of_their_own(tmp_path):
    from analysis.arms import base_of

    both = {"mix": ("random", "generic")}
    arms = arms_from(
        make_run(tmp_path / "a"),
        make_run(tmp_path / "b", **both),
        make_run(tmp_path / "c", start="cd" * 32, revision="step-000025"),
        make_run(tmp_path / "d", start="cd" * 32, revision="step-000025", **both),
    )
    assert [base_of(arm, arms, None) for arm in arms] == [None, arms[0], None, arms[2]]
    assert [base_of(arm, arms, arms[1]) for arm in arms] == [arms[1], None, arms[1], arms[1]]
    assert len({arm.name for arm in arms}) == 4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"done": False}, "is not over; go on with it, with --resume"),
        ({"stage": "A"}, "is a stage, not a run of training.remix; give the folder of one"),
        ({"command": "training.ckl"}, "is a run of training.ckl, not a run of training.remix"),
        ({"missing": "mix_words"}, "written by another version, found no setting 'mix_words'"),
        ({"gone": True}, "has no stage A, found no .*; give all runs that it went on from"),
        ({"folder": "nowhere"}, "holds no run, found no manifest.json; give the --out folder"),
    ],
)
def test_what_is_no_finished_run_is_refused(tmp_path, given, message):
    import json
    import shutil

    from analysis.runs import read_chain

    plain = make_run(tmp_path / "plain")
    folder = make_run(tmp_path / "run", shared=plain, replay="items", done=given.get("done", True))
    manifest = json.loads((folder / "manifest.json").read_text())
    if "missing" in given:
        del manifest["configuration"][given["missing"]]
    manifest["command"] = given.get("command", manifest["command"])
    manifest["inputs"] |= {"stage": "A"} if "stage" in given else {}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    if given.get("gone"):
        shutil.rmtree(plain)
    with pytest.raises(ValueError, match=message) as error:
        read_chain(tmp_path / given.get("folder", "run"))
    assert "\n" not in str(error.value)


def test_runs_that_have_moved_together_find_each_other(tmp_path):
    from analysis.runs import read_chain

    plain = make_run(tmp_path / "old/plain")
    make_run(tmp_path / "old/replay", shared=plain, replay="items")
    (tmp_path / "old").rename(tmp_path / "new")
    chain = read_chain(tmp_path / "new/replay")
    assert chain.stages["A"].run.path == tmp_path / "new/plain/stage-A"


def test_the_same_run_twice_and_no_run_are_refused(tmp_path):
    with pytest.raises(ValueError, match="are the same run; give one of them"):
        arms_from(make_run(tmp_path / "a"), make_run(tmp_path / "b"))
    with pytest.raises(ValueError, match="at least one run, found none"):
        arms_from()


def test_scores_of_other_items_are_refused(tmp_path):
    from analysis.remix_measures import recall_table

    run = make_run(tmp_path / "run")
    items = run / "stage-B/items/A.jsonl"
    items.write_text("".join(items.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ValueError, match="asked for 13 items at step 0, but its list 'A' has 12"):
        recall_table(arms_from(run))
