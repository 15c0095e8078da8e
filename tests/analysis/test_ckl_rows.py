"""The table `ACQUISITION`, from runs with planted scores: known by hand, and again by loops."""

import json
from dataclasses import replace
from math import log10

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from analysis.measurements import COLUMNS, Table, checked, settings_of
from analysis.run_rows import acquisition_table
from analysis.runs import read_run
from interventions.choices import ResuscitationSite
from tests.analysis.ckl_runs import BASE, EXPOSURES, UP, make_run
from training.options import Control
from training.runs.directory import RunDirectory
from training.runs.records import RecallRecord, as_line

GAIN = 1.0
EDITED = {"edit": UP, "shift": -1.0, "unedited": True, "gain": 0.5, "entropy": 23.0}


def table_of(*runs, **given):
    table = acquisition_table(
        [run if hasattr(run, "manifest") else read_run(run) for run in runs], **given
    )
    assert list(table.columns) == list(COLUMNS[Table.ACQUISITION])
    ready = checked(Table.ACQUISITION, table)
    assert not ready.duplicated([*settings_of(Table.ACQUISITION), "measure"]).any()
    return table


def picked(table, measure, **where):
    """Rows with these values; None where there is none."""
    rows = table[table["measure"] == measure]
    for name, value in where.items():
        rows = rows[rows[name].isna() if value is None else rows[name] == value]
    return rows


def value(table, measure, **where):
    rows = picked(table, measure, **where)
    assert len(rows) == 1, rows
    return rows["value"].iloc[0]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    model = "nowhere/tiny/checkpoints/step-000200"
    return make_run(tmp_path_factory.mktemp("plain") / "run", gain=GAIN, model=model, revision=None)


@pytest.fixture(scope="module")
def table(plain):
    return table_of(plain)


@pytest.fixture(scope="module")
def edited(tmp_path_factory):
    return table_of(make_run(tmp_path_factory.mktemp("edited") / "run", **EDITED))


def test_settings_are_those_of_the_configuration(table, edited):
    expected = {
        **{"batch_size": 12, "learning_rate": 1e-3, "interval": 10, "seed": 0, "step": 200},
        **{"trajectory": "tiny", "novelty": "new"},
        **dict.fromkeys(("site", "ratio", "factor", "control", "temperature", "parameters")),
    }
    assert table[list(expected)].drop_duplicates().to_dict("records") == [expected]
    amounts = {"updates": 60, "encounters": 2, "tokens": 60 * 64}
    assert table[list(amounts)].drop_duplicates().to_dict("records") == [amounts]
    found = edited[["site", "ratio", "factor", "control"]].drop_duplicates().to_dict("records")
    assert found == [{"site": "up", "ratio": 0.5, "factor": 2.0, "control": None}]
    assert set(edited["edit_form"]) == {"weights"}
    assert table["edit_form"].isna().all()


def test_k_of_every_passage(table):
    moments = {"start": 0, "last injection": 20, "10 steps later": 30, "end": 60}
    assert set(picked(table, "K")["moment"]) == set(moments)
    for moment in moments:
        for passage, (base, exposure) in enumerate(zip(BASE, EXPOSURES, strict=True)):
            # Paraphrases and duplicates gain 2 and keep 1 - 0.25 log10 t, others 1 and 0.5.
            after = max(moments[moment] - 20, 1)
            gained = 2 * (1 - 0.25 * log10(after)) if passage < 5 else 1 - 0.5 * log10(after)
            if exposure == "held_out":
                gained = 0.1
            expected = base + gained * (moment != "start")
            where = {"moment": moment, "cluster": f"passage {passage}", "against": None}
            shifts = {"all": 0, "memorization": 0.25, "semantic": 0, "compositional": -0.25}
            for kind, shift in shifts.items():
                in_exposures = {exposure} if exposure == "held_out" else {exposure, "met"}
                rows = picked(table, "K", kind=kind, **where)
                assert set(rows["exposure"]) == in_exposures
                assert rows["value"].tolist() == pytest.approx([expected + shift] * len(rows))


