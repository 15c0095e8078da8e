"""Queries, keys, values, heads and norms: each checked by what it has to do in the model."""

import pytest
import torch
from torch.testing import assert_close

import probes
from probes import Site
from probes.projections import bias_of
from tests.models import ALIBI, FAMILIES, OWN_ATTENTION, on, tiny_model, tokens

EVERY = (*FAMILIES, *OWN_ATTENTION)


def captured(model, *sites):
    found = probes.capture(model, {"input_ids": tokens(2, 7)}, sites, layers=1)
    return [found[site, 1] for site in sites]


def of_query_heads(tensor, model):
    """Key heads repeated, as query heads read them."""
    group = model.n_heads // model.anatomy.n_key_value_heads
    return tensor.repeat_interleave(group, dim=2)


@pytest.mark.parametrize("family", EVERY)
def test_the_pattern_mixes_the_values_and_the_heads_add_up(family):
    model = on("native", family)
    pattern, value, z, results = captured(
        model, Site.ATTENTION_PATTERN, Site.VALUE, Site.MIXED_VALUES, Site.HEAD_RESULTS
    )
    mixed = torch.einsum("bhqk,bkhd->bqhd", pattern, of_query_heads(value, model))
    # The same float32 sums, in another order.
    assert_close(mixed, z, rtol=1e-4, atol=1e-5)
    layer = model.anatomy.layers[1]
    bias = bias_of(layer.o)
    total = results.sum(dim=2) + (0 if bias is None else bias)
    assert_close(total, layer.o(z.flatten(2)), rtol=1e-4, atol=1e-4)
    attention = model.blocks[1].attn
    assert_close(results, torch.einsum("bphd,hdm->bphm", z, attention.W_O), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", EVERY)
def test_a_head_without_query_attends_alike_and_so_does_one_without_key(family):
    """No query, so all scores are 0, whatever is normed, rotated or capped on the way."""
    model = on("native", family)
    if family in ALIBI:
        pytest.skip("alibi is added to scores that are 0")
    for site in (Site.QUERY, Site.KEY):
        count = model.n_heads if site is Site.QUERY else model.anatomy.n_key_value_heads
        group = model.n_heads // count

        def without(tensor, _point, count=count):
            assert tensor.shape[2] == count
            tensor = tensor.clone()
            tensor[:, :, count - 1] = 0
            return tensor

        (before,) = captured(model, Site.ATTENTION_PATTERN)
        with model.hooks([((site, 1), without)]):
            (pattern,) = captured(model, Site.ATTENTION_PATTERN)
        uniform = (before > 0).float()
        uniform = uniform / uniform.sum(dim=-1, keepdim=True)
        assert_close(pattern[:, -group:], uniform[:, -group:], rtol=1e-5, atol=1e-6)
        if family not in ("olmo2", "olmo3"):  # these norm all heads together
            assert_close(pattern[:, :-group], before[:, :-group], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", EVERY)
def test_weights_give_what_they_are_named_after(family):
    model = on("native", family)
    block, layer, found = model.blocks[1], model.anatomy.layers[1], {}
    handle = layer.q.register_forward_hook(lambda _m, args, _o: found.update(x=args[0]))
    query, key, value = captured(model, Site.QUERY, Site.KEY, Site.VALUE)
    handle.remove()
    for name, site in (("Q", query), ("K", key), ("V", value)):
        made = torch.einsum("bpm,hmd->bphd", found["x"], getattr(block.attn, f"W_{name}"))
        made = made + getattr(block.attn, f"b_{name}", 0)
        assert_close(made, site, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", EVERY)
def test_norms_are_divided_by_their_scale(family):
    model = on("native", family)
    anatomy = model.anatomy
    norms = [(Site.FINAL_SCALE, Site.FINAL_NORMALIZED, Site.FINAL_NORM, None)]
    found = probes.capture(model, {"input_ids": tokens(2, 7)}, norms[0][:3])
    normalized = found[Site.FINAL_NORMALIZED, None]
    assert_close(normalized.square().mean(-1), torch.ones(2, 7), rtol=1e-3, atol=1e-3)
    weight = anatomy.final_norm.weight if hasattr(anatomy.final_norm, "weight") else torch.ones(1)
    offset = 1 if family.startswith("gemma") else 0
    bias = getattr(anatomy.final_norm, "bias", None)
    made = normalized * (weight + offset) + (0 if bias is None else bias)
    assert_close(found[Site.FINAL_NORM, None], made, rtol=1e-4, atol=1e-4)
    with model.hooks([("ln_final.hook_scale", lambda scale, _hook: scale * 2)]):
        halved = probes.capture(model, {"input_ids": tokens(2, 7)}, norms[0][:3])
    assert_close(halved[Site.FINAL_NORMALIZED, None], normalized / 2, rtol=1e-5, atol=1e-6)
    made = normalized / 2 * (weight + offset) + (0 if bias is None else bias)
    assert_close(halved[Site.FINAL_NORM, None], made, rtol=1e-4, atol=1e-4)


def logits_with(model, *hooks):
    with torch.no_grad(), model.hooks(hooks):
        return model(tokens(2, 7))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "opt", "bloom"])
def test_edits_that_mean_the_same_do_the_same(family):
    model = on("native", family)

    def without_head(tensor, _hook):
        return tensor * torch.tensor([1.0, 0.0, 1.0])[:, None]

    z, result = (f"blocks.1.attn.hook_{name}" for name in ("z", "result"))
    pairs = [
        ([(z, without_head)], [(result, without_head)]),
        (
            [("blocks.1.ln1.hook_scale", lambda t, _h: t * 2)],
            [("blocks.1.ln1.hook_normalized", lambda t, _h: t / 2)],
        ),
        # Nested or side by side, each sees what the one before it did, in the order of the pass.
        (
            [(result, lambda t, _h: t * 6)],
            [(result, lambda t, _h: t * 2), (result, lambda t, _h: t * 3)],
        ),
        (
            [("blocks.1.ln2.hook_normalized", lambda t, _h: t * 3)],
            [
                ("blocks.1.ln2.hook_normalized", lambda t, _h: t * 6),
                ("blocks.1.ln2.hook_scale", lambda t, _h: t * 2),
            ],
        ),
    ]
    if family == "llama":
        q, rotated = "blocks.1.attn.hook_q", "blocks.1.attn.hook_rot_q"
        pairs.append(([(q, lambda t, _h: t * 2)], [(rotated, lambda t, _h: t * 2)]))
    before = logits_with(model)
    for one, other in pairs:
        expected = logits_with(model, *one)
        assert not torch.allclose(expected, before, rtol=1e-3, atol=1e-3)
        assert_close(logits_with(model, *other), expected, rtol=1e-4, atol=1e-4)
        if len(other) == 2:
            with model.hooks(other[:1]):
                assert_close(logits_with(model, other[1]), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(logits_with(model), before)


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "olmo2", "opt"])
def test_what_attention_or_the_mlp_alone_reads_does_not_change_the_stream(family):
    model = tiny_model(family, torch.float64)
    sites = (Site.RESID_PRE, Site.ATTENTION_OUT, Site.MLP_OUT, Site.RESID_POST)
    before = captured(model, *sites)
    for name, changed in (("hook_attn_in", 1), ("hook_mlp_in", 2)):
        with model.hooks([(f"blocks.1.{name}", lambda tensor, _h: tensor.flip(-1))]):
            after = captured(model, *sites)
        assert torch.equal(after[0], before[0])
        assert not torch.allclose(after[changed], before[changed])
        assert_close(sum(after[:3]), after[3], rtol=1e-12, atol=1e-12)
        if changed == 2:
            assert torch.equal(after[1], before[1])
    if family == "gpt_neox":
        # In parallel: what attention reads is not what the MLP reads.
        assert torch.equal(captured(model, *sites)[2], before[2])

    def one_head(streams, _hook):
        streams = streams.clone()
        streams[:, :, 1] = 0
        return streams

    with (
        pytest.raises(ValueError, match="changed for some heads and not for others"),
        model.hooks([("blocks.1.hook_attn_in", one_head)]),
    ):
        model(tokens(1, 5))


@pytest.mark.parametrize(
    ("family", "name", "message"),
    [
        ("llama", "hook_pos_embed", "llama adds no embedding of positions"),
        ("olmo2", "blocks.0.ln1.hook_scale", "attention of olmo2 reads no norm of the stream"),
        ("gptj", "blocks.0.ln2.hook_scale", "MLP of gptj reads no norm of its own"),
        ("gptj", "blocks.0.hook_mlp_in", "do not read the stream apart"),
        ("gptj", "blocks.0.attn.hook_rot_q", "read query, not|shows its scores alone"),
        ("gpt2", "blocks.0.attn.hook_rot_k", "positions of gpt2 are not rotary; read key"),
    ],
)
def test_what_a_family_does_not_have_is_refused_in_one_line(family, name, message):
    with pytest.raises(ValueError, match=message), on("native", family).hooks([(name, print)]):
        pass
