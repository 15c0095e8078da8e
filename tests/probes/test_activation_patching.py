"""Activation patching against one run after the other with a plain hook, and what it refuses."""

import pytest
import torch
from torch.testing import assert_close

import analysis
import probes
from tests.models import tiny_hf_model, tiny_model, tokens

CLEAN = tokens(1, 7, 1)
CORRUPTED = CLEAN.clone()
CORRUPTED[0, 2:4] = torch.tensor([50, 60])
POSITION, HEAD = 4, 2


def by_hand(model, name, put):
    """The difference of two logits, in one run with something of the clean one put in."""
    _, cache = model.run_with_cache(CLEAN, name)

    def replace(tensor, _):
        new = tensor.clone()
        put(new[0], cache[name][0])
        return new

    with torch.no_grad():
        logits = model.run_with_hooks(CORRUPTED, [(name, replace)])[0, -1]
    return logits[17] - logits[23]


def a_position(new, clean):
    new[POSITION] = clean[POSITION]


def a_query(new, clean):
    new[:, POSITION] = clean[:, POSITION]


def a_head(new, clean):
    new[:, HEAD] = clean[:, HEAD]


def a_heads_pattern(new, clean):
    new[HEAD] = clean[HEAD]


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox"])
@pytest.mark.parametrize(
    ("site", "name", "heads", "put"),
    [
        ("resid_post", "hook_resid_post", False, a_position),
        ("mlp_coefficients", "mlp.hook_post", False, a_position),
        ("attention_pattern", "attn.hook_pattern", False, a_query),
        ("mixed_values", "attn.hook_z", True, a_head),
        ("attention_pattern", "attn.hook_pattern", True, a_heads_pattern),
    ],
)
def test_every_cell_is_a_run_by_hand(monkeypatch, family, site, name, heads, put):
    # Several batches, the last of them not full.
    monkeypatch.setattr("probes.activation_patching.BATCH_TOKENS", 5 * 7)
    model = tiny_model(family, torch.float64)
    result = analysis.patching(model, CLEAN, CORRUPTED, metric=(17, 23), sites=[site], heads=heads)
    assert result.patched.shape == (1, 3, 3 if heads else 7)
    place = HEAD if heads else POSITION
    for layer in range(3):
        expected = by_hand(model, f"blocks.{layer}.{name}", put)
        # Patterns are float32 whatever the model's type.
        assert_close(result.patched[0, layer, place], expected, rtol=1e-5, atol=1e-6)
    plain = model(CORRUPTED)[0, -1].detach()
    assert result.corrupted == pytest.approx(float(plain[17] - plain[23]))


def test_recovery_is_1_where_all_is_put_back_and_0_where_nothing_differs():
    model = tiny_model("llama", torch.float64)
    asked = {"metric": 17, "sites": ["resid_pre", "post"]}
    result = analysis.patching(model, CLEAN[0], CORRUPTED, **asked, positions=[[2, 3], 1])
    found = result.recovery
    assert found[0, 0].tolist() == pytest.approx([1.0, 0.0])
    assert float((found[0, 1, 0] - 1).abs()) > 1e-3, "later positions have read the corrupted ones"
    table = result.to_dataframe()
    cell = table.query("site == 'mlp_coefficients' and layer == 2").iloc[0]
    assert cell["recovery"] == pytest.approx(float(found[1, 2, 0]))
    assert cell["place"].startswith("2:")
    figure = result.plot("mlp_coefficients")
    assert_close(torch.tensor(figure.data[0].z), found[1])


def test_a_function_of_logits_is_a_metric():
    model = tiny_model("gpt2", torch.float64)
    result = analysis.patching(model, CLEAN, CORRUPTED, metric=lambda x: x.log_softmax(-1)[:, 5])
    assert result.clean == pytest.approx(float(model(CLEAN)[0, -1].detach().log_softmax(-1)[5]))


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        ("7 tokens and corrupted 6", {"corrupted": CORRUPTED[:, :6]}),
        ("after both", {"corrupted": CLEAN}),
        ("no heads", {"sites": "resid_pre", "heads": True}),
        ("no site of a layer", {"sites": "logits"}),
        ("position", {"positions": [7]}),
        ("3 tokens", {"metric": (1, 2, 3)}),
        ("keys and values", {"sites": ["query", "key"], "heads": True}),
    ],
)
def test_what_cannot_be_patched_is_refused(words, changed):
    model = probes.load_model(tiny_hf_model("llama"))
    asked = {"clean": CLEAN, "corrupted": CORRUPTED, "metric": 17} | changed
    with pytest.raises(ValueError, match=words):
        analysis.patching(model, **asked)
