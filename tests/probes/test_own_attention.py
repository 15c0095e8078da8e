"""Families that compute attention themselves: scores, entropies, temperatures, parallel blocks."""

import copy
from functools import cache

import pytest
import torch
from torch.testing import assert_close

import interventions
import probes
from probes import Site
from tests.models import ALIBI, N_LAYERS, OWN_ATTENTION, padded, tiny_hf_model, tokens
from tests.reference import own_attention as reference

LENGTH = 11
PARALLEL = ("gptj", "codegen", "falcon", "falcon_7b")


@cache
def model_of(family, dtype=torch.float32):
    return probes.load_model(tiny_hf_model(family, dtype))


@cache
def normed(family):
    """What the attention of each layer reads, `[layer pos d_model]`."""
    hf_model, found = model_of(family).hf_model, []
    handles = [
        reference.attention(hf_model, family, layer).register_forward_pre_hook(
            lambda _module, args, named: found.append((*args, *named.values())[0][0]),
            with_kwargs=True,
        )
        for layer in range(N_LAYERS)
    ]
    with torch.no_grad():
        hf_model(tokens(1, LENGTH))
    for handle in handles:
        handle.remove()
    return found


@cache
def scores_by_hand(family):
    hf_model = model_of(family).hf_model
    rows = [reference.scores(hf_model, family, i, normed(family)[i]) for i in range(N_LAYERS)]
    return torch.stack(rows)


def seen(family, ids=None, mask=None):
    batch = {"input_ids": tokens(1, LENGTH) if ids is None else ids, "attention_mask": mask}
    sites = [probes.Site.ATTENTION_SCORES, probes.Site.ATTENTION_PATTERN, probes.Site.ATTENTION_OUT]
    found = probes.capture(model_of(family), batch, sites)
    return {site: [found[site, i] for i in range(N_LAYERS)] for site in sites}


