"""Saved edits: loaded by plain transformers, here and in a fresh process; nothing left behind."""

import json
import subprocess
import sys
from importlib.metadata import version

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import probes
from interventions import (
    AttentionTemperature,
    Resuscitation,
    applied,
    load_edits,
    patch_weights,
    save_patched,
)
from interventions.edits import patched_edits
from tests.changed_models import CHANGES, changed_layers
from tests.models import FAMILIES, OWN_ATTENTION, tiny_hf_model, tiny_model, tiny_tokenizer, tokens
from tests.refusals import refused

# Soft-capped scores, clipped projections and the like cannot be divided through weights.
WITH_TEMPERATURE = ("llama", "olmo2", "phi3", "gpt_neox", "gpt2", "opt")


def resuscitation(model, factor=2.0, site="down"):
    """A resuscitation by random coefficients, which are as good as any to save."""
    generator = torch.Generator().manual_seed(3)
    means = torch.rand(model.n_layers, model.d_mlp, generator=generator) + 0.1
    return Resuscitation(means, 0.5, factor, site, model_hash=model.content_hash())


def bits(hf_model):
    return {name: tensor.clone() for name, tensor in hf_model.state_dict().items()}


def same_bits(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


def plain(directory):
    return AutoModelForCausalLM.from_pretrained(directory).eval()


def edits_of(model, family):
    temperature = [AttentionTemperature(1.5)] if family in WITH_TEMPERATURE else []
    return [resuscitation(model), *temperature]


@pytest.mark.parametrize("family", [*FAMILIES, *OWN_ATTENTION])
def test_plain_transformers_loads_what_the_hooks_compute(family, tmp_path):
    model = tiny_model(family)
    edits, ids, before = edits_of(model, family), tokens(2, 11), bits(model.hf_model)
    assert save_patched(model, tmp_path / "out", edits) == tmp_path / "out"
    assert same_bits(bits(model.hf_model), before)
    report = patch_weights(model, *edits)
    patched = bits(model.hf_model)
    report.undo()
    loaded = plain(tmp_path / "out")
    assert same_bits(bits(loaded), patched)
    with torch.no_grad():
        unedited = model(ids)
        with applied(model, *edits):
            hooked = model(ids)
        found = loaded(ids).logits
    # Weights times u against coefficients times u: float32 rounding of logits of some 10.
    torch.testing.assert_close(found, hooked, rtol=1e-4, atol=1e-4)
    assert (hooked - unedited).abs().max() > 0.01


LOADER = """
import json, pathlib, sys, warnings
warnings.simplefilter("error")
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

warnings.simplefilter("default")
found = {}
for name in json.loads(sys.argv[1]):
    folder = pathlib.Path(sys.argv[2]) / name
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    ids = AutoTokenizer.from_pretrained(folder)("w3 w1 w4 w1 w5 w92", return_tensors="pt").input_ids
    with torch.no_grad():
        found[name] = model.eval()(ids).logits.clone()
assert not {"probes", "interventions", "training", "analysis"} & set(sys.modules)
save_file(found, pathlib.Path(sys.argv[2]) / "logits.safetensors")
"""


def test_a_fresh_process_without_our_code_computes_the_same_logits(tmp_path):
    """Tied weights in shards, bfloat16, a fused projection, and GPT-2's transposed layout."""
    cases = {
        "llama": (torch.float32, {"max_shard_size": "8KB"}),
        "qwen3": (torch.bfloat16, {"max_shard_size": "20KB"}),
        "phi3": (torch.float32, {}),
        "gpt2": (torch.bfloat16, {}),
    }
    expected = {}
    for family, (dtype, options) in cases.items():
        model = tiny_model(family, dtype)
        edits = edits_of(model, family)
        save_patched(model, tmp_path / family, edits, **options)
        with torch.no_grad(), applied(model, *edits):
            expected[family] = model(model.to_tokens("w3 w1 w4 w1 w5 w92"))
        shards = list((tmp_path / family).glob("*.safetensors"))
        assert (len(shards) > 3) is bool(options)
    command = [sys.executable, "-c", LOADER, json.dumps(list(cases)), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = load_file(tmp_path / "logits.safetensors")
    for family, (dtype, _) in cases.items():
        assert found[family].dtype is dtype
        # float32: weights times u against coefficients times u. bfloat16 has 8 bits: edited weights
        # are rounded to them once more than hooked coefficients, in each of three layers.
        bar = 1e-4 if dtype is torch.float32 else 0.05
        scale = expected[family].abs().max()
        assert (found[family] - expected[family]).abs().max() <= bar * scale


def test_edits_json_says_what_was_done_to_what_and_from_what(tmp_path):
    model = tiny_model("llama")
    result = probes.measure_entropy(model, [{"input_ids": tokens(3, 13)}], ("knowledge",))
    edits = [Resuscitation(result, 0.3, 1.5, "preserving"), AttentionTemperature(0.8)]
    before = model.content_hash()
    save_patched(model, tmp_path / "out", edits, measured={"held_out": 3.5})
    record = load_edits(tmp_path / "out")
    assert [edit["kind"] for edit in record["edits"]] == ["resuscitation", "attention_temperature"]
    assert record["edits"] == json.loads(json.dumps([edit.describe() for edit in edits]))
    assert record["edits"][0]["model_sha256"] == before
    assert record["model"]["weights_sha256_before"] == before
    assert (
        record["model"]["weights_sha256_after"]
        == probes.load_model(str(tmp_path / "out")).content_hash()
    )
    assert record["model"]["architecture"] == "llama"
    assert record["measured"] == {"held_out": 3.5}
    assert record["versions"]["torch"] == version("torch")
    changed = {change["parameter"]: change for change in record["changes"]}
    up = changed["model.layers.1.mlp.up_proj.weight"]
    # 0.3 of 29 neurons: the quantile lies between the ninth and the tenth smallest.
    assert (up["rows_changed"], up["rows"]) == (9, 29)
    plain_weight = model.hf_model.model.layers[1].mlp.up_proj.weight.detach()
    loaded = plain(tmp_path / "out").model.layers[1].mlp.up_proj.weight.detach()
    # Norms of some 1,000 float32 numbers.
    assert up["norm_before"] == pytest.approx(float(plain_weight.norm()), rel=1e-5)
    assert up["norm_after"] == pytest.approx(float(loaded.norm()), rel=1e-5)
    assert len(changed) == 3 * 3


def test_files_are_those_that_transformers_writes_and_one_more(tmp_path):
    model = tiny_model("llama")
    model.hf_model.save_pretrained(tmp_path / "plain")
    model.tokenizer.save_pretrained(tmp_path / "plain")
    save_patched(model, tmp_path / "out", [AttentionTemperature(2.0)])
    names = {path.name for path in (tmp_path / "plain").iterdir()}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names | {"edits.json"}
    for name in ("config.json", "generation_config.json", "tokenizer.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "plain"]


def test_tied_weights_are_saved_once_and_tied_again(tmp_path):
    save_patched(tiny_model("llama"), tmp_path / "out", [AttentionTemperature(2.0)])
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as saved:
        assert "lm_head.weight" not in saved.keys()  # noqa: SIM118
    loaded = plain(tmp_path / "out")
    assert loaded.lm_head.weight.data_ptr() == loaded.model.embed_tokens.weight.data_ptr()


@pytest.mark.parametrize("named", ["not", "the same", "an equal one"])
def test_edits_in_the_weights_are_not_made_twice(named, tmp_path):
    model = tiny_model("llama")
    first, second = AttentionTemperature(1.5), resuscitation(model)
    report = patch_weights(model, first)
    patched = bits(model.hf_model)
    asked = {"not": [], "the same": [first], "an equal one": [AttentionTemperature(1.5)]}[named]
    save_patched(model, tmp_path / "one", asked)
    assert same_bits(bits(plain(tmp_path / "one")), patched)
    assert [edit["kind"] for edit in load_edits(tmp_path / "one")["edits"]] == [
        "attention_temperature"
    ]
    assert same_bits(bits(model.hf_model), patched)
    report.undo()
    both = patch_weights(model, first, second)
    expected = bits(model.hf_model)
    both.undo()
    patch_weights(model, second)
    save_patched(model, tmp_path / "both", [second, *(asked or [first])])
    # Different tensors, so that the order does not matter.
    assert same_bits(bits(plain(tmp_path / "both")), expected)
    assert len(load_edits(tmp_path / "both")["edits"]) == 2


def test_an_edit_named_twice_is_made_twice(tmp_path):
    model = tiny_model("llama")
    halves = AttentionTemperature(2.0)
    patch_weights(model, halves)
    save_patched(model, tmp_path / "out", [halves, AttentionTemperature(2.0)])
    found = plain(tmp_path / "out").model.layers[0].self_attn.q_proj.weight
    # Halving is exact.
    original = tiny_hf_model("llama").model.layers[0].self_attn.q_proj.weight
    assert torch.equal(4 * found, original)


def test_after_an_error_the_bits_are_back_and_nothing_is_written(tmp_path, monkeypatch):
    model = tiny_model("llama")
    before = bits(model.hf_model)

    def fail(*_arguments, **_keywords):
        assert not same_bits(bits(model.hf_model), before)
        raise OSError("disk full")

    monkeypatch.setattr(type(model.tokenizer), "save_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        save_patched(model, tmp_path / "out", [resuscitation(model)])
    assert same_bits(bits(model.hf_model), before)
    assert patched_edits(model) == ()
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_cannot_be_saved_is_refused_in_one_line(tmp_path, monkeypatch):
    model = tiny_model("llama")
    before = bits(model.hf_model)

    def refuse(*_arguments, **_keywords):
        raise ValueError("the model is quantized\nand cannot be saved")

    monkeypatch.setattr(type(model.hf_model), "save_pretrained", refuse)
    with refused("cannot be saved: the model is quantized and"):
        save_patched(model, tmp_path / "out", [resuscitation(model)])
    assert same_bits(bits(model.hf_model), before)
    assert list(tmp_path.iterdir()) == []


def test_hooks_that_are_on_meanwhile_are_not_saved(tmp_path):
    model = tiny_model("llama")
    edit = resuscitation(model)
    with applied(model, AttentionTemperature(3.0)), model.attention_entropies(lambda *_: None):
        save_patched(model, tmp_path / "hooked", [edit])
    save_patched(model, tmp_path / "plain", [edit])
    assert same_bits(bits(plain(tmp_path / "hooked")), bits(plain(tmp_path / "plain")))
    for name in ("config.json", "edits.json"):
        written = [(tmp_path / where / name).read_text() for where in ("hooked", "plain")]
        assert written[0] == written[1]


def test_what_was_done_before_is_kept_on_record(tmp_path):
    save_patched(tiny_model("llama"), tmp_path / "one", [AttentionTemperature(1.5)])
    model = probes.load_model(str(tmp_path / "one"))
    save_patched(model, tmp_path / "two", [resuscitation(model)])
    record = load_edits(tmp_path / "two")
    assert record["earlier"] == load_edits(tmp_path / "one")
    assert record["earlier"]["earlier"] is None
    # Trained further in between: what was saved there is not what is edited here.
    model.hf_model.model.norm.weight.data.mul_(2)
    save_patched(model, tmp_path / "three", [AttentionTemperature(2.0)])
    assert load_edits(tmp_path / "three")["earlier"] is None


def test_overwriting_replaces_patched_checkpoints_only(tmp_path):
    model, out = tiny_model("llama"), tmp_path / "out"
    save_patched(model, out, [AttentionTemperature(1.5)], max_shard_size="8KB")
    with pytest.raises(ValueError, match="is not empty; give another folder, or allow"):
        save_patched(model, out, [AttentionTemperature(2.0)])
    save_patched(model, out, [AttentionTemperature(2.0)], overwrite=True)
    assert load_edits(out)["edits"][0]["temperature"] == 2.0
    assert len(list(out.glob("*.safetensors"))) == 1
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"also holds thesis\.tex; give another folder"):
        save_patched(model, out, [AttentionTemperature(2.5)], overwrite=True)
    assert load_edits(out)["edits"][0]["temperature"] == 2.0
    model.hf_model.save_pretrained(tmp_path / "plain")
    with pytest.raises(ValueError, match=r"patched checkpoints only, but .* also holds config\.js"):
        save_patched(model, tmp_path / "plain", [AttentionTemperature(2.5)], overwrite=True)


def test_bad_input_is_refused_before_anything_is_written(tmp_path):
    model, edit = tiny_model("llama"), AttentionTemperature(1.5)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file; give a folder"):
        save_patched(model, tmp_path / "file", [edit])
    with pytest.raises(ValueError, match="there are no edits to save; name some"):
        save_patched(model, tmp_path / "out")
    for size in ("5 apples", "0GB", "5GiB", 0, -1):
        with pytest.raises(ValueError, match="max_shard_size must be a number of bytes or"):
            save_patched(model, tmp_path / "out", [edit], max_shard_size=size)
    with pytest.raises(ValueError, match="changes over a run"):
        save_patched(model, tmp_path / "out", [AttentionTemperature(1.5, schedule="linear")])
    other = resuscitation(tiny_model("qwen2"))
    with pytest.raises(ValueError, match="another model"):
        save_patched(model, tmp_path / "out", [other])
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_bridge_is_refused_and_an_nnsight_model_is_saved(tmp_path):
    hf_model, edit = tiny_hf_model("llama"), AttentionTemperature(2.0)
    bridged = probes.load_model(hf_model, tokenizer=tiny_tokenizer(), backend="transformer_lens")
    with pytest.raises(ValueError, match="TransformerBridge"):
        save_patched(bridged, tmp_path / "bridge", [edit])
    assert not (tmp_path / "bridge").exists()
    traced = probes.load_model(hf_model, tokenizer=tiny_tokenizer(), backend="nnsight")
    save_patched(traced, tmp_path / "nnsight", [edit])
    save_patched(probes.load_model(hf_model), tmp_path / "native", [edit])
    assert same_bits(bits(plain(tmp_path / "nnsight")), bits(plain(tmp_path / "native")))


def test_an_adapted_model_is_saved_with_its_adapters_merged_and_its_hash_is_the_reloads(tmp_path):
    model, edit = tiny_model("qwen2"), AttentionTemperature(1.5)
    model.hf_model.lm_head.weight = model.hf_model.model.embed_tokens.weight
    weights = changed_layers(model.hf_model, "adapter")
    save_patched(model, tmp_path / "out", [edit])
    loaded = plain(tmp_path / "out")
    for name, weight in weights.items():
        torch.testing.assert_close(loaded.state_dict()[name].double(), weight, rtol=1e-6, atol=1e-6)
    with torch.no_grad(), applied(model, edit):
        # Merged weights are rounded once; logits of some 10 in float32.
        torch.testing.assert_close(
            loaded(tokens(2, 11)).logits, model(tokens(2, 11)), rtol=1e-4, atol=1e-3
        )
    found = load_edits(tmp_path / "out")["model"]["weights_sha256_after"]
    assert found == probes.load_model(str(tmp_path / "out")).content_hash()


@pytest.mark.parametrize("kind", CHANGES)
@pytest.mark.parametrize("edited", ["projection", "queries"])
def test_rows_that_a_model_does_not_store_are_not_patched(kind, edited):
    model = tiny_model("qwen2")
    if edited == "projection":
        changed_layers(model.hf_model, kind, names=("down_proj",))
        edit = resuscitation(model)
    else:
        for layer in model.hf_model.model.layers:
            CHANGES[kind](layer.self_attn, "q_proj")
        edit = AttentionTemperature(1.5)
    before = bits(model.hf_model)
    with refused("does not compute with a weight that it stores"):
        patch_weights(model, edit)
    assert same_bits(bits(model.hf_model), before)
    plain_logits = model(tokens(1, 7))
    with applied(model, edit):
        assert not torch.equal(model(tokens(1, 7)), plain_logits)


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"format": 99}'])
def test_folders_without_a_readable_record(content, tmp_path):
    if content is not None:
        (tmp_path / "edits.json").write_text(content)
    with pytest.raises(ValueError, match=r"no readable edits\.json|has format 99"):
        load_edits(tmp_path)
