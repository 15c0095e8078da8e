"""Resuscitations made by measuring: the coefficients, layer after layer, and a factor solved for."""

import dataclasses

import pytest
import torch
from torch.testing import assert_close

import interventions
from probes import knowledge_entropy
from tests.interventions.editing import shared
from tests.models import N_LAYERS, padded, tiny_model, tokens
from tests.refusals import refused


def means_by_hand(model, rows, layers_patched=(), edit=None):
    """Mean |c| of every neuron, row by row through PyTorch hooks of our own."""
    report = None
    if layers_patched:
        some = dataclasses.replace(edit, layers=list(layers_patched))
        report = interventions.patch_weights(model, some, check=False)
    found = []
    for row in rows:
        of_layers = [None] * N_LAYERS

        def keep(layer, of_layers=of_layers):
            def hook(_module, arguments):
                of_layers[layer] = arguments[0][0].double().abs().mean(dim=0)

            return hook

        modules = [model.anatomy.layers[i].down for i in range(N_LAYERS)]
        handles = [m.register_forward_pre_hook(keep(i)) for i, m in enumerate(modules)]
        with torch.no_grad():
            model.hf_model(row[None])
        for handle in handles:
            handle.remove()
        found.append(torch.stack(of_layers))
    if report is not None:
        report.undo()
    return torch.stack(found).mean(dim=0)


def padded_rows():
    """Rows of three lengths: instances count the same, not tokens."""
    ids, mask = padded([11, 5, 7], "right")
    return {"input_ids": ids, "attention_mask": mask}, [ids[0], ids[1, :5], ids[2, :7]]


def test_coefficients_are_measured_and_the_edit_knows_on_what():
    model = shared("llama")
    batch, rows = padded_rows()
    edit = interventions.resuscitate(model, [batch], 0.4, 1.5, site="down", layers=[0, 2])
    # Float32 activations.
    assert_close(edit.coefficients, means_by_hand(model, rows), rtol=1e-5, atol=1e-7)
    assert (edit.ratio, edit.factor, str(edit.site), edit.layers) == (0.4, 1.5, "down", (0, 2))
    assert edit.model_hash == model.content_hash()
    norms = torch.stack([layer.memory_vectors.norm(dim=1) for layer in model.anatomy.layers])
    assert_close(edit.mean_contributions, edit.coefficients * norms.double(), rtol=1e-5, atol=1e-7)
    by_tokens = interventions.resuscitate(model, [batch], 0.4, 1.5, weighting="token")
    of_rows = torch.stack([means_by_hand(model, [row]) for row in rows])
    lengths = torch.tensor([11.0, 5.0, 7.0], dtype=torch.float64)[:, None, None]
    expected = (of_rows * lengths).sum(dim=0) / 23
    assert_close(by_tokens.coefficients, expected, rtol=1e-5, atol=1e-7)


def test_sequential_measures_every_layer_with_the_earlier_ones_edited():
    model = tiny_model("llama", torch.float64)
    batch, rows = padded_rows()
    plain = interventions.resuscitate(model, [batch], 0.5, 2.0)
    edit = interventions.resuscitate(model, [batch], 0.5, 2.0, sequential=True)
    assert edit.sequential
    assert not plain.sequential
    for layer in range(N_LAYERS):
        expected = means_by_hand(model, rows, range(layer), edit)[layer]
        # Norms compute in float32.
        assert_close(edit.coefficients[layer], expected, rtol=1e-6, atol=1e-9)
    assert not torch.allclose(edit.coefficients[2], plain.coefficients[2], rtol=0.01)
    # With all of them edited, every edited neuron has factor times the mean of its layer.
    after = means_by_hand(model, rows, range(N_LAYERS), edit)
    targets = (2.0 * edit.coefficients.mean(dim=1, keepdim=True)).expand_as(after)
    assert_close(after[edit.selected()], targets[edit.selected()], rtol=1e-6, atol=1e-9)


def test_sequential_goes_by_the_layers_that_are_edited_and_once_if_nothing_shifts():
    model = shared("llama")
    batch, rows = padded_rows()
    passes = []
    edit = interventions.resuscitate(
        model, [batch], 0.5, 2.0, sequential=True, layers=[2, 0], on_batch=passes.append
    )
    assert passes == [23, 23]
    expected = means_by_hand(model, rows, [0], edit)[2]
    assert_close(edit.coefficients[2], expected, rtol=1e-5, atol=1e-7)
    passes.clear()
    interventions.resuscitate(
        model, [batch], 0.5, 2.0, site="preserving", sequential=True, on_batch=passes.append
    )
    assert passes == [23]


@pytest.mark.parametrize("site", ["up", "preserving"])
def test_a_target_is_reached_by_the_smallest_factor(site):
    model, batch = shared("llama"), padded_rows()[0]
    plain = interventions.resuscitate(model, [batch], 0.5, 1.0, site=site)
    before = float(knowledge_entropy(plain.coefficients).sum())
    target = (before + plain.predicted_entropy().total) / 2
    edit = interventions.resuscitate(model, [batch], 0.5, target_entropy=target, site=site)
    assert edit.predicted_entropy().total == pytest.approx(target, abs=1e-9)
    for share in (0.01, 0.3, 0.9, 0.999):
        smaller = dataclasses.replace(edit, factor=edit.factor * share)
        assert smaller.predicted_entropy().total < target


def test_neurons_that_are_never_active_are_skipped_and_reported():
    means = torch.tensor([[0.0, 0.0, 1.0, 4.0, 5.0, 6.0]])
    edit = interventions.Resuscitation(means, ratio=0.5, factor=1.0)
    assert edit.skipped().tolist() == [[True, True, False, False, False, False]]
    assert edit.multipliers().tolist() == [[1.0, 1.0, 16 / 6, 1.0, 1.0, 1.0]]
    assert any(w.startswith("2 neurons were never active") for w in edit.warnings())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "takes a factor or a target_entropy, found neither; pass one"),
        ({"factor": 2.0, "target_entropy": 9.0}, "a target_entropy, found both; pass one"),
        ({"target_entropy": 9.0, "site": "down"}, "no closed form at site 'down'"),
        ({"target_entropy": 9.0, "sequential": True}, "is solved from one measurement"),
        ({"target_entropy": 99.0}, "cannot be reached: the highest is"),
        ({"target_entropy": 0.1}, "is not above .*, which every factor reaches"),
        ({"factor": 2.0, "ratio": 1.5}, "ratio is a share above 0, to 1"),
        ({"factor": 2.0, "site": "upp"}, "site must be one of up, down"),
        ({"factor": 2.0, "weighting": "document"}, "weighting must be one of"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_in_one_line(settings, message):
    with refused(message):
        interventions.resuscitate(shared("llama"), [{"input_ids": tokens(2, 5)}], **settings)


def test_batches_that_are_needed_again_cannot_be_an_iterator():
    batches = iter([{"input_ids": tokens(2, 5)}])
    with pytest.raises(ValueError, match="once a layer, but was given an iterator"):
        interventions.resuscitate(shared("llama"), batches, 0.5, 2.0, sequential=True)
    interventions.resuscitate(shared("llama"), batches, 0.5, 2.0)
