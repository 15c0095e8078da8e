"""Learning rates for rows: under Adam they are the preserving edit, and nothing else moves."""

import copy

import pytest
import torch
import transformers
from torch.testing import assert_close

import interventions
import probes
from tests.interventions.editing import (
    logits,
    measured,
    relative_gap,
    resuscitation,
    rows_of,
    weights_of,
)
from tests.models import N_LAYERS, tiny_config, tiny_model, tokens

STEPS = 30
# Far below any gradient, so that Adam's steps do not depend on the size of gradients.
TINY = 1e-30


def fresh(family):
    """A float64 model; Llama's with biases in its MLP, which are to be scaled too."""
    model = tiny_model(family, torch.float64)
    if family != "llama":
        return model
    config = tiny_config("llama")
    config.mlp_bias = True
    torch.manual_seed(5)
    with_biases = transformers.AutoModelForCausalLM.from_config(config).double().eval()
    with_biases.load_state_dict(model.hf_model.state_dict(), strict=False)
    for layer in with_biases.model.layers:
        for part in (layer.mlp.up_proj, layer.mlp.gate_proj, layer.mlp.down_proj):
            torch.nn.init.normal_(part.bias)
    return probes.load_model(with_biases)


def adam(model, decay=0.0, **settings):
    """AdamW; the decay is of all weights but the memory vectors, to have two groups."""
    named = dict(model.hf_model.named_parameters())
    down = [weight for name, weight in named.items() if "down_proj" in name]
    rest = [weight for name, weight in named.items() if "down_proj" not in name]
    groups = [{"params": rest, "weight_decay": decay}, {"params": down, "weight_decay": decay / 3}]
    return torch.optim.AdamW(groups, **{"lr": 3e-3, "eps": TINY, **settings})


def step(model, optimizer, number):
    ids = tokens(3, 13, seed=number)
    optimizer.zero_grad()
    model.hf_model(ids, labels=ids, use_cache=False).loss.backward()
    optimizer.step()


def rescaled(model, family, like):
    """The model's weights as the preserving edit would have them."""
    found, u = weights_of(model), like.multipliers()
    for layer in range(N_LAYERS):
        for part, by in (("up", u[layer]), ("down", 1 / u[layer])):
            for rows in rows_of(found, family, part, layer).values():
                rows *= by[:, None]  # a view of the copy
    return found


def entropies(model):
    batch = {"input_ids": tokens(2, 11)}
    found = probes.measure_entropy(model, [batch], kinds=("knowledge",))
    return found.knowledge.total, found.contribution.total


@pytest.mark.parametrize(("family", "decay"), [("llama", 0.0), ("llama", 0.2), ("phi3", 0.2)])
def test_adam_on_the_preserving_patch_is_adam_with_these_rates(family, decay):
    like = resuscitation(family, "preserving")
    patched, unedited = fresh(family), fresh(family)
    plain, before = fresh(family), entropies(fresh(family))
    interventions.patch_weights(patched, like)
    optimizers = [adam(model, decay) for model in (patched, unedited, plain)]
    interventions.RowLearningRates(like).attach_to(optimizers[1], unedited)
    at_start, rates_at_start = entropies(patched), entropies(unedited)
    for number in range(STEPS):
        for model, optimizer in zip((patched, unedited, plain), optimizers, strict=True):
            step(model, optimizer, number)
    expected = rescaled(unedited, family, like)
    for name, weight in patched.hf_model.state_dict().items():
        # Rounding through thirty steps; transformers' norms and rotations compute in float32.
        assert relative_gap(weight, expected[name]) < 1e-6, name
    assert relative_gap(logits(patched), logits(unedited)) < 1e-6
    # Both trained, and not as without rates.
    assert relative_gap(logits(unedited), logits(plain)) > 1e-2
    # The patch moved knowledge entropy and kept the contribution entropy; the rates move neither.
    assert abs(at_start[0] - before[0]) > 0.1
    assert at_start[1] == pytest.approx(before[1], rel=1e-9)
    assert rates_at_start == before
    trained, with_rates = entropies(patched), entropies(unedited)
    assert trained[1] == pytest.approx(with_rates[1], rel=1e-7)
    assert abs(trained[0] - with_rates[0]) > 0.1


def test_under_sgd_these_rates_are_not_the_patch():
    like = resuscitation("llama", "preserving")
    patched, unedited = fresh("llama"), fresh("llama")
    interventions.patch_weights(patched, like)
    for model in (patched, unedited):
        optimizer = torch.optim.SGD(model.hf_model.parameters(), lr=0.01)
        if model is unedited:
            interventions.RowLearningRates(like).attach_to(optimizer, model)
        step(model, optimizer, 0)
    assert relative_gap(logits(patched), logits(unedited)) > 1e-3


@pytest.mark.parametrize("optimizer_of", ["AdamW", "Adam with L2 decay", "SGD"])
def test_every_step_is_multiplied_row_by_row(optimizer_of):
    like = resuscitation("llama", "up", layers=[0, 2])
    model = fresh("llama")
    reference = copy.deepcopy(model)
    make = {
        "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.3),
        "Adam with L2 decay": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.3),
        "SGD": lambda p: torch.optim.SGD(p, lr=0.01),
    }[optimizer_of]
    optimizer = make(model.hf_model.parameters())
    interventions.RowLearningRates(like).attach_to(optimizer, model)
    before = weights_of(model)
    step(model, optimizer, 0)
    step(reference, make(reference.hf_model.parameters()), 0)
    shrunk = 1 - 0.01 * 0.3 if optimizer_of == "AdamW" else 1.0
    now, plain, u = weights_of(model), weights_of(reference), like.multipliers()
    touched = set()
    for layer in (0, 2):
        for part, by in (("up", 1 / u[layer]), ("down", u[layer])):
            rows = [rows_of(w, "llama", part, layer) for w in (before, now, plain)]
            for name, then in rows[0].items():
                touched.add(name)
                start, moved = then * shrunk, rows[2][name] - then * shrunk
                # One product and two sums in float64.
                assert_close(rows[1][name], start + by[:, None] * moved, rtol=1e-12, atol=1e-12)
    for name, weight in now.items():
        if name not in touched:
            assert torch.equal(weight, plain[name]), name
    assert len(touched) == 6
    assert (
        now["model.layers.0.mlp.up_proj.weight"] != before["model.layers.0.mlp.up_proj.weight"]
    ).any()


