"""Controls: what exactly each changes, that its forms agree, and that seeds mean what they say."""

import itertools
import json

import pytest
import torch
from torch.testing import assert_close

import interventions
import probes
from tests.interventions.editing import (
    assert_weights,
    logits,
    measured,
    relative_gap,
    resuscitation,
    rows_of,
    shared,
    sites_of,
    weights_of,
)
from tests.models import D_MLP, FAMILIES, GATED, N_LAYERS, tiny_model, tokens

INITIAL_STD = 0.25


def controls(like, means):
    return {
        "random": interventions.RandomRows(like, seed=5),
        "most active": interventions.MostActiveRows(like),
        "noise": interventions.MatchedNoise(like, seed=5),
        "redo": interventions.ReDo(means, ratio=0.4, seed=5),
        "identity": interventions.Identity(),
    }


# The others scale rows as the resuscitation does that they are controls of: three layouts will do.
KINDS = [
    *((family, control) for family in FAMILIES for control in ("noise", "redo")),
    *(
        (family, control)
        for family in ("llama", "phi3", "gpt2")
        for control in ("random", "most active", "identity")
    ),
]


@pytest.mark.parametrize(("family", "control"), KINDS)
def test_hooks_are_the_patch_and_leave_no_trace(family, control):
    model = shared(family, torch.float64)
    before, unedited = weights_of(model), logits(model)
    # Gemma's norms compute in float32 in a float64 model as well.
    rounding = 3e-6 if "gemma" in family else 1e-11
    for site in sites_of(family) if control == "noise" else sites_of(family)[:1]:
        like = resuscitation(family, site)
        edit = controls(like, measured(family).mean_coefficients)[control]
        with interventions.applied(model, edit):
            hooked = logits(model)
        assert torch.equal(logits(model), unedited)
        report = interventions.patch_weights(model, edit)
        assert relative_gap(logits(model), hooked) < rounding
        assert (relative_gap(hooked, unedited) < 10 * rounding) == (control == "identity")
        report.undo()
        assert_weights(model, before)
        json.dumps(edit.describe())


@pytest.mark.parametrize("family", ["llama", "phi3", "gpt2", "opt"])
def test_random_rows_get_the_same_multipliers_and_most_active_ones_in_order(family):
    like = resuscitation(family, "down", ratio=0.4)
    scale, means = like.multipliers(), like.coefficients
    drawn = interventions.RandomRows(like, seed=1).multipliers()
    most = interventions.MostActiveRows(like).multipliers()
    for layer in range(N_LAYERS):
        expected = sorted(scale[layer][like.selected()[layer]].tolist())
        for found in (drawn, most):
            assert sorted(found[layer][found[layer] != 1].tolist()) == expected
        assert set(most[layer].ne(1).nonzero().flatten().tolist()) == set(
            sorted(range(D_MLP), key=lambda i: (means[layer, i], i))[D_MLP - len(expected) :]
        )
        # Among them the least active one gets the largest.
        chosen = most[layer] != 1
        order = means[layer][chosen].argsort()
        assert most[layer][chosen][order].tolist() == expected[::-1]
    assert not torch.equal(drawn != 1, scale != 1)
    assert len({tuple((row != 1).tolist()) for row in drawn}) == N_LAYERS


def test_seeds_repeat_and_differ():
    like, model = resuscitation("llama", "up"), shared("llama")
    means = measured("llama").mean_coefficients
    for make in (
        lambda seed: interventions.RandomRows(like, seed=seed),
        lambda seed: interventions.MatchedNoise(like, seed=seed),
        lambda seed: interventions.ReDo(means, ratio=0.4, seed=seed),
    ):
        found = []
        for seed in (3, 3, 4):
            with interventions.applied(model, make(seed)):
                seen = probes.capture(model, {"input_ids": tokens(2, 11)}, ["mlp_coefficients"])
                found.append(torch.stack([seen["mlp_coefficients", i] for i in range(N_LAYERS)]))
        assert torch.equal(found[0], found[1])
        assert relative_gap(found[2], found[0]) > 1e-3
    torch.manual_seed(11)
    before = torch.get_rng_state()
    interventions.RandomRows(like).multipliers()
    with interventions.applied(model, interventions.ReDo(means, ratio=0.4)):
        logits(model)
    assert torch.equal(torch.get_rng_state(), before), "the user's random numbers stay"


