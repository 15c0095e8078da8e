"""Rotary frequencies of a sequence do not depend on what shares its batch.

What a sequence gets alone in plain transformers, from a model that ours has not touched, is what
everything here is compared with.
"""

import pytest
import torch
import transformers
from torch.testing import assert_close
from transformers import AutoModelForCausalLM

import analysis
import probes
from probes.generation import generate
from probes.rotary import keep_sequences_apart, rope_border
from probes.scoring import exact_matches
from tests.models import tiny_config, tiny_hf_model, tiny_tokenizer, tokens
from training.batches import IGNORED, TrainingBatch
from training.engine import Engine
from training.settings import LoopSettings

BORDER = 11
LENGTHS = (3, 11, 12, 17)
"""On both sides of the border, and on it."""
ROWS = [tuple(tokens(1, length, seed=length)[0].tolist()) for length in LENGTHS]
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
"""Sums of a float32 model in another order, where pads take part in it."""


def config_of(rope):
    if rope == "longrope":
        config = tiny_config("phi3").to_dict()
        config["original_max_position_embeddings"] = BORDER
        factors = {"short_factor": [1.0, 1.3, 1.1, 1.7, 1.0, 1.2, 1.9]}
        factors["long_factor"] = [3.0, 5.0, 7.0, 11.0, 2.0, 4.0, 6.0]
        config["rope_parameters"] = {"rope_type": "longrope", "rope_theta": 100.0, **factors}
        return transformers.Phi3Config(**config)
    config = tiny_config("llama").to_dict()
    config["rope_parameters"] = {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 4.0}
    return transformers.LlamaConfig(**config)


def hf_model(rope="longrope"):
    state = torch.get_rng_state()
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of(rope)).eval()
    torch.set_rng_state(state)
    return model


def loaded(rope="longrope", **how):
    return probes.load_model(hf_model(rope), tokenizer=tiny_tokenizer(), **how)


@torch.no_grad()
def alone(ids, model=None):
    """Log-probabilities after each token of a row that is alone, from plain transformers."""
    model = hf_model() if model is None else model
    return model(torch.tensor([list(ids)])).logits[0].log_softmax(dim=-1)


def batch_of(rows, side="right"):
    width = max(map(len, rows))
    ids, mask = (
        torch.zeros(len(rows), width, dtype=torch.long),
        torch.zeros(len(rows), width).long(),
    )
    for row, own in enumerate(rows):
        where = slice(0, len(own)) if side == "right" else slice(width - len(own), width)
        ids[row, where], mask[row, where] = torch.tensor(own), 1
    return {"input_ids": ids, "attention_mask": mask}


def test_short_and_long_frequencies_differ_by_more_than_any_tolerance_here():
    longer = (*ROWS[0], *ROWS[1])
    gap = (alone(ROWS[0])[-1] - alone(longer)[len(ROWS[0]) - 1]).abs().max()
    assert gap > 0.1


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("backend", ["native", "transformer_lens", "nnsight"])
def test_rows_of_a_batch_get_what_each_gets_alone(backend, side):
    model = loaded(backend=backend)
    batch = batch_of(ROWS, side)
    if (backend, side) == ("transformer_lens", "right"):
        with pytest.raises(ValueError, match=r"frequencies .* beyond 11 tokens.*backend='native'"):
            model(batch["input_ids"], attention_mask=batch["attention_mask"])
        return
    with torch.no_grad():
        found = model(batch["input_ids"], attention_mask=batch["attention_mask"])
    for row, own in enumerate(ROWS):
        logits = found[row][batch["attention_mask"][row].bool()]
        assert_close(logits.log_softmax(dim=-1), alone(own), rtol=1e-3, atol=1e-4)


def test_entropies_and_losses_are_those_of_documents_apart():
    model = loaded()
    together = probes.measure_entropy(model, [batch_of(ROWS)])
    apart = probes.measure_entropy(model, [{"input_ids": torch.tensor([row])} for row in ROWS])
    assert_close(together.mean_coefficients, apart.mean_coefficients, **TOLERANCE)
    assert_close(together.attention.total, apart.attention.total, **TOLERANCE)
    expected = torch.stack(
        [-(p.exp() * p).sum(-1).mean() for p in (alone(row) for row in ROWS)]
    ).mean()
    assert_close(torch.tensor(together.next_token.mean), expected, rtol=1e-4, atol=0.0)
    losses = probes.measure_perplexity(model, [batch_of(ROWS)]).per_document_loss
    for loss, row in zip(losses, ROWS, strict=True):
        own = -alone(row)[:-1].gather(1, torch.tensor(row[1:])[:, None]).mean()
        assert_close(loss.float(), own, **TOLERANCE)


def items():
    """Prompts that start alike, with targets on both sides of the border and across it."""
    start = ROWS[3]
    return [(start[:cut], (11, 23, 5)) for cut in (3, 9, 10, 13)]


