"""What a folder must hold to be loaded, what is said where it does not, and text towers."""

import json

import huggingface_hub.constants
import pytest
import torch
import transformers as hf
from safetensors.torch import save_file
from torch import nn
from torch.testing import assert_close

import probes
from probes.checkpoint_files import quiet_transformers
from tests.models import tiny_config, tiny_hf_model, tokens
from tests.probes.test_models import in_hub_cache, logits_of

SIZES = {
    "vocab_size": 101,
    "intermediate_size": 29,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 14,
    "max_position_embeddings": 61,
    "initializer_range": 0.25,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


@pytest.fixture(scope="module")
def olmo():
    """The tensors and the configuration of a model whose unembedding is its own."""
    hf_model = tiny_hf_model("olmo")
    return hf_model.state_dict(), hf_model.config.to_dict()


def write(folder, weights, config):
    folder.mkdir(exist_ok=True)
    save_file({name: w.clone() for name, w in weights.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def without(*parts):
    return lambda weights: {k: w for k, w in weights.items() if not any(p in k for p in parts)}


def named(rename):
    return lambda weights: {rename(name): weight for name, weight in weights.items()}


def plus(name):
    return lambda weights: weights | {name: torch.ones(3)}


def as_it_is(weights):
    return weights


INCOMPLETE = "the file is incomplete"
TWO_SOURCES = "belong to different models"


@pytest.mark.parametrize(
    ("change", "settings", "found", "cause"),
    [
        (without("lm_head"), {}, r"1 missing \(lm_head\.weight\)", "no unembedding of its own"),
        (without("layers.1."), {}, r"7 missing \(model\.layers\.1\.mlp\.down_proj", INCOMPLETE),
        (without("2.mlp.down_proj"), {}, r"1 missing \(model\.layers\.2\.mlp\.down", INCOMPLETE),
        (without("layers.2."), {}, "7 missing", "says 3 layers and the file has 2"),
        (named(lambda k: f"_orig_mod.{k}"), {}, r"left over \(_orig_mod\.", "carry '_orig_mod.'"),
        (named(lambda k: f"module.{k}"), {}, r"left over \(module\.", "carry 'module.'"),
        (
            named(lambda k: k.replace(".mlp.", "._checkpoint_wrapped_module.mlp.")),
            {},
            "9 missing .* 9 left over",
            "carry '_checkpoint_wrapped_module.'",
        ),
        (
            named(lambda k: k.replace("q_proj.weight", "q_proj.base_layer.weight")),
            {},
            "3 missing .* 3 left over",
            "with adapters",
        ),
        (named(lambda k: k.replace("up_proj.weight", "up_proj.weight_orig")), {}, "", "pruning"),
        (named(lambda k: k.replace("up_proj.weight", "up_proj.qweight")), {}, "", "are quantised"),
        (as_it_is, {"num_hidden_layers": 2}, "7 left over", "says 2 layers and the file has 3"),
        (as_it_is, {"num_hidden_layers": 5}, "14 missing", "says 5 layers and the file has 3"),
        (as_it_is, {"vocab_size": 103}, r"lm_head\.weight \[101, 42\] in the file", TWO_SOURCES),
        (as_it_is, {"intermediate_size": 31}, r"9 of another shape", TWO_SOURCES),
        (as_it_is, {"num_attention_heads": 7, "hidden_size": 49}, "another shape", TWO_SOURCES),
        (as_it_is, {"attention_bias": True}, r"12 missing .*\.k_proj\.bias", INCOMPLETE),
        (as_it_is, {"model_type": "gpt_neox"}, "33 missing .* 22 left over", TWO_SOURCES),
        (plus("v_head.summary.weight"), {}, r"1 left over \(v_head", "does not use"),
    ],
)
def test_weights_that_do_not_fit_exactly_are_refused(
    olmo, tmp_path, change, settings, found, cause
):
    weights, config = olmo
    folder = write(tmp_path / "model", change(weights), config | settings)
    with pytest.raises(ValueError, match=f"does not hold the weights .*{found}.*{cause}"):
        probes.load_model(folder)


def test_weights_missing_in_the_hubs_cache_are_refused(olmo, tmp_path, monkeypatch):
    hub = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(hub))
    weights, config = olmo
    write(tmp_path / "model", without("lm_head")(weights), config)
    in_hub_cache(tmp_path / "model", hub, "someone/headless", {"main": "a" * 40})
    with pytest.raises(ValueError, match=r"'someone/headless' does not hold .*lm_head\.weight"):
        probes.load_model("someone/headless")
    (tmp_path / "model" / "model.safetensors").write_bytes(POINTER)
    in_hub_cache(tmp_path / "model", hub, "someone/pointers", {"main": "a" * 40})
    with pytest.raises(ValueError, match=r"model\.safetensors is a pointer of git-lfs"):
        probes.load_model("someone/pointers")
    (tmp_path / "model" / "config.json").rename(tmp_path / "model" / "adapter_config.json")
    in_hub_cache(tmp_path / "model", hub, "someone/adapter", {"main": "a" * 40})
    with pytest.raises(ValueError, match=r"'someone/adapter' could not be .* holds an adapter"):
        probes.load_model("someone/adapter")


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("gpt2", "transformer.h.1.attn.masked_bias"),
        ("gpt_neox", "gpt_neox.layers.1.attention.bias"),
        ("opt", "model.decoder.version"),
        ("llama", "model.layers.1.self_attn.rotary_emb.inv_freq"),
    ],
)
def test_buffers_of_old_versions_may_be_left_over(tmp_path, family, name):
    hf_model = tiny_hf_model(family)
    weights = plus(name)(hf_model.state_dict())
    loaded = probes.load_model(write(tmp_path / "old", weights, hf_model.config.to_dict()))
    assert_close(logits_of(loaded.hf_model), logits_of(hf_model), rtol=0, atol=0)