def test_a_and_gains_of_a_run(table, edited):
    where = {"kind": "all", "moment": "last injection", "against": "start", "cluster": None}
    # Five of ten passages gain 2, five gain 1: 1.5 of 6.
    assert value(table, "A", exposure="met", **where) == pytest.approx(0.25)
    assert value(table, "A", exposure="once", **where) == pytest.approx(1 / 6)
    assert value(table, "A", exposure="held_out", **where) == pytest.approx(0.1 / 8)
    semantic = {**where, "kind": "memorization"}
    assert value(table, "A", exposure="met", **semantic) == pytest.approx(1.5 / 5.75)
    assert value(table, "gain of log-probability", exposure="met", **where) == pytest.approx(1.5)
    assert picked(table, "A", against="unedited start").empty
    assert set(picked(table, "A")["moment"]) == {"last injection", "10 steps later", "end"}
    # An edited start is at -7, and gains 0.75; from the unedited one, at -6, it ends up lower.
    assert value(edited, "A", exposure="met", **where) == pytest.approx(0.75 / 7)
    where["against"] = "unedited start"
    assert value(edited, "A", exposure="met", **where) == pytest.approx(-0.25 / 6)
    # Every exposure, met and all kinds: each has its A.
    shown = picked(table, "A", moment="end")[["exposure", "kind"]]
    assert len(shown.drop_duplicates()) == len(shown) == 5 * 4


def test_p_by_question_and_f(table):
    end = picked(table, "P", moment="end", against=None, exposure=None, kind=None)
    # 20 of 40 questions of sciq are right and 10 of 20 of piqa; each task is half of P.
    sciq = end[end["cluster"].str.startswith("sciq")]["value"].tolist()
    assert sorted(set(sciq)) == pytest.approx([0, 60 / 2 / 40])
    assert (len(sciq), len(end), end["cluster"].nunique()) == (40, 60, 60)
    assert end["value"].mean() == pytest.approx(0.5)
    assert picked(table, "P", moment="start")["value"].mean() == pytest.approx(0.625)
    where = {"against": "start", "exposure": None, "kind": None, "cluster": None}
    assert value(table, "F", moment="end", **where) == pytest.approx(0.125 / 0.625)


def test_what_a_start_that_guesses_forgets_is_left_out(tmp_path):
    """Here the unedited start guesses as well as the edited one; below only the edited one."""
    guessing = make_run(tmp_path / "guessing", right=(11, 9), **EDITED)
    found = table_of(guessing)
    assert picked(found, "F").empty
    assert picked(found, "P").empty
    knowing = make_run(tmp_path / "knowing", **EDITED)
    run = replace(read_run(guessing), unedited=read_run(knowing).unedited)
    found = table_of(run)
    assert set(picked(found, "F")["against"]) == {"unedited start"}
    assert value(found, "F", moment="end") == pytest.approx((0.625 - (9 / 40 + 0.5) / 2) / 0.625)
    assert picked(found, "P", moment="end")["value"].mean() == pytest.approx((9 / 40 + 0.5) / 2)


def test_the_entropy_of_both_starts(table, edited, tmp_path):
    where = {"against": None, "exposure": None, "kind": None, "cluster": None}
    for moment in ("unedited start", "start"):
        assert value(table, "knowledge entropy", moment=moment, **where) == 20
        assert value(edited, "knowledge entropy", moment=moment, **where) == 23
    other = read_run(make_run(tmp_path / "other", entropy=19.0))
    run = replace(read_run(make_run(tmp_path / "up", **EDITED)), unedited=other)
    found = table_of(run)
    assert value(found, "knowledge entropy", moment="unedited start") == 19
    assert value(found, "knowledge entropy", moment="start") == 23
    assert len(picked(found, "knowledge entropy")) == 2


def test_what_is_generated(plain, tmp_path):
    """Of 30 probes of met passages none is generated at first, then seven, then four."""
    run = make_run(tmp_path / "run", generate_every=20)
    held_out = [1] * 9
    looks = {0: 0, 20: 7, 40: 30, 60: 4}
    with (run / "records.jsonl").open("a") as file:
        for step, right in looks.items():
            correct = [1] * right + [0] * (30 - right) + held_out
            file.write(as_line(RecallRecord(step, "probes", correct)) + "\n")
            # What else is asked is not what is generated.
            file.write(as_line(RecallRecord(step, "others", [1, 0])) + "\n")
            file.write(as_line(RecallRecord(step, "probes", [0] * 39, None, "strict")) + "\n")
    where = {"exposure": "met", "kind": "all", "against": "start", "cluster": None}
    found = table_of(run)
    assert value(found, "gain of generated", moment="last injection", **where) == pytest.approx(
        7 / 30
    )
    assert value(found, "gain of generated", moment="end", **where) == pytest.approx(4 / 30)
    assert len(picked(found, "gain of generated")) == 2
    with (run / "records.jsonl").open("a") as file:
        file.write(as_line(RecallRecord(60, "probes", [1] * 38)) + "\n")
    with pytest.raises(ValueError, match="38 generated targets at step 60, but 39 probes"):
        table_of(run)