@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_multipliers_broadcast_against_their_parameters(family):
    like, model = resuscitation(family, "up", layers=[1]), fresh(family)
    found = interventions.RowLearningRates(like).parameter_multipliers(model)
    u = like.multipliers()[1]
    if family == "llama":
        up, down = "model.layers.1.mlp.up_proj", "model.layers.1.mlp.down_proj"
        expected = {
            f"{up}.weight": (1 / u)[:, None],
            f"{up}.bias": 1 / u,
            f"{down}.weight": u[None],
        }
    else:
        halves = torch.cat([torch.ones(29, dtype=torch.float64), 1 / u])
        expected = {
            "model.layers.1.mlp.gate_up_proj.weight": halves[:, None],
            "model.layers.1.mlp.down_proj.weight": u[None],
        }
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        # One over one over u.
        assert_close(tensor, expected[name], rtol=1e-15, atol=0)
        assert (model.hf_model.state_dict()[name] * tensor).shape == tuple(
            model.hf_model.state_dict()[name].shape
        )


def test_saved_and_loaded_optimizers_go_on_with_the_same_bits():
    rates = interventions.RowLearningRates(resuscitation("llama", "preserving"))
    straight = fresh("llama")
    optimizer = adam(straight, 0.1, eps=1e-8)
    rates.attach_to(optimizer, straight)
    stopped = copy.deepcopy(straight)
    for number in range(6):
        step(straight, optimizer, number)
    first = adam(stopped, 0.1, eps=1e-8)
    rates.attach_to(first, stopped)
    for number in range(3):
        step(stopped, first, number)
    first.load_state_dict(copy.deepcopy(first.state_dict()))
    step(stopped, first, 3)
    # And in another optimizer, as a run that is resumed would have it.
    second = adam(stopped, 0.1, eps=1e-8)
    second.load_state_dict(first.state_dict())
    rates.attach_to(second, stopped)
    for number in (4, 5):
        step(stopped, second, number)
    for (name, weight), other in zip(
        straight.hf_model.named_parameters(), stopped.hf_model.parameters(), strict=True
    ):
        assert torch.equal(weight, other), name


def test_removed_rates_and_steps_without_gradients_leave_no_trace():
    model = fresh("llama")
    optimizer = adam(model, 0.5)
    handle = interventions.RowLearningRates(resuscitation("llama")).attach_to(optimizer, model)
    before = weights_of(model)
    optimizer.step()
    assert all(torch.equal(w, before[n]) for n, w in model.hf_model.state_dict().items())
    handle.remove()
    handle.remove()
    plain = copy.deepcopy(model)
    step(model, optimizer, 0)
    step(plain, adam(plain, 0.5), 0)
    for name, weight in model.hf_model.state_dict().items():
        assert torch.equal(weight, plain.hf_model.state_dict()[name]), name


def test_frozen_parameters_are_left_out_and_forgotten_ones_are_refused():
    model, rates = fresh("llama"), interventions.RowLearningRates(resuscitation("llama"))
    ups = [w for n, w in model.hf_model.named_parameters() if "up_proj" in n]
    optimizer = torch.optim.AdamW(ups)
    with pytest.raises(ValueError, match=r"down_proj.weight has learning rates for its rows, but"):
        rates.attach_to(optimizer, model)
    for name, weight in model.hf_model.named_parameters():
        weight.requires_grad_("up_proj" in name)
    rates.attach_to(optimizer, model)
    step(model, optimizer, 0)


def test_what_cannot_have_rates_is_refused_in_one_line():
    rates = interventions.RowLearningRates(resuscitation("llama"))
    half = tiny_model("llama", torch.bfloat16)
    with pytest.raises(ValueError, match=r"is torch.bfloat16, which rounds a step before it could"):
        rates.attach_to(torch.optim.AdamW(half.hf_model.parameters()), half)
    ungated = tiny_model("gpt2")
    with pytest.raises(ValueError, match="gpt2 has no gate"):
        interventions.RowLearningRates(resuscitation("gpt2")).parameter_multipliers(ungated)
    other = tiny_model("llama")
    with torch.no_grad():
        other.hf_model.model.norm.weight.add_(0.1)
    result = interventions.Resuscitation(measured("llama"), ratio=0.5, factor=2.0)
    with pytest.raises(ValueError, match="has coefficients of another model"):
        interventions.RowLearningRates(result).parameter_multipliers(other)
    described = interventions.RowLearningRates(result).describe()
    assert described == {"kind": "row_learning_rates", "like": result.describe()}


def test_learning_rates_of_no_row_are_refused():
    model = tiny_model("llama")
    like = interventions.Resuscitation(
        torch.ones(3, 29), 0.5, 1.0, "preserving", max_multiplier=1.0
    )
    with pytest.raises(ValueError, match="change nothing"):
        interventions.RowLearningRates(like).parameter_multipliers(model)
    optimizer = torch.optim.AdamW(model.hf_model.parameters())
    with pytest.raises(ValueError, match="change nothing"):
        interventions.RowLearningRates(like).attach_to(optimizer, model)
