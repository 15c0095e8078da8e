"""The tables of pretraining and of updates, from results that are written by hand."""

import json

import pytest

from analysis.entropy import main
from analysis.measurements import Table, checked
from analysis.result_folders import pretraining_table, updates_table
from tests.models import tiny_hf_model, tiny_tokenizer

SETTINGS = {"layout": "packed", "sequence_length": 13, "max_tokens": 101, "weighting": "instance"}
TOTALS = {"|c|": 20.0, "max(c, 0)": 19.0, "|max(gate, 0) · up|": 18.0, "|c| · ‖v‖": 17.0}
TOTALS |= {"attention": 16.0, "next-token": 5.0}


def write_sweep(folder, *, model, steps=(8, 64, None), corpora=("plants",), shift=0.0, **changed):
    """A sweep whose knowledge entropy in a layer is its total over (3 + layer), less 1 a step."""
    header = "checkpoint,step,corpus,measure,layer,entropy,low,high"
    lines = [header]
    for place, step in enumerate(steps):
        where = [f"step{step}" if step is not None else "main", "" if step is None else str(step)]
        for corpus in corpora:
            for measure, total in TOTALS.items():
                value = total + shift - place
                lines.append(
                    ",".join([*where, corpus, f'"{measure}"', "", repr(value), "1.0", "99.0"])
                )
                if measure != "next-token":
                    lines += [
                        ",".join(
                            [*where, corpus, f'"{measure}"', str(n), repr(value / (3 + n)), "", ""]
                        )
                        for n in range(2)
                    ]
    folder.mkdir()
    (folder / "trajectory.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    told = {"model": str(model), "corpus": list(corpora), **SETTINGS, **changed}
    (folder / "sweep.json").write_text(json.dumps(told), encoding="utf-8")
    return folder


def write_manifest(run, command, seed):
    run.mkdir(parents=True)
    told = {"command": command, "configuration": {"seed": seed}, "inputs": {}}
    (run / "manifest.json").write_text(json.dumps(told))
    return run


def table_of(*sweeps):
    return checked(Table.PRETRAINING, pretraining_table(sweeps))


def test_values_are_those_of_the_trajectory(tmp_path):
    sweep = write_sweep(tmp_path / "a", model="a/model", corpora=("plants", "stars"))
    table = table_of(sweep)
    # The checkpoint without a step is left out.
    assert set(table["step"]) == {8, 64}
    assert len(table) == 2 * 2 * (6 + 5 * 2)
    found = {(r.step, r.corpus, r.measure, r.layer): r.value for r in table.itertuples(index=False)}
    assert found[64, "stars", "attention", "(none)"] == 15.0
    assert found[8, "plants", "next-token", "(none)"] == 5.0
    assert found[64, "plants", "|c| · ‖v‖", 1] == 16.0 / 4
    assert (8, "plants", "next-token", 0) not in found


@pytest.mark.parametrize(
    ("model", "seed"),
    [
        ("{}/numbered", 7),
        ("{}/numbered/checkpoints/*", 7),
        ("{}/numbered/checkpoints/step-0000*", 7),
        ("{}/numbered/checkpoints/step-000064", 7),
        ("{}/gone/tiny-seed11/checkpoints/*", 11),
        ("org/model-160m-seed3", 3),
        ("org/model-seed3-160m", 0),
        ("org/model", 0),
    ],
)
def test_the_seed_is_that_of_the_run(tmp_path, model, seed):
    # The manifest is believed, whatever the name says.
    run = write_manifest(tmp_path / "numbered-seed5", "training.pretrain", 7)
    (tmp_path / "numbered").symlink_to(run)
    table = table_of(write_sweep(tmp_path / "sweep", model=model.format(tmp_path)))
    assert set(table["seed"]) == {seed}


def test_sweeps_of_a_run_over_other_corpora_and_of_other_seeds_go_together(tmp_path):
    table = table_of(
        write_sweep(tmp_path / "a", model="a/model-seed1", corpora=("plants",)),
        write_sweep(tmp_path / "b", model="a/model-seed1", corpora=("stars",), shift=-3.0),
        write_sweep(tmp_path / "c", model="a/model-seed2", corpora=("plants",), shift=1.0),
    )
    rows = table[(table["measure"] == "|c|") & (table["step"] == 8) & (table["layer"] == "(none)")]
    found = rows.set_index(["seed", "corpus"])["value"].to_dict()
    assert found == {(1, "plants"): 20.0, (1, "stars"): 17.0, (2, "plants"): 21.0}


def test_checkpoints_of_other_training_are_left_out(tmp_path):
    ckl = write_manifest(tmp_path / "ckl", "training.ckl", 3)
    other = write_sweep(tmp_path / "a", model=ckl, sequence_length=29)
    assert table_of(other).empty
    both = table_of(other, write_sweep(tmp_path / "b", model="a/model-seed3"))
    assert set(both["seed"]) == {3}
    assert len(both) == 2 * (6 + 5 * 2)


def test_what_does_not_go_together_is_refused(tmp_path):
    first = write_sweep(tmp_path / "first", model="a/model")
    twice = write_sweep(tmp_path / "twice", model="a/model", steps=(64,))
    with pytest.raises(ValueError, match=r"first and .*twice both have .* of seed 0.*give one"):
        table_of(first, twice)
    longer = write_sweep(tmp_path / "longer", model="a/model-seed1", sequence_length=17)
    with pytest.raises(ValueError, match="measured with sequence_length 13 and 17"):
        table_of(first, longer)
    other = write_sweep(tmp_path / "other", model="b/model", corpora=("stars",))
    with pytest.raises(ValueError, match=r"is of a/model and .*other of b/model, both with seed 0"):
        table_of(first, other)
    (first / "trajectory.csv").unlink()
    with pytest.raises(ValueError, match=r"holds no finished sweep, found no trajectory.csv"):
        table_of(first)


def test_a_sweep_that_was_measured_is_read(tmp_path):
    """What the command writes, with numbers of the results that it wrote beside the table."""
    for step in (3, 17):
        path = tmp_path / "tiny-seed4" / "checkpoints" / f"step-{step:06d}"
        tiny_hf_model("llama", seed=step).save_pretrained(path)
        tiny_tokenizer().save_pretrained(path)
    text = " ".join(f"w{(7 * i) % 97}" for i in range(131))
    (tmp_path / "plants.jsonl").write_text(json.dumps({"text": text}))
    words = ["--model", str(tmp_path / "tiny-seed4"), "--corpus", str(tmp_path / "plants.jsonl")]
    words += ["--out", str(tmp_path / "out"), "--sequence-length", "13", "--batch-size", "2"]
    assert main(words) == 0
    table = table_of(tmp_path / "out")
    assert set(table["seed"]) == {4}
    for step in (3, 17):
        wanted = json.loads((tmp_path / f"out/step-{step:06d}/entropy.json").read_text())
        rows = table[(table["step"] == step) & (table["measure"] == "|c|")]
        values = rows.set_index("layer")["value"].to_dict()
        layers = wanted["knowledge_entropy"]["per_layer"]
        # The total is added up in another order there.
        assert values.pop("(none)") == pytest.approx(sum(layers), rel=1e-14)
        assert list(values.values()) == layers


def write_updates(folder, *, model, **changed):
    """Two checkpoints of two layers, and one without a step; a correlation is missing."""
    settings = {"model": model, "corpus": "plants", "batches": 3, "eps": 1e-5, **changed}
    checkpoints = [
        {
            "checkpoint": name,
            "step": step,
            "layers": [
                {"layer": 0, "gradients": 0.75 + shift, "updates": -0.25 + shift},
                {"layer": 1, "gradients": 0.5 + shift, "updates": None},
            ],
        }
        for name, step, shift in (("step8", 8, 0.0), ("step64", 64, 0.125), ("main", None, 0.25))
    ]
    folder.mkdir()
    content = {"model": model, "configuration": settings, "checkpoints": checkpoints}
    (folder / "updates.json").write_text(json.dumps(content))
    return folder


def updates_of(*folders):
    return checked(Table.UPDATES, updates_table(folders))


def test_updates_are_those_of_each_checkpoint_and_layer(tmp_path):
    folder = write_updates(tmp_path / "a", model="a/model-seed3")
    found = {
        (r.seed, r.step, r.layer, r.measure): r.value
        for r in updates_of(folder).itertuples(index=False)
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


def test_claims_find_updates(tmp_path):
    from analysis.claims import CLAIMS, Table, judge

    table = updates_of(*(write_updates(tmp_path / str(n), model=f"m-seed{n}") for n in range(3)))
    (found,) = judge([CLAIMS["gradients-follow-coefficients"]], {Table.UPDATES: table})
    assert found.seeds == 3
    assert found.effect == pytest.approx((0.75 + 0.5 + 0.875 + 0.625) / 4, rel=1e-12)


def test_updates_that_do_not_go_together_are_refused(tmp_path):
    first = write_updates(tmp_path / "first", model="a/model")
    with pytest.raises(ValueError, match=r"first and .*twice both have 'gradients' of seed 0"):
        updates_of(first, write_updates(tmp_path / "twice", model="a/model"))
    other = write_updates(tmp_path / "other", model="a/model-seed1", eps=1e-8)
    with pytest.raises(ValueError, match="measured with eps 1e-05 and 1e-08"):
        updates_of(first, other)
    with pytest.raises(ValueError, match=r"holds no finished measurement of updates"):
        updates_of(tmp_path)
    run = write_manifest(tmp_path / "ckl", "training.ckl", 0)
    assert updates_of(write_updates(tmp_path / "of-ckl", model=str(run))).empty