@pytest.mark.parametrize("kept", ["model.embed_tokens.weight", "lm_head.weight"])
def test_one_of_two_tied_matrices_is_enough(tmp_path, kept):
    hf_model = tiny_hf_model("llama")
    weights = without("embed_tokens", "lm_head")(hf_model.state_dict())
    weights[kept] = hf_model.lm_head.weight.detach()
    loaded = probes.load_model(write(tmp_path / "tied", weights, hf_model.config.to_dict()))
    assert_close(logits_of(loaded.hf_model), logits_of(hf_model), rtol=0, atol=0)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n"
SHARD = "model-00002-of-00003.safetensors"
INDEX = "model.safetensors.index.json"


def cut(path):
    path.write_bytes(path.read_bytes()[:-50])


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        (SHARD, lambda path: path.write_bytes(POINTER), f"{SHARD} is a pointer of git-lfs"),
        (SHARD, cut, f"{SHARD} is damaged or cut short"),
        (SHARD, lambda path: path.write_bytes(b""), f"{SHARD} is damaged or cut short"),
        (SHARD, lambda path: path.unlink(), f"1 of 3 shards that {INDEX} names .*{SHARD}"),
        (SHARD, lambda path: path.unlink() or path.mkdir(), f"1 of 3 shards .*{SHARD}"),
        ("model.safetensors", lambda path: path.write_bytes(b""), "holds two sets of weights"),
        (INDEX, lambda path: path.unlink(), f"3 shards but no {INDEX}"),
        (INDEX, lambda path: path.write_text("{"), f"{INDEX} is no JSON object"),
        ("config.json", lambda path: path.write_text("{no"), "config.json is no JSON object"),
        ("config.json", lambda path: path.write_bytes(b"\xff\xfe"), "config.json is no JSON"),
        ("config.json", lambda path: path.write_text("[1]"), "config.json is no JSON object"),
        ("config.json", lambda path: path.write_bytes(POINTER), "config.json is a pointer of git"),
        ("config.json", lambda path: path.write_text("{}"), "model_type"),
        ("tokenizer.json", lambda path: path.write_bytes(POINTER), "tokenizer.json is a pointer"),
        ("tokenizer.json", lambda path: path.write_text("{}"), "its tokenizer cannot be read"),
        ("adapter_config.json", lambda path: path.write_text("{}"), "it holds an adapter"),
    ],
)
def test_broken_folders_get_a_line_that_names_the_file(tmp_path, name, spoil, message):
    with quiet_transformers():
        tiny_hf_model("gpt2").save_pretrained(tmp_path, max_shard_size="70KB")
    spoil(tmp_path / name)
    with pytest.raises(ValueError, match=message) as refused:
        probes.load_model(str(tmp_path))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_act": "nonesuch"}, "names 'nonesuch'"),
        ({"num_attention_heads": "many"}, "expected int"),
        ({"model_type": "nonesuch"}, "does not recognize this architecture"),
        ({"quantization_config": {"quant_method": "gptq"}}, r"quantised \(.* says gptq\)"),
        ({"quantization_config": {"quant_method": "awq"}}, r"quantised \(.* says awq\)"),
        ({"quantization_config": {"quant_method": "hqq"}}, r"quantised \(.* says hqq\)"),
        ({"quantization_config": {"quant_method": "torchao"}}, r"quantised \(.* says torchao\)"),
        ({"quantization_config": {"load_in_4bit": True}}, r"quantised \("),
    ],
)
def test_configurations_that_cannot_serve_get_a_line(olmo, tmp_path, settings, message):
    weights, config = olmo
    with pytest.raises(ValueError, match=message):
        probes.load_model(write(tmp_path / "model", weights, config | settings))


