"""`python -m analysis.remix_report` and its tables, on planted runs whose numbers are known by hand."""

import json
import shutil
from dataclasses import replace

import pandas as pd
import pytest
from scipy import stats

from analysis.arm_report import by_layer, over_stages
from analysis.arms import base_of
from analysis.figures import colours_of
from analysis.remix_curves import _mean_over_seeds, loss_share
from analysis.remix_measures import recall_table
from analysis.remix_page import sections
from analysis.remix_report import main
from analysis.remix_summary import findings, summarise
from analysis.runs import read_chain
from tests.analysis.remix_runs import A_ITEMS, arms_from, make_run, study
from tests.analysis.test_document import plots_of

PLAIN, REPLAY, BOTH = "no mixing", "replay of 10 %", "random at A, generic at B"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Plain, replay and both, of two seeds each; the last is asked what it knew before."""
    return study(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def arms(folders):
    return arms_from(*folders)


@pytest.fixture(scope="module")
def summary(arms):
    return summarise(arms)


@pytest.fixture(scope="module")
def report(folders, tmp_path_factory):
    """The folder of a report."""

    out = tmp_path_factory.mktemp("report") / "out"
    assert main([*map(str, folders), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def content(report):
    return json.loads((report / "remix.json").read_text())


def findings_of(*folders):
    return plain("\n".join(findings(summarise(arms_from(*folders)))))


def plain(text):
    return text.replace("\N{MINUS SIGN}", "-")


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


def test_shares_are_those_that_were_planted(summary):
    tokens = {"items": "A", "match": "tokens", "measure": "share right"}
    for arm, seed, moment, right in (
        (PLAIN, 0, "start", 0), (PLAIN, 0, "after A", 12), (PLAIN, 0, "after B", 1),
        (PLAIN, 1, "after B", 2), (REPLAY, 1, "after A", 12), (REPLAY, 0, "after B", 6),
        (BOTH, 1, "after B", 11),
    ):  # fmt: skip
        row = one(summary["recalls"], arm=arm, seed=seed, moment=moment, **tokens)
        assert row["value"] == pytest.approx(right / A_ITEMS)
        # One seed: Wilson's interval as SciPy has it; both evaluate one closed form.
        found = stats.binomtest(right, A_ITEMS).proportion_ci(method="wilson")
        assert (row["low"], row["high"]) == pytest.approx((found.low, found.high), abs=1e-12)
    mean = one(summary["recalls"], arm=PLAIN, seed=None, moment="after B", **tokens)
    assert mean["value"] == pytest.approx(1.5 / A_ITEMS)
    assert mean["deviation"] == pytest.approx((1 / A_ITEMS) / 2**0.5)
    assert (mean["seeds"], mean["count"]) == (2, A_ITEMS)
    scores = {**tokens, "measure": "log-probability"}
    row = one(summary["recalls"], arm=REPLAY, seed=None, moment="after B", **scores)
    assert row["value"] == pytest.approx((6 * -0.5 + 7 * -8) / A_ITEMS)
    later = one(summary["recalls"], arm=BOTH, seed=0, **{**tokens, "items": "B"}, moment="after B")
    assert later["value"] == pytest.approx(9 / 11)


def test_arms_are_compared_with_the_plain_one_item_by_item(summary):
    where = {"items": "A", "moment": "after B", "measure": "share right"}
    replay = one(summary["differences"], arm=REPLAY, **where)
    assert replay["base"] == PLAIN
    # Items 1 (half of the seeds) and 2 to 5 are right with replay and not without.
    changed = [0.5, 1, 1, 1, 1]
    assert replay["effect"] == pytest.approx(sum(changed) / A_ITEMS)
    # By hand: five items may change signs, the rest are 0; only all or none reach the sum.
    assert replay["p_value"] == pytest.approx(2 / 2**5)
    both = one(summary["differences"], arm=BOTH, **where)
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


def test_lists_are_compared_from_when_they_were_taught(summary):
    table = summary["differences"]
    asked = set(zip(table["items"], table["moment"], strict=True))
    assert asked == {("A", "after A"), ("A", "after B"), ("B", "after B")}
    assert set(table["match"]) == {"tokens"}


def test_kept_is_of_what_was_learnt(summary):
    table = summary["kept"]
    row = one(table, arm=PLAIN, items="A", moment="after B")
    # Both seeds learnt 12; seed 0 keeps 1 of them, seed 1 keeps 2.
    assert row["value"] == pytest.approx(3 / 24)
    assert row["learnt"] == pytest.approx(12 / A_ITEMS)
    # The item that mixing brings besides was not learnt in stage A.
    assert one(table, arm=BOTH, items="A", moment="after B")["value"] == pytest.approx(20 / 24)


def test_curves_run_over_the_stages(summary):
    table = summary["curves"]
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
    one_seed = (10, pd.Series([0.0, 1.0], [0, 10]))
    other = (20, pd.Series([0.0, 0.4, 0.4], [0, 5, 20]))
    found = _mean_over_seeds([one_seed, other], 1)
    assert found["place"].tolist() == pytest.approx([1, 1.25, 2])
    assert found["value"].tolist() == pytest.approx([0, (0.25 + 0.4) / 2, (1 + 0.4) / 2])
    assert found["low"].tolist() == pytest.approx([0, 0.25, 0.4])
    assert found["step"].tolist() == pytest.approx([0, 0.25 * 15, 15])


def test_losses_are_told_by_source(summary):
    table = summary["sources"]
    assert set(table[table["arm"] == PLAIN]["source"]) == {"A", "B"}
    assert set(table[table["arm"] == BOTH]["source"]) == {"A", "B", "random", "generic"}
    own = table[(table["arm"] == BOTH) & (table["source"] == "A")]
    # 40 updates make 40 points: the planted loss is 4 over the step.
    assert own["value"].tolist() == pytest.approx([4 / step for step in range(1, 41)])


def test_the_share_of_the_mix_is_read_off_the_losses(arms, summary):
    chain = arms[2].runs[0]
    assert loss_share(chain, "B", "generic") == pytest.approx(0.25)
    assert loss_share(chain, "B", "B") == pytest.approx(0.75)
    table = summary["terms"]
    assert table["arm"].tolist() == [BOTH, BOTH]
    row = table.iloc[0]
    # A's loss is 1 at the start of stage B without mixing, and 0.75 with it.
    assert row["delta_1"] == pytest.approx(0.25)
    # 0.75 (-2) + 0.25 (+1) with mixing, less -3 without.
    assert row["delta_2"] == pytest.approx(0.75 * -2 + 0.25 * 1 + 3)
    assert row["sign"] == 1


def test_gradients_drift_levels_and_endings(summary):
    cosines = summary["alignments"]
    at = cosines[(cosines["arm"] == BOTH) & (cosines["stage"] == "B")]
    assert dict(at.groupby("pair")["value"].mean()) == pytest.approx(
        {"A and B": -2 / 6, "A and M": 1 / 2, "B and M": 0.5 / 3}
    )
    signs = one(summary["signs"], arm=PLAIN, stage="B", pair="A and B")
    # Two seeds, looks at 0, 10, 20 and 30.
    assert signs[["looks", "positive", "negative", "untold"]].tolist() == [8, 0, 8, 0]
    drift = summary["drift"]
    # Layer 1: 5 and 12 of 5 and 12; layer 0: 3 and 4 of 6 and 8.
    layer = {"arm": PLAIN, "stage": "A", "level": "layer"}
    assert one(drift, layer=1, **layer)["relative"] == pytest.approx(1)
    assert one(drift, layer=0, **layer)["distance"] == pytest.approx(5)
    levels = summary["levels"]
    text = one(levels, arm=BOTH, moment="after B", group="text")
    # From 2 at the start to 3.5.
    assert (text["value"], text["change"]) == pytest.approx((3.5, 1.5))
    entropy = one(levels, arm=PLAIN, moment="after A", measure="knowledge entropy")
    assert (entropy["value"], entropy["change"]) == pytest.approx((19.5, -0.5))
    stages = summary["stages"]
    row = one(stages, arm=BOTH, seed=1, stage="B")
    assert (row["status"], row["steps"], row["trained_tokens"]) == ("rule fulfilled", 30, 30 * 192)
    assert stages[stages["arm"] == REPLAY].set_index("stage")["shared"]["A"].all()


def test_relearning_is_a_mean_over_the_runs_that_tried_it(summary):
    table = summary["relearning"]
    assert set(table["arm"]) == {PLAIN, BOTH}
    where = {"arm": PLAIN, "measure": "share right"}
    assert one(table, of="again", step=1, **where)["value"] == pytest.approx(1 / 3)
    assert one(table, of="other", step=2, **where)["value"] == pytest.approx(0.4)
    spills = summary["spills"]
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
    run = make_run(tmp_path / "run")
    items = run / "stage-B/items/A.jsonl"
    items.write_text("".join(items.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ValueError, match="asked for 13 items at step 0, but its list 'A' has 12"):
        recall_table(arms_from(run))


def test_findings_say_what_was_planted(content):
    text = plain("\n".join(content["findings"]))
    for words in [
        "No mixing: of the items of stage A, the share that is right is 92.3% [66.7%, 98.6%] after "
        "A, 11.5% [",
        "after B (seeds 7.7% to 15.4%).",
        "1 of 2 arms differ from their base beyond chance over items (Holm, 5.0%): random at A, "
        "generic at B by +73.1 points [",
        "] (its interval over seeds excludes 0).",
        "The share of B that is right after B is 81.8% in all 3 arms.",
        "runs from +0.500 (no mixing) to +1.500 (random at A, generic at B), over 3 arms.",
        "runs from -4.3 points (random at A, generic at B) to +15.7 points (no mixing), over 2 arms.",
        # Three arms, two seeds, four evaluations.
        "makes the loss on A larger in 24 of 24 evaluations, smaller in 0.",
    ]:
        assert words in text
    assert "cap" not in text


def test_findings_of_one_arm_name_caps_and_earlier_knowledge(tmp_path):
    text = findings_of(make_run(tmp_path / "a", status="cap reached", familiar=3, spill=0.3))
    for words in [
        "in 1 of 1 runs (exact match of B of 1 (0.818 at last)).",
        "of familiar, 85.7% at the start and 42.9% [",
        "Of the items of stage B, 81.8% [",
        "of the others +15.7 points came back beyond items never taught.",
        "General-heldout, bits per byte changed by +0.500 since the start.",
    ]:
        assert words in text
    assert "seeds" not in text


def test_of_many_arms_the_lowest_and_the_highest_are_named(tmp_path):
    words = [
        make_run(
            *(tmp_path / str(n),),
            **{"mix": ("random", "none"), "mix_words": n, "kept": n, "gradients": False},
        )
        for n in range(1, 6)
    ]
    text = findings_of(*words)
    assert (
        "runs from 7.7% (random at A, mix words 1) to 38.5% (random at A, mix words 5), over 5 arms."
    ) in text
    assert "is 92.3% in all 5 arms." in text
    assert "differ from their base" not in text


def test_a_document_names_everything_but_the_machine(report, folders):
    text = (report / "remix.md").read_text()
    assert str(folders[0].parent) not in text
    assert "/home/someone" not in text
    for words in [
        "    python -m analysis.remix_report plain-0 replay-0 both-0 plain-1 replay-1 both-1 --out",
        "6 runs of continual memorization: 3 arms, 2 seeds each; 13 items of kvr, then 11 items of",
        "- starts: tiny",
        "A: 13 items of kvr (x; licence: none needed; rows cdcdcdcdcdcd)",
        "- mixed in: A: 26 items of random (x; ",
        "- versions: mnemoscope ",
        "| replay of 10 % | 92.3% [66.7%, 98.6%] | 46.2% [23.2%, 70.9%] | 50.0% | +34.6 points [",
        "| replay of 10 %: A | rule fulfilled (2) | 40 | 2,560 | yes |",
        "| random at A, generic at B, seed 0 | 25.0% | +0.250 | +1.750 [",
        "| no mixing | 0.0% to 100.0% | 10.0% to 40.0% | 0.0% to 14.3% | +15.7 points [",
        "--from-stage-a plain-1 --mix-ratio 2.0 --replay items --no-generation --seed 1",
    ]:
        assert words in text
    assert all(line.endswith("|") for line in text.splitlines() if line.startswith("|"))


def test_numbers_are_in_json_and_in_csv(report, content):
    assert {path.name for path in report.iterdir()} == {
        *("remix.md", "remix.html", "remix.json", "tables")
    }
    assert {path.stem for path in (report / "tables").iterdir()} == set(content["tables"])
    for name in ("recalls", "differences", "curves", "terms", "spills"):
        table = pd.read_csv(report / "tables" / f"{name}.csv")
        assert len(table) == len(content["tables"][name]) > 0
    assert content["tables"]["spills"][0]["spill_over"] == pytest.approx(0.3 - 1 / 7)


def test_a_base_can_be_named(tmp_path):
    both = make_run(tmp_path / "both", kept=9, mix=("random", "generic"))
    run = make_run(tmp_path / "plain")
    out = tmp_path / "report"
    assert main([str(run), "--base", str(both), "--out", str(out)]) == 0
    found = json.loads((out / "remix.json").read_text())["tables"]["differences"]
    named = {(row["arm"], row["base"]) for row in found}
    assert named == {("no mixing", "random at A, generic at B")}
    at = next(row for row in found if (row["items"], row["moment"]) == ("A", "after B"))
    assert at["effect"] == pytest.approx((2 - 9) / 13)
    assert at["test"].startswith("McNemar")


def test_figures_show_numbers_in_their_places(summary):
    curve = summary["curves"]
    curve = curve[curve["arm"] == PLAIN]
    curve = curve[(curve["items"] == "A") & (curve["measure"] == "share right")]
    figure = over_stages(curve, colours_of(["no mixing"]), ("A", "B"), "share", band=True)
    band, line = figure.data
    assert list(line.x) == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1, 4 / 3, 5 / 3, 2])
    assert line.y[-1] == pytest.approx(1.5 / 13)
    # Out along the most of the seeds, back along the least.
    assert (band.y[8], band.y[9]) == pytest.approx((2 / 13, 1 / 13))
    assert figure.layout.shapes[0].x0 == 1
    assert list(figure.layout.xaxis.ticktext) == ["A", "B"]
    table = pd.DataFrame({"arm": "no mixing", "layer": [0, 1, 2], "value": [0.5, 0.25, 1.0]})
    drawn = by_layer(table, colours_of(["no mixing"]), "drift")
    assert list(drawn.data[0].y) == [0, 1, 2]
    # Layer 0 is at the bottom.
    assert drawn.layout.yaxis.range[0] < drawn.layout.yaxis.range[1]


def test_every_section_has_its_figures(summary):
    plots = {section.heading: len(plots_of(section)) for section in sections(summary)}
    # A and B kept, two curves; three pairs of gradients; drift in two stages.
    assert {heading: count for heading, count in plots.items() if count} == {
        "What was kept": 2 + 2,
        "Loss by source": 1,
        "Gradients": 3,
        "Weight drift": 2,
        "Relearning": 1,
        "Text and entropies": 1,
    }


def test_moves_in_depth_have_findings_tables_and_figures(summary):
    numbers = {"share_found": 0.5, "mean_first_layer": 2.0, "effective_layers": 1.5}
    depths = pd.DataFrame(
        {"arm": arm, "checkpoint": moment, "seed": seed, **numbers, "rank_area": 0.25}
        for arm in summary.names
        for moment in ("start", "after A", "after B")
        for seed in range(2)
    )
    moved = pd.DataFrame(
        {
            **{"arm": PLAIN, "seed": seed, "compared": "stages", "before": "start"},
            **{"after": "after A", "depth": "earlier", "spread": "not shown"},
            **{"test": test, "effect": effect + seed},
        }
        for seed in range(2)
        for test, effect in (("found", 0.25), ("first_layer", -1.0))
    )
    told = {**summary.tables, "depths": depths, "depth_changes": moved}
    summary = replace(summary, tables=told)
    assert "readable earlier in 2 and later in 0 of 2 runs" in "\n".join(findings(summary))
    section = next(one for one in sections(summary) if one.heading == "Where in depth")
    assert len(plots_of(section)) == 3
    levels, changes = section.parts[1:]
    assert levels.rows[0] == (f"{PLAIN}: start", "50.0%", "2.000", "1.500", "25.0%")
    assert changes.header == ("", "readable", "first layer", "depth", "spread")
    row = (f"{PLAIN}: start to after A", "+0.75", "-0.50")
    assert changes.rows == ((*row, "earlier, earlier", "not shown, not shown"),)
