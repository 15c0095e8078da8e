"""Choice scores against Hugging Face's logits, every choice in a row of its own."""

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

import probes
from probes.scoring import encode_questions
from tests.models import tiny_hf_model, tiny_model, tiny_tokenizer, tokens


def by_hand(hf_model, context, continuation):
    with torch.no_grad():
        logits = hf_model(torch.tensor([[*context, *continuation]])).logits[0]
    log_probs = logits.double().log_softmax(-1)
    places = range(len(context) - 1, len(context) + len(continuation) - 1)
    return sum(float(log_probs[p, t]) for p, t in zip(places, continuation, strict=True))


def row(length, seed):
    return tokens(1, length, seed=seed)[0].tolist()


def some_questions():
    """One context and several continuations; several contexts and one; one choice; equal ones."""
    context, start = row(17, 1), row(5, 2)
    return [
        [(context, row(n, 10 + n)) for n in (3, 7, 2, 5)],
        [(start + row(2, 20), row(9, 22)), (start + row(3, 21), row(9, 22))],
        [(row(1, 30), row(1, 31))],
        [(context, row(3, 13)), (context, row(3, 13)), (row(2, 40), row(11, 41))],
    ]


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gpt2", "olmo", "opt"])
def test_scores_are_those_of_every_choice_by_itself(family):
    model = tiny_model(family, torch.float64)
    done = []
    found = probes.choice_scores(model, some_questions(), on_items=done.append)
    assert sum(done) == 10
    assert found.truncated == 0
    for scores, question in zip(found.log_probs, some_questions(), strict=True):
        expected = [by_hand(model.hf_model, *choice) for choice in question]
        # float64 throughout.
        assert scores.tolist() == pytest.approx(expected, abs=1e-12)


def test_context_and_continuation_that_join_are_split_apart(smollm2):
    """`co` and `at` are two tokens here, and together `coat`; so with `coast`, not with `A long`."""
    texts = [("I saw a co", "at"), ("I saw a co", "ast line"), ("A", " long fur coat")]
    ids = [
        tuple(smollm2.tokenizer(part, add_special_tokens=False)["input_ids"] for part in choice)
        for choice in texts
    ]
    whole = smollm2.tokenizer("I saw a coat", add_special_tokens=False)["input_ids"]
    assert list(ids[0][0]) + list(ids[0][1]) != whole
    found = probes.choice_scores(smollm2, [texts])
    assert found.split_apart == 2
    # float32 logits of 30 layers, in rows of another length.
    expected = [by_hand(smollm2.hf_model, *choice) for choice in ids]
    assert found.log_probs[0].tolist() == pytest.approx(expected, abs=1e-4)


def test_questions_as_tokens_are_taken_as_they_are():
    model = tiny_model("llama")
    encoded = encode_questions(model, [[("w1 w2", "w3"), ("w4", "w5 w6")]])
    assert encoded.items == (((4, 5), (6,)), ((7,), (8, 9)))
    once = probes.choice_scores(model, encoded).log_probs[0]
    assert torch.equal(once, probes.choice_scores(model, encoded).log_probs[0])


def test_special_tokens_come_before_contexts_alone():
    """A tokenizer that begins and ends every text: nothing can follow an end."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer().backend_tokenizer.from_str(
            tiny_tokenizer().backend_tokenizer.to_str()
        ),
        bos_token="<s>",
        eos_token="</s>",
    )
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    model = probes.load_model(tiny_hf_model("llama"), tokenizer=tokenizer)
    assert encode_questions(model, [[("w1", "w2 w3")]]).items == (((1, 4), (5, 6)),)


def test_long_contexts_lose_their_first_tokens():
    """The model takes 61 tokens; the last token of a continuation is predicted, not run."""
    model = tiny_model("llama", torch.float64)
    context, continuation = row(70, 1), row(8, 2)
    question = [(context, continuation), (context[-54:], continuation), (context, [5])]
    encoded = encode_questions(model, [question])
    assert [len(before) for before, _ in encoded.items] == [54, 54, 61]
    found = probes.choice_scores(model, [question])
    assert found.truncated == 2
    expected = [
        by_hand(model.hf_model, context[-54:], continuation),
        by_hand(model.hf_model, context[-54:], continuation),
        by_hand(model.hf_model, context[-61:], [5]),
    ]
    # float64 throughout. The row that predicts its last token runs 62 here by hand; RoPE takes it.
    assert found.log_probs[0].tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("questions", "message"),
    [
        ([], r"every question needs a choice, and there must be one question at least"),
        ([[]], r"every question needs a choice"),
        ([[([3], [])]], r"continuation \[\] has no tokens \(item 0\); give one"),
        ([[([], [3])]], r"context \[\] has no tokens"),
        ([[("", "w1")]], r"context '' has no tokens"),
        ([[([3, -1], [4])]], r"context has token id -1 \(item 0\); .* has ids 0 to 100"),
        ([("w1", "w2"), ("w1", "w3")], r"a choice is a context and a continuation; found 'w1'"),
        ([[([3], [4] * 62)]], r"the continuation that starts .* has 62 tokens; .* takes 61"),
    ],
)
def test_what_cannot_be_scored_is_refused(questions, message):
    with pytest.raises(ValueError, match=message):
        probes.choice_scores(tiny_model("llama"), questions)


def test_text_without_a_tokenizer_is_refused():
    model = probes.load_model(tiny_hf_model("llama"))
    with pytest.raises(ValueError, match=r"has no tokenizer; give token ids, or load"):
        probes.choice_scores(model, [[("w1", "w2")]])
