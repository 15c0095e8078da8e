"""Translators: against nested loops and Hugging Face's hidden states, and as files."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

import probes
from probes.lens import LensSettings, read_lens
from probes.prompts import LensItem
from probes.translators import identity_translators, load_translators
from tests.models import D_VOCAB, N_LAYERS, tiny_hf_model, tiny_model, tokens

D_MODEL = 42


def drawn(model, seed=0, size=0.1):
    """Random translators of a model."""
    generator = torch.Generator().manual_seed(seed)
    start = identity_translators(model)
    return replace(
        start,
        weight=size * torch.randn(start.weight.shape, generator=generator),
        bias=size * torch.randn(start.bias.shape, generator=generator),
        training={"corpus": "plants", "corpus_sha256": "12ab"},
    )


def streams_of(hf_model, ids):
    """Residual streams from before block 0 to after the last, by hooks of our own."""
    layers = hf_model.model.layers
    kept = []
    first = layers[0].register_forward_pre_hook(lambda _m, args: kept.append(args[0]))
    others = [
        layer.register_forward_hook(
            lambda _m, _a, out: kept.append(out[0] if isinstance(out, tuple) else out)
        )
        for layer in layers
    ]
    with torch.no_grad():
        hf_model(input_ids=ids)
    for handle in (first, *others):
        handle.remove()
    return kept


def test_a_layer_goes_through_its_own_translator():
    translators = drawn(tiny_model("llama"))
    streams = torch.randn(5, D_MODEL, generator=torch.Generator().manual_seed(1))
    for layer in range(-1, N_LAYERS - 1):
        weight, bias = translators.weight[layer + 1].double(), translators.bias[layer + 1].double()
        expected = torch.zeros(5, D_MODEL, dtype=torch.float64)
        for r in range(5):
            for i in range(D_MODEL):
                total = sum(float(weight[i, j] * streams[r, j]) for j in range(D_MODEL))
                expected[r, i] = float(streams[r, i]) + total + float(bias[i])
        # Sums of 42 products in float32.
        torch.testing.assert_close(
            translators(layer, streams).double(), expected, rtol=1e-5, atol=1e-5
        )
    assert translators(N_LAYERS - 1, streams) is streams


@pytest.mark.parametrize("layer", [-2, N_LAYERS])
def test_layers_that_the_model_does_not_have_are_refused(layer):
    translators = drawn(tiny_model("llama"))
    with pytest.raises(ValueError, match=f"has layers -1 to 2, found {layer}; give one"):
        translators(layer, torch.zeros(1, D_MODEL))


def test_a_narrow_stream_is_translated_in_float32_and_rounded_once():
    translators = drawn(tiny_model("llama"), size=1.0)
    stream = torch.randn(7, D_MODEL, generator=torch.Generator().manual_seed(2)).bfloat16()
    found = translators(0, stream)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, translators(0, stream.float()).bfloat16())
    # Sums of 42 products, float32 against float64.
    torch.testing.assert_close(
        translators(0, stream.double()),
        translators(0, stream.float()).double(),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("embedding", [False, True])
def test_a_lens_with_translators_equals_one_by_hand(family, embedding):
    model = tiny_model(family)
    ids, target = tuple(tokens(1, 11)[0].tolist()), 17
    translators = drawn(model)
    read = read_lens(
        model,
        [LensItem(ids, (target,))],
        LensSettings(embedding=embedding),
        translate=translators,
    ).readout
    hf_model = model.hf_model
    streams = streams_of(hf_model, torch.tensor([ids]))
    for row in range(N_LAYERS + embedding):
        layer = row if embedding else row + 1
        stream = streams[layer][0, -1]
        if layer < N_LAYERS:
            stream = stream + translators.weight[layer] @ stream + translators.bias[layer]
        with torch.no_grad():
            logits = hf_model.lm_head(hf_model.model.norm(stream))
        if cap := getattr(hf_model.config, "final_logit_softcapping", None):
            logits = cap * torch.tanh(logits / cap)
        # The same products in another order, in float32.
        expected = float(logits.log_softmax(0)[target])
        assert float(read.log_prob[row, 0]) == pytest.approx(expected, abs=1e-4)


def test_translators_of_zeros_are_the_logit_lens():
    model = tiny_model("llama")
    items = [LensItem(tuple(tokens(1, 7, seed)[0].tolist()), (23,)) for seed in range(5)]
    plain = read_lens(model, items, LensSettings()).readout
    tuned = read_lens(model, items, LensSettings(), translate=identity_translators(model)).readout
    assert torch.equal(plain.log_prob, tuned.log_prob)
    assert torch.equal(plain.rank, tuned.rank)


def test_files_keep_every_bit_and_say_whose_they_are(tmp_path):
    model = tiny_model("llama")
    translators = drawn(model)
    assert translators.save(tmp_path / "lens") == tmp_path / "lens"
    again = load_translators(tmp_path / "lens", model)
    assert torch.equal(again.weight, translators.weight)
    assert torch.equal(again.bias, translators.bias)
    assert dict(again.training) == {"corpus": "plants", "corpus_sha256": "12ab"}
    assert again.name == "tuned"
    assert load_file(tmp_path / "lens" / "translators.safetensors").keys() == {"weight", "bias"}
    description = json.loads((tmp_path / "lens" / "translators.json").read_text())
    assert description["weights_sha256"] == model.content_hash()


def test_another_models_translators_are_refused(tmp_path):
    drawn(tiny_model("llama")).save(tmp_path)
    other = probes.load_model(tiny_hf_model("llama", seed=1))
    with pytest.raises(ValueError, match=r"were trained for other weights, of .*train some for it"):
        load_translators(tmp_path, other)
    tuned_since = tiny_model("llama")
    with torch.no_grad():
        tuned_since.hf_model.model.layers[1].mlp.down_proj.weight[5, 3] += 0.01
    with pytest.raises(ValueError, match="were trained for other weights"):
        load_translators(tmp_path, tuned_since)


@pytest.mark.parametrize("backend", ["transformer_lens", "nnsight"])
def test_they_are_for_the_weights_whatever_runs_them(tmp_path, backend):
    native = tiny_model("llama")
    drawn(native).save(tmp_path)
    other = probes.load_model(tiny_hf_model("llama"), backend=backend)
    items = [LensItem(tuple(tokens(1, 7)[0].tolist()), (D_VOCAB - 1,))]
    expected, found = (
        read_lens(m, items, LensSettings(), translate=load_translators(tmp_path, m)).readout
        for m in (native, other)
    )
    # One computation by two libraries, in float32.
    torch.testing.assert_close(found.log_prob, expected.log_prob, rtol=0, atol=1e-4)


def broken(folder, case):
    description = folder / "translators.json"
    match case:
        case "no tensors":
            (folder / "translators.safetensors").unlink()
        case "no description":
            description.unlink()
        case "broken description":
            description.write_text('{"model": "m"')
        case "a field is missing":
            description.write_text('{"model": "m"}')
        case "broken tensors":
            (folder / "translators.safetensors").write_bytes(b"\x07" * 30)
        case "other shapes":
            from safetensors.torch import save_file

            save_file({"weight": torch.zeros(2, 2)}, folder / "translators.safetensors")


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("no tensors", "there is no translators.safetensors in"),
        ("no description", "there is no translators.json in .*python -m training.tuned_lens"),
        ("broken description", "does not describe translators"),
        ("a field is missing", "does not describe translators .*weights_sha256"),
        ("broken tensors", "cannot be read"),
        ("other shapes", r"holds \{'weight': \(2, 2\)\}; .* needs .*\(3, 42, 42\)"),
    ],
)
def test_broken_files_are_refused_in_one_line(tmp_path, case, message):
    model = tiny_model("llama")
    drawn(model).save(tmp_path)
    broken(tmp_path, case)
    with pytest.raises(ValueError, match=message) as refusal:
        load_translators(tmp_path, model)
    assert "\n" not in str(refusal.value)