def test_an_adapter_alone_is_named(tmp_path):
    config = {"base_model_name_or_path": "someone/base", "peft_type": "LORA"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"holds an adapter .* load someone/base with peft"):
        probes.load_model(str(tmp_path))


def test_a_folder_that_answers_with_tuples_is_made_to_answer_by_name(olmo, tmp_path):
    weights, config = olmo
    model = probes.load_model(write(tmp_path / "model", weights, config | {"return_dict": False}))
    assert_close(model(tokens(1, 7)), logits_of(tiny_hf_model("olmo")), rtol=0, atol=0)


class Packed(torch.Tensor):
    """Stands for what torchao and bitsandbytes put in a parameter's place."""


class HQQLinear(nn.Module):
    """Stands for modules that keep packed integers, and no weight."""

    def __init__(self, linear):
        super().__init__()
        self.register_buffer("W_q", torch.zeros(linear.weight.shape, dtype=torch.uint8))


def packed_parameter(hf_model):
    up = hf_model.model.layers[1].mlp.up_proj
    up.weight = nn.Parameter(up.weight.detach().as_subclass(Packed), requires_grad=False)


def integers(hf_model):
    down = hf_model.model.layers[1].mlp.down_proj
    down.weight = nn.Parameter(down.weight.detach().to(torch.uint8), requires_grad=False)


def module_without_weight(hf_model):
    mlp = hf_model.model.layers[2].mlp
    mlp.gate_proj = HQQLinear(mlp.gate_proj)


def dynamic(hf_model):
    attention = hf_model.model.layers[0].self_attn
    attention.o_proj = torch.ao.quantization.quantize_dynamic(nn.Sequential(attention.o_proj))[0]


def offloaded(hf_model):
    from accelerate import cpu_offload

    cpu_offload(hf_model.model.layers[2], execution_device="cpu")


def everything_elsewhere(hf_model):
    hf_model.to("meta")


def as_tuples(hf_model):
    hf_model.config.return_dict = False


def marked(hf_model):
    hf_model.config.quantization_config = {"quant_method": "bitsandbytes"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (packed_parameter, r"quantised \(model\.layers\.1\.mlp\.up_proj\.weight is a Packed"),
        (integers, r"quantised \(model\.layers\.1\.mlp\.down_proj\.weight .* torch\.uint8"),
        (module_without_weight, r"quantised \(model\.layers\.2\.mlp\.gate_proj is a HQQLinear"),
        (dynamic, r"quantised \(model\.layers\.0\.self_attn\.o_proj"),
        (marked, r"quantised \(quantization_config says bitsandbytes"),
        (offloaded, r"not in memory \(model\.layers\.2\.self_attn\.q_proj\.weight is on the meta"),
        (everything_elsewhere, "not in memory"),
        (as_tuples, "answers with tuples"),
    ],
)
def test_weights_in_memory_that_cannot_be_read_are_refused(change, message):
    hf_model = tiny_hf_model("olmo")
    change(hf_model)
    with pytest.raises(ValueError, match=message):
        probes.load_model(hf_model)


