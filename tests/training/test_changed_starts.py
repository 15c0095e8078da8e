"""Starts that are not what their class is: a checkpoint holds what they compute with, or none."""

import shutil

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, GenerationConfig

import probes
from tests.changed_models import CHANGES, changed_layers
from tests.models import D_VOCAB, tiny_hf_model, tiny_tokenizer, tokens
from tests.refusals import refused
from tests.training.loop_runs import run, same_bits, settings_of, weights_of


def hooked(hf_model):
    return probes.load_model(hf_model, tokenizer=tiny_tokenizer())


def tied_by_hand():
    hf_model = tiny_hf_model("qwen2")
    hf_model.lm_head.weight = hf_model.model.embed_tokens.weight
    return hooked(hf_model)


def untied():
    hf_model = tiny_hf_model("llama")
    hf_model.lm_head = nn.Linear(42, D_VOCAB, bias=False)
    torch.nn.init.normal_(
        hf_model.lm_head.weight, std=0.2, generator=torch.Generator().manual_seed(5)
    )
    return hooked(hf_model)


def logits(hf_model):
    with torch.no_grad():
        return hf_model(tokens(2, 11)).logits


@pytest.mark.parametrize("start", [tied_by_hand, untied])
def test_a_checkpoint_computes_what_was_trained_and_a_run_goes_on_from_it(start, tmp_path):
    settings = settings_of(steps=5, checkpoint_every=3, keep_training_states=2)
    model, _ = run(tmp_path / "run", start(), settings=settings)
    last = tmp_path / "run" / "checkpoints" / "step-000005"
    loaded, info = AutoModelForCausalLM.from_pretrained(last, output_loading_info=True)
    assert not info["missing_keys"]
    assert torch.equal(logits(loaded.eval()), logits(model.hf_model.eval()))
    # Only the head's own tensor tells whether one moves without the other.
    assert not torch.equal(logits(loaded), logits(start().hf_model))

    # As if it had been killed after the checkpoint before.
    shutil.rmtree(last)
    (tmp_path / "run" / "done.json").unlink()
    again, _ = run(tmp_path / "run", start(), settings=settings, resume=True)
    assert same_bits(weights_of(again), weights_of(model))


@pytest.mark.parametrize("kind", CHANGES)
def test_what_cannot_be_gone_on_from_is_refused_before_the_first_step(kind, tmp_path):
    hf_model = tiny_hf_model("qwen2")
    changed_layers(hf_model, kind, names=("up_proj",))
    model = hooked(hf_model)
    with refused(r"mlp\.up_proj of this .* merge or remove"):
        run(tmp_path / "run", model)
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_a_generation_configuration_that_transformers_does_not_save_stops_no_run(tmp_path):
    model = hooked(tiny_hf_model("llama"))
    model.hf_model.generation_config.temperature = 0.9
    run(tmp_path / "run", model, settings=settings_of(steps=2))
    found = GenerationConfig.from_pretrained(tmp_path / "run" / "checkpoints" / "step-000002")
    assert found.temperature == 0.9
