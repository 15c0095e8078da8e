"""Exact match by teacher forcing against greedy decoding, one row and one token at a time."""

import pytest
import torch

import interventions
from probes.generation import generate
from probes.scoring import exact_matches, target_readings
from probes.target_pass import target_sums, token_log_probs
from tests.models import FAMILIES, tiny_model, tokens
from tests.probes.test_generation import by_hand, model_of, some_prompts


def some_items(model, prompts, length=5):
    """For each prompt what the model writes after it; for two in three, with one token changed."""
    items = []
    for number, prompt in enumerate(prompts):
        target = by_hand(model.hf_model, prompt, 1 + number % length)
        if number % 3:
            place = number % len(target)
            target[place] = 3 + (target[place] + 1) % 97
        items.append((prompt, target))
    return items


@pytest.mark.parametrize("family", FAMILIES)
def test_a_match_is_what_greedy_decoding_writes(family):
    """By nested loops over the logits of whole rows, and by batched generation with a cache."""
    eager = family == "gemma2"
    model = model_of(family, "eager", torch.float32) if eager else model_of(family)
    items = some_items(model, some_prompts())
    expected = [by_hand(model.hf_model, p, len(target)) == target for p, target in items]
    assert expected == [not number % 3 for number in range(len(items))]
    assert exact_matches(model, items).tolist() == expected
    written = generate(model, [p for p, _ in items], max_new_tokens=5)
    pairs = zip(written, items, strict=True)
    assert [row[: len(target)] == target for row, (_, target) in pairs] == expected
    readings = target_readings(model, items)
    assert readings.chosen.tolist() == [
        token == best for p, target in items for token, best in taken(model.hf_model, p, target)
    ]


def taken(hf_model, prompt, target):
    """Each target token, and the most probable one at its place."""
    with torch.no_grad():
        best = hf_model(torch.tensor([prompt + target])).logits[0].argmax(-1).tolist()
    return zip(target, best[len(prompt) - 1 : -1], strict=True)


def test_log_probabilities_are_those_of_the_target_pass():
    model = model_of("olmo2")
    items = some_items(model, some_prompts())
    readings = target_readings(model, items)
    # The same products in the same order.
    assert torch.equal(readings.log_probs, token_log_probs(model, items))
    assert torch.equal(readings.sums, target_sums(model, items))
    assert readings.lengths.tolist() == [len(target) for _, target in items]


def test_a_target_that_ends_is_the_whole_continuation():
    """With its end in the target, a match is equality with what is generated up to a stop."""
    model = model_of("llama")
    prompts = some_prompts()
    endless = [by_hand(model.hf_model, prompt, 7) for prompt in prompts]
    ends = (endless[1][0], endless[5][2], endless[8][5])
    written = generate(model, prompts, max_new_tokens=7, stop_ids=ends)
    ended = [(p, row) for p, row in zip(prompts, written, strict=True) if row[-1] in ends]
    assert len({len(row) for _, row in ended}) > 1
    assert exact_matches(model, ended).all()
    # Cut off before its end a target still matches, though the model would go on.
    longer = [(p, row[:-1]) for p, row in ended if len(row) > 1]
    assert exact_matches(model, longer).all()


def test_edits_count():
    model = model_of("qwen3")
    prompts = some_prompts()
    edit = interventions.AttentionTemperature(3.1)
    before = [(p, by_hand(model.hf_model, p, 3)) for p in prompts]
    with interventions.applied(model, edit):
        under = [(p, by_hand(model.hf_model, p, 3)) for p in prompts]
        assert exact_matches(model, under).all()
        found = exact_matches(model, before).tolist()
    assert found == [one == other for one, other in zip(before, under, strict=True)]
    assert not all(found)


def test_of_equal_logits_the_first_token_is_chosen():
    """A model whose unembedding has two equal rows; what is generated agrees."""
    model = model_of("mistral")
    prompt = tokens(1, 5)[0].tolist()
    (best,) = by_hand(model.hf_model, prompt, 1)
    other = 40 if best != 40 else 41
    head = model.hf_model.lm_head.weight
    with torch.no_grad():
        head[other] = head[best]
    first, second = sorted((best, other))
    found = exact_matches(model, [(prompt, [first]), (prompt, [second])])
    assert found.tolist() == [True, False]
    assert generate(model, [prompt], max_new_tokens=1) == [[first]]


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "each prompt needs a target: found 0 prompts"),
        ([([5], [6]), ([], [6])], r"prompt \[\] has no tokens \(item 1\)"),
        ([([5], [])], r"target \[\] has no tokens \(item 0\)"),
        ([([5], [6, 101])], r"target has token id 101 \(item 0\); LlamaForCausalLM has ids 0 to"),
        ([([-1], [6])], r"prompt has token id -1 \(item 0\)"),
        ([([5] * 50, [6] * 13)], "has 63 tokens with its target; .* takes 61"),
        (("w1", "w2"), "an item is a prompt and a target; found 'w1'"),
    ],
)
def test_what_cannot_be_answered_is_refused(items, message):
    with pytest.raises(ValueError, match=message) as caught:
        exact_matches(tiny_model("llama"), items)
    assert "\n" not in str(caught.value)


def test_the_longest_item_that_fits_is_answered():
    """The last token of a target is not run and needs no position."""
    model = model_of("gpt2")
    prompt = tokens(1, 50)[0].tolist()
    target = by_hand(model.hf_model, prompt, 12)
    assert exact_matches(model, [(prompt, target)]).tolist() == [True]
