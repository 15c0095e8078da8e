"""What `--model` means: run directories stand for their checkpoints."""

import pytest

from training.start_or_resume import find_start


@pytest.fixture
def run(tmp_path):
    run = tmp_path / "run"
    for step in (0, 20, 100):
        (run / "checkpoints" / f"step-{step:06d}").mkdir(parents=True)
    (run / "checkpoints" / ".step-000200.partial").mkdir()
    (run / "manifest.json").write_text("{}")
    return run


def test_a_run_stands_for_its_last_checkpoint(run):
    start = find_start(str(run))
    assert start.model == str(run / "checkpoints" / "step-000100")
    assert (start.revision, start.run) == (None, run)


def test_a_revision_of_a_run_is_one_of_its_checkpoints(run):
    assert find_start(str(run), "step-000020").model.endswith("checkpoints/step-000020")
    with pytest.raises(ValueError, match="no checkpoint 'step-000030'; it has step-000000, step-"):
        find_start(str(run), "step-000030")


def test_a_checkpoint_knows_its_run_and_what_that_was_asked(run):
    start = find_start(str(run / "checkpoints" / "step-000020"))
    assert start.run == run
    assert start.cloze is None
    (run / "items").mkdir()
    (run / "items" / "cloze.jsonl").write_text("")
    assert start.cloze == run / "items" / "cloze.jsonl"


def test_other_models_are_left_as_they_are(tmp_path):
    folder = tmp_path / "checkpoints" / "model"
    folder.mkdir(parents=True)
    for name, revision in (("EleutherAI/pythia-160m", "step3000"), (str(folder), None)):
        start = find_start(name, revision)
        assert (start.model, start.revision, start.run, start.cloze) == (name, revision, None, None)


def test_a_run_without_checkpoints_is_refused(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match="has no checkpoint yet; go on with it, with --resume"):
        find_start(str(tmp_path))
