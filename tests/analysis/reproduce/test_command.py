"""`python -m analysis.reproduce`, from its plan to its ledger, on models of 20,000 parameters."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis import reproduce_scales as scales
from analysis.reproduce import Experiment, main
from tests.training.small_runs import write_texts

SMOKE = scales.SCALES["smoke"]
CLAIMS = ("entropy-at-the-start", "three-stages")


def small_scale(texts):
    """The smoke scale with everything smaller; nine steps of pretraining, eight checkpoints."""
    scale, text = SMOKE(), str(texts / "familiar.jsonl")
    pretrained = replace(
        scale.trajectory.config,
        **{"corpus": (text,), "held_out": (text,), "d_vocab": 307, "d_model": 22, "n_heads": 1},
        **{"d_mlp": 37, "positions": 1009, "row_length": 43, "batch_size": 5, "steps": 8},
        **{"checkpoint_every": 1, "held_out_tokens": 301, "fact_documents": 53},
        **{"fact_people": 5, "fact_places": 3},
    )
    stages = replace(
        scale.memorization.config,
        **{"items": (11,), "batch_size": 5, "epochs": (6,), "stage_learning_rates": ()},
        **{"row_length": 43, "evaluation_corpora": (), "cloze": None, "mix_corpus": text},
    )
    return replace(
        scale,
        experiments=(Experiment.ENTROPIES, Experiment.MIXES, Experiment.THREE_STAGES),
        trajectory=replace(scale.trajectory, config=pretrained, smaller=None),
        memorization=replace(scale.memorization, config=stages, located=5),
        corpora=(text,),
        entropy_tokens=199,
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A reproduction in two pieces; its folder, and what was printed."""
    texts = write_texts(tmp_path_factory.mktemp("texts"))
    out = tmp_path_factory.mktemp("reproduced") / "small"
    words = ["--scale", "smoke", "--claims", *CLAIMS, "--out", str(out)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(scales.SCALES, "smoke", lambda: small_scale(texts))
        assert main([*words, "--minutes", "0.02"]) == 0
        begun = len(list(out.glob("runs/*/done.json")))
        assert not (out / "ledger.json").exists()
        assert main(words) == 0
        first = {path: path.stat().st_mtime_ns for path in out.rglob("done.json")}
        ledger = (out / "ledger.json").read_bytes()
        assert main(words) == 0
    again = {path: path.stat().st_mtime_ns for path in out.rglob("done.json")}
    return out, begun, (first, again), (ledger, (out / "ledger.json").read_bytes())


def claim(out, name):
    ledger = json.loads((out / "ledger.json").read_text(encoding="utf-8"))
    return next(entry for entry in ledger["claims"] if entry["claim"] == name)


def test_a_reproduction_in_pieces_makes_every_run_once(made):
    out, begun, (first, again), (ledger, repeated) = made
    assert begun < 15
    assert first == again
    assert ledger == repeated
    runs = {path.parent.name for path in out.glob("runs/*/done.json")}
    arms = ("no-mixing", "random-at-a", "three-stages-no-mixing", "three-stages-both")
    trajectories = {f"trajectory-seed-{seed}" for seed in range(3)}
    assert runs == {f"remix-{arm}-seed-{seed}" for arm in arms for seed in range(3)} | trajectories
    # What other runs of the scale would go on from is kept, and nothing else.
    kept = {path.relative_to(out / "runs").parts[0] for path in out.rglob("checkpoints")}
    shared = {f"remix-{arm}-seed-{seed}" for arm in arms[:2] for seed in range(3)}
    assert kept == trajectories | shared


def test_the_ledger_has_the_numbers_of_the_runs(made):
    out = made[0]
    changes = []
    for seed in range(3):
        rows = pd.read_csv(out / "runs" / f"entropies-seed-{seed}" / "trajectory.csv")
        totals = rows[rows["layer"].isna() & (rows["measure"] == "|c|")].sort_values("step")
        slope, _ = np.polyfit(np.arange(8), totals["entropy"], 1)
        changes.append(7 * slope)
    found = claim(out, "entropy-at-the-start")
    assert found["effect"] == pytest.approx(np.mean(changes), rel=1e-9)
    assert (found["n"], found["seeds"]) == (8, 3)
    kept = []
    for seed in range(3):
        of = {}
        for arm in ("no-mixing", "both"):
            stage = out / "runs" / f"remix-three-stages-{arm}-seed-{seed}" / "C"
            folder = next(stage.parent.glob("*C*")) if not stage.is_dir() else stage
            lines = map(json.loads, (folder / "records.jsonl").read_text().splitlines())
            of[arm] = [
                line["correct"]
                for line in lines
                if line.get("items") == "A" and line.get("match") == "tokens"
            ][-1]
        kept.append(np.mean(of["both"]) - np.mean(of["no-mixing"]))
    assert claim(out, "three-stages")["effect"] == pytest.approx(np.mean(kept), abs=1e-12)


def test_what_is_written_is_told_and_can_be_read(made):
    out = made[0]
    for name in ("ledger.md", "ledger.csv", "report.html", "verification.md", "tables"):
        assert (out / name).exists(), name
    text = (out / "ledger.md").read_text(encoding="utf-8")
    assert "does knowledge entropy rise or fall before the first checkpoint" in text
    assert str(out.parent) not in text
    table = pd.read_csv(out / "ledger.csv")
    assert list(table["claim"]) == list(CLAIMS)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--scale", "smoke"], "--out is missing"),
        (["--out", "x", "--claims", "entropy-fals"], "did you mean 'entropy-falls'"),
        (["--out", "x", "--scale", "lap"], "lap"),
        (["--out", "x", "--shard", "3/2", "--dry-run"], "--shard '3/2' must be i/n"),
        (["--out", "x", "--processes", "0"], "--processes must be 1 or more, found 0"),
        (["--out", "x", "--claims", "entropy-falls", "--experiments", "ages"], "give one of them"),
        (
            ["--out", "x", "--claims", "familiar-facts-before-factoids"],
            "the scale smoke has no runs for familiar-facts-before-factoids",
        ),
        (["--out", "x", "--scale", "paper"], "the scale paper leaves to be given: --knowledge"),
        (["--verify", "nowhere"], "nowhere is no folder"),
    ],
)
def test_bad_input_gets_one_line(words, line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith("analysis.reproduce: error: ")
    assert said.count("\n") == 1
    assert line in said
    assert not list(tmp_path.iterdir())


def test_another_scale_or_another_folder_is_refused(capsys, tmp_path):
    (tmp_path / "plan.json").write_text('{"scale": "lab"}')
    assert main(["--scale", "smoke", "--out", str(tmp_path)]) == 2
    assert "holds a reproduction at the scale lab, not smoke" in capsys.readouterr().err
    (tmp_path / "plan.json").rename(tmp_path / "notes.txt")
    assert main(["--scale", "smoke", "--out", str(tmp_path)]) == 2
    assert "exists and holds no reproduction" in capsys.readouterr().err


def test_the_list_has_every_command_after_those_that_it_needs(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--scale", "smoke", "--experiments", "entropies", "--out", "x", "--list"]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("#")] == ["# set 1", "# set 2"]
    programs = [line.split()[2] for line in lines if not line.startswith("#")]
    assert programs == ["training.pretrain"] * 3 + ["analysis.entropy"] * 3
    assert main([*words, "--shard", "2/3"]) == 0
    part = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("#")]
    assert [line.split()[-2 if line.endswith("--resume") else -1] for line in part] == [
        "x/runs/trajectory-seed-1",
        "x/runs/entropies-seed-1",
    ]
