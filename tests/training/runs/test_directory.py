"""Run directories: what is refused, what is kept, and what is on the disk at every moment."""

import errno
import importlib
import json
import os
import shutil
import subprocess

import pytest
import safetensors

from tests.training.loop_runs import directory_of, model_of, rows_of, run, settings_of
from training.runs import records
from training.runs.directory import RunDirectory, read_manifest
from training.runs.records import StopRecord, read_items, read_records

MANIFEST = {"configuration": {"steps": 3, "optimizer": {"rate": 0.1}}, "inputs": {"sha256": "ab"}}


def created(path, manifest=MANIFEST):
    return RunDirectory.create(path, manifest)


def reopened(path, manifest=MANIFEST):
    return RunDirectory.reopen(path, manifest)


def stop(step, reason="enough"):
    return StopRecord(step, reason)


def commit(directory, step, *, planned=True, size=5):
    """A checkpoint with one file of weights and one of state."""

    def write(folder):
        (folder / "weights").write_text("w" * size)
        (folder / "training_state").mkdir()
        (folder / "training_state" / "moments").write_text("m" * step)
        return {"scale": step / 2}

    return directory.commit_checkpoint(step, write, planned=planned)


def states_of(directory):
    """Checkpoints, and whether training can go on from each."""
    folders = sorted(directory.checkpoints.iterdir())
    return {path.name: (path / "training_state").is_dir() for path in folders}


def test_records_come_back_as_they_were(tmp_path):
    directory = created(tmp_path / "run")
    given = [
        records.StepRecord(1, 0.1 + 0.2, 4e-4, 1 / 3, 17),
        records.ScoresRecord(1, "probes", [-1.5, -1e300, 1e-300]),
        records.TaskRecord(1, "piqa", "len_norm", 0.5, "piqa"),
        records.RecallRecord(1, "A", [1, 0], [-0.5, -7.25], "strict"),
        records.GradientAlignmentRecord(
            *(1, ["A"], [2.0], [2.5], [11], [3], ["0.mlp_out"]),
            *([["A", "A@start"]], [[-0.1]], [None]),
        ),
        records.WeightDriftRecord(1, ["0.norm"], [0.5], [None], [None], [0.0], [0.5]),
        records.PerplexityRecord(1, "general", 3.5, None, 100),
        records.EntropyRecord(1, "knowledge", 3.0, [1.0, 2.0], [2.5, 3.5]),
        records.NeuronRecord(1, [0.5, 0.25], 0.01),
        records.InjectionRecord(0, [3, 5], 20),
        records.StopRecord(1, "caf\u00e9"),
    ]
    assert {type(record) for record in given} == {
        kind for kind in records.KINDS.values() if kind.__module__ == records.__name__
    }
    for record in given:
        directory.append(record)
    assert list(records.read_records(tmp_path / "run")) == given
    assert list(records.read_records(tmp_path / "run", "task")) == [given[2]]
    assert records.records_of(tmp_path / "run", records.ScoresRecord) == [given[1]]
    lines = (tmp_path / "run" / "records.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["record"] == "step"


def test_records_of_unknown_kinds_are_dictionaries_and_a_half_line_is_passed_over(tmp_path):
    created(tmp_path / "run").append(stop(1))
    with (tmp_path / "run" / "records.jsonl").open("a") as file:
        file.write('{"record": "weather", "step": 2, "rain": true}\n{"record": "stop", "st')
    assert list(read_records(tmp_path / "run")) == [
        stop(1),
        {"record": "weather", "step": 2, "rain": True},
    ]
    assert list(read_records(tmp_path / "run", "stop")) == [stop(1)]


def test_a_line_that_is_no_record_is_named(tmp_path):
    created(tmp_path / "run").append(stop(1))
    with (tmp_path / "run" / "records.jsonl").open("a") as file:
        file.write('{"record": "stop", "why": 3}\n')
    with pytest.raises(ValueError, match=r"line 2 of .*records.jsonl is no record \(TypeError"):
        list(read_records(tmp_path / "run"))
    with pytest.raises(ValueError, match=r"holds no records.jsonl; give the directory of a run"):
        list(read_records(tmp_path))


def test_items_are_written_once_and_others_of_that_name_refused(tmp_path):
    directory = created(tmp_path / "run")
    rows = [{"prompt": "a", "target": "b"}, {"prompt": "c", "target": "\u00e9"}]
    directory.write_items("probes", rows)
    directory.write_items("probes", rows)
    assert read_items(tmp_path / "run", "probes") == rows
    with pytest.raises(ValueError, match="holds other items than those called 'probes' now"):
        directory.write_items("probes", rows[:1])
    with pytest.raises(ValueError, match="has no items 'tasks', only probes"):
        read_items(tmp_path / "run", "tasks")


def test_the_manifest_must_be_that_of_the_run(tmp_path):
    created(tmp_path / "run", {**MANIFEST, "versions": {"torch": "1"}})
    # What does not decide the bits may differ, and tuples are lists.
    reopened(tmp_path / "run", {**MANIFEST, "versions": {"torch": "2"}})
    other = {**MANIFEST, "configuration": {"steps": 3, "optimizer": {"rate": 0.2}}}
    line = r"another configuration\.optimizer\.rate: 0\.1 there, 0\.2 asked for; give the settings"
    with pytest.raises(ValueError, match=line):
        reopened(tmp_path / "run", other)
    more = {**MANIFEST, "inputs": {"sha256": "ab", "tokens": 5}}
    with pytest.raises(ValueError, match=r"another inputs\.tokens: null there, 5 asked for"):
        reopened(tmp_path / "run", more)


def test_places_that_are_not_free_are_refused(tmp_path):
    created(tmp_path / "run")
    with pytest.raises(
        ValueError, match="holds a run; go on with --resume, or give another folder"
    ):
        created(tmp_path / "run")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty, and holds no run; give another folder"):
        created(tmp_path / "full")
    with pytest.raises(ValueError, match="is a file; give a folder"):
        created(tmp_path / "full" / "notes.txt")
    with pytest.raises(
        ValueError, match=r"holds no run .*; to begin one there, leave out --resume"
    ):
        reopened(tmp_path / "full")
    # What a run leaves that was killed before its manifest was whole.
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / ".manifest.json.partial").write_text("{")
    created(tmp_path / "begun")