def test_a_control_keeps_its_strength_and_has_no_site(tmp_path):
    edit = {
        **UP,
        "resuscitation_site": ResuscitationSite.GATE,
        "control": Control.RANDOM_ROWS,
    }
    found = table_of(make_run(tmp_path / "run", edit=edit))
    expected = {"site": None, "ratio": 0.5, "factor": 2.0, "control": "random_rows"}
    assert found[list(expected)].drop_duplicates().to_dict("records") == [expected]
    warm = table_of(make_run(tmp_path / "warm", edit={"attention_temperature": 1.5}))
    assert set(warm["temperature"]) == {1.5}
    assert warm[["site", "ratio", "factor", "control"]].isna().all(axis=None)


def test_novelty_is_that_of_the_corpus(tmp_path):
    pretraining = tmp_path / "pretrained"
    manifest = {"configuration": {"corpus": ["theirs.txt", "mine.txt"], "seed": 5}, "inputs": {}}
    RunDirectory.create(pretraining, manifest | {"command": "training.pretrain"})
    model = pretraining / "checkpoints" / "step-000300"
    model.mkdir()
    corpora = ("general-heldout", "biomedical-train", "other.txt", "mine.txt")
    runs = [
        make_run(tmp_path / str(seed), seed=seed, corpus=corpus, model=str(model), revision=None)
        for seed, corpus in enumerate(corpora)
    ]
    found = table_of(*runs).groupby("seed")["novelty"].first().tolist()
    assert found == ["familiar", "new", None, "familiar"]
    assert set(table_of(*runs)["trajectory"]) == {"pretrained"}
    assert set(table_of(*runs)["step"]) == {300}


def test_parameters_are_counted_in_the_weights(tmp_path):
    run, start = make_run(tmp_path / "run"), tmp_path / "start"
    folder = run / "checkpoints" / "step-000060"
    folder.mkdir(parents=True)
    numbers = {"a": torch.zeros(7, 11), "b": torch.zeros(3)}
    save_file(numbers, folder / "model.safetensors")
    (folder / "training_state.json").write_text(json.dumps({}))
    assert set(table_of(run)["parameters"]) == {80}
    # Without a checkpoint those of the start count, over all of its files.
    start.mkdir()
    save_file(numbers, start / "model-1.safetensors")
    save_file({"c": torch.zeros(5)}, start / "model-2.safetensors")
    other = make_run(tmp_path / "other", model=str(start), revision=None)
    assert set(table_of(other)["parameters"]) == {85}


def test_starts_of_one_name_in_other_folders_are_told_apart(tmp_path):
    runs = [
        make_run(
            tmp_path / f"run-{seed}",
            **{"seed": seed, "model": str(tmp_path / f"world-{seed}/tiny/checkpoints/step-000100")},
            **{"revision": None, "start": start},
        )
        for seed, start in enumerate(("ab", "cd"))
    ]
    found = table_of(*runs)
    assert found.groupby("seed")["trajectory"].unique().map(list).tolist() == [
        ["world-0/tiny"],
        ["world-1/tiny"],
    ]
    assert set(table_of(runs[0])["trajectory"]) == {"tiny"}


def test_runs_that_the_table_cannot_tell_apart_are_refused(tmp_path):
    one, other = make_run(tmp_path / "one"), make_run(tmp_path / "other", weight_decay=0.03)
    with pytest.raises(ValueError, match=r"one and .*other both have 'K' of seed 0 with the same"):
        table_of(one, other)


def test_scores_that_are_not_finite_are_refused(plain):
    run = read_run(plain)
    scores = run.scores["knowledge"].log_probs.copy()
    scores[20, 3] = -np.inf
    broken = replace(run.scores["knowledge"], log_probs=scores)
    with pytest.raises(ValueError, match="1 scores of probes that are not finite"):
        table_of(replace(run, scores={**run.scores, "knowledge": broken}))
