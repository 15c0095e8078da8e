"""`python -m analysis.ckl_report`: sentences, files, page and refusals, on planted runs."""

import json

import pandas as pd
import pytest

from tests.analysis.ckl_runs import UP, arms_from, make_run
from tests.analysis.test_document import plots_of

FILES = {"ckl.md", "ckl.html", "ckl.json", "tables"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two seeds unedited, two edited ones that gain half and guess at the tasks."""
    out = tmp_path_factory.mktemp("runs")
    edited = {"edit": UP, "gain": 0.5, "shift": -1.0, "unedited": True, "right": (11, 9)}
    return [
        *(make_run(out / f"plain-{seed}", seed=seed) for seed in range(2)),
        *(make_run(out / f"up-{seed}", seed=seed, **edited) for seed in range(2)),
    ]


@pytest.fixture(scope="module")
def report(folders, tmp_path_factory):
    """The folder of a report."""
    from analysis.ckl_report.command import main

    out = tmp_path_factory.mktemp("report") / "out"
    assert main([*map(str, folders), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def content(report):
    return json.loads((report / "ckl.json").read_text())


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A summary of five starts and an edit of the last."""
    from analysis.ckl_report.summary import summarise

    out = tmp_path_factory.mktemp("many")
    starts = [
        make_run(
            *(out / f"start-{place}",),
            **{"revision": f"step-{25 * place:06d}", "start": f"a{place}"},
            **{"gain": 1 + 0.1 * place**2, "entropy": 20.0 + place},
        )
        for place in range(5)
    ]
    last = {"revision": "step-000100", "start": "a4"}
    return summarise(arms_from(*starts, make_run(out / "up", edit=UP, unedited=True, **last)))


def test_sentences_say_what_was_planted(content):
    text = "\n".join(content["findings"]).replace("\N{MINUS SIGN}", "-")
    for sentence in [
        # 1.5 of 6 nats; at the end 0.92 of 6, since gains fade by a quarter or a half a decade.
        "Unedited: right after the last injection, K of the passages that were met went from "
        "-6.000 to -4.500 nats, A = 25.0%",
        "Up: right after the last injection, K of the passages that were met went from -7.000 to "
        "-6.250 nats, A = 10.7%",
        "against the unedited start; at the end A = ",
        "Unedited: held-out passages, which were never met, gained +0.100 nats, passages met "
        "+1.500; the difference, which meeting them made, is +1.400 [+1.400, +1.400] nats.",
        "Unedited: at the end, 40 steps later, 46.6% of the gain of passages met is there.",
        "Unedited: P went from 62.5% to 50.0% at the end, F = 20.0%",
        "Up: F is not tested; at the start no task is answered better than by guessing: sciq 27.5%",
        "Bits per byte, general-heldout, from start to end: unedited 2.000 to 2.250; up 2.000 to",
        "Facts recalled (guessing among the values offered recalls 25.0%), from start to end: unedited 50.0% to 25.0%",
        "Slopes of the forgetting curves of once passages run from -0.500 to -0.500 per decade",
        "Up: knowledge entropy 20.000 unedited, 20.000 nats at the start, 19.000 at the end.",
        "In K of passages met, last injection, 1 of 1 arms differ from their base beyond chance "
        "over passages (Holm, 5.0%): up by -1.750",
    ]:
        assert sentence in text
    assert "which chance may do" not in text


def test_curves_of_one_arm_are_told_one_by_one(folders):
    from analysis.ckl_report.findings import kept_findings
    from analysis.ckl_report.summary import summarise

    text = "\n".join(kept_findings(summarise(arms_from(folders[0])))).replace("\N{MINUS SIGN}", "-")
    assert (
        "Tiny at step 200, unedited, once passages: the share of what encounters gained that is "
        "left changes by -0.500 [-0.500, -0.500] per decade of steps (1 to 31 steps after the last "
        "maximum, R\N{SUPERSCRIPT TWO} 1.00), and reaches zero after 100 steps, beyond what was seen."
    ) in text


def test_of_many_arms_the_lowest_and_the_highest_are_told(many):
    from analysis.ckl_report.findings import findings

    text = "\n".join(findings(many))
    assert (
        "Facts recalled (guessing among the values offered recalls 25.0%): the change from start to end is "
        in text
    )
    assert "25.0 points" in text
    assert (
        "A right after the last injection runs from 25.0% (step 0, unedited) to 65.0% (step 100, "
        "unedited), over 6 arms."
    ) in text
    assert "Over 5 starts (tiny, unedited), A right" in text
    assert "A right after the last injection and knowledge entropy of the start have a" in text
    assert "a rank correlation of +1.00 [" in text
    assert "F at the end is 20.0% in all 6 arms." in text


def test_a_document_names_everything_but_the_machine(report, folders):
    text = (report / "ckl.md").read_text()
    assert str(folders[0].parent) not in text
    assert "/home/someone" not in text
    for words in [
        "    python -m analysis.ckl_report plain-0 plain-1 up-0 up-1 --out out",
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
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.endswith("|")


def test_numbers_are_in_json_and_in_csv(report, content):
    assert {path.name for path in report.iterdir()} == FILES
    rows = content["tables"]["acquired"]
    table = pd.read_csv(report / "tables" / "acquired.csv")
    assert len(rows) == len(table)
    assert {path.stem for path in (report / "tables").iterdir()} == set(content["tables"])
    assert content["tables"]["forgotten"][0]["value"] == pytest.approx(0.2)
    assert {row["value"] for row in content["tables"]["forgotten"] if row["reason"]} == {None}


def test_a_base_can_be_named(folders, tmp_path):
    from analysis.ckl_report.command import main

    out = tmp_path / "report"
    runs = [str(folder) for folder in folders]
    assert main([*runs[:2], "--base", runs[2], "--out", str(out)]) == 0
    found = json.loads((out / "ckl.json").read_text())["tables"]["comparisons"]
    assert {(row["arm"], row["base"], row["seeds"]) for row in found} == {("unedited", "up", 1)}
    assert found[0]["effect"] == pytest.approx(1.75)


def test_every_section_has_its_figures(many):
    from analysis.ckl_report.report import ckl_report

    report = ckl_report(many, "python -m analysis.ckl_report")
    plots = {section.heading: plots_of(section) for section in report.sections}
    assert plots == {
        "What was acquired": ["passages met", "held-out passages", "last injection", "end"],
        "Over the trajectory": [
            "knowledge entropy",
            *(["A, last injection", "A, end"] * 2),
        ],
        "Arms against their bases": [None],
        "What was kept": ["bits per byte, general-heldout"],
        "How gains fade": ["paraphrase", "duplication", "once"],
        "Provenance": [],
    }


def test_figures_show_numbers_in_their_places(many):
    from analysis.arm_figures import arm_colours, dots_by_arm, over_pretraining
    from analysis.ckl_report.report import scores_over_steps

    table = pd.DataFrame(
        {"arm": ["b", "a"], "value": [0.25, -0.5], "low": [0.2, float("nan")], "high": [0.4, 0.0]}
    )
    figure = dots_by_arm(table, arm_colours(["a", "b"]), "A", form=".1%")
    assert [(trace.x[0], trace.y[0]) for trace in figure.data] == [(0.25, 0), (-0.5, 1)]
    assert figure.data[0].error_x.array[0] == pytest.approx(0.15)
    assert figure.data[0].error_x.arrayminus[0] == pytest.approx(0.05)
    assert figure.data[1].error_x.array is None
    # The first arm is at the top.
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]
    colours = arm_colours([arm.name for arm in many.arms])
    assert len(set(colours.values())) == 6
    points = over_pretraining(many.trajectory, "A, last injection", colours).data[0]
    assert list(points.x) == [0, 25, 50, 75, 100]
    assert list(points.y) == pytest.approx([0.25 * (1 + 0.1 * n**2) for n in range(5)])
    scores = scores_over_steps(many, held_out=False)
    at = scores[(scores["arm"] == "step 0, unedited") & scores["step"].isin([0, 20])]
    assert at["score"].tolist() == pytest.approx([-6, -4.5])
    held_out = scores_over_steps(many, held_out=True)
    assert held_out["score"].iloc[0] == pytest.approx(-8)
