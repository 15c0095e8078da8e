"""Adapters: what is trained, what checkpoints hold, and that runs with them go on."""

import copy

import pytest
import torch
from peft import PeftModel

import probes
import training
from tests.models import tiny_hf_model, tokens
from tests.refusals import refused
from tests.training.loop_runs import losses_of, model_of, run, settings_of
from training.ckl_config import smoke
from training.engine import adamw

RANK = 2


def lora(**given):
    return settings_of(**{"steps": 3, "lora_rank": RANK, "lora_alpha": 3.0, **given})


def logits(model):
    with torch.no_grad():
        return model(tokens(2, 7))


# peft asks by a name that transformers gives up.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_adapters_are_trained_and_merged_and_the_weights_stay(family, tmp_path):
    model = model_of(family)
    before = copy.deepcopy(model.hf_model.state_dict())
    _, result = run(tmp_path / "run", model, settings=lora(checkpoint_steps=(0,)))
    hf_model = model.hf_model
    trained = {name for name, p in hf_model.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    for name, weight in before.items():
        path, _, last = name.rpartition(".")
        held = hf_model.state_dict()
        assert torch.equal(held.get(name, held.get(f"{path}.base_layer.{last}")), weight), name
    # The change of a projection is alpha / rank times B A.
    down = model.anatomy.layers[1].down
    a, b = (m["default"].weight.detach() for m in (down.lora_A, down.lora_B))
    saved = probes.load_model(str(result.checkpoint))
    found = probes.projections.matrix_of(saved.anatomy.layers[1].down)
    expected = probes.projections.matrix_of(down.base_layer) + 3.0 / RANK * (b @ a).T
    assert torch.allclose(found, expected, atol=1e-6)
    assert not torch.allclose(found, probes.projections.matrix_of(down.base_layer), atol=1e-4)
    # Merged, and as peft reads the adapters: float32 in another order.
    assert torch.allclose(logits(saved), logits(model), atol=1e-4)
    base = tiny_hf_model(family)
    with torch.no_grad():
        theirs = PeftModel.from_pretrained(base, str(result.checkpoint / "adapter")).eval()
        assert torch.allclose(theirs(tokens(2, 7)).logits, logits(model), atol=1e-4)
    # At first they change nothing.
    first = probes.load_model(str(tmp_path / "run" / "checkpoints" / "step-000000"))
    assert torch.equal(logits(first), logits(model_of(family)))


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(tmp_path):
    settings = lora(resume_every=1)
    run(tmp_path / "whole", settings=settings)
    run(tmp_path / "cut", settings=settings, time_limit=0.0)
    run(tmp_path / "cut", settings=settings, resume=True)
    whole, cut = (tmp_path / name / "checkpoints/step-000003" for name in ("whole", "cut"))
    assert losses_of(tmp_path / "whole") == losses_of(tmp_path / "cut")
    for name in ("model.safetensors", "adapter/adapter_model.safetensors"):
        assert (whole / name).read_bytes() == (cut / name).read_bytes()
    (cut / "adapter" / "adapter_model.safetensors").unlink()


def test_only_adapters_are_in_the_optimizer_and_edits_work_behind_them(tmp_path):
    import interventions

    model = model_of()
    edit = interventions.MemoryEdit({1: [2]}, scale=3.0)
    with interventions.applied(model, edit):
        expected = logits(model)
    run(tmp_path / "run", model, settings=lora(steps=1), edits=[edit])
    sizes = [
        p.shape
        for group in adamw(model.hf_model, lora().optimizer).param_groups
        for p in group["params"]
    ]
    assert all(RANK in shape for shape in sizes)
    with interventions.applied(model, edit):
        # One small step away from where it began.
        assert not torch.equal(logits(model), expected)


def test_what_adapters_cannot_do_is_refused(tmp_path):
    for given, message in [
        ({"lora_rank": 0}, "lora_rank must be 1 or more"),
        ({"lora_rank": None, "lora_alpha": 2.0}, "lora_rank must be given with lora_alpha"),
        ({"lora_alpha": 0.0}, "lora_alpha must be above 0"),
        ({"parallel": "fsdp"}, "adapters are not trained under 'fsdp'"),
    ]:
        with refused(message):
            lora(**given)
    with refused("new adapters begin with a fresh optimizer"):
        run(tmp_path / "never", settings=lora(), start_state=tmp_path)
    assert smoke().lora_rank is None
    assert training.LoopSettings(steps=1, batch_size=1).lora_rank is None