def test_records_are_cut_back_to_the_checkpoint(tmp_path):
    directory = created(tmp_path / "run")
    directory.append(stop(1))
    commit(directory, 1)
    directory.append(stop(2))
    directory = reopened(tmp_path / "run")
    found = directory.latest()
    assert (found.step, found.state) == (1, {"scale": 0.5})
    directory.cut_back(found)
    directory.append(stop(3))
    assert list(read_records(tmp_path / "run")) == [stop(1), stop(3)]
    directory.cut_back(None)
    assert list(read_records(tmp_path / "run")) == []


def test_a_run_without_a_checkpoint_has_none(tmp_path):
    directory = created(tmp_path / "run")
    assert directory.latest() is None
    assert not directory.has_begun
    assert not directory.is_done
    directory.finish({"steps": 0})
    assert directory.is_done


def test_records_that_grew_beneath_the_run_are_noticed(tmp_path):
    one = created(tmp_path / "run")
    other = reopened(tmp_path / "run")
    other.append(stop(1))
    with pytest.raises(ValueError, match="changed beneath this run; does another process write"):
        one.append(stop(1))


def test_records_shorter_than_the_checkpoint_says_are_noticed(tmp_path):
    directory = created(tmp_path / "run")
    directory.append(stop(1))
    commit(directory, 1)
    os.truncate(tmp_path / "run" / "records.jsonl", 7)
    directory = reopened(tmp_path / "run")
    with pytest.raises(ValueError, match=r"has 7 bytes, but had .* when the checkpoint was made"):
        directory.cut_back(directory.latest())


