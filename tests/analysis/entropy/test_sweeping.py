"""Sweeps from a script: several models as one trajectory, in memory or in a folder."""

import shutil

import pandas as pd
import pytest
import torch

import analysis
import probes
from analysis.entropy_figures import log_spaced
from analysis.trajectory import (
    totals_over_training,
    trajectory_findings,
    trajectory_table,
)
from probes.prompts import encoded_items
from tests.analysis.entropy.test_trajectory import measured
from tests.models import tiny_model, tokens

BATCHES = [{"input_ids": tokens(3, 11, seed)} for seed in (1, 2)]


def test_a_run_directory_is_swept_in_order_and_an_unfinished_one_said_to_be_so(
    pretrained, tmp_path
):
    run = shutil.copytree(pretrained, tmp_path / "run")
    (run / "done.json").unlink()
    found = analysis.sweep(run, BATCHES, revisions=["step-000007,step-000001"], kinds="knowledge")
    totals = found.to_dataframe().query("layer.isna() and measure == '|c|'")
    assert totals["step"].tolist() == [1, 7]
    last = probes.load_model(str(run / "checkpoints" / "step-000007"))
    alone = probes.measure_entropy(last, BATCHES, "knowledge")
    assert totals["entropy"].iloc[-1] == pytest.approx(alone.knowledge.total)
    assert any("run was never finished" in sentence for sentence in found.findings)
    assert "2 checkpoints" in repr(found)
    saved = found.save(tmp_path / "saved")
    pd.testing.assert_series_equal(
        pd.read_csv(saved / "trajectory.csv")["entropy"], found.to_dataframe()["entropy"]
    )


def test_models_in_memory_keep_their_order_and_a_folder_is_gone_on_in(tmp_path):
    models = {"plain": tiny_model("gpt2"), "gated": tiny_model("llama")}
    out = tmp_path / "sweep"
    found = analysis.sweep(models, BATCHES, kinds=["attention"], out=out)
    assert list(found.to_dataframe()["checkpoint"].unique()) == ["plain", "gated"]
    assert found.plot().layout.title.text == "<b>Attention entropy over training</b>"
    shutil.rmtree(out / "gated")
    again = analysis.sweep(models, BATCHES, kinds=["attention"], out=out)
    pd.testing.assert_frame_equal(again.to_dataframe(), found.to_dataframe())
    with pytest.raises(ValueError, match="kinds"):
        analysis.sweep(models, BATCHES, kinds=["next_token"], out=out)


@pytest.mark.parametrize(
    ("models", "settings", "refusal"),
    [
        ([], {}, "no models to measure"),
        (["a", "b"], {"revisions": ["step1"]}, "revisions belong to one"),
    ],
)
def test_what_cannot_be_swept_is_one_line(models, settings, refusal):
    with pytest.raises(ValueError, match=refusal):
        analysis.sweep(models, BATCHES, **settings)
    with pytest.raises(ValueError, match="only once"):
        analysis.sweep(["a"], iter(BATCHES))


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ((0, 1, 2, 4, 8, 16, 64), True),
        ((1000, 4000, 16000, 64000, 143000), True),
        (tuple(range(0, 20000, 1000)), False),
        ((10, 20, 30), False),
    ],
)
def test_log_spaced_checkpoints_are_drawn_over_a_log_axis(steps, expected):
    assert log_spaced(steps) is expected
    series = measured(steps)
    figure = totals_over_training(trajectory_table(series), "|c|")
    assert (figure.layout.xaxis.type == "log") is expected
    # Step 0, which has no logarithm, stands one step before the first.
    assert figure.data[0].x[0] == (
        steps[1] ** 2 / steps[2] if expected and not steps[0] else steps[0]
    )
    if expected:
        assert figure.layout.xaxis.ticktext[0] == f"{steps[0]:,}"


def test_a_curve_that_turns_beyond_the_intervals_is_no_chance():
    table = pd.DataFrame(
        {
            "checkpoint": ["step1", "step2", "step3"],
            "corpus": "plants",
            "measure": "|c|",
            "layer": None,
            "estimate": [9.0, 5.0, 8.5],
            "low": [8.5, 4.5, 8.0],
            "high": [9.5, 5.5, 9.0],
        }
    )
    (line,) = trajectory_findings(table)
    assert "lowest, 5.00 nats, at step2" in line
    assert "not with that of the turn" in line
    (line,) = trajectory_findings(table.assign(low=0.0))
    assert "may be chance" in line


def test_reading_builds_no_graph():
    """Whatever measures a model runs it without gradients, though weights want them."""
    model, seen = tiny_model("llama"), []
    items = encoded_items(model, [("w1 w2 w3", " w4"), ("w2 w5 w7 w1", " w3")])
    generator = torch.Generator().manual_seed(0)
    batch = BATCHES[0]
    readings = {
        "capture": lambda: probes.capture(model, batch, "resid_post"),
        "cache": lambda: model.run_with_cache(batch["input_ids"]),
        "stream": lambda: probes.stream(model, [batch], {"blocks.0.hook_resid_post": probes.RunningMean()}),
        "entropy": lambda: probes.measure_entropy(model, BATCHES),
        "perplexity": lambda: probes.measure_perplexity(model, BATCHES),
        "lens": lambda: analysis.lens(model, "w1 w2", " w4"),
        "ranks": lambda: probes.target_ranks(model, items),
        "causal": lambda: probes.causal_recovery(model, items, generator=generator, draws=1),
        "targets": lambda: probes.target_log_probs(model, [("w1", " w2")]),
        "choices": lambda: probes.choice_scores(model, [[("w1", " w2"), ("w1", " w3")]]),
        "generation": lambda: probes.generate(model, ["w1 w2"], max_new_tokens=2),
    }  # fmt: skip
    hook = ("blocks.0.hook_resid_post", lambda tensor, point: seen.append(tensor.requires_grad))
    assert all(weight.requires_grad for weight in model.hf_model.parameters())
    for name, read in readings.items():
        seen.clear()
        with model.hooks([hook]):
            read()
        assert seen, name
        assert not any(seen), name
