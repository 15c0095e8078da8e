"""Resuscitation: what it multiplies, what it predicts and says, and what it refuses."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from scipy.stats import entropy as scipy_entropy
from transformers import LlamaForCausalLM

import interventions
import probes
from tests.interventions.editing import logits, measured, relative_gap, resuscitation, shared
from tests.models import D_MLP, N_LAYERS, tiny_config, tiny_hf_model, tiny_model, tokens
from tests.reference.official_resuscitation import official_resuscitation
from tests.refusals import refused


def means(seed=0):
    drawn = np.random.default_rng(seed).lognormal(size=(N_LAYERS, D_MLP))
    return torch.from_numpy(drawn)


def official_state(hf_model):
    """The model's MLPs as an OLMo checkpoint keeps them: linear half first, then the gate."""
    return {
        f"transformer.blocks.{i}.ff_proj.weight": torch.cat(
            [layer.mlp.up_proj.weight, layer.mlp.gate_proj.weight]
        )
        .detach()
        .clone()
        for i, layer in enumerate(hf_model.model.layers)
    }


@pytest.mark.parametrize("ratio", [0.001, 0.3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0, 3.0])
def test_official_selects_the_rows_and_writes_the_values_of_the_released_code(ratio, factor):
    average = means().float()
    average[0, 3:11] = average[0].quantile(0.5)  # ties at the threshold
    model = tiny_model("olmo")
    state = official_state(model.hf_model)
    rows = official_resuscitation(state, average, ratio, factor)
    edit = interventions.Resuscitation(average, ratio, factor, compat="official")
    for layer, chosen in enumerate(edit.selected()):
        assert chosen.nonzero().flatten().tolist() == rows[layer].tolist()
    interventions.patch_weights(model, edit)
    for layer in range(N_LAYERS):
        mlp = model.hf_model.model.layers[layer].mlp
        both = state[f"transformer.blocks.{layer}.ff_proj.weight"]
        assert torch.equal(mlp.up_proj.weight, both[:D_MLP])
        assert torch.equal(mlp.gate_proj.weight, both[D_MLP:])


def test_official_has_no_guard_for_zeros_and_the_default_has():
    average = means().float()
    average[1, 5] = 0.0
    model = tiny_model("olmo")
    state = official_state(model.hf_model)
    official_resuscitation(state, average, 0.3, 2.0)
    official = interventions.Resuscitation(average, 0.3, 2.0, compat="official")
    with pytest.raises(ValueError, match=r"numbers that are not finite in torch\.float32"):
        interventions.patch_weights(model, official)
    report = interventions.patch_weights(model, official, check=False)
    found = model.hf_model.model.layers[1].mlp.up_proj.weight
    expected = state["transformer.blocks.1.ff_proj.weight"][:D_MLP]
    assert torch.equal(found.isfinite(), expected.isfinite())
    assert not found[5].isfinite().any()
    report.undo()
    default = interventions.Resuscitation(average, 0.3, 2.0)
    assert default.multipliers()[1, 5] == 1
    assert default.skipped().nonzero().tolist() == [[1, 5]]
    assert "1 neurons were never active" in " ".join(default.warnings())
    interventions.patch_weights(model, default)


def test_official_refuses_what_the_released_code_does_not_do():
    for setting in ({"site": "down"}, {"selection": "exact"}, {"max_multiplier": 9.0}):
        with pytest.raises(ValueError, match="compat='official' scales up rows"):
            interventions.Resuscitation(means(), compat="official", **setting)
    config = tiny_config("llama")
    config.mlp_bias = True
    biased = probes.load_model(LlamaForCausalLM(config).eval())
    edit = interventions.Resuscitation(means(), compat="official")
    with pytest.raises(ValueError, match=r"bias here, .* leave compat out"):
        interventions.patch_weights(biased, edit)


def test_a_bias_of_a_gated_mlp_is_scaled_with_its_row():
    config = tiny_config("llama")
    config.mlp_bias = True
    hf_model = LlamaForCausalLM(config).eval().double()
    for name, parameter in hf_model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    model = probes.load_model(hf_model)
    for site in ("up", "gate", "down", "preserving"):
        edit = interventions.Resuscitation(means(), site=site)
        noise = interventions.MatchedNoise(edit, seed=3)
        for one in (edit, noise):
            with interventions.applied(model, one):
                hooked = logits(model)
            report = interventions.patch_weights(model, one)
            # Float64 through three layers.
            assert relative_gap(logits(model), hooked) < 1e-10
            report.undo()


