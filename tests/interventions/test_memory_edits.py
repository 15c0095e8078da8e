"""Memory edits, ablated heads, steering and rank-one writes against weights changed by hand."""

import json
import random
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

import interventions
import probes
import training
from interventions.edit_forms import NotInWeightsError
from interventions.edits import check_edits
from tests.interventions.editing import (
    assert_weights,
    logits,
    relative_gap,
    resuscitation,
    shared,
    weights_of,
)
from tests.models import (
    D_MLP,
    FAMILIES,
    N_HEADS,
    N_LAYERS,
    OWN_ATTENTION,
    tiny_hf_model,
    tiny_model,
    tiny_tokenizer,
    tokens,
)
from tests.reference.scaled_rows import PLACES
from tests.refusals import refused

THREE = ("llama", "gpt2", "gpt_neox")
"""Llama-style, GPT-2-style and Pythia-style."""
CHOSEN = {0: [3, 28], 2: [0, 7, 11]}
# Norms and rotations of some families compute in float32 in a float64 model as well.
ROUNDING = 3e-6


def drawn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def both_forms(model, *edits):
    """Logits with hooks and with patched weights; the model is left as it was."""
    before, unedited = weights_of(model), logits(model)
    with interventions.applied(model, *edits):
        hooked = logits(model)
    assert torch.equal(logits(model), unedited)
    report = interventions.patch_weights(model, *edits)
    patched = logits(model)
    report.undo()
    assert_weights(model, before)
    assert relative_gap(hooked, unedited) > 1e-3
    return hooked, patched


@pytest.mark.parametrize(
    ("family", "how"),
    [("llama", "zeroed"), ("gpt2", "replaced"), ("gpt_neox", "moved"), ("opt", "replaced")],
)
def test_memory_vectors_are_rows_of_the_down_projection_changed_by_hand(family, how):
    added = {layer: drawn(len(rows), 42, seed=layer) for layer, rows in CHOSEN.items()}
    scale = 0.5 if how == "moved" else 0.0
    added = None if how == "zeroed" else added
    by_hand = tiny_hf_model(family, torch.float64)
    path, axis, _ = PLACES[family]["down"]
    for layer, neurons in CHOSEN.items():
        weight = by_hand.get_submodule(path.format(layer)).weight.data
        for place, neuron in enumerate(neurons):
            row = weight.select(axis, neuron)
            row *= scale
            row += 0 if added is None else added[layer][place]
    edit = interventions.MemoryEdit(CHOSEN, scale, added=added)
    hooked, patched = both_forms(shared(family, torch.float64), edit)
    with torch.no_grad():
        expected = by_hand(tokens(2, 11)).logits
    assert relative_gap(hooked, expected) < ROUNDING
    assert relative_gap(patched, expected) < ROUNDING
    json.dumps(edit.describe())


def silenced(layer, heads):
    """A hook that lets no key through to some heads."""

    def silence(pattern, _point):
        pattern = pattern.clone()
        pattern[:, heads] = 0
        return pattern

    return (("attention_pattern", layer), silence)


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(f, marks=() if f in (*THREE, "codegen", "falcon") else pytest.mark.slow)
        for f in (*FAMILIES, *OWN_ATTENTION)
    ],
)
def test_ablated_heads_are_those_whose_pattern_is_zero(family):
    model = shared(family, torch.float64)
    edit = interventions.AblateHeads({0: [1], 2: [0, 2]})
    hooked, patched = both_forms(model, edit)
    with model.hooks([silenced(0, [1]), silenced(2, [0, 2])]):
        expected = logits(model)
    # The pattern that is shown is float32.
    assert relative_gap(hooked, expected) < ROUNDING
    assert relative_gap(patched, hooked) < ROUNDING


