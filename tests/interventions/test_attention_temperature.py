"""The attention temperature as hooks, as weights and by hand; what weights cannot express."""

import copy
import itertools
import json

import pytest
import torch
import transformers
from torch.testing import assert_close

import interventions
import probes
from interventions.attention_temperature import _as_numbers
from tests.interventions.editing import (
    assert_weights,
    logits,
    measured,
    relative_gap,
    resuscitation,
    shared,
    temperatures_of_heads,
)
from tests.models import FAMILIES, N_HEADS, N_LAYERS, tiny_config, tiny_hf_model, tiny_model, tokens
from tests.refusals import refused

# Transformers' eager attention has its softmax in float32, also in a float64 model.
EAGER = 3e-6
SHARED_NORM = ("qwen3", "gemma3_text")
GIVEN = {
    "one": 1.7,
    "below 1": 0.6,
    "of layers": [0.7, 1.0, 2.3],
    "of one layer": {2: 1.9},
    "of heads": temperatures_of_heads(),
}


def eager_reference(model, of_layers):
    """A copy with HF's own eager attention; `scaling` is divided, per head in the queries."""
    other = copy.deepcopy(model.hf_model)
    other.set_attn_implementation("eager")
    modules = [module for module in other.modules() if hasattr(module, "scaling")]
    assert len(modules) == N_LAYERS
    for module, by in zip(modules, of_layers, strict=True):
        of_heads = torch.tensor(by, dtype=torch.float64)
        # They broadcast against `[batch head query_pos key_pos]`; OPT scales `[batch pos width]`.
        opt = type(module).__name__ == "OPTAttention"
        shaped = of_heads.repeat_interleave(14) if opt else of_heads[:, None, None]
        module.scaling = module.scaling / shaped
        if getattr(module, "attn_logit_softcapping", None):
            module.attn_logit_softcapping = _CapOver(module.attn_logit_softcapping, by)
    return other


class _CapOver:
    """Gemma 2 divides by its cap, applies tanh and multiplies: by the cap over T the second time.

    Scores arrive over T already, so the first time it is the cap over T as well.
    """

    def __init__(self, cap, by):
        self.over = cap / torch.tensor(by, dtype=torch.float64)[:, None, None]

    def __rtruediv__(self, scores):
        return scores / self.over

    def __rmul__(self, capped):
        return capped * self.over


def as_heads(given):
    if isinstance(given, torch.Tensor):
        return given.tolist()
    if isinstance(given, dict):
        return [[given.get(layer, 1.0)] * N_HEADS for layer in range(N_LAYERS)]
    if isinstance(given, list):
        return [[value] * N_HEADS for value in given]
    return [[given] * N_HEADS] * N_LAYERS


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_hooks_and_patch_are_eager_attention_with_its_scores_divided(family, given):
    model = shared(family, torch.float64)
    edit = interventions.AttentionTemperature(GIVEN[given])
    expected = eager_reference(model, as_heads(GIVEN[given]))(tokens(2, 11)).logits
    before = logits(model)
    bits = {name: weight.clone() for name, weight in model.hf_model.state_dict().items()}
    with interventions.applied(model, edit):
        hooked = logits(model)
    assert torch.equal(logits(model), before)
    assert relative_gap(hooked, expected) < EAGER
    assert relative_gap(hooked, before) > 1e-4
    if family == "gemma2" or (family in SHARED_NORM and given == "of heads"):
        reason = "caps its attention scores" if family == "gemma2" else "share one query norm"
        with pytest.raises(ValueError, match=reason):
            interventions.patch_weights(model, edit)
    else:
        report = interventions.patch_weights(model, edit)
        # Divided elsewhere, in float64; Gemma's norms are in float32.
        assert relative_gap(logits(model), hooked) < (EAGER if "gemma" in family else 1e-11)
        report.undo()
    assert_weights(model, bits)
    assert torch.equal(logits(model), before)


