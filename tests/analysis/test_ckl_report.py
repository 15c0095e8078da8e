"""`python -m analysis.ckl_report` and its tables, on planted runs whose numbers are known by hand."""

import json
import re
import shutil
from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

import analysis
from analysis.arm_report import over_pretraining
from analysis.arms import base_of
from analysis.ckl_measures import score_tables, scores_over_steps
from analysis.ckl_page import sections
from analysis.ckl_report import main
from analysis.ckl_summary import comparison_table, correlation_table, findings, summarise
from analysis.encounter_measures import LookGrid, MetProbes, curve_of, curve_tables
from analysis.figures import colours_of
from analysis.significance import DEFAULT_BOOTSTRAP, ClusterBootstrap
from tests.analysis.ckl_runs import UP, arms_from, make_run
from tests.analysis.test_document import plots_of
from training.options import Control, EditForm


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Three seeds, whose gains are 0.9, 1 and 1.1, and an edited arm that gains half."""
    out = tmp_path_factory.mktemp("runs")
    edited = {"edit": UP, "shift": -1.0, "unedited": True, "right": (11, 9)}
    return [
        *(make_run(out / f"plain-{seed}", seed=seed, gain=0.9 + 0.1 * seed) for seed in range(3)),
        *(
            make_run(out / f"up-{seed}", seed=seed, gain=0.45 + 0.05 * seed, **edited)
            for seed in range(3)
        ),
    ]


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
    return json.loads((report / "ckl.json").read_text())


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A summary of five starts and an edit of the last."""

    out = tmp_path_factory.mktemp("many")
    last = {"revision": "step-000100", "start": "a4"}
    grown = [(1 + 0.1 * n**2, 20.0 + n) for n in range(5)]
    return summarise(
        arms_from(*series(out, grown), make_run(out / "up", edit=UP, unedited=True, **last))
    )


def series(out, grown, **given):
    """Starts of rising age, with a gain and a knowledge entropy each."""
    return [
        make_run(
            *(out / f"start-{n}",),
            **{"revision": f"step-{25 * n:06d}", "start": f"a{n}", "gain": gain, "entropy": h},
            **given,
        )
        for n, (gain, h) in enumerate(grown)
    ]


def one(table, **where):
    """The only row with these values; a seed of None is the mean over seeds."""
    for name, value in where.items():
        table = table[table[name].isna() if value is None else table[name] == value]
    assert len(table) == 1
    return table.iloc[0]


ALL = {"seed": None, "kind": "all"}
INJECTED = {"moment": "last injection", "exposure": "met", **ALL}


def test_runs_that_differ_in_their_seed_are_an_arm(folders):
    arms = arms_from(*folders[::-1])
    assert [(arm.name, arm.seeds) for arm in arms] == [("up", (0, 1, 2)), ("unedited", (0, 1, 2))]
    assert arms[0].moments == {"start": 0, "last injection": 20, "10 steps later": 30, "end": 60}
    assert arms[0].base_key == arms[1].base_key
    assert arms_from(folders[3])[0].name == "tiny at step 200, up, ratio 0.5, factor 2"


def test_how_often_a_run_is_evaluated_parts_no_arm_from_its_base(folders, tmp_path):
    seldom = make_run(tmp_path / "up", edit={**UP, "generate_every": 16}, unedited=True)
    edited, plain = arms_from(seldom, folders[0])
    assert (edited.name, plain.name) == ("up", "unedited")
    assert base_of(edited, [edited, plain], None) is plain
    names = [arm.name for arm in arms_from(seldom, folders[3])]
    assert names == ["generate every 16", "generate every None"]


