"""Weights, names, and what a cache is asked for, beside a TransformerBridge, name by name."""

from functools import cache

import pytest
import torch
from torch.testing import assert_close

import probes
from tests.models import tiny_hf_model, tiny_tokenizer, tokens

FAMILIES = ("gpt2", "llama", "gpt_neox")
"""Learned positions; rotary ones, a gate and shared keys; parallel blocks."""
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@cache
def both(family):
    """Our model with its cache, and a bridge over a copy with its own."""
    hf_model = tiny_hf_model(family)
    if family == "llama":
        # TransformerLens does not count it in logit attribution; see the test of sums for ours.
        hf_model.model.norm.weight.data.fill_(1.0)
    model = probes.load_model(hf_model, tokenizer=tiny_tokenizer())
    bridge = model.to_transformer_lens()
    bridge.set_use_attn_result(True)
    bridge.set_use_attn_in(True)
    bridge.set_use_hook_mlp_in(True)
    on_request = [
        f"blocks.{i}.{name}"
        for i in range(3)
        for name in ("hook_attn_in", "attn.hook_result", "hook_mlp_in")
    ]
    with torch.no_grad():
        found = model.run_with_cache(tokens(2, 7), [*model.hook_names(), *on_request])[1]
        expected = bridge.run_with_cache(tokens(2, 7))[1]
    return model, found, bridge, expected