@torch.no_grad()
def test_gemma2_without_its_cap_can_be_patched():
    hf_model = tiny_hf_model("gemma2", torch.float64)
    hf_model.config.attn_logit_softcapping = None
    for layer in hf_model.model.layers:
        layer.self_attn.attn_logit_softcapping = None
    model = probes.load_model(hf_model)
    edit = interventions.AttentionTemperature(temperatures_of_heads())
    expected = eager_reference(model, as_heads(edit.temperature))(tokens(2, 11)).logits
    interventions.patch_weights(model, edit)
    assert relative_gap(logits(model), expected) < EAGER


CHANGED = {
    "llama": ("self_attn.q_proj.weight", 42),
    "olmo2": ("self_attn.q_norm.weight", 42),
    "qwen3": ("self_attn.q_norm.weight", 10),
    "gemma3_text": ("self_attn.q_norm.weight", 14),
    "phi3": ("self_attn.qkv_proj.weight", 42),
    "gpt2": ("attn.c_attn.weight", 42),
    "gpt_neox": ("attention.query_key_value.weight", 42),
}


@pytest.mark.parametrize("family", CHANGED)
def test_only_queries_are_changed(family):
    model, (parameter, rows) = tiny_model(family), CHANGED[family]
    report = interventions.patch_weights(model, interventions.AttentionTemperature({1: 1.7}))
    weights = [c for c in report.changes if c.parameter.endswith("weight")]
    assert [c.parameter.split(".1.", 1)[1] for c in weights] == [parameter]
    assert weights[0].rows_changed == rows
    biases = [c.parameter for c in report.changes if c.parameter.endswith("bias")]
    has_bias = parameter.replace("weight", "bias") in " ".join(model.hf_model.state_dict())
    assert len(biases) == int(has_bias)


def test_heads_left_at_1_keep_their_bits():
    model = tiny_model("gpt_neox")
    before = model.hf_model.gpt_neox.layers[0].attention.query_key_value.weight.detach().clone()
    by = torch.ones(N_LAYERS, N_HEADS)
    by[0, 1] = 2.0
    interventions.patch_weights(model, interventions.AttentionTemperature(by))
    after = model.hf_model.gpt_neox.layers[0].attention.query_key_value.weight.detach()
    # Three heads of query, key and value, 14 rows each; the queries of head 1 come fourth.
    differs = (before != after).any(dim=1).view(9, 14).any(dim=1)
    assert differs.tolist() == [False] * 3 + [True] + [False] * 5


def test_a_temperature_goes_straight_to_1_with_the_clock():
    model = shared("llama", torch.float64)
    heads = temperatures_of_heads()
    edit = interventions.AttentionTemperature(heads, schedule="linear")
    before = logits(model)
    with interventions.applied(model, edit) as clock:
        for progress in (0.0, 0.25, 0.8):
            clock.progress = progress
            now = 1 + (heads - 1) * (1 - progress)
            with torch.no_grad():
                expected = eager_reference(model, now.tolist())(tokens(2, 11)).logits
            assert relative_gap(logits(model), expected) < EAGER
        clock.progress = 1.0
        assert relative_gap(logits(model), before) < 1e-12
    with pytest.raises(ValueError, match=r"changes over a run \(schedule='linear'\) cannot be in"):
        interventions.patch_weights(model, edit)


def test_each_context_has_a_clock_of_its_own():
    model, edit = shared("llama"), interventions.AttentionTemperature(3.0, schedule="linear")
    plain = logits(model)
    with interventions.applied(model, edit) as outer:
        alone = logits(model)
        with interventions.applied(model, interventions.AttentionTemperature(2.0)) as inner:
            inner.progress = 1.0
            assert relative_gap(logits(model), alone) > 1e-4
        assert torch.equal(logits(model), alone)
        outer.progress = 1.0
        # Scores over 1.0 by the fused kernel, as before.
        assert relative_gap(logits(model), plain) < 1e-5


