"""Three backends against each other, and against plain hooks on an untouched deep copy."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from torch.testing import assert_close

import probes
from probes import HookPoint, Site
from tests.models import (
    BACKENDS,
    CONTRASTING,
    FAMILIES,
    OTHERS,
    across,
    on,
    padded,
    tiny_hf_model,
    tiny_model,
    tiny_tokenizer,
    tokens,
)

_ROTATED = {"rotated_query", "rotated_key"}


def unreadable(backend, family):
    """Sites that a family has natively and not there."""
    if backend == "nnsight" or family in ("gpt_neox", "phi3"):
        return _ROTATED
    return {"attention_scores", "attention_in", "head_results"} if family == "opt" else set()


def every_point(model):
    """Hook points, those that are read on request too."""
    on_request = [site for site in Site if site.on_request and not model.lacks(site)]
    return [*model.hook_points(), *(HookPoint(site, 1) for site in on_request)]


def left_padded():
    ids, mask = padded([13, 5], "left")
    return {"input_ids": ids, "attention_mask": mask}


def real_rows(tensor, point):
    """Rows of queries that are no pads; what pads attend to is each backend's own affair."""
    queries = (
        tensor.transpose(1, 2)
        if point.site in (Site.ATTENTION_SCORES, Site.ATTENTION_PATTERN)
        else tensor
    )
    return queries[left_padded()["attention_mask"].bool()]


def uneven(tensor, _point):
    if tensor.shape[-1] == 1:
        # A scale: by position, since a norm after attention would undo one factor for all.
        return tensor * torch.linspace(0.4, 1.6, tensor.shape[1], dtype=tensor.dtype)[:, None]
    return tensor * torch.linspace(0.4, 1.6, tensor.shape[-1], dtype=tensor.dtype)