def test_k_and_a_by_exposure_and_seed(summary):
    # Five of ten passages gain 2, five gain 1: 1.5 of 6.
    a = one(summary["acquired"], arm="unedited", **INJECTED)
    assert (a["before"], a["after"], a["value"]) == pytest.approx((-6, -4.5, 0.25))
    assert a["low"] < 0.25 < a["high"]
    assert (a["passages"], a["probes"]) == (10, 30)
    seeds = summary["acquired"].query("arm == 'unedited' and moment == 'last injection'")
    seeds = seeds[(seeds["exposure"] == "met") & seeds["seed"].notna()]
    assert seeds["value"].tolist() == pytest.approx([0.225, 0.25, 0.275])
    once = one(summary["knowledge"], arm="unedited", **{**INJECTED, "exposure": "once"})
    assert once["score"] == pytest.approx(-5)
    # Forty steps later 1 - 0.25 log10(40) and 1 - 0.5 log10(40) of the gains are left.
    end = one(summary["acquired"], arm="unedited", **{**INJECTED, "moment": "end"})
    left = 0.5 * 2 * (1 - 0.25 * np.log10(40)) + 0.5 * (1 - 0.5 * np.log10(40))
    assert end["value"] == pytest.approx(left / 6)
    where = {"moment": "end", "exposure": "held_out"}
    held_out = one(summary["acquired"], arm="unedited", **{**INJECTED, **where})
    assert held_out["value"] == pytest.approx(0.1 / 8)
    # The edit costs 1 nat, encounters give 0.75.
    for against, value in (("start", 0.75 / 7), ("unedited start", -0.25 / 6)):
        found = one(summary["acquired"], arm="up", against=against, **INJECTED)
        assert found["value"] == pytest.approx(value)
    # Gains do not vary within an exposure, and exposures are as large in every draw.
    row = one(summary["beyond"], arm="unedited", moment="last injection")
    numbers = tuple(row[["met", "held_out", "value", "low", "high"]])
    assert numbers == pytest.approx((1.5, 0.1, 1.4, 1.4, 1.4))


def test_tables_agree_with_the_library_functions(arms, summary):
    """The same K, A and intervals as from tables of probes, computed one by one."""

    arm = arms[1]
    before, after = arm.probes("unedited start"), arm.probes("end")
    met = before["exposure"] != "held_out"
    for exposure, kind, rows in [
        ("met", "all", met),
        ("once", "semantic", (before["exposure"] == "once") & (before["kind"] == "semantic")),
        ("held_out", "all", ~met),
    ]:
        where = {"arm": "up", "seed": None, "moment": "end", "exposure": exposure, "kind": kind}
        change = analysis.acquisition(before[rows], after[rows])
        found = one(summary["acquired"], against="unedited start", **where)
        numbers = (change.value, *change.interval[:2])
        assert tuple(found[["value", "low", "high"]]) == pytest.approx(numbers)
        score = analysis.knowledge_scores(after[rows], by=()).iloc[0]
        names = ["score", "low", "high"]
        found = one(summary["knowledge"], **where)
        assert tuple(found[names]) == pytest.approx(tuple(score[names]))


def test_f_is_tested_where_a_task_stands_above_guessing(summary):
    above = summary["chances"].set_index(["arm", "moment", "task"])["above"]
    assert above["unedited", "start", "sciq"]
    assert not above["unedited", "start", "piqa"]
    where = {"seed": None, "moment": "end", "against": "start"}
    f = one(summary["forgotten"], arm="unedited", task="P", **where)
    assert (f["before"], f["after"], f["value"]) == pytest.approx((0.625, 0.5, 0.2))
    assert f["low"] < 0.2 < f["high"]
    assert pd.isna(f["reason"])
    piqa = one(summary["forgotten"], arm="unedited", task="piqa", **where)
    assert np.isnan(piqa["value"])
    assert "piqa 50.0%" in piqa["reason"]
    # 11 of 40 right, of four choices each: 27.5 percent is not above 25.
    f = one(summary["forgotten"], arm="up", task="P", **where)
    assert np.isnan(f["value"])
    assert "guessing 25.0%; piqa 50.0%" in f["reason"]
    # The level is shared out over the two tasks.
    scores = np.repeat([1.0, 0.0], [30, 10])
    expected = ClusterBootstrap(level=0.975).mean_interval(scores)
    row = one(summary["chances"], arm="unedited", task="sciq")
    assert (row["low"], row["high"]) == pytest.approx(expected[:2], abs=0.01)


def test_text_facts_and_entropies_move_as_planted(summary):
    moved = summary["changes"].query("arm == 'unedited' and moment == 'end'").set_index("measure")
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
    curves = summary["curves"].query("arm == 'unedited' and kind == 'all'").set_index("exposure")
    for exposure, slope in (("paraphrase", -0.25), ("duplication", -0.25), ("once", -0.5)):
        row = curves.loc[exposure]
        numbers = tuple(row[["slope", "threshold", "r_squared"]])
        assert numbers == pytest.approx((slope, 10 ** (1 / -slope), 1))
        assert (row["window"], row["every"], row["first"]) == (10, 1, 1)
    gains = summary["gains"].query("arm == 'unedited' and kind == 'all'")
    places = [("paraphrase", 1), ("paraphrase", 2), ("duplication", 1), ("duplication", 2)]
    gains = gains.set_index(["exposure", "encounter"])["gain"].to_dict()
    assert gains == pytest.approx(dict.fromkeys([*places, ("once", 1)], 1))
    assert summary.more == {"without_curve": {}}


