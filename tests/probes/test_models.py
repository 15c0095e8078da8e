"""Loading by every kind of name, and what is said when nothing can be loaded."""

import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
import transformers
from torch.testing import assert_close

import probes
from tests.models import FAMILIES, tiny_hf_model, tiny_tokenizer, tokens


@pytest.fixture
def folder(tmp_path):
    tiny_hf_model("llama").save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def logits_of(hf_model):
    with torch.no_grad():
        return hf_model(tokens(1, 7)).logits


def in_hub_cache(folder: Path, hub: Path, repo_id: str, refs: dict[str, str]) -> None:
    """Lay a folder out as the hub's local cache holds it; refs are branch or tag to commit."""
    repo = hub / f"models--{repo_id.replace('/', '--')}"
    for ref, commit in refs.items():
        (repo / "refs").mkdir(parents=True, exist_ok=True)
        (repo / "refs" / ref).write_text(commit)
        shutil.copytree(folder, repo / "snapshots" / commit, dirs_exist_ok=True)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_in_memory_is_wrapped_as_it_is(family):
    hf_model = tiny_hf_model(family)
    model = probes.load_model(hf_model)
    assert model.hf_model is hf_model
    assert (model.n_layers, model.n_heads, model.d_model) == (3, 3, 42)
    assert (model.d_mlp, model.d_vocab) == (29, 101)
    assert model.architecture.family == family
    assert not model.architecture.recognised
    assert model.tokenizer is None


def test_a_folder_loads_with_its_tokenizer_and_the_same_bits(folder):
    model = probes.load_model(str(folder))
    assert_close(logits_of(model.hf_model), logits_of(tiny_hf_model("llama")), rtol=0, atol=0)
    assert model.to_tokens("w0 w5").tolist() == [[3, 8]]
    assert not model.hf_model.training
    assert "layers 0" not in repr(model)
    assert "family llama, n_layers 3" in repr(model)


def test_dtype_is_what_was_asked_for(folder):
    assert probes.load_model(str(folder)).dtype == torch.float32
    assert probes.load_model(str(folder), dtype="bfloat16").dtype == torch.bfloat16
    assert probes.load_model(str(folder), dtype=torch.float64).dtype == torch.float64


def test_a_hub_id_loads_at_a_revision_from_the_local_cache(folder, hub):
    refs = {"main": "a" * 40, "step3000": "b" * 40}
    in_hub_cache(folder, hub, "someone/tiny", refs)
    other = tiny_hf_model("llama", seed=5)
    other.save_pretrained(hub / "models--someone--tiny" / "snapshots" / ("b" * 40))
    model = probes.load_model("someone/tiny", revision="step3000")
    assert_close(logits_of(model.hf_model), logits_of(other), rtol=0, atol=0)
    assert (model.name, model.revision) == ("someone/tiny", "step3000")


def test_a_missing_revision_names_those_there_are(folder, hub):
    in_hub_cache(folder, hub, "someone/tiny", {"main": "a" * 40, "step3000": "b" * 40})
    with pytest.raises(ValueError, match=r"no revision 'step4000'; .* main, step3000"):
        probes.load_model("someone/tiny", revision="step4000")


def test_weights_that_could_run_code_are_not_loaded(folder):
    torch.save(tiny_hf_model("llama").state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="has no safetensors weights; only those are loaded"):
        probes.load_model(str(folder))


def test_a_folder_without_a_tokenizer_serves_token_ids(tmp_path):
    tiny_hf_model("gpt2").save_pretrained(tmp_path)
    model = probes.load_model(str(tmp_path))
    assert model.tokenizer is None
    assert model.run_with_cache(tokens(1, 5), "hook_embed")[0].shape == (1, 5, 101)
    with pytest.raises(ValueError, match="has no tokenizer; give token ids, or load"):
        model.run_with_cache("w1 w2")


def test_content_hash_follows_the_weights_and_nothing_else():
    model = probes.load_model(tiny_hf_model("llama"))
    again = probes.load_model(tiny_hf_model("llama"))
    assert model.content_hash() == again.content_hash()
    model.hf_model.model.layers[1].mlp.up_proj.weight.data[0, 0] += 1
    assert model.content_hash() != again.content_hash()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nowhere", r"'./nowhere' is no folder, no .gguf file, no hub id and none of the"),
        ("/nowhere/at/all", r"is no folder, no .gguf file"),
        ("nowhere.gguf", r"there is no file 'nowhere.gguf'"),
        ("someone/not-cached", r"could not be loaded from the hub or its local cache; check the"),
        ("what is this?", r"is no folder, no .gguf file, no hub id"),
    ],
)
def test_a_name_that_leads_nowhere_gets_one_clear_line(hub, name, message):
    with pytest.raises(ValueError, match=message):
        probes.load_model(name)


def test_a_hub_out_of_reach_is_asked_once_and_what_is_a_path_never(hub, tmp_path, monkeypatch):
    asked = []

    def unreachable(_api, name, **_given):
        asked.append(name)
        raise RuntimeError("no route")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_refs", unreachable)
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", unreachable)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for path in ("runs/x", "runs/x/y", "a/b/c"):
        with pytest.raises(ValueError, match=f"'{path}' is no folder, no .gguf file, no hub id"):
            probes.load_model(path)
    assert asked == []
    with pytest.raises(ValueError, match="'someone/x' could not be loaded from the hub or its"):
        probes.load_model("someone/x")
    assert asked == ["someone/x"]
    with pytest.raises(ValueError, match=r"no revision 'r'; the hub cannot be asked; .* has none"):
        probes.load_model("someone/x", revision="r")


def test_a_folder_that_holds_no_model_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"holds no config.json; pass a folder that"):
        probes.load_model(str(tmp_path))


def test_a_revision_of_something_local_is_refused(folder):
    with pytest.raises(ValueError, match=r"is local and has no revisions, found revision='main'"):
        probes.load_model(str(folder), revision="main")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "float8"}, r"dtype must be one of float32, bfloat16.*, found 'float8'"),
        ({"device": "cuda:99"}, r"device 'cuda:99' cannot be used here"),
        ({"device": "gpu"}, r"device 'gpu' cannot be used here"),
    ],
)
def test_types_and_devices_that_do_not_exist_are_refused(folder, arguments, message):
    with pytest.raises(ValueError, match=message):
        probes.load_model(str(folder), **arguments)


def test_what_cannot_be_set_on_a_model_in_memory_is_refused():
    with pytest.raises(ValueError, match="dtype cannot be set for a model in memory"):
        probes.load_model(tiny_hf_model("llama"), dtype="bfloat16")
    with pytest.raises(ValueError, match="cannot load a dict; pass a name, a path"):
        probes.load_model({})


def test_a_trunk_without_an_unembedding_is_refused():
    with pytest.raises(ValueError, match="LlamaModel has no unembedding; load the causal language"):
        probes.load_model(tiny_hf_model("llama").model)


def test_texts_of_different_lengths_are_not_padded_silently():
    model = probes.load_model(tiny_hf_model("llama"), tokenizer=tiny_tokenizer())
    with pytest.raises(ValueError, match=r"texts have \[1, 2\] tokens; pass one text"):
        model.to_tokens(["w1", "w1 w2"])


def test_the_built_in_model_knows_the_capital_of_france(smollm2):
    logits, cache = smollm2.run_with_cache("The capital of France is", "blocks.29.mlp.hook_post")
    assert smollm2.tokenizer.decode(logits[0, -1].argmax()) == " Paris"
    assert cache["blocks.29.mlp.hook_post"].shape == (1, 5, 1536)
