"""Relearning against plain PyTorch: the same updates by hand, and a model left as it was."""

import pytest
import torch

import probes
from tests.models import tiny_hf_model, tiny_model, tokens
from tests.refusals import refused
from tests.training.loop_runs import same_bits, weights_of
from training.choices import Packing
from training.data.mixed_batches import MixedSource
from training.data.rendering import Rendered
from training.engine import Engine, adamw
from training.relearning import Relearned, RelearningCurve, relearn
from training.settings import LoopSettings, OptimizerSettings

END = 2
TAUGHT = 13


def rows_of(count=TAUGHT, seed=0):
    """Questions of three tokens, with an answer of two and its end."""
    trained = (False,) * 3 + (True,) * 3
    rows = tokens(count, 5, seed=seed).tolist()
    return [Rendered((*row, END), trained, f"{seed}-{i}") for i, row in enumerate(rows)]


def curve_of(model, rows=None, **given):
    settings = {"count": 5, "steps": 3, "learning_rate": 3e-3, "batch_size": 5, "seed": 1}
    return relearn(model, rows or rows_of(), **{**settings, **given})


def log_probs_by_hand(hf_model, rows):
    ids = torch.tensor([row.input_ids for row in rows])
    with torch.no_grad():
        logits = hf_model(ids).logits[:, 2:-1].log_softmax(-1)
    return logits.gather(2, ids[:, 3:, None])[..., 0].sum(1), (logits.argmax(-1) == ids[:, 3:]).all(
        1
    )


def test_it_is_adamw_on_the_answers_of_a_few_items():
    """By hand: whole batches, so that their order does not matter."""
    rows = rows_of()
    curve = curve_of(tiny_model("llama"), rows)
    again = [i for i, group in enumerate(curve.groups) if group is Relearned.AGAIN]
    assert len(again) == 5
    assert curve.identifiers == tuple(row.identifier for row in rows)

    hf_model = tiny_hf_model("llama")
    optimizer = torch.optim.AdamW(
        hf_model.parameters(), lr=3e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0
    )
    ids = torch.tensor([rows[i].input_ids for i in again])
    for step in range(4):
        log_probs, correct = log_probs_by_hand(hf_model, rows)
        # float32 sums of three log-probabilities of size 10, after up to three updates.
        torch.testing.assert_close(curve.log_probs[step].float(), log_probs, rtol=1e-3, atol=1e-3)
        assert torch.equal(curve.correct[step], correct)
        optimizer.zero_grad()
        logits = hf_model(ids).logits[:, 2:-1]
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 3:].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(hf_model.parameters(), 1.0)
        optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_model_is_left_as_it_was(dtype):
    model = tiny_model("gpt2", dtype)
    model.hf_model.train()
    model.hf_model.transformer.wpe.weight.grad = torch.ones_like(
        model.hf_model.transformer.wpe.weight
    )
    before, buffers = weights_of(model), [b.clone() for b in model.hf_model.buffers()]
    places = [p.data_ptr() for p in model.hf_model.parameters()]
    state = torch.get_rng_state()
    curve = curve_of(model)
    assert not torch.equal(curve.log_probs[0], curve.log_probs[-1])
    assert same_bits(before, weights_of(model))
    assert all(p.dtype is dtype for p in model.hf_model.parameters())
    assert all(map(torch.equal, model.hf_model.buffers(), buffers))
    assert model.hf_model.training
    gradients = {n for n, p in model.hf_model.named_parameters() if p.grad is not None}
    assert gradients == {"transformer.wpe.weight"}
    assert bool((model.hf_model.transformer.wpe.weight.grad == 1).all())
    assert torch.equal(torch.get_rng_state(), state)
    if dtype is torch.float32:
        assert places == [p.data_ptr() for p in model.hf_model.parameters()]


def test_also_after_an_exception():
    model = tiny_model("olmo")
    before, looks = weights_of(model), []

    def fail_at_last(stream, _point):
        looks.append(len(stream))
        if len(looks) == 9:
            raise RuntimeError("enough")

    with (
        model.hooks([("blocks.1.hook_resid_post", fail_at_last)]),
        pytest.raises(RuntimeError, match="enough"),
    ):
        curve_of(model, steps=7)
    assert same_bits(before, weights_of(model))
    assert not model.hf_model.training
    assert all(p.grad is None for p in model.hf_model.parameters())