def test_older_checkpoints_lose_what_newer_ones_make_needless(tmp_path):
    directory = created(tmp_path / "run")
    for step, planned in ((1, True), (2, True), (3, False), (4, True), (5, False)):
        commit(directory, step, planned=planned)
        directory.prune(2)
    # 3 was not planned; 5 is not either, but nothing is newer.
    assert states_of(directory) == {
        **{"step-000001": False, "step-000002": False},
        **{"step-000004": True, "step-000005": True},
    }
    commit(directory, 6)
    directory.prune(1)
    assert states_of(directory) == {
        **{"step-000001": False, "step-000002": False},
        **{"step-000004": False, "step-000006": True},
    }
    assert (directory.checkpoints / "step-000004" / "weights").is_file()


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_line_and_the_last_checkpoint_is_still_there(error, tmp_path):
    directory = created(tmp_path / "run")
    commit(directory, 1)

    def write(folder):
        (folder / "weights").write_text("half of ")
        raise OSError(error, os.strerror(error))

    with pytest.raises(ValueError, match="step-000002 failed: the disk is full; free some space"):
        directory.commit_checkpoint(2, write)
    assert states_of(directory) == {"step-000001": True}
    assert directory.latest().step == 1


def test_other_errors_of_the_disk_are_one_line_too(tmp_path):
    directory = created(tmp_path / "run")

    def write(_folder):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with pytest.raises(ValueError, match="failed: Permission denied; see to it and go on"):
        directory.commit_checkpoint(2, write)


