"""The command, from folders of results to the page and its tables."""

import json
import re

import pandas as pd
import pytest

from analysis.report.measured_models import text_changes
from analysis.runs import read_run
from tests.analysis import ckl_runs
from tests.analysis.report import planted
from tests.analysis.report.drawn import plots_in, traces
from tests.analysis.test_entropy_measures import write_sweep

PARTS = ["ledger", "trajectories", "encounters", "memorization", "readable", "provenance"]


def main(*words):
    from analysis.report import main

    return main([str(word) for word in words])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    planted.material(root)
    for seed in (0, 1):
        write_sweep(root / f"sweep-{seed}", model=f"a/model-seed{seed}", shift=float(seed))
    return root


@pytest.fixture(scope="module")
def made(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "all.html"
    assert main(folder, "--out", out, "--title", "A <title>") == 0
    return out


@pytest.fixture(scope="module")
def text(made):
    return made.read_text(encoding="utf-8")


def body_of(text):
    return text[text.index("<main>") : text.index("</main>")]


def test_parts_stand_in_their_order(text):
    body = body_of(text)
    assert re.findall(r'<section id="(\w+)">', body) == PARTS
    assert re.findall(r'<li><a href="#(\w+)">', body) == PARTS
    assert "A &lt;title&gt;" in body


def test_everything_foreign_is_escaped(text):
    assert planted.NASTY not in text
    assert "&lt;script&gt;document.title" in text


def test_every_link_has_an_end(text):
    body = body_of(text)
    ends = set(re.findall(r'id="([^"]+)"', body))
    assert {target for target in re.findall(r'href="#([^"]+)"', body)} <= ends
    assert len(re.findall(r'id="([^"]+)"', body)) == len(ends)


def test_no_figure_is_empty(text):
    assert all(plot["data"] for plot in plots_in(text))


def test_nothing_is_fetched_and_no_folder_is_told(text, folder):
    body = body_of(text)
    assert re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', body) == []
    assert str(folder) not in body
    assert "/home/someone" not in body


def test_runs_that_are_not_over_are_named(text):
    assert "ckl-going" in text
    assert "3 runs of continual knowledge learning" in text


def test_curves_are_those_of_the_runs(text):
    step = [plot for plot in plots_in(text) if plot["layout"].get("meta") == {"axis": "step"}]
    paraphrase, _, once, _ = step
    line = traces(paraphrase, "step 200")[0]
    scores = dict(zip(line["x"], line["y"], strict=True))
    # The mean of the three passages' bases, then one gain, then two.
    assert scores[0] == pytest.approx(-6.25)
    assert scores[10] == pytest.approx(-5.25)
    assert scores[20] == pytest.approx(-4.25)
    maxima = traces(paraphrase, "step 200")[-1]
    assert maxima["x"] == [10, 20]
    assert traces(once, "step 200")[-1]["x"] == [20]


def test_forgetting_fits_are_as_planted(made):
    table = pd.read_csv(made.with_name("all-tables") / "forgetting-curves.csv")
    by_exposure = table[table["arm"] == "step 200"].set_index("exposure")
    # Twice the gain less a quarter a decade, of two encounters; of one, half a decade.
    assert by_exposure["slope"].to_dict() == pytest.approx(
        {"paraphrase": -0.25, "duplication": -0.25, "once": -0.5}
    )
    assert (by_exposure["r_squared"] > 0.999).all()


def test_forgetting_is_told_by_text_where_tasks_are_not_answered(folder, tmp_path):
    runs = [read_run(folder / name) for name in ("ckl-0", "ckl-1", "ckl-late")]
    found = text_changes(runs)
    text = found[found["measure"] == "change of bits per byte, general-heldout"]
    assert sorted(text["x"]) == [200, 200, 1100]
    assert set(text["value"]) == {0.25}


def test_sweeps_of_seeds_are_lines_and_a_mean(text):
    panel = next(
        p for p in plots_in(text) if p["layout"].get("meta") == {"axis": "pretraining step"}
    )
    keys = [trace["meta"]["keys"] for trace in panel["data"]]
    assert keys == [["plants", k] for k in ("seed 0", "seed 1", "mean over seeds")]
    assert panel["data"][2]["y"] == [20.5, 19.5]


def test_tables_lie_beside_the_page(made):
    folder = made.with_name("all-tables")
    names = {file.name for file in folder.iterdir()}
    assert {"ledger.csv", "entropies.csv", "share-right.csv", "lens-items.csv"} <= names
    verdicts = pd.read_csv(folder / "ledger.csv")["verdict"]
    assert sorted(verdicts) == sorted(claim["verdict"] for claim in planted.ledger()["claims"])
    assert all(len(pd.read_csv(folder / name)) for name in names)


def test_the_page_is_the_same_again_and_tables_of_before_are_gone(folder, made):
    old = made.with_name("all-tables") / "old.csv"
    before = made.read_text(encoding="utf-8")
    old.write_text("x\n")
    assert main(folder, "--out", made, "--title", "A <title>") == 0
    assert made.read_text(encoding="utf-8") == before
    assert not old.exists()


def test_provenance_says_what_differs_once(text):
    body = body_of(text)
    part = body[body.index('<section id="provenance">') :]
    assert "Runs of continual knowledge learning: 3" in part
    assert "step-001100" in part
    assert "abababababab" in part
    assert "python -m training.ckl --recipe smoke" in part
    assert "mnemoscope" in part


def test_without_curves_there_are_none(folder, tmp_path):
    out = tmp_path / "few.html"
    assert main(folder, "--out", out, "--curves", 0) == 0
    text = out.read_text(encoding="utf-8")
    assert "Knowledge scores during training" not in text
    assert "What became of stage A" not in text


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["{root}", "--out", "{tmp}/report"], "must end in .html"),
        (["{tmp}", "--out", "{tmp}/report.html"], "holds no result"),
        (["{tmp}/nowhere", "--out", "{tmp}/report.html"], "is no folder"),
        (["{root}", "--out", "{tmp}/mine.html"], "is no page of analysis.report"),
        (["{root}", "--out", "{tmp}/dir.html"], "is a folder"),
        (["{root}", "--out", "{tmp}/report.html", "--curves", "-1"], "must be 0 or more"),
        (["{root}", "--out", "{tmp}/report.html", "--titel", "x"], "did you mean --title"),
        (["--out", "{tmp}/report.html"], ""),
    ],
)
def test_bad_input_is_one_line(folder, tmp_path, capsys, words, answer):
    (tmp_path / "mine.html").write_text("my own page")
    (tmp_path / "dir.html").mkdir()
    filled = [word.format(root=folder, tmp=tmp_path) for word in words]
    assert main(*filled) == 2
    told = capsys.readouterr().err.strip()
    assert answer in told
    assert told.startswith("analysis.report: error: ")
    assert len(told.splitlines()) == 1
    assert not (tmp_path / "report.html").exists()