@pytest.mark.parametrize("family", FAMILIES)
def test_every_name_holds_what_it_holds_there(family):
    _, found, _, expected = both(family)
    for name in found:
        if family == "gpt_neox" and "rot_" in name:
            assert name not in expected.cache_dict
            continue
        theirs = expected[name]
        lowest = torch.finfo(torch.float32).min / 2
        # A masked score is -inf here and the lowest float there.
        theirs = theirs.masked_fill(theirs < lowest, -torch.inf) if "scores" in name else theirs
        assert_close(found[name], theirs, **CLOSE, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_the_bridges_and_views_of_the_models_own(family):
    model, _, bridge, _ = both(family)
    words = ["E", "U", "pos", "Q", "K", "V", "O", "in", "gate", "out"]
    for name in [*(f"W_{w}" for w in words), *(f"b_{w}" for w in [*words[3:], "U"])]:
        # There it is None, or zeros by another name.
        if name in ("W_gate", "b_gate") and family != "llama":
            with pytest.raises(AttributeError, match="has no gate"):
                getattr(model, name)
            continue
        try:
            expected = getattr(bridge, name)
        except AttributeError:
            with pytest.raises(AttributeError, match=r"has no|adds no embedding of positions"):
                getattr(model, name)
            continue
        assert_close(getattr(model, name), expected, rtol=0, atol=0)
    storages = {p.untyped_storage().data_ptr() for p in model.hf_model.parameters()}
    views = [model.W_E, model.W_U, model.blocks[1].attn.W_Q, model.blocks[-1].mlp.W_in]
    views += [model.blocks[0].attn.W_O, model.blocks[0].attn.W_V, model.blocks[0].mlp.W_out]
    assert all(view.untyped_storage().data_ptr() in storages for view in views)
    assert not any(view.requires_grad for view in views)


@pytest.mark.parametrize("family", FAMILIES)
def test_facts_are_those_of_the_bridge(family):
    model, _, bridge, _ = both(family)
    for name, fact in vars(model.cfg).items():
        if name != "model_name":
            assert fact == getattr(bridge.cfg, name), name


CALLS = {
    "accumulated": lambda c: c.accumulated_resid(return_labels=True),
    "accumulated to layer 1": lambda c: c.accumulated_resid(1, return_labels=True),
    "accumulated, normed": lambda c: c.accumulated_resid(apply_ln=True, pos_slice=-1),
    "accumulated, normed for layer 2": lambda c: c.accumulated_resid(2, apply_ln=True),
    "decomposed": lambda c: c.decompose_resid(return_labels=True),
    "decomposed before the MLP": lambda c: c.decompose_resid(1, mlp_input=True, return_labels=True),
    "heads' part": lambda c: c.decompose_resid(2, mode="attn", return_labels=True),
    "the MLPs'": lambda c: c.decompose_resid(mode="mlp", incl_embeds=False, pos_slice=(1, 5)),
    "decomposed, divided": lambda c: c.decompose_resid(apply_ln=True),
    "divided before an MLP": lambda c: c.decompose_resid(1, mlp_input=True, apply_ln=True),
    "by head": lambda c: c.stack_head_results(return_labels=True, incl_remainder=True),
    "by head at a place": lambda c: c.stack_head_results(2, pos_slice=3, apply_ln=True),
    "patterns": lambda c: c.stack_activation("pattern"),
    "scales": lambda c: c.stack_activation("scale", 2, "ln1"),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("call", CALLS)
def test_what_a_cache_is_asked_for(family, call):
    _, found, _, expected = both(family)
    with torch.no_grad():
        ours, theirs = CALLS[call](found), CALLS[call](expected)
    if isinstance(theirs, tuple):
        assert ours[1] == theirs[1]
        ours, theirs = ours[0], theirs[0]
    assert_close(ours, theirs, **CLOSE)


def test_logit_attribution_is_the_bridges_where_its_norm_has_no_weight():
    _, found, _, expected = both("llama")
    stack, last = found.decompose_resid(), found.decompose_resid(pos_slice=-1)
    rows, every = torch.tensor([5, 9]), tokens(2, 7, seed=3)
    for given in (
        {"residual_stack": stack, "tokens": 7},
        {"residual_stack": stack, "tokens": rows, "incorrect_tokens": rows.flip(0)},
        {"residual_stack": stack, "tokens": every},
        {"residual_stack": last, "tokens": rows, "pos_slice": -1},
        {"residual_stack": stack, "tokens": 7, "batch_slice": (1, 2)},
    ):
        assert_close(found.logit_attrs(**given), expected.logit_attrs(**given), **CLOSE)
    assert torch.equal(
        found.logit_attrs(last, "w4", pos_slice=-1), found.logit_attrs(last, 7, pos_slice=-1)
    )


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox", "gemma2", "olmo2", "bloom", "opt"])
def test_parts_of_the_stream_add_up_to_it_and_their_attributions_to_the_logits(family):
    model = probes.load_model(tiny_hf_model(family, torch.float64), tokenizer=tiny_tokenizer())
    logits, found = model.run_with_cache(tokens(2, 7))
    rows = torch.tensor([5, 9])
    attributions = found.logit_attrs(found.decompose_resid(), rows)
    heads = found.stack_head_results(incl_remainder=True)
    # Sums of float64, but for norms and eager softmaxes that compute in float32.
    close = {"rtol": 1e-5, "atol": 1e-4}
    assert_close(found.decompose_resid().sum(dim=0), found["resid_post", -1], **close)
    assert_close(heads.sum(dim=0), found["resid_post", -1], **close)
    bias = getattr(model.anatomy.final_norm, "bias", None)
    rest = model.b_U + (0 if bias is None else bias.detach() @ model.W_U)
    total = attributions.sum(dim=0) + rest[rows][:, None]
    expected = torch.stack([logits[row, :, token] for row, token in enumerate(rows)])
    if family == "gemma2":
        expected = 2.3 * torch.atanh(expected / 2.3)  # before its soft-cap
    assert_close(total, expected.detach(), **close)


def test_names_are_keys_in_full_and_in_short():
    model, found, _, expected = both("llama")
    for key in (
        *(("pattern", 0), ("attn", 1), ("q", -1), ("k", 2), ("resid_post", 1), ("scale", 1, "ln2")),
        *(("pre", 0), ("post", 0), ("pre_linear", 0), ("mlp_out", 1), "pattern1", "scale2ln1"),
        *("embed", "k0", "blocks.2.hook_resid_mid", ("value", 1), ("normalized", 0, "ln1")),
        *(("embed", None), "scale", "hook_embed"),
    ):
        assert key in found
        assert_close(found[key], expected[key].nan_to_num(), **CLOSE)
    assert found[probes.Site.MLP_COEFFICIENTS, 1] is found["post", 1]
    assert list(found) == list(found.keys()) == found.names()
    assert [name for name, _ in found.items()] == found.names()
    assert found.points()[0] == (probes.Site.EMBED, None)
    with model.hooks([(("pattern", -1), lambda tensor, hook: seen.append(hook.name))]):
        seen = []
        model(tokens(1, 3))
    assert seen == ["blocks.2.attn.hook_pattern"]


def test_a_cache_moves_and_loses_the_axis_of_its_one_row():
    model = both("gpt2")[0]
    logits, alone = model.run_with_cache("w3 w1 w4", remove_batch_dim=True)
    assert logits.shape == (1, 3, 101)
    assert not logits.requires_grad
    whole = model.run_with_cache("w3 w1 w4", return_type=None)[1]
    assert alone["pattern", 0].shape == (3, 3, 3)
    assert alone.to("cpu") is alone
    for stacked in (
        lambda c: c.decompose_resid(apply_ln=True),
        lambda c: c.stack_head_results(apply_ln=True),
        lambda c: c.accumulated_resid(apply_ln=True, incl_mid=True),
        lambda c: c.logit_attrs(c.decompose_resid(), "w7", "w8"),
    ):
        assert_close(stacked(alone), stacked(whole)[:, 0], rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="there are 2 rows"):
        model.run_with_cache(tokens(2, 5), remove_batch_dim=True)


@pytest.mark.parametrize(
    ("ask", "error", "message"),
    [
        (lambda c: c["patern", 0], ValueError, "nearest is 'blocks.0.attn.hook_pattern'"),
        (lambda c: c["scale", 0], ValueError, r"ln1.hook_scale or ln2.hook_scale; say which"),
        (lambda c: c[3], ValueError, "3 names no hook point"),
        (lambda c: c["pos_embed"], KeyError, "adds no embedding of positions"),
        (lambda c: c["result", 0], KeyError, "was not captured; name it in names_filter"),
        (lambda c: c.stack_activation("q", 4), ValueError, "layer is 4; give 0 to 3"),
        (lambda c: c.decompose_resid(mode="heads"), ValueError, "give 'all', 'attn' or 'mlp'"),
        (
            lambda c: c.logit_attrs(c.decompose_resid(), 5, torch.tensor([5, 6])),
            ValueError,
            "give one for each",
        ),
        (lambda c: c.logit_attrs(c.decompose_resid(), "w5 w6"), ValueError, "is 2 tokens"),
    ],
)
def test_mistakes_get_one_line(ask, error, message):
    model = both("llama")[0]
    found = model.run_with_cache(tokens(2, 5))[1]
    with pytest.raises(error, match=message):
        ask(found)