def test_scores_and_lens_readings_are_those_of_items_apart():
    model, plain = loaded(), hf_model()
    found = probes.target_log_probs(model, items(), "sum")
    lens = analysis.lens(model, *zip(*items(), strict=True))
    for number, (prompt, target) in enumerate(items()):
        log_probs = alone([*prompt, *target[:-1]], plain)[len(prompt) - 1 :]
        expected = log_probs.gather(1, torch.tensor(target)[:, None]).sum()
        assert_close(found[number].float(), expected, **TOLERANCE)
        first = alone(prompt, plain)[-1]
        assert_close(lens.log_prob[-1, number], first[target[0]], **TOLERANCE)
        assert lens.rank[-1, number] == (first > first[target[0]]).sum()


def greedy(prompt, new, model):
    ids = list(prompt)
    for _ in range(new):
        ids.append(int(alone(ids, model)[-1].argmax()))
    return ids[len(prompt) :]


def drawn_alone(prompt, new, model):
    ids = list(prompt)
    draws = torch.rand(1, new, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    for draw in draws[0]:
        ids.append(int((alone(ids, model)[-1].double().exp().cumsum(0) <= draw).sum()))
    return ids[len(prompt) :]


def test_generation_crosses_the_border_as_a_model_without_a_cache_does():
    model, plain = loaded(), hf_model()
    prompts = [ROWS[1][:5], ROWS[1], ROWS[2], ROWS[1][:7], ROWS[3]]
    found = generate(model, prompts, max_new_tokens=8)
    expected = [greedy(prompt, 8, plain) for prompt in prompts]
    assert found == expected
    pairs = [(p, tuple(t)) for p, t in zip(prompts, expected, strict=True)]
    assert exact_matches(model, pairs).all()
    stop = expected[0][6]
    stopped = generate(model, prompts, max_new_tokens=8, stop_ids=[stop])
    for own, whole in zip(stopped, expected, strict=True):
        assert own == (whole[: whole.index(stop) + 1] if stop in whole else whole)

    for some in (prompts, prompts[:1]):
        drawn = generate(
            model,
            some,
            max_new_tokens=8,
            temperature=1.0,
            generator=torch.Generator().manual_seed(7),
        )
        assert drawn[0] == drawn_alone(prompts[0], 8, plain)


@pytest.mark.parametrize("packed", [False, True])
def test_the_loss_of_a_training_batch_is_that_of_its_documents_apart(packed):
    if packed:
        ids = torch.tensor([[*ROWS[0], *ROWS[3], *ROWS[1][:4]], [*ROWS[2], *ROWS[2]]])
        segments = torch.tensor([[0] * 3 + [1] * 17 + [2] * 4, [3] * 12 + [4] * 12])
        documents, mask = [ROWS[0], ROWS[3], ROWS[1][:4], ROWS[2], ROWS[2]], torch.ones_like(ids)
        labels = ids.clone()
        labels[0, 3] = labels[0, 20] = labels[1, 12] = IGNORED
    else:
        given = batch_of(ROWS)
        ids, mask, segments, documents = *given.values(), None, ROWS
        labels = ids.masked_fill(mask == 0, IGNORED)
    batch = TrainingBatch(ids, labels, mask, segments)
    plain = hf_model()
    expected = sum(
        -alone(own, plain)[:-1].gather(1, torch.tensor(own[1:])[:, None]).sum() for own in documents
    )
    with Engine(loaded(), LoopSettings(steps=1, batch_size=len(ids))) as engine, torch.no_grad():
        assert_close(engine.loss(batch)[0], expected, rtol=1e-5, atol=0.0)


def test_dynamic_frequencies_go_by_each_sequence_and_not_by_what_ran_before():
    model, plain = hf_model("dynamic"), hf_model("dynamic")
    border = rope_border(model.config)
    assert border == 61
    keep_sequences_apart(model)
    rows = [tokens(1, length, seed=length)[0].tolist() for length in (5, border, 67, 79)]
    width = 79
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    positions = torch.tensor([[min(i, len(row) - 1) for i in range(width)] for row in rows])
    mask = torch.tensor([[int(i < len(row)) for i in range(width)] for row in rows])
    with torch.no_grad():
        for _ in range(2):
            found = model(ids, position_ids=positions, attention_mask=mask).logits
            for own, row in zip(found, rows, strict=True):
                expected = alone(row, plain)
                assert_close(own[: len(row)].log_softmax(-1), expected, rtol=1e-3, atol=1e-3)
                # So that the plain model forgets the longest row that it has seen.
                alone([5, 7], plain)


def test_models_without_such_frequencies_are_left_alone():
    for family in ("llama", "gpt2", "gemma3_text"):
        model = tiny_hf_model(family)
        assert rope_border(model.config) is None
        keep_sequences_apart(model)
        assert not any(part._forward_hooks for part in model.modules())
    model = hf_model()
    keep_sequences_apart(model)
    keep_sequences_apart(model)
    assert sum(len(part._forward_hooks) for part in model.modules()) == 1