@pytest.mark.parametrize("site", ["up", "down", "preserving"])
def test_what_is_predicted_is_what_is_measured_in_the_first_layer(site):
    model = shared("llama")
    edit = interventions.Resuscitation(measured("llama"), 0.5, 2.0, site)
    batches = [{"input_ids": tokens(2, 11)}]
    report = interventions.patch_weights(model, edit)
    found = probes.measure_entropy(model, batches, kinds=("knowledge",))
    report.undo()
    predicted = edit.predicted_entropy()
    exact = range(N_LAYERS) if site == "preserving" else [0]
    for layer in exact:
        # Means of 22 float32 values.
        expected = found.mean_coefficients[layer]
        assert relative_gap(edit.predicted_mean_coefficients()[layer], expected) < 1e-5
        by_scipy = scipy_entropy(expected.numpy())
        assert float(predicted.per_layer[layer]) == pytest.approx(by_scipy, rel=1e-6)
        contribution = float(found.contribution.per_layer[layer])
        assert float(predicted.contribution_per_layer[layer]) == pytest.approx(
            contribution, rel=1e-6
        )
    if site == "preserving":
        unedited = measured("llama")
        assert predicted.total != pytest.approx(unedited.knowledge.total, abs=0.1)
        assert predicted.contribution_total == pytest.approx(unedited.contribution.total, rel=1e-12)
        assert found.contribution.total == pytest.approx(unedited.contribution.total, rel=1e-6)
    assert edit.predicted_entropy().total == pytest.approx(float(predicted.per_layer.sum()))


def test_nothing_is_predicted_through_a_nonlinearity():
    for site in ("gate", "up_preactivation"):
        edit = interventions.Resuscitation(means(), site=site)
        assert edit.predicted_mean_coefficients() is None
        assert edit.predicted_entropy() is None
        assert "nothing is predicted" in edit.warnings()[-1]
    assert interventions.Resuscitation(means()).predicted_entropy().contribution_total is None


def test_only_the_layers_asked_for_are_edited():
    model = shared("llama")
    edit = resuscitation("llama", layers=[2])
    report = interventions.patch_weights(model, edit)
    assert [change.parameter for change in report.changes] == ["model.layers.2.mlp.up_proj.weight"]
    report.undo()
    whole = resuscitation("llama").multipliers()
    assert torch.equal(edit.multipliers()[2], whole[2])
    assert (edit.multipliers()[:2] == 1).all()


def test_warnings_name_what_a_user_may_not_expect():
    coefficients = means(1)
    lowered = interventions.Resuscitation(coefficients, 0.5, 40.0).warnings()
    assert "lowers knowledge entropy" in lowered[0]
    assert "smaller factor" in lowered[0]
    assert "larger factor" in interventions.Resuscitation(coefficients, 0.5, 0.02).warnings()[0]
    weaker = interventions.Resuscitation(coefficients, 0.9, 1.0)
    count = int((weaker.multipliers() < 1).sum())
    assert count > 0
    assert f"{count} of {int(weaker.selected().sum())} multipliers are below 1" in " ".join(
        weaker.warnings()
    )
    capped = interventions.Resuscitation(coefficients, 0.5, 2.0, max_multiplier=4.0)
    uncapped = interventions.Resuscitation(coefficients, 0.5, 2.0).multipliers()
    assert f"{int((uncapped >= 4).sum())} multipliers are capped at 4" in " ".join(
        capped.warnings()
    )
    preserving = interventions.Resuscitation(coefficients, site="preserving").warnings()[-1]
    assert "without changing what the model computes" in preserving
    assert "learning rate of its own for each row" in preserving


def test_a_description_is_json_and_names_coefficients_and_model():
    result = measured("llama")
    edit = interventions.Resuscitation(result, 0.3, 1.5, "down", layers=[0, 2])
    read = json.loads(json.dumps(edit.describe()))
    assert read["model_sha256"] == result.provenance.weights_sha256
    assert read["kind"] == "resuscitation"
    assert (read["ratio"], read["factor"], read["site"]) == (0.3, 1.5, "down")
    assert read["layers"] == [0, 2]
    other = interventions.Resuscitation(result.mean_coefficients * 2)
    assert other.describe()["coefficients_sha256"] != read["coefficients_sha256"]
    assert other.describe()["model_sha256"] is None
    assert (
        dataclasses.replace(edit, factor=2.0).describe()["coefficients_sha256"]
        == (read["coefficients_sha256"])
    )


def test_coefficients_of_another_model_are_refused():
    other = probes.load_model(tiny_hf_model("llama", seed=1))
    edit = interventions.Resuscitation(measured("llama"))
    with (
        pytest.raises(ValueError, match=r"coefficients of another model: measured on weights"),
        interventions.applied(other, edit),
    ):
        pass
    with pytest.raises(ValueError, match="pass the coefficients as a tensor without model_hash"):
        interventions.patch_weights(other, edit)
    model = tiny_model("llama")
    with interventions.applied(model, edit):
        pass
    with torch.no_grad():
        model.hf_model.model.norm.weight[0] += 1e-3
    with pytest.raises(ValueError, match="another model"):
        interventions.patch_weights(model, edit)
    tensor = interventions.Resuscitation(measured("llama").mean_coefficients)
    interventions.patch_weights(model, tensor)