def test_a_probe_counts_by_what_it_gained():
    """One of two probes gains 3 and keeps 3, 3, 2.5; the other gains 1 and keeps half of it."""

    log_probs = np.array([[-9, -6, -6, -6, -6, -6.5], [-4, -3, -3, -3.5, -3.5, -3.5]])
    items = pd.DataFrame({"passage": [0, 1]})
    found = MetProbes(items, log_probs, np.zeros((2, 1), dtype=np.int64))
    grid = LookGrid(every=2, looks=6, window=2)
    for bootstrap in (DEFAULT_BOOTSTRAP, None):
        curve, steps = curve_of([found], grid, bootstrap)
        # Offsets are from the maxima, both at the first evaluation; one is two steps.
        assert steps.tolist() == [2, 4, 6]
        assert curve.retainability.tolist() == [4 / 4, 3.5 / 4, 3.5 / 4]
        assert curve.slope < 0


@pytest.mark.parametrize(("every", "found"), [(4, None), (5, None), (6, None), (7, "found 1")])
def test_scores_may_be_some_steps_apart(tmp_path, every, found):
    arms = arms_from(make_run(tmp_path / "a", probe_every=every))
    gains, curves, _, reasons = curve_tables(arms)
    assert bool(reasons) == bool(found)
    assert found is None or found in reasons[arms[0].name]
    if every == 4:
        # Probes are scored at 8, 12, 20: update 20 is the last encounter's, and is scored at once.
        paraphrase = gains.query("exposure == 'paraphrase' and kind == 'all'")["gain"].tolist()
        assert paraphrase == pytest.approx([1.0, 1.0])
        assert one(curves, exposure="once", kind="all")["window"] == 8


def test_an_arm_is_compared_with_its_base_passage_by_passage(summary):
    rows = summary["comparisons"].set_index("measure")
    row = rows.loc["K of passages met, last injection"]
    # Half of the gain, and the nat that the edit cost: five differ by 2, five by 1.5.
    assert row["effect"] == pytest.approx(-1.75)
    assert row["base"] == "unedited"
    assert row["low"] < -1.75 < row["high"]
    assert (row["clusters"], row["of"], row["seeds"]) == (10, "passages", 3)
    # All ten are lower: two of 2^10 ways are as extreme.
    assert row["p_value"] == pytest.approx(2 / 2**10)
    effects = rows["effect"].to_dict()
    assert effects["K of held-out passages, last injection"] == pytest.approx(-1)
    gain = "gain of passages met since the start, last injection"
    assert effects[gain] == pytest.approx(-0.75)
    # sciq falls from 20 of 40 to 9 of 40, piqa stays: half of the difference.
    assert effects["P, end"] == pytest.approx(-11 / 40 / 2)
    assert effects["log-probability of earlier facts, end"] == 0


def test_p_values_are_adjusted_over_the_arms_of_a_measure(folders, tmp_path):
    control = {**UP, "control": Control.RANDOM_ROWS}
    other = make_run(tmp_path / "same", edit=control, gain=0.9)
    found = comparison_table(arms_from(folders[0], folders[3], other))
    found = found[found["measure"] == "K of passages met, last injection"].set_index("arm")
    assert found["p_value"].tolist() == pytest.approx([2 / 2**10, 1])
    assert found["p_holm"].tolist() == pytest.approx([4 / 2**10, 1])
    assert found.loc["random rows", "effect"] == pytest.approx(0)


def test_arms_behind_hooks_say_so_and_an_unedited_arm_has_no_form(tmp_path):
    runs = [
        make_run(tmp_path / f"{form}-{seed}", seed=seed, edit={**edit, "edit_form": form})
        for seed, (form, edit) in enumerate(product(EditForm, ({}, UP)))
    ]
    arms = {arm.name: arm.seeds for arm in arms_from(*runs)}
    assert arms == {"unedited": (0, 2), "up": (1,), "up, as hooks": (3,)}