@pytest.mark.parametrize(
    ("library", "function"),
    [("transformers.modeling_utils", "safe_save_file"), ("os", "fsync"), ("torch", "save")],
)
def test_a_disk_that_fills_up_in_a_run_keeps_the_last_checkpoint(
    library, function, tmp_path, monkeypatch
):
    """Whichever library writes: safetensors wraps the error, and so does PyTorch."""
    owner = importlib.import_module(library)
    original, seen = getattr(owner, function), []
    settings = settings_of(checkpoint_every=3)

    def filling(*arguments, **keywords):
        seen.append(function)
        if (tmp_path / "run" / "checkpoints" / "step-000003").is_dir():
            if function == "safe_save_file":
                raise safetensors.SafetensorError(
                    "Error while serializing: I/O error: No space left on device (os error 28)"
                )
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(*arguments, **keywords)

    monkeypatch.setattr(owner, function, filling)
    with pytest.raises(ValueError, match="failed: the disk is full; free some space and go on"):
        run(tmp_path / "run", settings=settings)
    monkeypatch.undo()
    assert seen
    names = [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert names == ["step-000003"]
    # With some space freed, it goes on.
    _, result = run(tmp_path / "run", settings=settings, resume=True)
    assert result.finished


@pytest.mark.slow
def test_a_disk_that_is_really_full(tmp_path):
    """A file system of two megabytes, mounted for the test; needs the right to mount."""
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a file system cannot be mounted here")
    try:
        settings = settings_of(checkpoint_every=1)
        with pytest.raises(ValueError, match="the disk is full; free some space") as caught:
            run(small / "run", settings=settings)
        assert "\n" not in str(caught.value)
        assert directory_of(small / "run", settings, rows_of(), resume=True).latest() is not None
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_checkpoints_that_are_not_whole_are_refused(tmp_path):
    directory = created(tmp_path / "run")
    folder = commit(directory, 4)
    whole = tmp_path / "whole"
    shutil.copytree(folder, whole)

    def broken(change):
        shutil.rmtree(folder)
        shutil.copytree(whole, folder)
        change()
        with pytest.raises(ValueError, match="step-000004") as caught:
            directory.latest()
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "has 3 bytes, not the 5 that were written" in broken(
        lambda: os.truncate(folder / "weights", 3)
    )
    assert "lacks training_state/moments; restore it" in broken(
        lambda: (folder / "training_state" / "moments").unlink()
    )
    header = folder / "training_state.json"
    assert "has no readable training_state.json (FileNotFoundError)" in broken(header.unlink)
    assert "(JSONDecodeError)" in broken(lambda: header.write_text(header.read_text()[:40]))
    assert "comes from another run" in broken(
        lambda: header.write_text(header.read_text().replace('"run": "', '"run": "0'))
    )
    newer = header.read_text().replace('"format": 1', '"format": 2')
    assert "has format 2, and this version reads 1" in broken(
        lambda: header.write_text(newer.replace('"run": "0', '"run": "'))
    )


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    commit(created(tmp_path / "one"), 4)
    other = created(tmp_path / "two", {**MANIFEST, "inputs": {"sha256": "cd"}})
    shutil.copytree(tmp_path / "one" / "checkpoints", other.checkpoints, dirs_exist_ok=True)
    with pytest.raises(ValueError, match="comes from another run, with another configuration"):
        other.latest()


def test_a_resumed_run_of_another_configuration_is_refused(tmp_path):
    settings = settings_of(checkpoint_every=4)
    run(tmp_path / "run", settings=settings, time_limit=0.0)
    with pytest.raises(ValueError, match=r"another configuration\.checkpoint_every: 4 there, 5"):
        run(tmp_path / "run", settings=settings_of(checkpoint_every=5), resume=True)
    with pytest.raises(ValueError, match=r"another inputs\.shuffle_seed: 5 there, 6 asked for"):
        run(tmp_path / "run", source=rows_of(shuffle_seed=6), settings=settings, resume=True)


def test_a_truncated_checkpoint_of_a_run_is_refused(tmp_path):
    settings = settings_of(checkpoint_every=4)
    _, result = run(tmp_path / "run", settings=settings, time_limit=0.0)
    os.truncate(result.checkpoint / "model.safetensors", 1000)
    with pytest.raises(ValueError, match=r"model\.safetensors in .* has 1000 bytes, not the"):
        run(tmp_path / "run", model_of(), settings=settings, resume=True)


def test_an_unedited_run_is_gone_on_with_whatever_the_default_form_of_edits(tmp_path):
    plain = {"resuscitation_ratio": None, "attention_temperature": None, "rate": 0.1}
    hooks, weights = ({**plain, "edit_form": form} for form in ("hooks", "weights"))
    commit(created(tmp_path / "run", {"configuration": hooks, "inputs": {}}), 3)
    again = reopened(tmp_path / "run", {"configuration": weights, "inputs": {}})
    assert again.latest().step == 3
    warm = [{**one, "attention_temperature": 2.0} for one in (hooks, weights)]
    commit(created(tmp_path / "warm", {"configuration": warm[0], "inputs": {}}), 3)
    with pytest.raises(ValueError, match='edit_form: "hooks" there, "weights" asked for'):
        reopened(tmp_path / "warm", {"configuration": warm[1], "inputs": {}})


@pytest.mark.parametrize(
    ("counted", "other"),
    [
        (
            {"warmup_start": 0.1, "schedule_count": "from_one", "prepend_bos": None},
            {"schedule_count": "from_zero"},
        ),
        (
            {"warmup_start": 0.1, "schedule_count": "from_one", "prepend_bos": None},
            {"prepend_bos": True},
        ),
        (
            {"schedule": {"kind": "cosine", "count": "from_one"}},
            {"schedule": {"count": "from_zero"}},
        ),
    ],
)
def test_a_run_of_a_version_without_a_count_is_gone_on_with(counted, other, tmp_path):
    """It counted from one; its checkpoints were sealed under what its manifest held then."""
    manifest = {"configuration": counted, "inputs": {}}
    old = json.loads(json.dumps(manifest))
    for added in ("schedule_count", "prepend_bos"):
        old["configuration"].pop(added, None)
    old["configuration"].get("schedule", {}).pop("count", None)
    commit(created(tmp_path / "run", old), 3)
    of_earlier = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert of_earlier == old
    assert reopened(tmp_path / "run", manifest).latest().step == 3
    assert read_manifest(tmp_path / "run")["configuration"] == counted
    with pytest.raises(ValueError, match=r'"from_one" there, "from_zero" ask|null there, true ask'):
        reopened(tmp_path / "run", {"configuration": {**counted, **other}, "inputs": {}})
