"""Replay and self-generated replay against small cases worked out by hand."""

import json
from functools import cache

import pytest
import torch
import transformers as hf

import probes
from tests.models import tiny_hf_model
from tests.refusals import refused
from training.data.mixes import replayed, self_generated
from training.data.rendering import Conversation, Turn, render
from training.model_shapes import train_byte_pairs

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|endoftext|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PAIRS = [("key aa is?", "17"), ("key bb is?", "23"), ("key cc is?", "31"), ("key dd is?", "47")]


def conversations(pairs=PAIRS, source="kvr"):
    return [Conversation((Turn(*pair),), f"item-{i}", source) for i, pair in enumerate(pairs)]


@cache
def byte_tokenizer():
    """Hardly more than bytes, so that no border lies inside a token."""
    tokenizer = train_byte_pairs(["<|user|>\n<|assistant|>\nkey is?"] * 9, d_vocab=271)
    tokenizer.chat_template = CHAT
    return tokenizer


def fresh_model():
    config = hf.LlamaConfig(
        vocab_size=271,
        hidden_size=42,
        intermediate_size=59,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=101,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hf_model = hf.LlamaForCausalLM(config)
    return probes.load_model(hf_model, tokenizer=byte_tokenizer())


@cache
def model_that_knows(template):
    """A model that was trained on the pairs until it has them."""
    model = fresh_model()
    rows = [render(c, byte_tokenizer(), template) for c in conversations()]
    length = len(rows[0].input_ids)
    assert {len(row.input_ids) for row in rows} == {length}
    ids = torch.tensor([row.input_ids for row in rows])
    optimizer = torch.optim.AdamW(model.hf_model.parameters(), lr=1e-2)
    for _ in range(120):
        loss = model.hf_model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.hf_model.eval()
    return model


def written(model, n, template, earlier, **options):
    options = {"max_answer_tokens": 7, **options}
    return self_generated(model, n, template=template, seed=3, earlier=earlier, **options)


def texts(found):
    return [(c.turns[0].prompt, c.turns[0].answer) for c in found.conversations]


@pytest.mark.parametrize(
    ("earlier", "ratio", "expected"),
    [(200, 0.01, 2), (200, 0.05, 10), (200, 0.1, 20), (100, 0.29, 29), (7, 1.0, 7), (7, 0.99, 6)],
)
def test_the_share_is_exact_and_of_the_earlier_set(earlier, ratio, expected):
    items = conversations([(f"key {i}", f"value {i}") for i in range(earlier)])
    shown = replayed(items, ratio, seed=5)
    assert len(shown) == expected
    assert len({c.identifier for c in shown}) == expected  # without replacement
    by_name = {c.identifier: c.turns for c in items}
    assert all(by_name[c.identifier] == c.turns for c in shown)
    assert {c.source for c in shown} == {"replay"}


def test_small_ratios_nest_in_large_ones_and_seeds_differ():
    items = conversations([(f"key {i}", f"value {i}") for i in range(97)])
    large = replayed(items, 0.5, seed=1)
    assert replayed(items, 0.1, seed=1) == large[:9]
    assert replayed(items, 0.5, seed=2) != large
    assert [c.identifier for c in large] != [c.identifier for c in items[:48]]


def test_no_more_than_everything_is_shown_again():
    with refused("the replay ratio is 1.5: give at most 1"):
        replayed(conversations(), 1.5, seed=0)


@pytest.mark.parametrize("template", ["tulu", "chat", "plain"])
def test_a_model_answers_earlier_prompts_with_what_it_learned(template):
    earlier = conversations([(prompt, "unknown") for prompt, _ in PAIRS])  # no access to answers
    found = written(model_that_knows(template), 4, template, earlier)
    assert sorted(texts(found)) == sorted(PAIRS)
    assert {c.source for c in found.conversations} == {"self-replay"}
    assert {c.identifier for c in found.conversations} == {f"self-item-{i}" for i in range(4)}
    assert json.loads(json.dumps(found.configuration)) == found.configuration


class Scripted:
    """Stands for generation: hands out texts, and says what it was asked."""

    def __init__(self, *rounds):
        self.rounds, self.calls = list(rounds), []

    def __call__(self, model, prompts, **options):
        decoded = [byte_tokenizer().decode(prompt) for prompt in prompts]
        self.calls.append(decoded)
        assert options == {"max_new_tokens": 7, "stop_ids": [0]}
        found = self.rounds.pop(0)
        assert len(found) == len(prompts)
        return [byte_tokenizer().encode(text) for text in found]


@pytest.fixture
def script(monkeypatch):
    def put(*rounds):
        double = Scripted(*rounds)
        monkeypatch.setattr("training.data.mixes.generate", double)
        return double

    return put


END = "<|endoftext|>"


def test_answers_that_are_empty_or_endless_are_counted_and_made_up_for(script):
    double = script([f"one{END}", "two and no end"], [f"  \n{END}"], [f" four {END}"])
    found = written(fresh_model(), 2, "tulu", conversations())
    prompts = [text for call in double.calls for text in call]
    assert sorted(prompts) == [f"<|user|>\n{p}\n<|assistant|>\n" for p, _ in PAIRS]
    assert [len(call) for call in double.calls] == [2, 1, 1]
    assert [answer for _, answer in texts(found)] == ["one", "four"]
    assert found.configuration["rejected"] == {"endless_answers": 1, "empty_answers": 1}


def test_a_model_that_never_ends_is_refused_in_one_line(script):
    script(["x"] * 2, ["x"])
    with refused("2 self-generated items were asked for, but") as raised:
        written(fresh_model(), 2, "tulu", conversations()[:3])
    assert "of 3 prompts 0 are usable (3 endless answers): ask for fewer" in str(raised.value)


@pytest.mark.parametrize(
    ("n", "tokenizer", "message"),
    [
        (0, True, "0 self-generated items were asked for, and there are 4 earlier items"),
        (5, True, "and there are 4 earlier items to answer: ask for 1 or more, and no more than"),
        (2, False, "has no tokenizer to write text with"),
    ],
)
def test_what_cannot_be_written_is_one_line(n, tokenizer, message):
    model = fresh_model() if tokenizer else probes.load_model(tiny_hf_model("llama"))
    with refused(message):
        written(model, n, "tulu", conversations())