def test_a_result_of_another_coefficient_is_refused():
    result = probes.measure_entropy(
        shared("llama"),
        [{"input_ids": tokens(2, 11)}],
        kinds=("knowledge",),
        coefficient="contribution",
    )
    with pytest.raises(ValueError, match=r"means of \|c\|, but this result has .*'contribution'"):
        interventions.Resuscitation(result)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio": 0.0}, "ratio is a share above 0, to 1, found 0.0"),
        # A tenth of a neuron, and a layer of none.
        ({"ratio": 0.003, "selection": "exact"}, "no neuron is selected.* the ratio of 0.003"),
        ({"layers": []}, "no neuron is selected"),
        ({"mean_coefficients": means() * (means() > means().median(1, True)[0])}, "no neuron is"),
        ({"ratio": -0.1}, "ratio is a share above 0, to 1, found -0.1"),
        ({"ratio": 50.0}, "ratio is a share above 0, to 1, found 50.0"),
        ({"ratio": float("nan")}, "ratio is a share above 0, to 1, found nan"),
        ({"factor": 0.0}, "factor must be a finite number above 0, found 0.0"),
        ({"factor": -2.0}, "factor must be a finite number above 0"),
        ({"factor": float("inf")}, "factor must be a finite number above 0"),
        ({"max_multiplier": 0.0}, "max_multiplier must be above 0"),
        ({"layers": [3]}, "layer 3 does not exist; there are 0 to 2"),
        ({"layers": [-1]}, "layer -1 does not exist"),
        ({"site": "sideways"}, "site must be one of up, down, preserving, gate, up_preactivation"),
        ({"selection": "most"}, "selection must be one of quantile, exact, found 'most'"),
        ({"compat": "unofficial"}, "compat must be one of official"),
        ({"mean_coefficients": -means()}, "mean coefficients of layer 0 must be finite, non-neg"),
        ({"mean_coefficients": means() * float("nan")}, "must be finite"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with refused(message):
        interventions.Resuscitation(**({"mean_coefficients": means()} | settings))


@pytest.mark.parametrize(
    ("family", "site", "message"),
    [
        (
            "gpt2",
            "up",
            r"gpt2 has no gate.*by name with site='up_preactivation', or use site='down'",
        ),
        ("opt", "preserving", r"opt has no gate.*does not exist; use site='down'"),
        ("gpt_neox", "gate", r"gpt_neox has no gate to scale"),
        (
            "llama",
            "up_preactivation",
            r"up rows of llama act after the nonlinearity; use site='up'",
        ),
    ],
)
def test_sites_that_a_family_does_not_have_are_refused_as_hooks_and_as_patch(family, site, message):
    model, edit = shared(family), interventions.Resuscitation(means(), site=site)
    with pytest.raises(ValueError, match=message), interventions.applied(model, edit):
        pass
    with pytest.raises(ValueError, match=message):
        interventions.patch_weights(model, edit)


def test_coefficients_of_another_shape_are_refused():
    edit = interventions.Resuscitation(means()[:2])
    message = r"2 layers of 29 neurons, but .* has 3 layers of 29; measure them on this model"
    with pytest.raises(ValueError, match=message), interventions.applied(shared("llama"), edit):
        pass


@pytest.mark.slow
def test_preserving_leaves_smollm2_as_it_is_and_gives_every_edited_neuron_its_mean(smollm2):
    corpus = probes.load_corpus("general", max_documents=2)
    batch = next(
        iter(probes.token_batches(corpus, smollm2.tokenizer, sequence_length=48, batch_size=1))
    )
    ids = batch["input_ids"]
    result = probes.measure_entropy(smollm2, [batch], kinds=("knowledge",))
    edit = interventions.Resuscitation(result, ratio=0.5, factor=2.0, site="preserving")
    before, chosen = logits(smollm2, ids), edit.selected()
    with interventions.applied(smollm2, edit):
        assert relative_gap(logits(smollm2, ids), before) < 1e-4
    assert torch.equal(logits(smollm2, ids), before)
    report = interventions.patch_weights(smollm2, edit, check=False)
    try:
        assert relative_gap(logits(smollm2, ids), before) < 1e-4
        after = probes.measure_entropy(smollm2, [batch], kinds=("knowledge",))
    finally:
        report.undo()
    assert smollm2.content_hash() == result.provenance.weights_sha256
    target = 2.0 * result.mean_coefficients.mean(dim=1, keepdim=True).expand_as(chosen)[chosen]
    assert float((after.mean_coefficients[chosen] / target - 1).abs().max()) < 1e-3
    assert after.knowledge.total == pytest.approx(edit.predicted_entropy().total, abs=1e-3)
    assert after.contribution.total == pytest.approx(result.contribution.total, abs=1e-3)
