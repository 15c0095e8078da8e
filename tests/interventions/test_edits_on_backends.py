"""Edits through TransformerLens and nnsight are what they are natively, or are refused by name."""

from functools import cache

import pytest
import torch

import interventions
import probes
from tests.interventions.editing import (
    logits,
    measured,
    relative_gap,
    resuscitation,
    shared,
    sites_of,
    temperatures_of_heads,
)
from tests.models import FAMILIES, tiny_hf_model, tiny_tokenizer, tokens

BACKENDS = ("transformer_lens", "nnsight")
# A bridge computes in another order than transformers does, in float32, through three layers.
ROUNDING = 1e-4
# nnsight's own word for how an open loop ends.
LOOP_ENDS = "ignore:.*was never reached. the loop asked for a step:UserWarning"


@cache
def on(backend, family):
    """One model of each kind, for tests that leave it as it was."""
    return probes.load_model(tiny_hf_model(family), tokenizer=tiny_tokenizer(), backend=backend)


def edits_of(family):
    found = [resuscitation(family, site) for site in sites_of(family)]
    if family in ("llama", "gpt2"):
        # These scale rows as a resuscitation does.
        like = resuscitation(family, "down")
        found += [interventions.RandomRows(like, seed=1), interventions.MostActiveRows(like)]
        found.append(interventions.Identity())
    heads = interventions.AttentionTemperature(temperatures_of_heads())
    return [*found, interventions.AttentionTemperature(1.7), heads]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_edit_by_hooks_is_the_native_one(backend, family):
    model, native = on(backend, family), shared(family)
    plain = logits(model)
    for edit in edits_of(family):
        kind = edit.describe()["kind"]
        if (backend, family, kind) == ("transformer_lens", "opt", "attention_temperature"):
            with (
                pytest.raises(ValueError, match="attention"),
                interventions.applied(model, edit),
            ):
                raise AssertionError("never reached")
            continue
        with interventions.applied(native, edit, check=False):
            expected = logits(native)
        # Trying edits out takes four passes each: in one family.
        with interventions.applied(model, edit, check=family == "llama"):
            assert relative_gap(logits(model), expected) < ROUNDING
        assert torch.equal(logits(model), plain)


@pytest.mark.parametrize("backend", BACKENDS)
def test_edits_compose_there_and_measurements_see_them(backend):
    model, native, batch = on(backend, "llama"), shared("llama"), {"input_ids": tokens(2, 11)}
    edits = (resuscitation("llama", "preserving"), interventions.AttentionTemperature(1.7))
    found = []
    for one in (native, model):
        with interventions.applied(one, edits[0]), interventions.applied(one, edits[1]):
            found.append(probes.measure_entropy(one, [batch]))
    for kind in ("knowledge", "contribution", "attention"):
        expected, total = (getattr(result, kind).total for result in found)
        # Entropies of a few nats, in float32.
        assert total == pytest.approx(expected, rel=1e-4), kind


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_clock_is_looked_at_there_too(backend):
    model, native = on(backend, "llama"), shared("llama")
    edit = interventions.AttentionTemperature(3.0, schedule="linear")
    for progress in (0.0, 0.6):
        with interventions.applied(native, edit) as clock:
            clock.progress = progress
            expected = logits(native)
        with interventions.applied(model, edit) as clock:
            clock.progress = progress
            assert relative_gap(logits(model), expected) < ROUNDING


@pytest.mark.parametrize("backend", BACKENDS)
def test_controls_that_need_the_models_own_projections_are_refused_by_name(backend):
    model = on(backend, "llama")
    noise = interventions.MatchedNoise(resuscitation("llama"))
    redo = interventions.ReDo(measured("llama").mean_coefficients, ratio=0.4)
    for name, edit in (("MatchedNoise", noise), ("ReDo", redo)):
        message = f"{name} as a hook needs PyTorch hooks .* which backend '{backend}' does not have"
        with pytest.raises(ValueError, match=message), interventions.applied(model, edit):
            raise AssertionError("never reached")


def test_a_bridge_has_no_weights_to_patch_and_nnsight_has():
    edit = resuscitation("llama", "preserving")
    with pytest.raises(ValueError, match="TransformerBridge"):
        interventions.patch_weights(on("transformer_lens", "llama"), edit)
    model = probes.load_model(tiny_hf_model("llama"), backend="nnsight")
    plain = logits(model)
    up = resuscitation("llama", "up")
    with interventions.applied(model, up):
        hooked = logits(model)
    report = interventions.patch_weights(model, up)
    assert relative_gap(logits(model), hooked) < 1e-5
    noise = interventions.MatchedNoise(resuscitation("llama", "down"))
    # Its hooks are not to be had here, but its weights are.
    more = interventions.patch_weights(model, noise)
    assert relative_gap(logits(model), hooked) > 1e-3
    more.undo()
    report.undo()
    assert torch.equal(logits(model), plain)


