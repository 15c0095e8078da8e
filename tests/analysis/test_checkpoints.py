"""Which checkpoints are meant, and in which order."""

import pytest

from analysis.checkpoints import checkpoints, is_series, step_of


def make(folder, *names):
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text("{}")


def test_revisions_are_put_in_the_order_of_training():
    found = checkpoints("a/model", ["step1000-tokens4B", "main", "step20", "step-000300"])
    assert [c.label for c in found] == ["step20", "step-000300", "step1000-tokens4B", "main"]
    assert [c.step for c in found] == [20, 300, 1000, None]
    assert {(c.model, c.revision == c.label) for c in found} == {("a/model", True)}


def test_a_pattern_and_a_run_directory_name_the_same_folders(tmp_path, monkeypatch):
    make(tmp_path / "run" / "checkpoints", "step-000160", "step-000020", "step-001000")
    # What a run is writing at the moment has everything but its name.
    make(tmp_path / "run" / "checkpoints", ".step-000200.partial")
    (tmp_path / "run" / "checkpoints" / "notes").mkdir()
    for model in (str(tmp_path / "run"), str(tmp_path / "run" / "checkpoints" / "step*")):
        assert is_series(model, ())
        found = checkpoints(model, ())
        assert [c.step for c in found] == [20, 160, 1000]
        assert [c.model for c in found] == sorted(c.model for c in found)
        assert all(c.revision is None for c in found)
    monkeypatch.chdir(tmp_path)
    assert [c.step for c in checkpoints("run/checkpoints/*", ())] == [20, 160, 1000]


def test_one_model_is_no_series(tmp_path):
    make(tmp_path, "model")
    assert not is_series("EleutherAI/pythia-160m", ())
    assert not is_series(str(tmp_path / "model"), ())
    assert is_series("EleutherAI/pythia-160m", ("step1",))


@pytest.mark.parametrize(
    ("label", "step"),
    [
        ("step3000", 3000),
        ("step-000160", 160),
        ("step_7", 7),
        ("ckpt-12", 12),
        ("main", None),
        ("step1000-tokens4B", 1000),
        ("stage1-step5-tokens2B", 5),
        ("v2-7b", None),
    ],
)
def test_steps_are_read_from_names(label, step):
    assert step_of(label) == step


def test_what_makes_no_series_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"matches no folder with a config.json"):
        checkpoints(str(tmp_path / "*"), ())
    with pytest.raises(ValueError, match=r"'step1' stands twice among the checkpoints"):
        checkpoints("a/model", ["step1", "step2", "step1"])
    make(tmp_path, "model")
    with pytest.raises(
        ValueError,
        match=r"revisions belong to a hub id or a run directory, and --model .* is neither",
    ):
        checkpoints(str(tmp_path / "model"), ["step1"])


def test_checkpoints_of_a_run_can_be_named(tmp_path):
    for name in ("step-000000", "step-000013", "step-000007"):
        folder = tmp_path / "run" / "checkpoints" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    found = checkpoints(str(tmp_path / "run"), ["step-000013", "step-000007"])
    assert [(c.label, c.step, c.revision) for c in found] == [
        ("step-000007", 7, None),
        ("step-000013", 13, None),
    ]
    assert found[0].model == str(tmp_path / "run" / "checkpoints" / "step-000007")
    with pytest.raises(ValueError, match=r"has no checkpoint 'step-000011'; it has step-000000, "):
        checkpoints(str(tmp_path / "run"), ["step-000011"])