def test_entropies_and_scores_seen_meanwhile_are_those_at_the_temperature():
    model, batch = shared("llama"), {"input_ids": tokens(2, 11)}
    edit = interventions.AttentionTemperature(1.7)
    scores = probes.capture(model, batch, ["attention_scores"])
    with interventions.applied(model, edit):
        inside = probes.capture(model, batch, ["attention_scores", "attention_pattern"])
        measured_inside = probes.measure_entropy(model, [batch], kinds=("attention",))
    first = scores["attention_scores", 0]
    # Before the mask: masked scores stay -inf, whatever they are divided by.
    assert_close(inside["attention_scores", 0], first / 1.7, rtol=1e-5, atol=1e-5)
    assert inside["attention_scores", 0].isneginf().equal(first.isneginf())
    report = interventions.patch_weights(model, edit)
    patched = probes.measure_entropy(model, [batch], kinds=("attention",))
    report.undo()
    pattern = torch.stack([inside["attention_pattern", layer] for layer in range(N_LAYERS)])
    by_hand = -(pattern.double() * pattern.double().clamp_min(1e-30).log()).sum(-1)
    # Float32 attention, entropies of a few nats.
    assert_close(
        torch.as_tensor(measured_inside.attention.per_layer).double(),
        by_hand.mean(dim=(1, 2, 3)),
        rtol=1e-4,
        atol=1e-5,
    )
    assert measured_inside.attention.total == pytest.approx(patched.attention.total, rel=1e-5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (0.0, "finite and above 0, found 0.0"),
        (-1.5, "finite and above 0, found -1.5"),
        (float("nan"), "finite and above 0, found nan"),
        (float("inf"), "finite and above 0, found inf"),
        ([1.5, 0.0, 1.0], r"finite and above 0, found \[1.5, 0.0, 1.0\]"),
        ({1: -2.0}, r"finite and above 0, found \{1: -2.0\}"),
        (torch.zeros(3, 3), "finite and above 0"),
        (torch.ones(3), r"must be \[layer head\], found shape \(3,\)"),
    ],
)
def test_temperatures_that_are_none_are_refused_in_one_line(given, message):
    with refused(message):
        interventions.AttentionTemperature(given)


def test_what_is_no_number_is_refused_in_one_line():
    for given in ("warm", [[1.0, 2.0]], None, {0: "x"}):
        with pytest.raises(ValueError, match="a number, one for each layer, or a tensor"):
            _as_numbers(given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([1.5, 2.0], r"have shape \(2,\), but .* needs \(3,\) \(layers\)"),
        (torch.full((3, 2), 1.5), r"have shape \(3, 2\), but .* needs \(3, 3\) \(layer, head\)"),
        ({3: 1.5}, "layer 3 does not exist; .* has layers 0 to 2"),
        ({-1: 1.5}, "layer -1 does not exist"),
        (1.0, "'attention_temperature' changes nothing"),
    ],
)
@pytest.mark.parametrize("form", ["applied", "patch_weights"])
def test_temperatures_that_do_not_fit_the_model_are_refused_in_one_line(form, given, message):
    edit = interventions.AttentionTemperature(given)
    with refused(message):
        done = getattr(interventions, form)(shared("llama"), edit)
        done.__enter__()


def test_clipped_queries_are_refused_and_hooks_divide_their_scores():
    hf_model = tiny_hf_model("olmo", torch.float64)
    hf_model.config.clip_qkv = 0.5
    model = probes.load_model(hf_model)
    edit = interventions.AttentionTemperature(1.7)
    with pytest.raises(ValueError, match=r"olmo clips its queries \(clip_qkv=0.5\)"):
        interventions.patch_weights(model, edit)
    with torch.no_grad():
        expected = eager_reference(model, as_heads(1.7))(tokens(2, 11)).logits
    with interventions.applied(model, edit):
        assert relative_gap(logits(model), expected) < EAGER


def test_a_family_whose_queries_are_unknown_is_refused_by_name_and_hooks_work():
    # A family that is not in the architecture table, but recognised by its parts.
    names = {k: v for k, v in tiny_config("llama").to_dict().items() if k in _SIZES}
    torch.manual_seed(0)
    model = probes.load_model(
        transformers.AutoModelForCausalLM.from_config(transformers.GraniteConfig(**names)).eval()
    )
    assert model.architecture.recognised
    edit = interventions.AttentionTemperature(1.7)
    with interventions.applied(model, edit):
        warmer = logits(model)
    assert relative_gap(warmer, logits(model)) > 1e-5
    with pytest.raises(ValueError, match="not known where granite keeps its queries"):
        interventions.patch_weights(model, edit)


_SIZES = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "head_dim"),
    *("num_attention_heads", "num_key_value_heads", "initializer_range"),
)


