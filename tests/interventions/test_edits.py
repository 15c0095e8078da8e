"""Edits as hooks, as weights and by hand on a copy; gone again afterwards to the last bit."""

import copy

import pytest
import torch
from torch.testing import assert_close

import interventions
import probes
from interventions.edit_forms import WeightChange, WeightWrites
from interventions.edits import patched_edits
from tests.interventions.editing import (
    assert_weights,
    logits,
    measured,
    relative_gap,
    resuscitation,
    shared,
    sites_of,
    weights_of,
)
from tests.models import FAMILIES, tiny_hf_model, tiny_model, tokens
from tests.reference.scaled_rows import multiply

CASES = [(family, site) for family in FAMILIES for site in sites_of(family)]


def by_hand(family, site, dtype=torch.float32):
    """A fresh model whose rows were multiplied one by one."""
    hf_model = copy.deepcopy(shared(family, dtype).hf_model)
    means = measured(family).mean_coefficients
    for layer, row in enumerate(means.tolist()):
        half = torch.tensor(row, dtype=torch.float64).quantile(0.5)
        for neuron, mean in enumerate(row):
            if mean > half or mean == 0:  # OPT's ReLU leaves some neurons idle
                continue
            u = 2.0 * (sum(row) / len(row)) / mean
            if site in ("up", "up_preactivation", "preserving"):
                multiply(hf_model, family, "up", layer, neuron, u)
            if site == "gate":
                multiply(hf_model, family, "gate", layer, neuron, u)
            if site in ("down", "preserving"):
                by = u if site == "down" else 1 / u
                multiply(hf_model, family, "down", layer, neuron, by)
    return hf_model


@pytest.mark.parametrize(("family", "site"), CASES)
def test_hooks_and_patch_are_the_rows_multiplied_by_hand(family, site):
    model, edit = shared(family, torch.float64), resuscitation(family, site)
    before, unedited = weights_of(model), logits(model)
    with torch.no_grad():
        expected = by_hand(family, site, torch.float64)(tokens(2, 11)).logits
    with interventions.applied(model, edit, check=False):
        hooked = logits(model)
    assert torch.equal(logits(model), unedited)
    report = interventions.patch_weights(model, edit, check=False)
    patched = logits(model)
    report.undo()
    assert_weights(model, before)
    # Float64 products in another order, through three layers; multipliers go up to about a hundred.
    assert relative_gap(hooked, expected) < 1e-11
    assert relative_gap(patched, expected) < 1e-11
    assert (site == "preserving") == (relative_gap(expected, unedited) < 1e-11)


def test_edits_compose_in_order_as_hooks_and_as_weights():
    model = tiny_model("llama", torch.float64)
    up, down = resuscitation("llama", "up"), resuscitation("llama", "down", factor=1.0)
    noise = interventions.MatchedNoise(resuscitation("llama", "up"), seed=3)
    warm = interventions.AttentionTemperature(1.5)
    for edits in [(up, down, warm), (noise, up), (warm, warm, up)]:
        with interventions.applied(model, *edits):
            together = logits(model)
        with interventions.applied(model, edits[0]), interventions.applied(model, *edits[1:]):
            assert torch.equal(logits(model), together)
        report = interventions.patch_weights(model, *edits)
        # Float64 through three layers, twice scaled.
        assert relative_gap(logits(model), together) < 1e-11
        assert report.edits == edits
        report.undo()


def test_an_exception_takes_the_edits_off_and_leaves_the_users_hooks():
    model, seen = tiny_model("llama"), []
    before = logits(model)
    mine = model.hf_model.model.layers[0].mlp.up_proj.register_forward_hook(
        lambda *_: seen.append(1)
    )
    edits = (resuscitation("llama", "preserving"), interventions.AttentionTemperature(1.5))
    with pytest.raises(RuntimeError, match="stop"), interventions.applied(model, *edits):  # noqa: PT012
        assert not seen, "trying edits out is nothing that others should see"
        logits(model)
        assert seen == [1]
        raise RuntimeError("stop")
    assert torch.equal(logits(model), before)
    assert seen == [1, 1]
    mine.remove()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.hf_model.modules())
    assert list(model.hf_model.state_dict()) == list(tiny_hf_model("llama").state_dict())


def test_captures_inside_and_outside_see_the_edited_coefficients():
    model, edit = tiny_model("llama"), resuscitation("llama", "up")
    batch = {"input_ids": tokens(2, 11)}
    plain = probes.capture(model, batch, ["mlp_coefficients"], layers=[0])["mlp_coefficients", 0]
    seen = []
    with (
        model.hooks([("blocks.0.mlp.hook_post", lambda tensor, _point: seen.append(tensor))]),
        interventions.applied(model, edit),
    ):
        inside = probes.capture(model, batch, ["mlp_coefficients"], layers=[0])
    expected = plain * edit.multipliers()[0].float()
    # One product more, in float32.
    assert_close(inside["mlp_coefficients", 0], expected, rtol=1e-6, atol=1e-6)
    assert_close(seen[0], expected, rtol=1e-6, atol=1e-6)
    assert len(seen) == 1


def test_trying_edits_out_between_forward_and_backward_disturbs_nothing():
    model, ids = tiny_model("llama"), tokens(2, 11)
    loss = model.hf_model(ids, labels=ids).loss
    with interventions.applied(model, resuscitation("llama", "preserving")):
        loss.backward()
    reference = tiny_hf_model("llama")
    reference(ids, labels=ids).loss.backward()
    for (name, weight), other in zip(
        model.hf_model.named_parameters(), reference.parameters(), strict=True
    ):
        assert torch.equal(weight.grad, other.grad), name


