"""Edits by hooks inside a training step: gradients, gradient checkpointing, and what stays after.

The gradients expected are those of a loss in which the edited weights are a function of the
weights: `WeightChange.new`, run inside of autograd on a copy.
"""

import pytest
import torch
from torch.func import functional_call

import interventions
import probes
from tests.interventions.editing import (
    logits,
    measured,
    relative_gap,
    resuscitation,
    sites_of,
    temperatures_of_heads,
)
from tests.models import tiny_hf_model, tiny_model, tokens

FAMILIES = ("llama", "phi3", "gpt2", "gpt_neox")
EDITS = ("temperature", "of heads", "random", "noise", "redo", "identity")


def edit_called(name, family):
    like = resuscitation(family)
    match name:
        case "temperature":
            return interventions.AttentionTemperature(1.7)
        case "of heads":
            return interventions.AttentionTemperature(temperatures_of_heads())
        case "random":
            return interventions.RandomRows(like, seed=1)
        case "noise":
            return interventions.MatchedNoise(like, seed=1)
        case "redo":
            return interventions.ReDo(measured(family).mean_coefficients, ratio=0.4)
        case "identity":
            return interventions.Identity()
    return resuscitation(family, name)


CASES = [
    (family, name, checkpointing)
    for family in FAMILIES
    for name in (*sites_of(family), *EDITS)
    for checkpointing in ((False, True) if family in ("llama", "gpt2") else (False,))
]


def hooks_on(model):
    return [
        (dict(m._forward_pre_hooks), dict(m._forward_hooks), vars(m).get("forward"))
        for m in model.hf_model.modules()
    ]


def without_dropout(hf_model):
    for module in hf_model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return hf_model.train()


def loss_of(hf_model, values=None):
    ids = tokens(2, 11)
    arguments = {"input_ids": ids, "labels": ids, "use_cache": False}
    if values is None:
        return hf_model(**arguments).loss
    return functional_call(hf_model, values, (), arguments).loss


def expected_gradients(family, edit):
    """By the chain rule through the weights of the edit."""
    hf_model = tiny_hf_model(family, torch.float64)
    leaves = dict(hf_model.named_parameters())
    values = dict(leaves)
    for change in edit.weight_changes(probes.load_model(hf_model)):
        old = values[change.parameter]
        index = torch.arange(old.shape[change.axis]) if change.index is None else change.index
        new = change.new(old.index_select(change.axis, index))
        if edit.describe()["kind"] == "matched_noise":
            # As a hook, noise is a constant: what was drawn for the weights as they were.
            new = (
                old.index_select(change.axis, index)
                + (new - old.index_select(change.axis, index)).detach()
            )
        values[change.parameter] = old.index_copy(change.axis, index, new)
    without_dropout(hf_model)
    loss_of(hf_model, values).backward()
    return {name: weight.grad for name, weight in leaves.items()}


@pytest.mark.parametrize(("family", "name", "checkpointing"), CASES)
def test_gradients_behind_hooks_are_those_through_the_edited_weights(family, name, checkpointing):
    edit = edit_called(name, family)
    model = tiny_model(family, torch.float64)
    first = model.anatomy.layers[0].up
    passes = []
    first.register_forward_hook(lambda *_: passes.append(1))
    without_dropout(model.hf_model)
    if checkpointing:
        model.hf_model.activation_checkpointing_enable()
    before = hooks_on(model)
    with interventions.applied(model, edit):
        loss_of(model.hf_model).backward()
    assert len(passes) == 1 + checkpointing, "checkpointing runs each block again"
    for parameter, expected in expected_gradients(family, edit).items():
        found = model.hf_model.get_parameter(parameter).grad
        # Products in another order; norms and rotations compute in float32.
        assert relative_gap(found, expected) < 1e-5, parameter
    assert hooks_on(model) == before


def test_a_run_behind_hooks_learns_and_leaves_an_ordinary_model():
    model = tiny_model("llama")
    edits = (
        resuscitation("llama", "up"),
        interventions.AttentionTemperature(2.0, schedule="linear"),
    )
    optimizer = torch.optim.AdamW(model.hf_model.parameters(), lr=1e-2)
    losses = []
    with interventions.applied(model, *edits) as clock:
        for number in range(5):
            clock.progress = number / 4
            optimizer.zero_grad()
            loss = loss_of(model.hf_model)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        inside = logits(model)
    assert losses[-1] < losses[0]
    # The weights that were trained are the model's own; saved, they are without the edit.
    other = tiny_hf_model("llama")
    other.load_state_dict(model.hf_model.state_dict())
    with torch.no_grad():
        assert torch.equal(other(tokens(2, 11)).logits, logits(model))
    assert relative_gap(inside, logits(model)) > 1e-3


def read_and_fail(model):
    probes.capture(model, {"input_ids": tokens(2, 11)}, ["attention_scores"])
    raise KeyError("inner")


def test_edits_nest_with_hooks_and_captures_and_come_off_in_any_order_of_errors():
    model = tiny_model("llama")
    plain = logits(model)
    up, warm = resuscitation("llama", "up"), interventions.AttentionTemperature(1.7)
    noise = interventions.MatchedNoise(resuscitation("llama", "down"), seed=2)
    redo = interventions.ReDo(measured("llama").mean_coefficients, ratio=0.2)
    seen = []
    with interventions.applied(model, warm):
        warmer = logits(model)
        with (
            pytest.raises(KeyError, match="inner"),
            interventions.applied(model, up, noise),
            model.hooks([(("mlp_coefficients", 1), lambda c, _point: seen.append(c))]),
            interventions.applied(model, redo),
        ):
            read_and_fail(model)
        assert len(seen) == 1
        assert torch.equal(logits(model), warmer)
    assert torch.equal(logits(model), plain)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.hf_model.modules())
    assert all("forward" not in vars(m) for m in model.hf_model.modules())


def test_an_edit_that_fails_to_attach_takes_the_earlier_ones_off():
    class Broken:
        def attached(self, model, clock):
            raise ValueError("nothing to attach")

        def weight_changes(self, model):
            raise ValueError("nothing to write")

        def describe(self):
            return {"kind": "broken"}

    model = tiny_model("llama")
    plain = logits(model)
    edits = (
        resuscitation("llama", "preserving"),
        interventions.MatchedNoise(resuscitation("llama", "gate")),
        interventions.AttentionTemperature(1.7),
        Broken(),
    )
    with pytest.raises(ValueError, match="nothing to attach"), interventions.applied(model, *edits):
        raise AssertionError("never reached")
    assert torch.equal(logits(model), plain)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.hf_model.modules())