def test_a_query_projection_that_is_not_a_plain_one_is_refused_by_name():
    class Adapted(torch.nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base = base
            self.weight, self.bias = base.weight, base.bias

        def forward(self, tensor):
            return self.base(tensor)

    model = tiny_model("llama")
    attention = model.hf_model.model.layers[1].self_attn
    attention.q_proj = Adapted(attention.q_proj)
    with pytest.raises(ValueError, match=r"self_attn\.q_proj \(Adapted\) does not compute w"):
        interventions.patch_weights(model, interventions.AttentionTemperature(1.7))


def test_descriptions_are_json_and_say_everything():
    for given, shown in [
        (1.5, 1.5),
        ([1, 2.0, 3.0], [1.0, 2.0, 3.0]),
        ({2: 1.5}, {"2": 1.5}),
        (torch.full((2, 1), 1.5), [[1.5], [1.5]]),
    ]:
        edit = interventions.AttentionTemperature(given, schedule="linear")
        found = json.loads(json.dumps(edit.describe()))
        assert found == {
            "kind": "attention_temperature",
            "temperature": shown,
            "schedule": "linear",
        }
    with pytest.raises(ValueError, match="schedule must be one of constant, linear, found 'fast'"):
        interventions.AttentionTemperature(1.5, schedule="fast")


def test_a_temperature_and_a_resuscitation_measured_once_go_together():
    # A result knows the weights that it was measured on; both edits are of those.
    model = tiny_model("llama", torch.float32)
    edits = (
        interventions.Resuscitation(measured("llama"), ratio=0.5, factor=2.0),
        interventions.AttentionTemperature(1.5),
    )
    with interventions.applied(model, *edits):
        hooked = logits(model)
    interventions.patch_weights(model, *edits)
    # Scaled products in float32, through three layers.
    assert relative_gap(logits(model), hooked) < 1e-5
    again = resuscitation("llama", factor=3.0)
    interventions.patch_weights(model, again)


@pytest.mark.parametrize(
    ("family", "window", "temperature", "idle"),
    [
        ("mistral", 1, 1.7, True),
        ("mistral", 1, [0.6, 1.0, 1.9], True),
        ("olmo3", 1, {0: 2.3, 2: 0.7}, True),
        ("gemma2", 1, {0: 2.3}, True),
        ("llama", None, 1 + 1e-12, True),
        ("olmo3", 1, {1: 2.3}, False),
        ("mistral", 2, 1.7, False),
    ],
)
def test_a_temperature_where_each_query_sees_one_key_is_refused(family, window, temperature, idle):
    hf_model = tiny_hf_model(family)
    if window is not None:
        config = hf_model.config
        config.sliding_window = window
        for module in hf_model.modules():
            if getattr(module, "sliding_window", None) is not None:
                module.sliding_window = window
    model = probes.load_model(hf_model)
    edit = interventions.AttentionTemperature(temperature)
    before = model.content_hash()
    for use in (lambda: interventions.patch_weights(model, edit), lambda: _entered(model, edit)):
        if idle:
            with pytest.raises(
                ValueError, match=r"'attention_temperature' changes nothing|as a hook"
            ):
                use()
            assert model.content_hash() == before
        else:
            use()


def _entered(model, edit):
    with interventions.applied(model, edit):
        pass


@pytest.mark.parametrize(
    ("family", "backend"),
    [
        ("bloom", "native"),  # attention of its own
        *itertools.product(["llama", "gpt2"], ["native", "transformer_lens", "nnsight"]),
    ],
)
def test_a_temperature_on_rows_of_one_token_is_refused(family, backend):
    model = probes.load_model(tiny_hf_model(family), backend=backend)
    edit = interventions.AttentionTemperature({1: 1.7})

    def passed(*lengths):
        with torch.no_grad(), interventions.applied(model, edit):
            for length in lengths:
                model(tokens(5, length))

    with pytest.raises(ValueError, match="changed nothing: all rows had one token"):
        passed(1, 1)
    with pytest.raises(RuntimeError, match="stop"), interventions.applied(model, edit):  # noqa: PT012
        model(tokens(5, 1))
        raise RuntimeError("stop")
    passed(1, 3)
    passed()