def fresh_nnsight(family, attention="sdpa"):
    hf_model = tiny_hf_model(family)
    hf_model.set_attn_implementation(attention)
    return probes.load_model(hf_model, tokenizer=tiny_tokenizer(), backend="nnsight")


def traced(nnsight_model, ids):
    kept = []
    with torch.no_grad():  # noqa: SIM117
        with nnsight_model.trace(input_ids=ids, use_cache=False):
            kept.append(nnsight_model.output.logits)
    return kept[0]


@pytest.mark.filterwarnings(LOOP_ENDS)
@pytest.mark.parametrize("family", ["phi3", "gpt2"])
def test_nnsights_own_traces_run_edits_made_by_its_edit(family):
    model, native, ids = fresh_nnsight(family, "eager"), shared(family), tokens(2, 11)
    wrapped = model.engine.wrapped
    plain = traced(wrapped, ids)
    for edit in edits_of(family):
        with interventions.applied(native, edit, check=False):
            expected = logits(native)
        edited = interventions.nnsight_edited(model, edit, check=False)
        assert relative_gap(traced(edited, ids), expected) < ROUNDING
        # The model itself stays, and what it is asked next.
        assert torch.equal(traced(wrapped, ids), plain)
    both = (resuscitation(family), interventions.AttentionTemperature(1.7))
    with interventions.applied(native, *both, check=False):
        expected = logits(native)
    edited = interventions.nnsight_edited(model, *both)
    assert relative_gap(traced(edited, ids), expected) < ROUNDING
    seen = []
    with torch.no_grad():  # noqa: SIM117
        with edited.trace(input_ids=ids, use_cache=False):
            seen.append(edited.output.logits * 2)
    assert relative_gap(seen[0], 2 * expected) < ROUNDING


@pytest.mark.filterwarnings(LOOP_ENDS)
def test_they_run_in_every_pass_of_a_generation():
    model, native, ids = fresh_nnsight("llama", "eager"), shared("llama"), tokens(1, 5)
    edits = (resuscitation("llama"), interventions.AttentionTemperature(1.7))
    settings = {"max_new_tokens": 12, "do_sample": False}
    with interventions.applied(native, *edits):
        expected = native.hf_model.generate(ids, **settings)
    assert not torch.equal(native.hf_model.generate(ids, **settings), expected)
    edited, kept = interventions.nnsight_edited(model, *edits), []
    with edited.generate(input_ids=ids, **settings) as tracer:
        kept.append(tracer.result)
    assert torch.equal(kept[0], expected)


def test_native_hooks_reach_the_traces_of_nnsight_over_the_same_model():
    import nnsight

    wrapped = nnsight.TransformersModel(tiny_hf_model("llama"), tokenizer=tiny_tokenizer())
    native = probes.load_model(wrapped._module)
    noise = interventions.MatchedNoise(resuscitation("llama"))
    with interventions.applied(native, noise, interventions.AttentionTemperature(1.7)):
        expected = logits(native)
        assert torch.equal(traced(wrapped, tokens(2, 11)), expected)


def test_what_nnsights_edit_cannot_do_is_refused_by_name():
    up, warm = resuscitation("llama"), interventions.AttentionTemperature(1.7)
    with pytest.raises(ValueError, match="needs a model on the nnsight backend, found 'native'"):
        interventions.nnsight_edited(shared("llama"), up)
    with pytest.raises(ValueError, match="needs eager attention, found 'sdpa'"):
        interventions.nnsight_edited(fresh_nnsight("llama"), up, warm)
    with pytest.raises(ValueError, match="opt flattens its batch in the MLP"):
        interventions.nnsight_edited(on("nnsight", "opt"), resuscitation("opt"))
    with pytest.raises(ValueError, match="MatchedNoise as a hook needs PyTorch hooks"):
        interventions.nnsight_edited(on("nnsight", "llama"), interventions.MatchedNoise(up))
    with pytest.raises(ValueError, match="changes nothing"):
        interventions.nnsight_edited(
            on("nnsight", "llama"), interventions.AttentionTemperature(1.0)
        )