def test_two_ledgers_are_refused(folder, tmp_path, capsys):
    planted.write_ledger(tmp_path / "other")
    assert main(folder, tmp_path / "other", "--out", tmp_path / "x.html") == 2
    assert "are two ledgers" in capsys.readouterr().err


def test_a_single_run_will_do(tmp_path):
    run = ckl_runs.make_run(tmp_path / "one")
    out = tmp_path / "one.html"
    assert main(run, "--out", out) == 0
    body = body_of(out.read_text(encoding="utf-8"))
    assert re.findall(r'<section id="(\w+)">', body) == ["encounters", "provenance"]


def test_runs_that_are_not_over_are_no_results(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    manifest = {"command": "training.ckl", "configuration": {}, "inputs": {}}
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.json").write_text("{}")
    assert main(tmp_path, "--out", tmp_path / "page.html") == 2
    error = capsys.readouterr().err
    assert "nothing is over of 2 run(s) or sweep(s)" in error
    assert str(tmp_path / "run") in error
    assert not (tmp_path / "page.html").exists()


def test_a_ledger_alone_will_do(tmp_path):
    out = tmp_path / "page.html"
    assert main(planted.write_ledger(tmp_path / "only"), "--out", out) == 0
    body = body_of(out.read_text(encoding="utf-8"))
    assert re.findall(r'<section id="(\w+)">', body) == ["ledger", "provenance"]
    assert json.loads((tmp_path / "only" / "ledger.json").read_text())["tested"] == 4
