"""`python -m analysis.remix_report`: sentences, files, page and refusals, on planted runs."""

import json

import pandas as pd
import pytest

from tests.analysis.remix_runs import arms_from, make_run, study
from tests.analysis.test_document import plots_of


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Plain, replay and both, of two seeds each; the last is asked what it knew before."""
    return study(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def report(folders, tmp_path_factory):
    """The folder of a report."""
    from analysis.remix_report.command import main

    out = tmp_path_factory.mktemp("report") / "out"
    assert main([*map(str, folders), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def content(report):
    return json.loads((report / "remix.json").read_text())


def findings_of(*folders):
    from analysis.remix_report.findings import findings
    from analysis.remix_report.summary import summarise

    return plain("\n".join(findings(summarise(arms_from(*folders)))))


def plain(text):
    return text.replace("\N{MINUS SIGN}", "-")


def test_sentences_say_what_was_planted(content):
    text = plain("\n".join(content["findings"]))
    for sentence in [
        "No mixing: of the items of stage A, the share that is right is 92.3% [66.7%, 98.6%] after "
        "A, 11.5% [",
        "after B (seeds 7.7% to 15.4%).",
        "In what is right of A after B, 1 of 2 arms differ from their base beyond chance over "
        "items (Holm, 5.0%): random at A, generic at B by +73.1 points [",
        "] (beyond what seeds do).",
        "The share of B that is right after B is 81.8% in all 3 arms.",
        "The change of general-heldout, bits per byte since the start runs from +0.500 (no mixing) "
        "to +1.500 (random at A, generic at B), over 3 arms.",
        "What came back beyond items never taught of the items of A that were not taught again, "
        "while others were, runs from -4.3 points (random at A, generic at B) to +15.7 points (no "
        "mixing), over 2 arms.",
        # Three arms, two seeds, four looks.
        "In stage B, a small step that learns B makes the loss on A larger in 24 of 24 looks, "
        "smaller in 0.",
    ]:
        assert sentence in text
    assert "cap" not in text


def test_caps_and_earlier_knowledge_are_told(tmp_path):
    text = findings_of(make_run(tmp_path / "a", status="cap reached", familiar=3, spill=0.3))
    assert (
        "Stage B ended at its cap, with its rule not fulfilled, in 1 of 1 runs (exact match of B "
        "of 1 (0.818 at last))."
    ) in text
    assert "of familiar, 85.7% at the start and 42.9% [" in text
    assert "Of the items of stage B, 81.8% [" in text
    assert "of the others +15.7 points came back beyond items never taught." in text
    assert "General-heldout, bits per byte changed by +0.500 since the start." in text
    assert "seeds" not in text


def test_of_many_arms_the_lowest_and_the_highest_are_told(tmp_path):
    words = [
        make_run(
            *(tmp_path / str(n),),
            **{"mix": ("random", "none"), "mix_words": n, "kept": n, "gradients": False},
        )
        for n in range(1, 6)
    ]
    text = findings_of(*words)
    assert (
        "The share of A that is right after B runs from 7.7% (random at A, mix words 1) to 38.5% "
        "(random at A, mix words 5), over 5 arms."
    ) in text
    assert "The share of A that is right after A is 92.3% in all 5 arms." in text
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
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.endswith("|")


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
    from analysis.remix_report.command import main

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


def test_figures_show_numbers_in_their_places(folders):
    from analysis.arm_figures import arm_colours, by_layer, over_stages
    from analysis.remix_curves import recall_curves

    arms = arms_from(*folders[:1], *folders[3:4])
    curve = recall_curves(arms)
    curve = curve[(curve["items"] == "A") & (curve["measure"] == "share right")]
    figure = over_stages(curve, arm_colours(["no mixing"]), ("A", "B"), "share", band=True)
    band, line = figure.data
    assert list(line.x) == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1, 4 / 3, 5 / 3, 2])
    assert line.y[-1] == pytest.approx(1.5 / 13)
    # Out along the most of the seeds, back along the least.
    assert (band.y[8], band.y[9]) == pytest.approx((2 / 13, 1 / 13))
    assert figure.layout.shapes[0].x0 == 1
    assert list(figure.layout.xaxis.ticktext) == ["A", "B"]
    table = pd.DataFrame({"arm": "no mixing", "layer": [0, 1, 2], "value": [0.5, 0.25, 1.0]})
    drawn = by_layer(table, arm_colours(["no mixing"]), "drift")
    assert list(drawn.data[0].y) == [0, 1, 2]
    # Layer 0 is at the bottom.
    assert drawn.layout.yaxis.range[0] < drawn.layout.yaxis.range[1]


def test_every_section_has_its_figures(folders):
    from analysis.remix_report.report import remix_report
    from analysis.remix_report.summary import summarise

    report = remix_report(summarise(arms_from(*folders)), "python -m analysis.remix_report")
    plots = {section.heading: len(plots_of(section)) for section in report.sections}
    # A and B kept, two curves; three pairs of gradients; drift in two stages.
    assert plots == {
        "What was kept": 2 + 2,
        "Loss by source": 1,
        "Gradients": 3,
        "Weight drift": 2,
        "Relearning": 1,
        "Text and entropies": 1,
        "Provenance": 0,
    }
