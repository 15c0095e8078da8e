"""Direct logit attribution beside the model's own logits, and each part beside its definition."""

import pytest
import torch
from torch.testing import assert_close

import probes
from tests.models import FAMILIES, tiny_hf_model, tiny_model, tokens

IDS = tokens(1, 7, 3)
OTHERS = ("bloom", "falcon", "gptj")


@pytest.mark.parametrize("family", [*FAMILIES, *OTHERS])
def test_parts_add_up_to_the_models_own_logit(family):
    hf_model = tiny_hf_model(family)
    with torch.no_grad():
        logits = hf_model(IDS).logits[0, 4].double()
    if cap := getattr(hf_model.config, "final_logit_softcapping", None):
        logits = cap * torch.atanh(logits / cap)
    model = probes.load_model(hf_model)
    one = probes.logit_attribution(model, IDS[0], 17, position=4)
    pair = probes.logit_attribution(model, IDS, 17, 23, position=-3)
    largest = max(float(one.heads.abs().max()), float(one.memory.abs().max()), 1.0)
    assert abs(one.total - float(logits[17])) < 1e-4 * max(largest, abs(float(logits[17])))
    assert abs(pair.total - float(logits[17] - logits[23])) < 2e-4 * largest
    assert abs(one.to_dataframe()["contribution"].sum() - one.total) < 1e-4 * largest
    assert ("soft-cap" in one.what) == (family == "gemma2")


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox", "olmo2"])
def test_a_vectors_part_is_what_the_logit_loses_without_it_with_norms_frozen(family):
    """In the last block, whose MLP nothing reads but the final norm."""
    model = tiny_model(family, torch.float64)
    found, last = probes.logit_attribution(model, IDS, 17), model.n_layers - 1
    index = int(found.memory[last].abs().argmax())
    anatomy = model.anatomy
    norms = [anatomy.final_norm, *[anatomy.layers[last].mlp_out] * (family == "olmo2")]
    handles = [norm.register_forward_hook(freezing()) for norm in norms]

    def without(tensor, _):
        return tensor.index_fill(-1, torch.tensor([index]), 0.0)

    with torch.no_grad():
        whole = model(IDS)[0, -1, 17]
        less = model.run_with_hooks(IDS, [(f"blocks.{last}.mlp.hook_post", without)])[0, -1, 17]
    for handle in handles:
        handle.remove()
    # Norms of most families compute in float32.
    assert_close(found.memory[last, index], whole - less, rtol=1e-5, atol=1e-6)
    assert abs(float(whole - less)) > 1e-4


def freezing():
    """A hook that has a norm divide by what it divides by in its first pass."""
    scale = []

    def freeze(norm, args, _output):
        stream = args[0]
        if isinstance(norm, torch.nn.LayerNorm):
            stream = stream - stream.mean(dim=-1, keepdim=True)
        eps = getattr(norm, "eps", None) or norm.variance_epsilon
        scale.append((stream.pow(2).mean(dim=-1, keepdim=True) + eps).sqrt())
        bias = norm.bias if isinstance(norm, torch.nn.LayerNorm) else 0.0
        return stream / scale[0] * norm.weight + bias

    return freeze


def test_contributions_are_those_of_the_cache_and_sum_over_heads_and_vectors():
    model = tiny_model("llama", torch.float64)
    found = probes.logit_attribution(model, IDS, 17, 23)
    _, cache = model.run_with_cache(IDS)
    parts, labels = cache.decompose_resid(return_labels=True)
    both = torch.tensor([17]), torch.tensor([23])
    attributed = cache.logit_attrs(parts, *both)[:, 0, -1]
    theirs = dict(zip(labels, attributed, strict=True))
    for layer in range(model.n_layers):
        assert_close(found.attention[layer], theirs[f"{layer}_attn_out"])
        assert_close(found.mlp[layer], theirs[f"{layer}_mlp_out"])
    heads = cache.logit_attrs(cache.stack_head_results(), *both)
    assert_close(found.heads.flatten(), heads[:, 0, -1])


@pytest.mark.parametrize(
    ("words", "ask"),
    [
        ("position", lambda model: probes.logit_attribution(model, IDS, 17, position=7)),
        ("one at a time", lambda model: probes.logit_attribution(model, [[1, 2], [3, 4]], 17)),
        ("101", lambda model: probes.logit_attribution(model, IDS, 101)),
        ("no tokenizer", lambda model: probes.logit_attribution(model, IDS, " Paris")),
    ],
)
def test_what_cannot_be_attributed_is_refused(words, ask):
    with pytest.raises(ValueError, match=words):
        ask(
            tiny_model("llama", tokenizer=None)
            if False
            else probes.load_model(tiny_hf_model("llama"))
        )


def test_a_model_that_something_else_writes_to_is_refused():
    model = tiny_model("llama")
    with (
        model.hooks([("blocks.1.hook_attn_out", lambda tensor, _: tensor * 3)]),
        pytest.raises(ValueError, match="add up"),
    ):
        probes.logit_attribution(model, IDS, 17)