def test_over_a_trajectory_ranks_and_differences_are_correlated(tmp_path):
    gains, entropies = [1.0, 1.3, 1.1, 1.6, 1.5], [20.0, 21.0, 20.5, 20.25, 22.0]
    summary = summarise(arms_from(*series(tmp_path, zip(gains, entropies, strict=True))[::-1]))
    assert [arm.name for arm in summary.arms] == [f"step {step}" for step in (100, 75, 50, 25, 0)]
    points = summary["trajectory"]
    assert points["step"].tolist() == [0, 25, 50, 75, 100]
    assert points["knowledge entropy"].tolist() == entropies
    assert points["A, last injection"].tolist() == pytest.approx([gain * 0.25 for gain in gains])
    row = one(summary["correlations"], entropy="knowledge entropy", outcome="A, last injection")
    assert row["rho"] == pytest.approx(spearmanr(entropies, gains).statistic)
    steps = spearmanr(np.diff(entropies), np.diff(gains)).statistic
    assert row["rho_differences"] == pytest.approx(steps)
    assert row["low"] < row["rho"] < row["high"]


def test_starts_that_only_guess_leave_f_out_of_a_trajectory(tmp_path):
    grown = [(1.0 + n / 10, 20.0) for n in range(4)]
    summary = summarise(arms_from(*series(tmp_path, grown, right=(10, 9))))
    assert summary["trajectory"]["F, end"].isna().all()
    assert "F, end" not in set(summary["correlations"]["outcome"])
    assert len(summary["correlations"])


def test_an_outcome_that_falls_evenly_has_no_correlation_of_differences():
    """0.3, 0.4 ... differ by steps that are alike but for rounding."""

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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"done": False}, r"is not over, found 60 of 60 steps; go on with it, with --resume"),
        ({"command": "training.pretrain"}, r"is a run of training.pretrain, not of training.ckl"),
        ({"drop": "lags"}, r"was written by another version, found no setting 'lags'"),
        ({"unseen": True}, r"scored no probes at step 20, .* 0 among --lags"),
    ],
)
def test_runs_that_cannot_be_reported_are_refused(tmp_path, change, message):
    run = make_run(tmp_path / "run", done=change.get("done", True))
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["command"] = change.get("command", manifest["command"])
    manifest["configuration"].pop(change.get("drop", "nothing"), None)
    (run / "manifest.json").write_text(json.dumps(manifest))
    lines = (run / "records.jsonl").read_text().splitlines(keepends=True)
    last = '{"record": "scores", "step": 20, "items": "knowledge"' if change.get("unseen") else "no"
    (run / "records.jsonl").write_text("".join(x for x in lines if not x.startswith(last)))
    with pytest.raises(ValueError, match=message):
        arms_from(run)


def test_the_same_run_twice_no_run_and_other_items_are_refused(folders, tmp_path):
    shutil.copytree(folders[0], tmp_path / "copy")
    with pytest.raises(ValueError, match="are the same run; give one of them"):
        arms_from(folders[0], tmp_path / "copy")
    with pytest.raises(ValueError, match="needs at least one run, found none"):
        arms_from()
    other = make_run(tmp_path / "other", seed=1, gain=0.9)
    rows = (other / "items/knowledge.jsonl").read_text().splitlines(keepends=True)
    (other / "items/knowledge.jsonl").write_text("".join([*rows[3:], *rows[:3]]))
    with pytest.raises(ValueError, match="have the same settings but other items; report them one"):
        score_tables(arms_from(folders[0], other))


def test_findings_say_what_was_planted(content):
    text = "\n".join(content["findings"]).replace("\N{MINUS SIGN}", "-")
    for words in [
        # 1.5 of 6 nats; at the end 0.92 of 6, since gains fade by a quarter or a half a decade.
        "-6.000 to -4.500 nats, A = 25.0%",
        "-7.000 to -6.250 nats, A = 10.7%",
        "(seeds 22.5% to 27.5%)",
        "against the unedited start; at the end A = ",
        "gained +0.100 nats, passages met +1.500;",
        "is +1.400 [+1.400, +1.400] nats.",
        "at the end, 40 steps later, 46.6% of the gain",
        "P went from 62.5% to 50.0% at the end, F = 20.0%",
        "Up: F is not tested; at the start no task is answered better than by guessing: sciq 27.5%",
        "from start to end: unedited 2.000 to 2.250; up 2.000 to",
        "guessing among the values offered recalls 25.0%), from start to end: unedited 50.0% to 25.0%",
        "of once passages run from -0.500 to -0.500 per decade",
        "Up: knowledge entropy 20.000 unedited, 20.000 nats at the start, 19.000 at the end.",
        "In K of passages met, last injection, 1 of 1 arms differ from their base beyond chance "
        "over passages (Holm, 5.0%): up by -1.750",
    ]:
        assert words in text
    assert "not beyond chance" not in text


