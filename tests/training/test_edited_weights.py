"""One update of an edited model: plain AdamW on an edited copy, to the bit; behind a hook it is not.

A hook is a fixed gain in front of the trained weights: it multiplies a row's learning rate too.
"""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

import interventions
import probes
from tests.interventions.editing import logits, relative_gap, resuscitation
from tests.models import D_MLP, GATED, N_LAYERS, tiny_hf_model, tiny_model, tokens
from tests.training.loop_runs import (
    model_of,
    rows_of,
    run,
    same_bits,
    settings_of,
    step_records,
    weights_of,
)
from training.edit_settings import RunEdits
from training.settings import OptimizerSettings

SITES = (None, "up", "down", "preserving")


def edited_copy(site):
    """A Hugging Face model whose rows are multiplied by hand."""
    hf_model = tiny_hf_model("llama")
    for layer, u in zip(hf_model.model.layers, resuscitation("llama").multipliers(), strict=True):
        up, down = layer.mlp.up_proj.weight.data, layer.mlp.down_proj.weight.data
        if site in ("up", "preserving"):
            up *= u.float()[:, None]
        if site in ("down", "preserving"):
            down *= (u if site == "down" else 1 / u).float()
    return hf_model


def plain_step(hf_model, rate):
    """One update by PyTorch alone: decay of linear weights that are not tied, clipping to 1."""
    ids = rows_of().batch(0).input_ids
    hidden = hf_model.model(input_ids=ids, use_cache=False).last_hidden_state
    found = hf_model.lm_head(hidden[:, :-1].flatten(0, 1))
    (cross_entropy(found, ids[:, 1:].flatten(), reduction="sum") / found.shape[0]).backward()
    torch.nn.utils.clip_grad_norm_(hf_model.parameters(), 1.0)
    linear = [p for name, p in hf_model.named_parameters() if "proj" in name]
    others = [p for name, p in hf_model.named_parameters() if "proj" not in name]
    groups = [{"params": linear, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), eps=1e-5, fused=True).step()
    return dict(hf_model.named_parameters())


def after_one_update(folder, site=None, *, hooks=(), settings=None):
    """The model of a run that has made one update."""
    model = model_of()
    if site is not None:
        RunEdits(weights=(resuscitation("llama", site),)).write(model)
    return run(folder, model, settings=settings or settings_of(steps=1), edits=hooks)[0]


@pytest.fixture(scope="module")
def updated(tmp_path_factory):
    """Models after one update, by the site at which their weights were edited."""
    folder = tmp_path_factory.mktemp("updated")
    return {site: after_one_update(folder / str(site), site) for site in SITES}, folder


@pytest.mark.parametrize("site", SITES)
def test_an_update_of_edited_weights_is_that_of_plain_pytorch_to_the_bit(site, updated):
    models, folder = updated
    (record,) = step_records(folder / str(site))
    expected = plain_step(edited_copy(site), record.learning_rate)
    assert same_bits(weights_of(models[site]), {n: p.detach() for n, p in expected.items()})


def test_in_the_weights_every_edit_trains_something_else(updated):
    models = updated[0]
    start = {site: probes.load_model(edited_copy(site)) for site in SITES}
    # Before the update two pairs compute the same.
    for one, other in (("up", "down"), ("preserving", None)):
        assert relative_gap(logits(start[one]), logits(start[other])) < 1e-5
        assert relative_gap(logits(models[one]), logits(models[other])) > 1e-3


def test_behind_hooks_up_and_down_are_one_run_and_preserving_is_none(updated, tmp_path):
    found = {
        site: weights_of(after_one_update(tmp_path / site, hooks=(resuscitation("llama", site),)))
        for site in ("up", "down", "preserving")
    }
    found[None] = weights_of(updated[0][None])
    rate = step_records(updated[1] / "None")[0].learning_rate
    for one, other in (("up", "down"), ("preserving", None)):
        gaps = [(found[one][name] - w).abs().max() for name, w in found[other].items()]
        # Gradients differ by rounding, which AdamW divides by their size or by eps.
        assert max(gaps) < 0.01 * rate
    assert any((found["up"][name] - w).abs().max() > rate for name, w in found[None].items())


@pytest.mark.parametrize(("form", "moved"), [("weights", 1.00e-3), ("hooks", 4.06e-3)])
def test_a_hook_multiplies_the_learning_rate_by_u(form, moved, tmp_path):
    u, rate = 4.06, 1e-3
    means = torch.ones(N_LAYERS, D_MLP, dtype=torch.float64)
    means[1, 7] = 0.01
    edit = interventions.Resuscitation(
        means, ratio=1 / D_MLP, factor=2.0, layers=[1], selection="exact", max_multiplier=u
    )
    assert edit.multipliers()[1, 7] == u
    optimizer = OptimizerSettings(learning_rate=rate, eps=1e-20, weight_decay=0.0, clip_norm=None)
    schedule = replace(settings_of().schedule, kind="constant", warmup_fraction=0.0)
    settings = settings_of(steps=1, optimizer=optimizer, schedule=schedule)
    model = model_of()
    before = u * model.anatomy.layers[1].up.weight[7].detach().clone()
    gain = u if form == "hooks" else 1.0
    if form == "weights":
        interventions.patch_weights(model, edit)
    run(tmp_path / "run", model, settings=settings, edits=[edit] if form == "hooks" else [])
    effective = gain * model.anatomy.layers[1].up.weight[7].detach()
    # float32 weights of about 1 are known to a ten-thousandth of such a step.
    torch.testing.assert_close(
        (effective - before).abs(), torch.full_like(before, moved), rtol=1e-3, atol=0
    )


@pytest.mark.parametrize("family", GATED)
def test_a_preserving_edit_of_a_trained_model_keeps_its_logits(family):
    model = tiny_model(family)
    optimizer = torch.optim.AdamW(model.hf_model.parameters(), lr=1e-2)
    ids = tokens(3, 13)
    for _ in range(5):
        model.hf_model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    before = logits(model)
    result = probes.measure_entropy(model, [{"input_ids": ids}], kinds=("knowledge",))
    edit = interventions.Resuscitation(result, ratio=0.5, factor=2.0, site="preserving")
    assert edit.multipliers().max() > 2
    with interventions.applied(model, edit):
        hooked = logits(model)
    interventions.patch_weights(model, edit)
    for found in (hooked, logits(model)):
        assert (found - before).abs().max() < 1e-5 * max(1.0, float(before.abs().max()))
