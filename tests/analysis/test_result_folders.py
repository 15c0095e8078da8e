"""Results in folders: which are found, what is left alone, and the tables that come of them."""

import json
from dataclasses import fields
from pathlib import Path

import pytest

from analysis.claims import Table
from analysis.measurements import checked
from analysis.result_folders import Results, find_results, tables_of, updates_table
from tests.analysis import ckl_runs, remix_runs
from tests.analysis.test_entropy_measures import write_updates


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One result of every kind at least, and what is none."""
    root = tmp_path_factory.mktemp("results")
    told = {"command": "training.pretrain", "configuration": {"seed": 2}, "inputs": {}}
    for name in ("tiny", "stopped"):
        write(root / name / "manifest.json", told)
        # What lies in a run is not looked at.
        write(root / name / "looks" / "entropy.json", {"knowledge_entropy": None})
    write(root / "tiny" / "done.json", {})
    ckl_runs.make_run(root / "study/runs/one", done=True)
    ckl_runs.make_run(root / "study/runs/two", seed=1, done=False)
    remix_runs.make_run(root / "chains/plain")
    remix_runs.make_run(root / "chains/half", done=False)
    write(root / "sweep/sweep.json", {"model": "a/model"})
    (root / "sweep/trajectory.csv").write_text("checkpoint,step\n")
    write(root / "sweep/step8/entropy.json", {"knowledge_entropy": None})
    write(root / "half-a-sweep/sweep.json", {"model": "a/model"})
    write(root / "half-a-sweep/step8/entropy.json", {"knowledge_entropy": None})
    for corpus in ("plants", "stars"):
        write(root / "entropy" / corpus / "entropy.json", {"knowledge_entropy": None})
    write(root / "lens/lens.json", {"items": []})
    write(root / "edits/edits.json", {"edits": []})
    write(root / "edits/sweep.json", {})
    write(root / "edits/unedited/entropy.json", {"knowledge_entropy": None})
    write_updates(root / "updates", model="a/model")
    write(root / "updates/sweep.json", {})
    write(root / "reproduced/ledger.json", [])
    write(root / "reproduced/lens/lens.json", {"items": []})
    # Files of the same names by other programs, models, checkpoints, and what is hidden.
    write(root / "bench/lens.json", {"bars": {}})
    write(root / "other/manifest.json", {"name": "an application"})
    for name in ("model", ".partial/x", "checkpoints/step-8"):
        write(root / name / "config.json", {})
        write(root / name / "inner/lens.json", {"items": []})
    write(root / "checkpoints/lens.json", {"items": []})
    (root / "a-link").symlink_to(root / "lens")
    return root


WANTED = {
    "pretraining_runs": ["tiny"],
    "ckl_runs": ["study/runs/one"],
    "remix_runs": ["chains/plain"],
    "entropy_sweeps": ["sweep"],
    "entropy_results": ["entropy/plants", "entropy/stars"],
    "lens_results": ["lens", "reproduced/lens"],
    "edit_sweeps": ["edits"],
    "updates": ["updates"],
    "ledgers": ["reproduced"],
    "unfinished": ["chains/half", "half-a-sweep", "stopped", "study/runs/two"],
}


def found_in(*paths, root):
    results = find_results(paths)
    kinds = [field.name for field in fields(results)]
    return {k: [str(p.relative_to(root)) for p in getattr(results, k)] for k in kinds}


def test_results_are_told_by_their_kinds(folder):
    assert found_in(folder, root=folder) == WANTED


def test_a_path_may_be_a_result_and_stands_once(folder):
    paths = (folder / "study", folder / "study/runs/one", folder / "a-link", folder / "lens")
    found = found_in(*paths, root=folder)
    assert {kind: places for kind, places in found.items() if places} == {
        "ckl_runs": ["study/runs/one"],
        "lens_results": ["a-link"],
        "unfinished": ["study/runs/two"],
    }


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("nowhere", "nowhere is no folder; give a run"),
        ("lens/lens.json", "is no folder"),
        ("bench", "bench holds no result, neither itself nor below"),
        ("model", "holds no result"),
        # A stage is no run of its own.
        ("chains/plain/stage-A", "holds no result"),
    ],
)
def test_folders_without_results_are_refused(folder, name, complaint):
    with pytest.raises(ValueError, match=complaint) as error:
        find_results([folder / "lens", folder / name])
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_json_is_refused(tmp_path):
    (tmp_path / "lens.json").write_text("{")
    with pytest.raises(ValueError, match=r"lens.json is no readable JSON"):
        find_results([tmp_path])


def test_tables_are_those_that_have_rows(tmp_path):
    assert tables_of(Results()) == {}
    write_updates(tmp_path / "updates", model="a/model")
    tables = tables_of(find_results([tmp_path]))
    assert list(tables) == [Table.UPDATES]
    assert tables[Table.UPDATES].equals(updates_table([tmp_path / "updates"]))


def test_runs_of_every_kind_come_to_their_tables(tmp_path):
    ckl_runs.make_run(tmp_path / "ckl")
    write_factoid_run(tmp_path / "remix")
    remix_runs.make_run(tmp_path / "half", done=False)
    tables = tables_of(find_results([tmp_path]))
    assert list(tables) == [Table.ACQUISITION, Table.MEMORIZATION]
    for table, rows in tables.items():
        assert len(checked(table, rows)) > 0
    assert len(tables[Table.MEMORIZATION]) == 2 * remix_runs.A_ITEMS


def write_factoid_run(path):
    remix_runs.make_run(path)
    change(path, lambda told: [one["data"].update(kind="factoids") for one in stages(told)])


def stages(manifest):
    return manifest["inputs"]["stages"].values()


def change(path, how):
    file = path / "manifest.json"
    manifest = json.loads(file.read_text())
    how(manifest)
    file.write_text(json.dumps(manifest))


@pytest.mark.parametrize("kind", ["ckl", "remix"])
def test_runs_of_another_version_are_refused_in_one_line(tmp_path, kind):
    path: Path = tmp_path / "old"
    (ckl_runs if kind == "ckl" else remix_runs).make_run(path)
    change(path, lambda told: told["configuration"].pop("edit_form"))
    with pytest.raises(ValueError, match=r"old was written by another version") as error:
        tables_of(find_results([path]))
    assert "\n" not in str(error.value)