@pytest.mark.parametrize("family", OWN_ATTENTION)
def test_scores_pattern_and_output_are_those_of_loops(family):
    found, expected = seen(family), scores_by_hand(family)
    for layer in range(N_LAYERS):
        scores = found[Site.ATTENTION_SCORES][layer][0]
        # float32 products of some 10 against float64 ones.
        assert_close(scores.double(), expected[layer], rtol=1e-5, atol=1e-4)
        pattern = found[Site.ATTENTION_PATTERN][layer][0]
        assert_close(pattern.double(), expected[layer].softmax(-1), rtol=1e-4, atol=1e-5)
        hf_model, reads = model_of(family).hf_model, normed(family)[layer]
        out = reference.attention_out(hf_model, family, layer, reads, expected[layer])
        assert_close(found[Site.ATTENTION_OUT][layer][0].double(), out, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", [f for f in OWN_ATTENTION if f != "falcon_rw"])
def test_entropies_are_those_of_eager_attention_on_padded_rows(family, side):
    """Falcon's eager alibi is wrong in transformers; loops serve it."""
    model = model_of(family)
    ids, mask = padded([LENGTH, 5], side)
    result = probes.measure_entropy(model, [{"input_ids": ids, "attention_mask": mask}])
    per_row, kept = [], []
    for row, real in zip(ids, mask.bool(), strict=True):
        eager = copy.deepcopy(model.hf_model)
        eager.config._attn_implementation = "eager"
        with torch.no_grad():
            out = eager(row[real][None], output_attentions=True, use_cache=False)
        entropies = [torch.special.entr(a[0].double()).sum(-1).mean(-1) for a in out.attentions]
        per_row.append(torch.stack(entropies))
        p = out.logits[0].double().log_softmax(-1)
        kept.append(-(p.exp() * p).sum(-1).mean())
    # Pads change the order of float32 sums.
    assert_close(
        result.attention.per_head.double(), torch.stack(per_row).mean(0), rtol=1e-4, atol=1e-5
    )
    assert result.next_token.mean == pytest.approx(float(torch.stack(kept).mean()), rel=1e-5)


@pytest.mark.parametrize("family", ALIBI)
def test_entropies_with_alibi_are_those_of_loops(family):
    result = probes.measure_entropy(
        model_of(family), [{"input_ids": tokens(1, LENGTH)}], kinds=("attention",)
    )
    expected = torch.special.entr(scores_by_hand(family).softmax(-1)).sum(-1).mean(-1)
    assert_close(result.attention.per_head.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", PARALLEL)
def test_a_parallel_block_adds_attention_and_mlp_of_one_stream(family):
    model = model_of(family)
    hf_model, layer = model.hf_model, 1
    names = [f"blocks.{layer}.hook_{n}" for n in ("resid_pre", "mlp_out", "resid_post")]
    cache = model.run_with_cache(tokens(1, LENGTH), names)[1]
    block = hf_model.transformer.h[layer]
    before = cache[Site.RESID_PRE, layer][0].detach()
    norm = getattr(block, "ln_mlp", None) or getattr(block, "ln_1", None) or block.input_layernorm
    read = norm(before).detach().double()
    up, down = model.anatomy.layers[layer].up, model.anatomy.layers[layer].down
    hidden = reference.projected(up, read)
    approximate = "none" if family.startswith("falcon") else "tanh"
    coefficients = torch.nn.functional.gelu(hidden, approximate=approximate)
    added = reference.projected(down, coefficients)
    assert_close(cache[Site.MLP_OUT, layer][0].double(), added, rtol=1e-4, atol=1e-4)
    by_hand = scores_by_hand(family)[layer]
    attended = reference.attention_out(hf_model, family, layer, normed(family)[layer], by_hand)
    expected = before.double() + attended + added
    assert_close(cache[Site.RESID_POST, layer][0].double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", OWN_ATTENTION)
def test_a_temperature_divides_scores_before_the_mask_and_alibi_with_them(family):
    model, layer = model_of(family), 0
    per_head = torch.linspace(0.6, 2.3, model.n_heads)
    expected = scores_by_hand(family)[layer] / per_head.double()[:, None, None]
    with model.attention_temperature({layer: per_head}):
        found = seen(family)
    assert_close(found[Site.ATTENTION_SCORES][layer][0].double(), expected, rtol=1e-5, atol=1e-4)
    hf_model, reads = model.hf_model, normed(family)[layer]
    out = reference.attention_out(hf_model, family, layer, reads, expected)
    assert_close(found[Site.ATTENTION_OUT][layer][0].double(), out, rtol=1e-4, atol=1e-4)
    # Without anything that reads them, the module's own function gives the same.
    streams = []
    with (
        torch.no_grad(),
        model.attention_temperature({layer: 2.0}),
        model.attention_temperature({layer: per_head / 2.0}),
        model.hooks([((Site.ATTENTION_OUT, layer), lambda t, _: streams.append(t))]),
    ):
        model(tokens(1, LENGTH))
    assert_close(streams[0][0].double(), out, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", OWN_ATTENTION)
def test_a_temperature_as_weights_is_exact_or_refused(family):
    model = model_of(family)
    rows = torch.linspace(0.6, 2.3, N_LAYERS * model.n_heads).view(N_LAYERS, -1)
    edit = interventions.AttentionTemperature(rows)
    with torch.no_grad(), interventions.applied(model, edit):
        hooked = model(tokens(2, LENGTH))
    if family in ALIBI:
        with pytest.raises(ValueError, match="adds alibi to the products of queries and keys"):
            interventions.patch_weights(model, edit)
        return
    report = interventions.patch_weights(model, edit)
    with torch.no_grad():
        patched = model(tokens(2, LENGTH))
    report.undo()
    # float32 rounding of logits of some 10, through three layers.
    assert_close(patched, hooked, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("family", OWN_ATTENTION)
def test_masked_scores_are_infinite_in_half_precision_too(family, dtype):
    model = model_of(family, dtype)
    ids, mask = padded([LENGTH, 7], "right")
    batch = {"input_ids": ids, "attention_mask": mask}
    found = probes.capture(model, batch, [probes.Site.ATTENTION_SCORES])
    for layer in range(N_LAYERS):
        scores = found[probes.Site.ATTENTION_SCORES, layer]
        assert scores.dtype == torch.float32
        window = 3 if family == "gpt_neo" and layer == 1 else LENGTH
        causal = torch.ones(LENGTH, LENGTH).tril().triu(1 - window).bool()
        allowed = (causal & mask[:, None, None].bool()).expand_as(scores)
        assert torch.equal(scores.isfinite(), allowed)


@pytest.mark.parametrize("family", ["gptj", "falcon_rw", "mpt"])
def test_patterns_are_edited(family):
    """Heads that attend to the first token alone give its value to every position."""
    model, layer = model_of(family), 1

    def first(pattern, _point):
        return torch.zeros_like(pattern).index_fill(-1, torch.tensor([0]), 1.0)

    streams = []
    hooks = [
        ((Site.ATTENTION_PATTERN, layer), first),
        ((Site.ATTENTION_OUT, layer), lambda t, _: streams.append(t)),
    ]
    with torch.no_grad(), model.hooks(hooks):
        model(tokens(1, LENGTH))
    only = torch.full((model.n_heads, LENGTH, LENGTH), -torch.inf, dtype=torch.float64)
    only[..., 0] = 0.0
    out = reference.attention_out(model.hf_model, family, layer, normed(family)[layer], only)
    assert_close(streams[0][0].double(), out, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["gpt_neo", "falcon", "bloom"])
def test_a_temperature_also_acts_where_checkpointing_runs_a_block_again(family):
    model = model_of(family)
    temperature = torch.tensor(1.7, requires_grad=True)

    def gradient():
        per_head = temperature.expand(model.n_heads)
        with model.attention_temperature(dict.fromkeys(range(N_LAYERS), per_head)):
            loss = model(tokens(2, LENGTH)).square().mean()
            return torch.autograd.grad(loss, [temperature, model.anatomy.layers[0].down.weight])

    plain = gradient()
    model.hf_model.activation_checkpointing_enable({"use_reentrant": False})
    model.hf_model.train()
    for part in model.hf_model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.eval()
    try:
        again = gradient()
    finally:
        model.hf_model.activation_checkpointing_disable()
        model.hf_model.eval()
    assert float(plain[0].abs()) > 1e-3
    for one, other in zip(plain, again, strict=True):
        assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_what_a_module_calls_for_attention_is_what_it_hands_to_the_interface(monkeypatch):
    """Llama without `AttentionInterface`: by PyTorch's fused function, and by a softmax."""
    found = []
    for attention in ("interface", "sdpa", "eager"):
        model = probes.load_model(tiny_hf_model("llama"))
        if attention != "interface":
            monkeypatch.setattr(
                type(model.hf_model), "_can_set_attn_implementation", lambda *_: False
            )
            model.hf_model.config._attn_implementation = attention
        with model.attention_temperature({1: 1.3}):
            batch = [{"input_ids": tokens(2, LENGTH)}]
            found.append(probes.measure_entropy(model, batch, kinds=("attention",)).attention)
    for other in found[1:]:
        assert_close(other.per_head, found[0].per_head, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("times", [0, 2])
def test_attention_that_shows_no_scores_is_refused_by_name_and_the_rest_is_measured(
    times, monkeypatch
):
    """Two layers of softmax, or none, as linear attention has it."""
    hf_model = tiny_hf_model("gpt_neo")

    def attend(query, key, value, attention_mask=None):
        pattern = (query @ key.mT + attention_mask).exp()
        for _ in range(times):
            pattern = pattern.log().softmax(dim=-1)
        return pattern / pattern.sum(-1, keepdim=True) @ value, pattern

    for block in hf_model.transformer.h:
        block.attn.attention._attn = attend
        for projection in (block.attn.attention.q_proj, block.attn.attention.k_proj):
            projection.weight.data *= 0.1
    model = probes.load_model(hf_model)
    message = rf"GPTNeoSelfAttention calls {times} functions that show its attention scores, not o"
    for asked in (
        lambda: model.run_with_cache(tokens(1, 5), "blocks.0.attn.hook_pattern"),
        lambda: probes.measure_entropy(model, [{"input_ids": tokens(1, 5)}]),
        lambda: model.attention_temperature({0: 2.0}),
    ):
        with pytest.raises(ValueError, match=message):
            asked()
    assert not any("hook_pattern" in name for name in model.hook_names())
    kinds = ("knowledge", "next_token")
    result = probes.measure_entropy(model, [{"input_ids": tokens(2, LENGTH)}], kinds=kinds)
    with torch.no_grad():
        p = hf_model(tokens(2, LENGTH)).logits.double().log_softmax(-1)
    assert result.next_token.mean == pytest.approx(float(-(p.exp() * p).sum(-1).mean()), rel=1e-5)


def test_falcon_with_eager_alibi_is_refused():
    hf_model = tiny_hf_model("falcon_rw")
    hf_model.config._attn_implementation = "eager"
    with pytest.raises(ValueError, match="eager attention adds Falcon's alibi twice"):
        probes.load_model(hf_model)


def test_rows_longer_than_mpt_has_positions_for_are_refused():
    with pytest.raises(ValueError, match=r"rows have 62 tokens, but .* has positions for 61"):
        model_of("mpt")(tokens(1, 62))


ELSEWHERE = [
    *(("transformer_lens", family) for family in ("gptj", "gpt_neo", "codegen", "bloom", "mpt")),
    *(("nnsight", family) for family in ("gptj", "gpt_neo", "falcon_rw", "bloom", "mpt")),
]


@pytest.mark.parametrize(("backend", "family"), ELSEWHERE)
def test_other_backends_show_the_same(backend, family):
    other = probes.load_model(tiny_hf_model(family), backend=backend)
    names = [name for name in other.hook_names() if ".1." in name or not name.startswith("blocks")]
    found = other.run_with_cache(tokens(2, LENGTH), names)[1]
    expected = model_of(family).run_with_cache(tokens(2, LENGTH), names)[1]
    for name in names:
        # float32 products summed by other kernels.
        assert_close(found[name], expected[name], rtol=1e-4, atol=1e-4, msg=name)


REFUSED_ELSEWHERE = {
    ("transformer_lens", "falcon"): "TransformerLens cannot wrap a FalconForCausalLM",
    ("transformer_lens", "falcon_rw"): "TransformerLens adds Falcon's alibi twice",
    ("nnsight", "codegen"): "nnsight finds 0 softmaxes, not one, in the attention of codegen",
    ("nnsight", "falcon_7b"): "nnsight finds 2 softmaxes, not one, in the attention of falcon",
}


@pytest.mark.parametrize(("backend", "family"), REFUSED_ELSEWHERE)
def test_what_other_backends_cannot_do_is_refused_by_name(backend, family):
    def pattern():
        model = probes.load_model(tiny_hf_model(family), backend=backend)
        return model.run_with_cache(tokens(2, LENGTH), "blocks.1.attn.hook_pattern")

    with pytest.raises(ValueError, match=REFUSED_ELSEWHERE[backend, family]):
        pattern()