def test_within_a_run_it_can_be_asked_for_without_gradients():
    """As an observer would."""
    model = tiny_model("qwen2")
    outside = curve_of(model)
    with torch.no_grad():
        inside = curve_of(model)
    assert torch.equal(inside.log_probs, outside.log_probs)


def test_seeds_choose_the_items():
    chosen = {seed: curve_of(tiny_model("llama"), steps=1, seed=seed).groups for seed in (0, 1, 2)}
    assert len(set(chosen.values())) == 3
    assert all(groups.count(Relearned.AGAIN) == 5 for groups in chosen.values())


def test_groups_and_the_spill_over_by_hand():
    groups = tuple(map(Relearned, ("again", "other", "other", "never taught")))
    correct = torch.tensor([[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]).bool()
    log_probs = torch.arange(16, dtype=torch.float64).view(4, 4)
    curve = RelearningCurve(groups, ("a", "b", "c", "d"), correct, log_probs, {})
    assert curve.exact_match("again").tolist() == [0, 1, 1, 1]
    assert curve.exact_match("other").tolist() == [0, 0.5, 1, 0]
    assert curve.mean_log_prob("other").tolist() == [1.5, 5.5, 9.5, 13.5]
    assert curve.rises.tolist() == [0, 0.5, 0, 0]
    assert curve.spill_over == 0.5
    without = RelearningCurve(groups[:3], ("a", "b", "c"), correct[:, :3], log_probs[:, :3], {})
    assert without.spill_over == 1.0


def learnt(rows, steps=23):
    """A model that answers all of them."""
    model = tiny_model("llama")
    optimizing = OptimizerSettings(learning_rate=3e-3, weight_decay=0.0)
    settings = LoopSettings(steps=steps, batch_size=len(rows), optimizer=optimizing)
    source = MixedSource(rows, batch_size=len(rows), epochs=steps, packing=Packing.BUCKETED)
    with Engine(model, settings) as engine:
        optimizer = adamw(model.hf_model, optimizing)
        for step in range(steps):
            batch = source.batch(step)
            (engine.loss(batch)[0] / batch.trained_weight).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert bool(log_probs_by_hand(model.hf_model, rows)[1].all())
    return model


@pytest.mark.parametrize("was_learnt", [True, False])
def test_what_is_only_out_of_reach_comes_back(was_learnt):
    """The last norm is turned around, which a few items can undo; nothing else may change."""
    rows, never = rows_of(), rows_of(7, seed=50)
    model = learnt(rows) if was_learnt else tiny_model("llama")
    norm = model.hf_model.model.norm.weight
    with torch.no_grad():
        norm.neg_()
    model.hf_model.requires_grad_(False)
    norm.requires_grad_(True)
    curve = curve_of(model, rows, steps=41, learning_rate=0.1, never_taught=never)
    assert float(curve.exact_match(Relearned.OTHER)[0]) == 0.0
    assert float(curve.exact_match(Relearned.NEVER_TAUGHT).max()) < 0.2
    assert (curve.spill_over > 0.8) == was_learnt
    assert was_learnt or curve.spill_over < 0.2
    assert curve.groups[TAUGHT:] == (Relearned.NEVER_TAUGHT,) * 7
    assert curve.configuration["never_taught"] == 7


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"count": 0}, "0 of 13 items are to be relearned: give at least one, and fewer than all"),
        ({"count": 13}, "13 of 13 items are to be relearned"),
        ({"steps": 0}, "steps is 0: give 1 or more"),
        ({"batch_size": 6}, "5 examples .* do not make a batch of 6"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0 and finite, found 0.0"),
        ({"learning_rate": 1e30}, "gradient of relearning step 2 is (nan|inf); try a lower"),
    ],
)
def test_what_cannot_be_relearned_is_refused(given, message):
    model = tiny_model("llama")
    before = weights_of(model)
    with refused(message):
        curve_of(model, **given)
    assert same_bits(before, weights_of(model))


def test_other_backends_are_refused():
    model = probes.load_model(tiny_hf_model("llama"), backend="nnsight")
    with pytest.raises(ValueError, match="cannot be trained; load it with backend='native'"):
        curve_of(model)