def test_random_rows_are_drawn_evenly():
    means = torch.rand(1, 5, generator=torch.Generator().manual_seed(0)) + 0.1
    like = interventions.Resuscitation(means, ratio=0.4, factor=2.0, selection="exact")
    counts = torch.zeros(5)
    for seed in range(400):
        counts += (interventions.RandomRows(like, seed=seed).multipliers()[0] != 1).float()
    # Two of five each time; binomial with standard deviation 9.8.
    assert (counts - 160).abs().max() < 45


CASES = [(family, site) for family in FAMILIES for site in sites_of(family)]


@pytest.mark.parametrize(("family", "site"), CASES)
def test_noise_is_on_the_rows_that_are_scaled_and_as_large(family, site):
    model, like = tiny_model(family, torch.float64), resuscitation(family, site)
    before = weights_of(model)
    report = interventions.patch_weights(model, like)
    scaled = weights_of(model)
    report.undo()
    noise = interventions.patch_weights(model, interventions.MatchedNoise(like, seed=2))
    noisy = weights_of(model)
    assert [c.parameter for c in noise.changes] == [c.parameter for c in report.changes]
    parts = {"up": ["up"], "up_preactivation": ["up"], "gate": ["gate"], "down": ["down"]}
    directions = []
    for layer, part in itertools.product(range(N_LAYERS), parts.get(site, ["up", "down"])):
        then, now, other = (rows_of(w, family, part, layer) for w in (before, noisy, scaled))
        for name, rows in then.items():
            change, moved = other[name] - rows, now[name] - rows
            # The same norm for every row, from float32 draws; differences of numbers near 1.
            assert_close(moved.norm(dim=1), change.norm(dim=1), rtol=1e-6, atol=1e-12)
            kept = change.norm(dim=1) == 0
            assert torch.equal(kept, moved.norm(dim=1) == 0)
            if moved.shape[1] > 1:
                directions.append(moved[~kept] / moved[~kept].norm(dim=1, keepdim=True))
    found = torch.cat(directions)
    products = (found @ found.T).fill_diagonal_(0)
    # Independent directions in 42 dimensions: products have standard deviation 0.15.
    assert products.abs().max() < 0.9
    assert float(products.pow(2).mean()) == pytest.approx(1 / 42, rel=0.2)


def test_noise_on_rows_that_another_edit_has_scaled_by_hooks_is_refused_rather_than_wrong():
    model, like = tiny_model("llama"), resuscitation("llama", "up")
    noise = interventions.MatchedNoise(like)
    with pytest.raises(ValueError, match="'matched_noise' does one thing as hooks and another as"):
        interventions.patch_weights(model, like, noise)
    interventions.patch_weights(model, like)
    # On the patched weights both forms are matched to those.
    with interventions.applied(model, noise):
        hooked = logits(model)
    interventions.patch_weights(model, noise)
    assert relative_gap(logits(model), hooked) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_redo_draws_incoming_rows_again_and_empties_what_they_write(family):
    model, means = tiny_model(family), measured(family).mean_coefficients
    edit = interventions.ReDo(means, ratio=0.4, seed=9)
    before = weights_of(model)
    interventions.patch_weights(model, edit)
    after = weights_of(model)
    drawn = []
    for layer in range(N_LAYERS):
        bound = means[layer].double().quantile(0.4)
        dormant = means[layer].double() <= bound
        for part in ("up", "gate", "down") if family in GATED else ("up", "down"):
            then, now = (rows_of(w, family, part, layer) for w in (before, after))
            for name, rows in now.items():
                assert torch.equal(rows[~dormant], then[name][~dormant])
                if part == "down" or name.endswith("bias"):
                    assert not rows[dormant].any()
                else:
                    assert not rows[dormant].eq(then[name][dormant]).any()
                    drawn.append(rows[dormant])
    values = torch.cat(drawn)
    # 36 rows of 42 numbers or more: their standard deviation is known to 2 %.
    assert float(values.std()) == pytest.approx(INITIAL_STD, rel=0.08)
    assert float(values.mean()) == pytest.approx(
        0, abs=4 * INITIAL_STD / len(values.flatten()) ** 0.5
    )
    assert len({tuple(row.tolist()) for row in values}) == len(values)
    others = [n for n in before if not torch.equal(before[n], after[n])]
    assert all("mlp" in n or "fc" in n for n in others)


