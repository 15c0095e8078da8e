"""Tables of a run, from records written by hand."""

import pytest

from training.ckl_run import _knowledge_rows
from training.runs.records import EntropyRecord, PerplexityRecord, ScoresRecord, TaskRecord
from training.runs.tables import observed, rows_table
from training.tasks import task_names


def test_rows_of_several_corpora_keep_apart():
    records = [
        PerplexityRecord(step, corpus, loss + step, loss / 2, 7)
        for step in (0, 3)
        for corpus, loss in (("old", 4.0), ("new", 5.0))
    ]
    rows = [(row.label, row.values) for row in observed(records, {})]
    assert rows == [
        ("loss on old", {0: 4.0, 3: 7.0}),
        ("  bits per byte", {0: 2.0, 3: 2.0}),
        ("loss on new", {0: 5.0, 3: 8.0}),
        ("  bits per byte", {0: 2.5, 3: 2.5}),
    ]


def test_facts_are_shown_by_wording_after_the_share_that_is_right():
    items = {"cloze": [{"wording": "seen"}, {"wording": "unseen"}, {"wording": "seen"}]}
    records = [
        ScoresRecord(0, "cloze", [-1.0, -7.0, -2.0]),
        TaskRecord(0, "cloze", "acc", 0.25, "cloze"),
        EntropyRecord(0, "knowledge", 9.0, [4.0, 5.0], None),
    ]
    rows = [(row.label, row.values[0]) for row in observed(records, items)]
    assert rows == [
        ("facts recalled", 0.25),
        ("  log p, seen wording", -1.5),
        ("  log p, new wording", -7.0),
        ("knowledge entropy", 9.0),
    ]


def test_p_is_the_mean_of_the_six_tasks_where_all_were_looked_at():
    shares = dict(zip(task_names(), (0.1, 0.2, 0.3, 0.4, 0.5, 0.9), strict=True))
    records = [TaskRecord(0, name, "acc", value, name) for name, value in shares.items()]
    partial = [TaskRecord(5, name, "acc", 1.0, name) for name in task_names()[:5]]
    rows = observed([*records, *partial], {})
    assert rows[6].label.startswith("P,")
    assert rows[6].values == {0: pytest.approx(0.4)}
    assert not any(row.label.startswith("P,") for row in observed(partial, {}))


def test_k_weighs_passages_alike_and_leaves_held_out_ones_out():
    probes = [
        {"passage": 0, "kind": "memorization", "exposure": "paraphrase"},
        {"passage": 0, "kind": "semantic", "exposure": "paraphrase"},
        {"passage": 0, "kind": "semantic", "exposure": "paraphrase"},
        {"passage": 1, "kind": "memorization", "exposure": "once"},
        {"passage": 2, "kind": "memorization", "exposure": "held_out"},
    ]
    record = ScoresRecord(0, "knowledge", [-1.0, -4.0, -7.0, -2.0, -100.0])
    found = {row.label.strip(): row.values[0] for row in _knowledge_rows([record], probes)}
    assert found == {
        "K, passages met": -3.0,  # of -4 and -2; a plain mean over probes would be -3.5
        "paraphrase": -4.0,
        "once": -2.0,
        "held out": -100.0,
        "memorization": -1.5,
        "semantic": -5.5,
    }


def test_a_table_shows_what_there_is_and_the_change():
    rows = observed(
        [PerplexityRecord(0, "old", 4.0, None, 7), PerplexityRecord(9, "old", 3.75, None, 7)], {}
    )
    rows += observed([PerplexityRecord(5, "new", 1.0, None, 7)], {})
    table = rows_table(rows, {0: "before", 9: "step 9"}, "title", change=(0, 9))
    assert table.header == ("", "before", "step 9", "change")
    assert table.rows == (("loss on old", "4.000", "3.750", "-0.250"),)