@pytest.mark.parametrize("family", THREE)
def test_means_of_heads_stand_in_for_them(family):
    model = tiny_model(family, torch.float64)
    batch = {"input_ids": tokens(3, 7), "attention_mask": torch.ones(3, 7).long()}
    batch["attention_mask"][1, 4:] = 0
    path = {"llama": "self_attn.o_proj", "gpt2": "attn.c_proj", "gpt_neox": "attention.dense"}
    projection = model.anatomy.layers[1].block.get_submodule(path[family])
    seen = []
    handle = projection.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    model.hf_model(**batch)
    handle.remove()
    rows = seen[0].view(3, 7, N_HEADS, -1)[batch["attention_mask"].bool()]
    means = interventions.mean_head_outputs(model, [batch])
    assert means.shape == (N_LAYERS, N_HEADS, 14)
    assert torch.allclose(means[1], rows.mean(dim=0), rtol=1e-9)
    edit = interventions.AblateHeads({1: [2]}, means=means)
    with interventions.applied(model, edit):
        projection.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
        hooked = logits(model)
    with torch.no_grad():
        changed = seen[-1].view(2, 11, N_HEADS, -1).clone()
        changed[:, :, 2] = means[1, 2]
        replaced = lambda _m, _a, _o: type(projection).forward(projection, changed.flatten(2))  # noqa: E731
        handle = projection.register_forward_hook(replaced)
        expected = logits(model)
        handle.remove()
    assert relative_gap(hooked, expected) < ROUNDING
    if family == "llama":
        with refused(r"layers.1.self_attn.o_proj has no bias", NotInWeightsError):
            interventions.patch_weights(model, edit)
    else:
        assert relative_gap(both_forms(model, edit)[1], expected) < ROUNDING


SITES = ("resid_pre", "attention_out", "resid_mid", "mlp_up", "mlp_out", "resid_post")


@pytest.mark.parametrize(
    ("family", "site"),
    [
        *(("gpt2", site) for site in SITES),
        *(("gpt_neox", site) for site in ("attention_out", "resid_post")),
        *(("opt", "mlp_out"), ("llama", "resid_post")),
    ],
)
def test_a_steering_vector_is_in_a_bias_or_a_hook(family, site):
    model = shared(family, torch.float64)
    vector = drawn(D_MLP if site == "mlp_up" else 42)
    edit = interventions.Steer((site, 1), vector, scale=1.7)
    with model.hooks([((site, 1), lambda tensor, _point: tensor + 1.7 * vector)]):
        expected = logits(model)
    with interventions.applied(model, edit):
        assert relative_gap(logits(model), expected) < ROUNDING
    if family == "llama":
        with refused("has no bias.*steer by a hook", NotInWeightsError):
            interventions.patch_weights(model, edit)
    else:
        assert relative_gap(both_forms(model, edit)[1], expected) < ROUNDING


@pytest.mark.parametrize("site", ["mlp_coefficients", "final_norm", "embed"])
def test_where_no_bias_is_only_a_hook_steers(site):
    model, layer = shared("gpt2"), 1 if site == "mlp_coefficients" else None
    edit = interventions.Steer((site, layer), torch.ones(D_MLP if layer else 42))
    check_edits(model, [edit])
    with refused("no bias carries a vector at", NotInWeightsError):
        edit.weight_changes(model)
    with refused("no bias carries a vector at blocks.0.hook_resid_pre", NotInWeightsError):
        interventions.Steer(("resid_pre", 0), torch.ones(42)).weight_changes(model)


def down_of(model, layer):
    """The down projection as numpy has it, `[d_mlp d_model]`, and its bias."""
    down = model.anatomy.layers[layer].down
    weight = probes.projections.matrix_of(down).detach().numpy()
    return weight, 0 if down.bias is None else down.bias.detach().numpy()


