"""The table of updates, from results that are written by hand."""

import json

import pytest

from tests.analysis.claim_tables_records import write_updates


def table_of(*folders):
    from analysis.entropy_measures import updates_table
    from analysis.measurements import Table, checked

    return checked(Table.UPDATES, updates_table(folders))


def test_values_are_those_of_each_checkpoint_and_layer(tmp_path):
    folder = write_updates(tmp_path / "a", model="a/model-seed3")
    found = {
        (r.seed, r.step, r.layer, r.measure): r.value
        for r in table_of(folder).itertuples(index=False)
    }
    # The checkpoint without a step, and the layer without a correlation, are left out.
    assert found == {
        (3, 8, 0, "gradients"): 0.75,
        (3, 8, 1, "gradients"): 0.5,
        (3, 8, 0, "updates"): -0.25,
        (3, 64, 0, "gradients"): 0.875,
        (3, 64, 1, "gradients"): 0.625,
        (3, 64, 0, "updates"): -0.125,
    }


def test_claims_find_their_rows(tmp_path):
    from analysis.claims import CLAIMS, Table, judge

    table = table_of(*(write_updates(tmp_path / str(n), model=f"m-seed{n}") for n in range(3)))
    (found,) = judge([CLAIMS["gradients-follow-coefficients"]], {Table.UPDATES: table})
    assert found.seeds == 3
    assert found.effect == pytest.approx((0.75 + 0.5 + 0.875 + 0.625) / 4, rel=1e-12)


def test_what_does_not_go_together_is_refused(tmp_path):
    first = write_updates(tmp_path / "first", model="a/model")
    with pytest.raises(ValueError, match=r"first and .*twice both have 'gradients' of seed 0"):
        table_of(first, write_updates(tmp_path / "twice", model="a/model"))
    other = write_updates(tmp_path / "other", model="a/model-seed1", eps=1e-8)
    with pytest.raises(ValueError, match="measured with eps 1e-05 and 1e-08"):
        table_of(first, other)
    with pytest.raises(ValueError, match=r"holds no finished measurement of updates"):
        table_of(tmp_path)
    run = tmp_path / "ckl"
    run.mkdir()
    told = {"command": "training.ckl", "configuration": {"seed": 0}}
    (run / "manifest.json").write_text(json.dumps(told))
    assert table_of(write_updates(tmp_path / "of-ckl", model=str(run))).empty