def test_a_patch_between_forward_and_backward_is_noticed():
    model, ids = tiny_model("llama"), tokens(2, 11)
    loss = model.hf_model(ids, labels=ids).loss
    interventions.patch_weights(model, resuscitation("llama", "preserving"))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_half_precision_weights_are_rounded_once():
    model, edit = tiny_model("phi3", torch.bfloat16), resuscitation("phi3", "up")
    before = model.hf_model.model.layers[1].mlp.gate_up_proj.weight.detach().clone()
    interventions.patch_weights(model, edit)
    after = model.hf_model.model.layers[1].mlp.gate_up_proj.weight.detach()
    u = torch.cat([torch.ones(29), edit.multipliers()[1].float()])
    assert torch.equal(after, (before.float() * u[:, None]).bfloat16())


class Failing:
    """An edit that fails when its second parameter is written."""

    def attached(self, model, clock):
        raise ValueError("no hooks")

    def weight_changes(self, model):
        def fail(rows):
            raise KeyboardInterrupt

        first, second = "model.embed_tokens.weight", "model.norm.weight"
        rows = torch.tensor([3, 5])
        return [WeightChange(first, 0, rows, torch.zeros_like), WeightChange(second, 0, None, fail)]

    def describe(self):
        return {"kind": "failing"}


def test_an_error_half_way_restores_the_bits():
    model = tiny_model("llama")
    before = weights_of(model)
    with pytest.raises(KeyboardInterrupt):
        interventions.patch_weights(model, resuscitation("llama"), Failing(), check=False)
    assert_weights(model, before)
    with pytest.raises(KeyboardInterrupt):
        interventions.patch_weights(model, resuscitation("llama"), Failing())
    assert_weights(model, before)
    with pytest.raises(ValueError, match="clips its queries"):  # noqa: PT012
        clipped = model.hf_model.config.clip_qkv = 8.0
        edits = (resuscitation("llama"), interventions.AttentionTemperature(clipped))
        interventions.patch_weights(model, *edits)
    assert_weights(model, before)


def test_a_report_says_what_was_changed():
    model, edit = tiny_model("gpt2"), resuscitation("gpt2", "up_preactivation", layers=[1])
    names = ["transformer.h.1.mlp.c_fc.weight", "transformer.h.1.mlp.c_fc.bias"]
    before = weights_of(model)
    report = interventions.patch_weights(model, edit)
    assert [change.parameter for change in report.changes] == names
    for change in report.changes:
        then, now = before[change.parameter], model.hf_model.state_dict()[change.parameter]
        assert (change.rows_changed, change.rows) == (int(edit.selected()[1].sum()), 29)
        # Float32 norms of a thousand numbers, summed in another order.
        assert change.norm_before == pytest.approx(float(then.double().norm()), rel=1e-5)
        assert change.norm_after == pytest.approx(float(now.double().norm()), rel=1e-5)
        expected = float((now - then).double().norm() / then.double().norm())
        assert change.relative_change == pytest.approx(expected, rel=1e-5)
    lines = str(report).splitlines()
    assert len(lines) == 3
    assert lines[1].split()[:3] == [names[0], "15", "29"]


def test_rows_that_two_edits_change_are_reported_once_and_undone():
    model = tiny_model("llama")
    before = weights_of(model)
    first, second = resuscitation("llama", ratio=0.3), resuscitation("llama", ratio=0.6)
    report = interventions.patch_weights(model, first, second)
    union = (first.selected() | second.selected()).sum(dim=1)
    assert [c.rows_changed for c in report.changes] == union.tolist()
    report.undo()
    assert_weights(model, before)


def test_patches_are_remembered_and_undone_in_any_order_that_keeps_the_bits():
    model = tiny_model("llama")
    before = weights_of(model)
    up, warm = resuscitation("llama"), interventions.AttentionTemperature(1.5)
    more = resuscitation("llama", factor=3.0)
    first = interventions.patch_weights(model, up)
    second = interventions.patch_weights(model, warm)
    third = interventions.patch_weights(model, more)
    assert patched_edits(model) == (up, warm, more)
    with pytest.raises(ValueError, match=r"up_proj.weight was changed since the patch"):
        first.undo()
    second.undo()
    assert patched_edits(model) == (up, more)
    third.undo()
    first.undo()
    assert patched_edits(model) == ()
    assert_weights(model, before)
    with pytest.raises(ValueError, match="undone already"):
        first.undo()


def test_a_patch_of_weights_that_were_trained_since_is_not_undone():
    model = tiny_model("llama")
    report = interventions.patch_weights(model, resuscitation("llama"))
    with torch.no_grad():
        model.hf_model.model.layers[2].mlp.up_proj.weight.add_(0.01)
    trained = weights_of(model)
    with pytest.raises(ValueError, match=r"layers.2.mlp.up_proj.weight was changed since"):
        report.undo()
    assert_weights(model, trained)


def test_a_copy_made_of_an_edited_model_is_not_edited():
    model = tiny_model("llama")
    with interventions.applied(model, resuscitation("llama", "down")):
        other = copy.deepcopy(model.hf_model)
    with torch.no_grad():
        assert torch.equal(other(tokens(2, 11)).logits, logits(model))


def test_the_clock_runs_from_0_to_1():
    clock = interventions.Clock()
    assert clock.progress == 0
    clock.progress = 1.0
    with pytest.raises(ValueError, match=r"from 0 to 1, found 1.5"):
        clock.progress = 1.5


def test_quantized_weights_are_refused_by_name():
    layer = torch.nn.Linear(3, 2)
    layer.weight = torch.nn.Parameter(torch.zeros(2, 3, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match=r"weight holds torch.int8, not floating-point"):
        WeightWrites(layer).write([WeightChange("weight", 0, None, torch.zeros_like)])