def wrapper(family):
    """A tiny multimodal wrapper, in evaluation mode."""
    vision = {"hidden_size": 16, "intermediate_size": 16}
    patches = {"image_size": 28, "patch_size": 14, "num_hidden_layers": 1, "num_attention_heads": 2}
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3]}
    text = {**SIZES, "hidden_size": 42}
    match family:
        case "gemma3":
            window = tiny_config("gemma3_text").layer_types
            text |= {"sliding_window": 3, "layer_types": window, "query_pre_attn_scalar": 11}
            config = hf.Gemma3Config(
                text_config=text,
                vision_config=vision | patches | {"vision_use_head": False},
                mm_tokens_per_image=1,
                image_token_index=99,
            )
            made = hf.Gemma3ForConditionalGeneration
        case "mistral3":
            config = hf.Mistral3Config(
                text_config=text | {"model_type": "mistral"},
                vision_config=vision | patches | {"model_type": "pixtral"},
                image_token_index=99,
                tie_word_embeddings=False,
            )
            made = hf.Mistral3ForConditionalGeneration
        case "qwen2_5_vl":
            del text["head_dim"]
            config = hf.Qwen2_5_VLConfig(
                text_config=text | {"hidden_size": 48, "rope_parameters": rope},
                vision_config=vision | {"depth": 1, "num_heads": 2, "out_hidden_size": 48},
                image_token_id=99,
            )
            made = hf.Qwen2_5_VLForConditionalGeneration
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return made(config).eval()


@pytest.mark.parametrize(
    ("family", "inside"),
    [("gemma3", "gemma3_text"), ("mistral3", "mistral"), ("qwen2_5_vl", "qwen2")],
)
@pytest.mark.parametrize("layout", ["hub", "in memory"])
def test_a_wrapper_loads_as_its_language_model(tmp_path, capsys, family, inside, layout):
    whole = wrapper(family)
    with quiet_transformers():
        whole.save_pretrained(tmp_path)
    if layout == "in memory":  # the names of version 5, rather than those that the hub has
        tied = "lm_head" if whole.config.tie_word_embeddings else "nothing"
        write(tmp_path, without(tied)(whole.state_dict()), whole.config.to_dict())
    model = probes.load_model(str(tmp_path))
    assert f"is a {family}: its language model ({inside}) is loaded" in capsys.readouterr().err
    assert model.architecture.family == inside
    assert model.n_layers == 3
    # The same products in the same order, on positions beyond the sliding window.
    assert_close(model(tokens(2, 11)), logits_of_rows(whole, tokens(2, 11)), rtol=1e-5, atol=1e-5)


def logits_of_rows(hf_model, rows):
    with torch.no_grad():
        return hf_model(input_ids=rows).logits


def test_a_wrapper_that_lacks_weights_of_its_language_model_is_refused(tmp_path):
    whole = wrapper("gemma3")
    weights = without("lm_head", "layers.1.mlp.up_proj")(whole.state_dict())
    folder = write(tmp_path / "model", weights, whole.config.to_dict())
    with pytest.raises(ValueError, match=r"1 missing \(model\.layers\.1\.mlp\.up_proj\.weight\)"):
        probes.load_model(folder)


def test_a_saved_language_model_loads_again_with_the_same_bits(tmp_path):
    with quiet_transformers():
        wrapper("qwen2_5_vl").save_pretrained(tmp_path / "whole")
        model = probes.load_model(str(tmp_path / "whole"))
        model.hf_model.save_pretrained(tmp_path / "text")
    again = probes.load_model(str(tmp_path / "text"))
    assert_close(again(tokens(1, 7)), model(tokens(1, 7)), rtol=0, atol=0)


def test_a_wrapper_in_memory_is_named():
    with pytest.raises(ValueError, match="Mistral3ForConditionalGeneration is a multimodal"):
        probes.load_model(wrapper("mistral3"))