def test_redo_by_threshold_is_the_papers_definition():
    means = torch.tensor([[0.1, 1.0, 2.0, 0.9], [4.0, 4.0, 0.0, 0.0]])
    edit = interventions.ReDo(means, threshold=0.5)
    # s_i = mean / layer mean: 0.1, 1, 2, 0.9 and 2, 2, 0, 0.
    assert edit.selected().tolist() == [[True, False, False, False], [False, False, True, True]]
    at_zero = interventions.ReDo(means, threshold=0.0)
    assert at_zero.selected().tolist() == [[False] * 4, [False, False, True, True]]


def test_redo_takes_nothing_away_but_what_dormant_neurons_gave():
    model = shared("llama", torch.float64)
    means = measured("llama").mean_coefficients
    edit = interventions.ReDo(means, ratio=0.4)
    with interventions.applied(model, edit):
        found = logits(model)
    silent = edit.selected()

    def silence(coefficients, point):
        return coefficients.masked_fill(silent[point.layer], 0.0)

    with model.hooks([(("mlp_coefficients", layer), silence) for layer in range(N_LAYERS)]):
        expected = logits(model)
    assert relative_gap(found, expected) < 1e-11
    with interventions.applied(model, edit):
        seen = probes.capture(model, {"input_ids": tokens(2, 11)}, ["mlp_coefficients"])
    # The new neurons are active: their memory vectors are what is empty.
    assert (seen["mlp_coefficients", 0][..., silent[0]] != 0).all()


def test_an_edit_that_comes_after_redo_acts_on_the_new_rows():
    model = tiny_model("llama", torch.float64)
    redo = interventions.ReDo(measured("llama").mean_coefficients, ratio=0.4)
    up = resuscitation("llama", "preserving")
    for edits in ((redo, up), (up, redo)):
        with interventions.applied(model, *edits):
            hooked = logits(model)
        report = interventions.patch_weights(model, *edits)
        assert relative_gap(logits(model), hooked) < 1e-11
        report.undo()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "takes a ratio or a threshold, found neither"),
        ({"ratio": 0.5, "threshold": 0.1}, "takes a ratio or a threshold, found both"),
        ({"ratio": 0.0}, "ratio is a share above 0, to 1, found 0.0"),
        ({"threshold": 0.0}, "no neuron is selected.*; raise the threshold"),
        ({"ratio": 1.5}, "ratio is a share above 0, to 1, found 1.5"),
        ({"ratio": float("nan")}, "ratio is a share above 0, to 1, found nan"),
        ({"threshold": -0.1}, "threshold must be 0 or more, found -0.1"),
    ],
)
def test_settings_of_redo_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        interventions.ReDo(torch.ones(2, 3), **settings)


def test_controls_refuse_other_models_as_their_resuscitation_does():
    like = interventions.Resuscitation(measured("llama"), ratio=0.5, factor=2.0)
    other = tiny_model("llama")
    with torch.no_grad():
        other.hf_model.model.norm.weight.add_(0.1)
    edits = [
        interventions.RandomRows(like),
        interventions.MostActiveRows(like),
        interventions.MatchedNoise(like),
        interventions.ReDo(measured("llama"), ratio=0.4),
    ]
    for edit in edits:
        with pytest.raises(ValueError, match="has coefficients of another model"):
            interventions.patch_weights(other, edit)
    small = interventions.Resuscitation(torch.ones(2, 5), ratio=0.5, factor=2.0)
    with pytest.raises(ValueError, match=r"2 layers of 5 neurons, but .* has 3 layers of 29"):
        interventions.patch_weights(other, interventions.MatchedNoise(small))
    with pytest.raises(ValueError, match=r"2 layers of 5 neurons, but .* has 3 layers of 29"):
        interventions.patch_weights(other, interventions.ReDo(torch.ones(2, 5), ratio=0.4))


def test_redo_refuses_a_configuration_without_a_standard_deviation():
    model = tiny_model("llama")
    model.hf_model.config.__dict__["initializer_range"] = None
    with pytest.raises(ValueError, match="names no initial standard deviation"):
        interventions.patch_weights(
            model, interventions.ReDo(measured("llama").mean_coefficients, ratio=0.4)
        )
