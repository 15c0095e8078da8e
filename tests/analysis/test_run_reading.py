"""Reading runs: planted scores come back as tables, and what is no run is refused in one line."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import analysis
from analysis.observations import ItemScores, Observations
from tests.analysis.ckl_runs import EXPOSURES, make_run, probe_scores


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "one", unedited=True, shift=-1.0)


@pytest.fixture(scope="module")
def run(folder):
    return analysis.read_run(folder)


def test_probes_are_in_the_layout_that_the_metrics_take(run):
    table = run.probes
    assert len(table) == 61 * 39
    at_20 = table[table["step"] == 20]
    assert at_20["log_prob"].tolist() == [score - 1 for score in probe_scores(20, 1.0)]
    assert [row.exposure for row in at_20.itertuples()][::3] == list(EXPOSURES)
    pd.testing.assert_frame_equal(
        run.probe_scores.at(20)[["passage", "probe", "log_prob"]],
        at_20[["passage", "probe", "log_prob"]].reset_index(drop=True),
    )
    met = at_20["exposure"] != "held_out"
    start = table[table["step"] == 0]
    # By hand: ten passages at -7 on average, five of them gain 2 and five gain 1.
    assert analysis.acquisition(start[met.to_numpy()], at_20[met]).value == pytest.approx(1.5 / 7)


def test_questions_are_answered_by_the_task_s_own_metric(run):
    """The right choice of piqa is the less likely one, and the likelier one per character."""

    tasks = run.tasks
    start, end = (tasks[tasks["step"] == step] for step in (0, 60))
    assert start.groupby("task")["score"].sum().to_dict() == {"piqa": 10, "sciq": 30}
    assert end.groupby("task")["score"].sum().to_dict() == {"piqa": 10, "sciq": 20}
    # (0.75 + 0.5) / 2 falls to (0.5 + 0.5) / 2.
    assert analysis.forgetting(start, end).value == pytest.approx(0.2)
    recorded = run.task_scores.set_index(["step", "task"])["score"]
    assert recorded[0, "sciq"] == 0.75


def test_of_equal_choices_the_first_is_taken(run):
    empty = {"perplexities": pd.DataFrame(), "entropies": pd.DataFrame(), "neurons": pd.DataFrame()}
    items = pd.DataFrame(
        {
            "question": ["a", "a", "b", "b", "b"],
            "choice": [0, 1, 0, 1, 2],
            "right": [False, True, True, False, False],
            "characters": 1,
        }
    )
    scores = ItemScores(items, np.array([3]), np.array([[-1.0, -1.0, -2.0, -2.0, -5.0]]))
    names = pd.DataFrame({"task": ["sciq"], "metric": ["acc"]})
    seen = Observations(scores={"sciq": scores}, task_scores=names, **empty)
    assert seen.tasks.to_dict("list") == {
        "task": ["sciq"] * 2,
        "item": ["a", "b"],
        "score": [0.0, 1.0],
        "step": [3, 3],
    }


def test_everything_else_is_a_table_by_step(run):
    assert run.steps["step"].tolist() == list(range(1, 61))
    assert run.last_step == 60
    assert run.injections.groupby("step")["passage"].apply(list).to_dict()[9] == [0, 1, 2, 3, 4]
    assert run.perplexities["bits_per_byte"].tolist() == [2.0, 2.25, 2.25, 2.25]
    totals = run.entropies[run.entropies["layer"].isna() & (run.entropies["kind"] == "knowledge")]
    assert totals[["entropy", "low", "high"]].to_numpy().tolist()[1] == [19.0, 19.0, 21.0]
    assert len(run.entropies) == 4 * 4
    assert run.neurons["dormant_share"].tolist() == [0.25, 0.75] * 4
    assert run.fact_scores.at(0)["log_prob"].tolist() == [-2.0] * 14
    chances = run.task_scores.set_index("task")["chance"].to_dict()
    assert chances == {"cloze": 0.25, "sciq": 0.25, "piqa": 0.5}


def test_the_unedited_start_is_read_beside_the_run(run, tmp_path):
    start, unedited = run.probe_scores.at(0), run.unedited.probe_scores.at(0)
    assert (start["log_prob"] - unedited["log_prob"]).unique().tolist() == [-1.0]
    assert analysis.read_run(make_run(tmp_path / "plain")).unedited is None


def test_an_unfinished_run_is_read_and_said_to_be_so(tmp_path):
    run = analysis.read_run(make_run(tmp_path / "half", done=False))
    with pytest.raises(ValueError, match=r"half is not over, found 60 of 60 steps; go on with it"):
        run.require_finished()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda run: (run / "manifest.json").unlink(),
            r"holds no run, found no manifest.json; give",
        ),
        (lambda run: (run / "records.jsonl").write_text(""), r"has no records yet; let it train"),
        (lambda run: (run / "records.jsonl").unlink(), r"holds no records.jsonl; give the dir"),
        (lambda run: (run / "items/sciq.jsonl").unlink(), r"has no items 'sciq', only cloze, kn"),
        (
            lambda run: (run / "items/cloze.jsonl").write_text(json.dumps({"prompt": "one"})),
            r"scored 14 items at step 0, but its list 'cloze' has 1; its files are not of one run",
        ),
    ],
)
def test_what_is_no_run_is_refused_in_one_line(tmp_path, spoil, message):
    run = make_run(tmp_path / "run")
    spoil(run)
    with pytest.raises(ValueError, match=message) as caught:
        analysis.read_run(run)
    assert "\n" not in str(caught.value)


def test_a_step_that_was_not_scored_is_named(run):
    with pytest.raises(ValueError, match=r"not scored at step 61, only at 0, 1, 2, 3, .* 59, 60"):
        run.probe_scores.at(61)


def test_two_lists_of_probes_are_told_apart_by_name(run):
    two = replace(run, scores={"one": run.scores["knowledge"], "two": run.scores["knowledge"]})
    with pytest.raises(
        ValueError, match=r"2 lists of knowledge probes were scored, among one, two"
    ):
        _ = two.probe_scores