@pytest.mark.parametrize(("backend", "family"), across(FAMILIES))
def test_captures_are_the_native_ones_at_every_site(backend, family):
    native, other = on("native", family), on(backend, family)
    sites = {point.site for point in every_point(other)}
    absent = {point.site for point in every_point(native)} - sites
    has_rotated = not native.lacks(Site.ROTATED_QUERY)
    assert absent == unreadable(backend, family) - (set() if has_rotated else _ROTATED)
    expected = probes.capture(native, left_padded(), sites)
    found = probes.capture(other, left_padded(), sites)
    assert list(found) == list(expected)
    for point in expected.points():
        # The same float32 products, some of them summed by another kernel, through three layers.
        assert_close(
            real_rows(found[point], point), real_rows(expected[point], point), rtol=1e-4, atol=1e-4
        )
    name = "blocks.1.mlp.hook_post"
    mean = probes.stream(other, left_padded(), {name: probes.RunningMean()})[name]
    kept = found[name][left_padded()["attention_mask"].bool()]
    # Where no pattern is read, nnsight leaves attention fused.
    assert_close(mean, kept.double().mean(dim=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("backend", "family"), across(FAMILIES))
def test_an_edit_at_any_site_does_what_it_does_natively_and_is_gone_afterwards(backend, family):
    native, other = on("native", family), on(backend, family)
    batch = left_padded()
    ids, mask = batch["input_ids"], batch["attention_mask"]
    with torch.no_grad():
        before = other(ids, attention_mask=mask)
        for point in every_point(other):
            if point.layer not in (None, 1) or (family, backend, point.site) == IGNORED:
                continue
            with native.hooks([(point, uneven)]):
                expected = native(ids, attention_mask=mask)
            with other.hooks([(point, uneven)]):
                found = other(ids, attention_mask=mask)
            real = mask.bool()
            # Float32 through three layers and another attention kernel.
            assert_close(found[real], expected[real], rtol=1e-3, atol=1e-3, msg=str(point))
            assert not torch.allclose(found[real], before[real], rtol=1e-3, atol=1e-3), point
        assert_close(other(ids, attention_mask=mask), before, rtol=0, atol=0)


IGNORED = ("opt", "transformer_lens", "attention_pattern")


def test_edits_of_opts_attention_that_transformer_lens_would_ignore_are_refused():
    model = on("transformer_lens", "opt")
    hook = ("blocks.1.attn.hook_pattern", uneven)
    with (
        pytest.raises(ValueError, match="would ignore an edit of its pattern"),
        model.hooks([hook]),
    ):
        model(tokens(1, 5))
    with (
        pytest.raises(ValueError, match="attention of opt to transformers, so there is no"),
        model.hooks([("blocks.1.attn.hook_attn_scores", uneven)]),
    ):
        pass


@pytest.mark.parametrize(("backend", "family"), across(FAMILIES))
def test_entropies_are_the_native_ones(backend, family):
    batches = [left_padded(), {"input_ids": tokens(3, 7)}]
    expected = probes.measure_entropy(on("native", family), batches)
    found = probes.measure_entropy(on(backend, family), batches)
    # Float32 activations of another attention kernel; entropies are of order one.
    assert_close(found.mean_coefficients, expected.mean_coefficients, rtol=1e-5, atol=0)
    assert_close(found.knowledge.per_layer, expected.knowledge.per_layer, rtol=1e-6, atol=0)
    assert_close(found.attention.per_head, expected.attention.per_head, rtol=1e-5, atol=1e-5)
    assert found.next_token.mean == pytest.approx(expected.next_token.mean, rel=1e-5)
    assert found.provenance.weights_sha256 == expected.provenance.weights_sha256


@pytest.mark.parametrize("backend", OTHERS)
def test_half_precision_models_agree_to_their_rounding(backend):
    results = []
    for name in ("native", backend):
        model = probes.load_model(tiny_hf_model("llama", torch.bfloat16), backend=name)
        assert model.dtype == torch.bfloat16
        results.append(probes.measure_entropy(model, [{"input_ids": tokens(3, 11)}]))
    expected, found = results
    assert found.knowledge.total == pytest.approx(expected.knowledge.total, rel=5e-3)
    # These two compute their scores in bf16, which has three digits, from scores of some 10.
    assert found.attention.total == pytest.approx(expected.attention.total, abs=0.1)


def test_half_precision_attention_of_opt_is_refused_on_transformer_lens():
    model = probes.load_model(tiny_hf_model("opt", torch.bfloat16), backend="transformer_lens")
    with pytest.raises(ValueError, match="only the half-precision pattern of this opt"):
        probes.measure_entropy(model, [{"input_ids": tokens(1, 5)}], ["attention"])


@pytest.mark.parametrize("backend", OTHERS)
def test_a_model_in_memory_is_copied_and_left_alone(backend):
    hf_model = tiny_hf_model("gpt2")
    keys, attention = list(hf_model.state_dict()), hf_model.config._attn_implementation
    model = probes.load_model(hf_model, backend=backend)
    model.run_with_cache(tokens(1, 5))
    assert list(hf_model.state_dict()) == keys
    assert hf_model.config._attn_implementation == attention
    assert not any("forward" in module.__dict__ for module in hf_model.modules())
    assert model.backend == backend


@pytest.mark.parametrize("backend", OTHERS)
def test_a_folder_loads_on_any_backend(tmp_path, backend):
    tiny_hf_model("qwen3").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    model = probes.load_model(str(tmp_path), backend=backend)
    native = probes.load_model(str(tmp_path))
    with torch.no_grad():
        assert_close(model("w0 w5 w7"), native("w0 w5 w7"), rtol=1e-4, atol=1e-4)
    assert model.content_hash() == native.content_hash()


@pytest.mark.parametrize("family", CONTRASTING)
def test_a_bridge_handed_over_serves_captures_and_edits(family):
    native = on("native", family)
    model = probes.load_model(native.to_transformer_lens())
    assert model.backend == "transformer_lens"
    assert model.wrapped.tokenizer is model.tokenizer
    assert model.architecture == native.architecture
    for name in ("blocks.2.mlp.hook_post", "ln_final.hook_normalized", "hook_unembed"):
        with torch.no_grad():
            _, expected = native.run_with_cache(tokens(2, 11), name)
            _, found = model.run_with_cache(tokens(2, 11), name)
        assert_close(found[name], expected[name], rtol=1e-4, atol=1e-4)
    with torch.no_grad(), model.hooks([("blocks.1.mlp.hook_post", lambda t, p: t * 0)]):
        edited = model(tokens(2, 11))
    assert not torch.allclose(edited, found["hook_unembed"])


def test_hooks_that_others_put_on_a_bridge_stay_and_run():
    bridge = tiny_model("llama").to_transformer_lens()
    seen = []
    bridge.add_hook("blocks.0.hook_resid_post", lambda tensor, hook: seen.append(hook.name))
    model = probes.load_model(bridge)
    seen.clear()
    model.run_with_cache(tokens(1, 5), "blocks.0.hook_resid_post")
    bridge(tokens(1, 5))
    assert len(seen) == 2


def test_hooks_run_when_the_bridge_is_called_directly():
    model = on("transformer_lens", "llama")
    with torch.no_grad():
        before = model.wrapped(tokens(1, 5))
        with model.hooks([("blocks.1.mlp.hook_post", uneven)]):
            edited = model.wrapped(tokens(1, 5))
    assert not torch.allclose(edited, before)


def test_an_nnsight_model_handed_over_serves_its_own_edits_too():
    native = on("native", "llama")
    # After ours: what nnsight adds to every object breaks the first import of the shape checker.
    import nnsight

    theirs = nnsight.NNsight(tiny_hf_model("llama"))
    model = probes.load_model(theirs)
    assert model.backend == "nnsight"
    assert model.hf_model is theirs._module
    with theirs.edit(inplace=True):
        theirs.model.layers[1].mlp.down_proj.input = theirs.model.layers[1].mlp.down_proj.input * 2
    with torch.no_grad():
        with native.hooks([("blocks.1.mlp.hook_post", lambda t, p: t * 2)]):
            expected = native(tokens(1, 7))
        # Another attention kernel, in float32.
        assert_close(model(tokens(1, 7)), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="or hooks or edits are in it already, so it is refused"):
        probes.load_model(theirs)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_exception_in_a_hook_comes_through_and_leaves_nothing_behind(backend):
    model = on(backend, "llama")

    def fail(tensor, _point):
        raise RuntimeError("stop here")

    before = model(tokens(1, 5))
    for name in ("blocks.1.mlp.hook_post", "blocks.1.attn.hook_pattern", "hook_unembed"):
        with pytest.raises(RuntimeError, match="stop here"), model.hooks([(name, fail)]):
            model(tokens(1, 5))
    assert_close(model(tokens(1, 5)), before, rtol=0, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_reader_listed_before_an_edit_of_resid_mid_still_sees_it(backend):
    model, seen = on(backend, "llama"), {}

    def keep(tensor, point):
        seen[point.site] = tensor.detach()

    sites = ("resid_post", "mlp_out")
    hooks = [*(((site, 1), keep) for site in sites), (("resid_mid", 1), lambda t, p: t * 0)]
    with model.hooks(hooks):
        model(tokens(1, 5))
    # Nothing is left of the stream between attention and MLP, but for rounding of m + (0 - m).
    assert_close(seen["resid_post"], seen["mlp_out"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_flow_through_the_model_to_what_a_hook_puts_in(backend):
    model = on(backend, "mistral")
    factor = torch.tensor(1.0, requires_grad=True)
    with model.hooks([("blocks.1.mlp.hook_post", lambda t, p: t * factor)]):
        model(tokens(1, 5)).square().mean().backward()
    expected_model = on("native", "mistral")
    with torch.no_grad():
        losses = []
        for value in (1 - 1e-2, 1 + 1e-2):
            with expected_model.hooks([("blocks.1.mlp.hook_post", lambda t, p, v=value: t * v)]):
                losses.append(expected_model(tokens(1, 5)).square().mean())
    # A central difference in float32.
    assert float(factor.grad) == pytest.approx(float(losses[1] - losses[0]) / 2e-2, rel=0.02)


def test_what_a_bridge_cannot_do_is_refused_by_name():
    model = on("transformer_lens", "llama")
    message = "TransformerBridge rewrites the model it wraps, so there is no Hugging Face model"
    for refused in (lambda: model.hf_model, model.to_transformer_lens, model.to_nnsight):
        with pytest.raises(ValueError, match=message):
            refused()


def test_families_that_transformer_lens_has_no_adapter_for_are_refused():
    class MyLlama(transformers.LlamaForCausalLM):
        pass

    model = probes.load_model(MyLlama(tiny_hf_model("llama").config))
    with pytest.raises(ValueError, match=r"TransformerLens cannot wrap a MyLlama \(.*use backend="):
        model.to_transformer_lens()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backend": "transformerlens"}, r"backend must be one of native, transformer_lens, nnsig"),
        ({"backend": "nnsight"}, r"backend='nnsight' was asked for a TransformerBridge, which"),
        ({"device": "cpu"}, r"device cannot be set for a model in memory"),
    ],
)
def test_backends_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        probes.load_model(on("transformer_lens", "llama").wrapped, **arguments)


@pytest.mark.parametrize(
    "first", ["nnsight", pytest.param("transformer_lens", marks=pytest.mark.slow)]
)
def test_one_backend_does_not_break_the_other_and_neither_is_imported_unasked(first):
    second = OTHERS[1 - OTHERS.index(first)]
    script = Path(__file__).parent / "both_backends.py"
    out = subprocess.run(
        [sys.executable, "-W", "error", str(script), first, second],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env={"PYTHONPATH": ".", "HF_HUB_OFFLINE": "1", "PATH": ""},
    )
    assert out.stdout.split() == ["unasked", first, second, "native"], out.stderr