@pytest.mark.parametrize(("family", "weighed"), [(f, f != "gpt2") for f in THREE])
def test_a_rank_one_write_is_the_closed_form(family, weighed):
    model = tiny_model(family, torch.float64)
    batches = [{"input_ids": tokens(5, 13, seed=seed)} for seed in (1, 2)]
    seen = [probes.capture(model, b, "mlp_coefficients", 1)["mlp_coefficients", 1] for b in batches]
    rows = torch.cat(seen).flatten(0, 1).numpy()
    covariance = interventions.key_covariance(model, batches, 1)
    np.testing.assert_allclose(covariance.numpy(), rows.T @ rows / len(rows), rtol=1e-9, atol=1e-12)
    key, value = drawn(D_MLP, seed=3), 5 * drawn(42, seed=4)
    write = interventions.RankOneWrite(1, key, value, covariance=covariance if weighed else None)
    weight, bias = down_of(model, 1)
    k, c = key.numpy(), covariance.numpy() if weighed else np.eye(D_MLP)
    towards = np.linalg.inv(c) @ k
    expected = weight + np.outer(towards, value.numpy() - bias - k @ weight) / (k @ towards)
    hooked, patched = both_forms(model, write)
    assert relative_gap(hooked, patched) < ROUNDING
    interventions.patch_weights(model, write)
    np.testing.assert_allclose(down_of(model, 1)[0], expected, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(k @ down_of(model, 1)[0] + bias, value.numpy(), rtol=1e-9)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_all_compose_in_order_with_each_other_and_with_resuscitation(family):
    model = shared(family, torch.float64)
    added = {1: drawn(2, 42, seed=5)}
    write = interventions.RankOneWrite(1, drawn(D_MLP, seed=3), 5 * drawn(42, seed=4))
    again = interventions.RankOneWrite(1, drawn(D_MLP, seed=6), drawn(42, seed=7))
    scaled = resuscitation(family, "down", factor=0.7)
    moved = interventions.MemoryEdit({1: [4, 9]}, 0.5, added=added)
    heads = interventions.AblateHeads({1: [1]})
    noise = interventions.MatchedNoise(resuscitation(family, "down"), seed=3)
    for edits in (
        [write, scaled, again],
        [scaled, write, moved],
        [moved, write, interventions.MemoryEdit({1: [4, 20]})],
        [noise, scaled, heads, write],
        [heads, interventions.AttentionTemperature(1.5), moved],
    ):
        hooked, patched = both_forms(model, *edits)
        assert relative_gap(hooked, patched) < ROUNDING
    if family != "llama":
        steer = interventions.Steer(("resid_post", 1), drawn(42))
        hooked, patched = both_forms(model, write, steer, scaled)
        assert relative_gap(hooked, patched) < ROUNDING


@pytest.mark.parametrize("family", THREE)
def test_hooks_and_patch_agree_in_single_precision(family):
    model = shared(family)
    key = interventions.RankOneWrite(2, drawn(D_MLP, seed=3), drawn(42, seed=4))
    for edit in (key, interventions.MemoryEdit(CHOSEN), interventions.AblateHeads({1: [0]})):
        hooked, patched = both_forms(model, edit)
        assert relative_gap(hooked, patched) < 1e-5


@pytest.fixture(scope="module")
def taught():
    """A tiny model that has learnt 24 facts, as prompts and targets."""
    draw = random.Random(3)
    subjects = draw.sample(range(60), 24)
    facts = [(f"w{who}", f" w{60 + draw.randrange(20)}") for who in subjects]
    shape = {"d_model": 48, "n_layers": 3, "n_heads": 2, "d_mlp": 96, "d_vocab": 101}
    model = training.new_model(training.ModelShape(family="llama", **shape), tiny_tokenizer())
    ids = torch.cat([model.to_tokens(f"{subject} w95{value}") for subject, value in facts])
    optimizer = torch.optim.AdamW(model.hf_model.parameters(), lr=3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        said = model.hf_model(ids).logits[:, -2]
        torch.nn.functional.cross_entropy(said, ids[:, -1]).backward()
        optimizer.step()
    return model, facts, ids


def test_a_fact_is_written_into_a_trained_model(taught):
    model, facts, ids = taught
    (subject, known), *others = facts
    told = next(value for _, value in others if value != known)
    pairs = [(f"{who} w95", value) for who, value in ((subject, told), *others)]
    assert probes.exact_matches(model, pairs).tolist() == [False] + [True] * len(others)
    covariance = interventions.key_covariance(model, [{"input_ids": ids}], 0)
    fact, before = (f"{subject} w95", subject, told), weights_of(model)
    # In a model this small an MLP adds little to the stream, and has to add more.
    how = {"learning_rate": 0.1, "steps": 60, "weight_decay": 0.0, "largest": 1e3, "enough": 0.5}
    search = interventions.ValueSearch(**how)
    covariance += 1e-4 * torch.eye(model.d_mlp)
    write = interventions.rank_one_write(
        model, *fact, layer=0, covariance=covariance, search=search
    )
    assert_weights(model, before)
    with interventions.applied(model, write):
        hooked = probes.target_log_probs(model, pairs)
    report = interventions.patch_weights(model, write)
    # Sums of log-probabilities of a float32 model.
    assert torch.allclose(probes.target_log_probs(model, pairs), hooked, atol=1e-4)
    right = probes.exact_matches(model, pairs).float()
    weight, _ = down_of(model, 0)
    gap = write.key.numpy() @ weight - write.value.numpy()
    # Float32 rows of a matrix that has to be large where the covariance is small.
    assert np.abs(gap).max() < 1e-3 * float(write.value.abs().max())
    report.undo()
    assert bool(right[0])
    # The covariance spares the keys of the other facts; without one they are hit.
    assert float(right[1:].mean()) > 0.9
    both = interventions.rank_one_write(model, *fact, layer=0, prefixes=("", "w90 "), search=search)
    with interventions.applied(model, both):
        assert float(probes.exact_matches(model, pairs)[1:].float().mean()) < 0.9
    keys = [
        probes.capture(model, {"input_ids": model.to_tokens(text)}, "mlp_coefficients", 0)
        for text in (subject, f"w90 {subject}")
    ]
    expected = torch.stack([key["mlp_coefficients", 0][0, -1] for key in keys]).double().mean(dim=0)
    assert torch.allclose(both.key, expected, atol=1e-6)
    with refused("makes the target the most likely answer: it has probability"):
        interventions.rank_one_write(model, *fact, layer=0, search=replace(search, steps=1))


class Idle:
    """Nothing, which no edit may do."""

    @contextmanager
    def attached(self, model, clock):
        yield

    def weight_changes(self, model):
        return []

    def describe(self):
        return {"kind": "idle"}


def test_what_does_nothing_or_does_not_fit_is_refused_in_a_line():
    model, memory = shared("llama"), interventions.MemoryEdit
    heads, steer = interventions.AblateHeads, interventions.Steer
    write, one = interventions.RankOneWrite, torch.ones(42)
    rows = {0: torch.ones(1, 42)}
    for make, message in [
        (lambda: memory({}), "without any memory vector changes nothing"),
        (lambda: memory({0: []}), "without any memory vector"),
        (lambda: memory({0: [1, 1]}), "names a memory vector of layer 0 twice"),
        (lambda: memory({0: [-1]}), "numbers from 0 up"),
        (lambda: memory({0: [1]}, 1.0), "a scale of 1 with nothing added changes nothing"),
        (lambda: memory({0: [1]}, float("nan")), "scale must be a finite number"),
        (lambda: memory({1: [1]}, added=rows), "give one row for each chosen"),
        (lambda: memory({0: [1, 2]}, added=rows), r"of shape \(2, d_model\)"),
        (lambda: heads({}), "without any head changes nothing"),
        (lambda: steer(("resid_post", 0), one * 0), "zero changes nothing"),
        (lambda: steer(("resid_post", 0), one, scale=0.0), "zero changes nothing"),
        (lambda: steer(("resid_post", 0), one / 0), "steering takes finite numbers"),
        (lambda: write(0, torch.zeros(29), one), "the key of a RankOneWrite is zero"),
        (lambda: write(0, torch.ones(29) / 0, one), "the key of a RankOneWrite has numbers"),
        (lambda: write(0, one, one, covariance=torch.ones(42, 42)), "cannot be inverted"),
    ]:
        with refused(message):
            make()
    for edit, message in [
        (memory({0: [D_MLP]}), f"has no memory vector {D_MLP}"),
        (memory({7: [0]}), "layer 7 does not exist"),
        (memory({0: [0]}, added={0: torch.ones(1, 3)}), "d_model of"),
        (heads({0: [N_HEADS]}), f"has no head {N_HEADS}"),
        (heads({0: [0]}, means=torch.ones(1, 2, 3)), "measure them on this model"),
        (steer(("resid_post", 0), torch.ones(3)), "has 3 numbers, but"),
        (steer(("attention_scores", 0), one), "holds no vector for a position"),
        (steer("blocks.0.hook_resid_pos", one), "the nearest is"),
        (write(0, torch.ones(3), one), "it is of another model"),
        (write(9, torch.ones(29), one), "layer 9 does not exist"),
        (heads({0: [0]}), "changes nothing"),
        (Idle(), "edit 'idle' changes nothing"),
    ]:
        already = [heads({0: [0]})] if message == "changes nothing" else []
        with refused(message), interventions.applied(model, *already, edit):
            pass
    with refused("does not hold the subject 'Paris'"):
        interventions.rank_one_write(model, "w1 w2", "Paris", " w3", layer=1)


@pytest.mark.parametrize("backend", ["transformer_lens", "nnsight"])
def test_other_backends_scale_memory_vectors_and_refuse_the_rest(backend):
    from tests.models import on

    model, edit = on(backend, "llama"), interventions.MemoryEdit(CHOSEN)
    with interventions.applied(model, edit):
        found = logits(model)
    with interventions.applied(shared("llama"), edit):
        assert relative_gap(found, logits(shared("llama"))) < 1e-5
    one = torch.ones(42)
    with interventions.applied(model, interventions.Steer(("resid_post", 1), one)):
        assert relative_gap(logits(model), found) > 1e-3
    for other in (
        interventions.AblateHeads({0: [0]}),
        interventions.RankOneWrite(0, torch.ones(D_MLP), one),
        interventions.MemoryEdit({0: [1]}, added={0: one[None]}),
    ):
        with refused("use backend='native'"), interventions.applied(model, other, check=False):
            pass