def test_a_single_arm_has_curves_of_its_own(folders):
    text = "\n".join(findings(summarise(arms_from(folders[1])))).replace("\N{MINUS SIGN}", "-")
    assert "changes by -0.500 [-0.500, -0.500] per decade of steps (1 to 31 steps after" in text
    assert "reaches zero after 100 steps, beyond what was seen." in text


def test_of_many_arms_the_lowest_and_the_highest_are_named(many):
    text = "\n".join(findings(many))
    for words in [
        "runs from 25.0% (step 0, unedited) to 65.0% (step 100, unedited), over 6 arms.",
        "Over 5 starts (tiny, unedited), A right after the last injection and knowledge entropy",
        "a rank correlation of +1.00 [",
        "F at the end is 20.0% in all 6 arms.",
    ]:
        assert words in text
    assert re.search(r"Facts recalled .*: the change from start to end is .25.0 points", text)


def test_a_document_names_everything_but_the_machine(report, folders):
    text = (report / "ckl.md").read_text()
    assert str(folders[0].parent) not in text
    assert "/home/someone" not in text
    for words in [
        "    python -m analysis.ckl_report plain-0 plain-1 plain-2 up-0 up-1 up-2 --out out",
        "- starts: tiny at step 200 (weights abababababab)",
        "- trained on: new.jsonl, 38 documents in 55 rows of 43 (rows cdcdcdcdcdcd)",
        "- knowledge: generated, 13 passages and 39 probes (text efefefefefef)",
        "- versions: mnemoscope ",
        "python -m training.ckl --recipe smoke --revision step-000200 --steps 60 ",
        "--resuscitation-ratio 0.5 --resuscitation-factor 2.0",
        "--probe-every 1 --lags 0 10 --seed 1",
        "not tested",
    ]:
        assert words in text
    assert all(line.endswith("|") for line in text.splitlines() if line.startswith("|"))


def test_numbers_are_in_json_and_in_csv(report, content):
    assert {path.name for path in report.iterdir()} == {"ckl.md", "ckl.html", "ckl.json", "tables"}
    table = pd.read_csv(report / "tables" / "acquired.csv")
    assert len(content["tables"]["acquired"]) == len(table)
    assert {path.stem for path in (report / "tables").iterdir()} == set(content["tables"])
    assert content["tables"]["forgotten"][0]["value"] == pytest.approx(0.2)
    assert {row["value"] for row in content["tables"]["forgotten"] if row["reason"]} == {None}


def test_a_base_can_be_named(folders, tmp_path):
    out = tmp_path / "report"
    runs = [str(folder) for folder in folders]
    assert main([*runs[:2], "--base", runs[4], "--out", str(out)]) == 0
    found = json.loads((out / "ckl.json").read_text())["tables"]["comparisons"]
    assert {(row["arm"], row["base"], row["seeds"]) for row in found} == {("unedited", "up", 1)}
    assert found[0]["effect"] == pytest.approx(1.75)


def test_every_section_has_its_figures(many):
    plots = {section.heading: plots_of(section) for section in sections(many)}
    assert plots == {
        "What was acquired": ["passages met", "held-out passages", "last injection", "end"],
        "Over the trajectory": ["knowledge entropy", *(["A, last injection", "A, end"] * 2)],
        "Arms against their bases": [None],
        "What was kept": ["bits per byte, general-heldout"],
        "How gains fade": ["paraphrase", "duplication", "once"],
    }


def test_figures_show_numbers_in_their_places(many):
    points = over_pretraining(
        many["trajectory"], "step", "A, last injection", colours_of(many.names)
    ).data[0]
    assert list(points.x) == [0, 25, 50, 75, 100]
    assert list(points.y) == pytest.approx([0.25 * (1 + 0.1 * n**2) for n in range(5)])
    scores = scores_over_steps(many.arms, "met")
    at = scores[(scores["arm"] == "step 0, unedited") & scores["step"].isin([0, 20])]
    assert at["score"].tolist() == pytest.approx([-6, -4.5])
    assert scores_over_steps(many.arms, "held_out")["score"].iloc[0] == pytest.approx(-8)
