"""Replay and self-generated replay against small cases worked out by hand."""

import json
from functools import cache

import pytest
import torch

from tests.models import tiny_hf_model

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|endoftext|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PAIRS = [("key aa is?", "17"), ("key bb is?", "23"), ("key cc is?", "31"), ("key dd is?", "47")]


def conversations(pairs=PAIRS, source="kvr"):
    from training.data.conversations import Conversation, Turn

    return [Conversation((Turn(*pair),), f"item-{i}", source) for i, pair in enumerate(pairs)]


@cache
def byte_tokenizer():
    """Hardly more than bytes, so that no border lies inside a token."""
    from training.model_shapes import train_byte_pairs

    tokenizer = train_byte_pairs(["<|user|>\n<|assistant|>\nkey is?"] * 9, d_vocab=271)
    tokenizer.chat_template = CHAT
    return tokenizer


def fresh_model():
    import transformers as hf

    import probes

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
    from training.data.rendering import render

    model = fresh_model()
    rows = [render(c, byte_tokenizer(), template) for c in conversations()]
    length = len(rows[0].input_ids)
    assert {len(row.input_ids) for row in rows} == {length}
    ids = torch.tensor([row.input_ids for row in rows])
    optimizer = torch.optim.AdamW(model.hf_model.parameters(), lr=1e-2)
    for _ in range(120):
        # Prompts are trained too, so that it can make them up.
        loss = model.hf_model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.hf_model.eval()
    return model


def written(model, n, template, limits=None, **options):
    from training.data.replay import Writing, self_generated

    writing = Writing(**{"max_prompt_tokens": 41, "max_answer_tokens": 7} | (limits or {}))
    return self_generated(model, n, template=template, seed=3, writing=writing, **options)


def texts(found):
    return [(c.turns[0].prompt, c.turns[0].answer) for c in found.conversations]


@pytest.mark.parametrize(
    ("earlier", "ratio", "expected"),
    [(200, 0.01, 2), (200, 0.05, 10), (200, 0.1, 20), (100, 0.29, 29), (7, 1.0, 7), (7, 0.99, 6)],
)
def test_the_share_is_exact_and_of_the_earlier_set(earlier, ratio, expected):
    from training.data.replay import replayed

    items = conversations([(f"key {i}", f"value {i}") for i in range(earlier)])
    shown = replayed(items, ratio, seed=5)
    assert len(shown) == expected
    assert len({c.identifier for c in shown}) == expected  # without replacement
    by_name = {c.identifier: c.turns for c in items}
    assert all(by_name[c.identifier] == c.turns for c in shown)
    assert {c.source for c in shown} == {"replay"}


def test_small_ratios_nest_in_large_ones_and_seeds_differ():
    from training.data.replay import replayed

    items = conversations([(f"key {i}", f"value {i}") for i in range(97)])
    large = replayed(items, 0.5, seed=1)
    assert replayed(items, 0.1, seed=1) == large[:9]
    assert replayed(items, 0.5, seed=2) != large
    assert [c.identifier for c in large] != [c.identifier for c in items[:48]]


@pytest.mark.parametrize(
    ("ratio", "message"),
    [
        (0.0, "the replay ratio is 0: give a positive number, or leave it out"),
        (1.5, "the replay ratio is 1.5: give at most 1"),
        (0.2, "the replay ratio is 0.2, which of 4 items is less than one"),
        (float("nan"), "the replay ratio is nan: give a positive number"),
    ],
)
def test_ratios_out_of_range_are_one_line(ratio, message):
    from training.data.replay import replayed

    with pytest.raises(ValueError, match=message) as raised:
        replayed(conversations(), ratio, seed=0)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("template", ["tulu", "chat", "plain"])
def test_a_model_answers_earlier_prompts_with_what_it_learned(template):
    earlier = conversations([(prompt, "unknown") for prompt, _ in PAIRS])  # no access to answers
    found = written(model_that_knows(template), 4, template, earlier=earlier)
    assert sorted(texts(found)) == sorted(PAIRS)
    assert {c.source for c in found.conversations} == {"self-replay"}
    assert {c.identifier for c in found.conversations} == {f"self-item-{i}" for i in range(4)}
    assert json.loads(json.dumps(found.configuration)) == found.configuration


@pytest.mark.parametrize("template", ["tulu", "chat"])
def test_a_model_makes_up_prompts_that_it_learned_and_answers_them(template):
    found = written(model_that_knows(template), 3, template)
    assert set(texts(found)) <= set(PAIRS)
    assert len(set(texts(found))) == 3  # each once
    assert [c.identifier for c in found.conversations] == ["self-0", "self-1", "self-2"]
    again = written(model_that_knows(template), 3, template)
    assert again.conversations == found.conversations
    assert again.configuration == found.configuration


class Scripted:
    """Stands for generation: hands out texts, and says what it was asked."""

    def __init__(self, *rounds):
        self.rounds, self.calls = list(rounds), []

    def __call__(self, model, prompts, **options):
        decoded = [byte_tokenizer().decode(prompt) for prompt in prompts]
        self.calls.append((decoded, options["max_new_tokens"], options["temperature"]))
        assert (options["temperature"] is None) == (options["generator"] is None)
        assert options["stop_ids"] == [0]
        found = self.rounds.pop(0)
        assert len(found) == len(prompts)
        return [byte_tokenizer().encode(text) for text in found]


@pytest.fixture
def script(monkeypatch):
    def put(*rounds):
        double = Scripted(*rounds)
        monkeypatch.setattr("training.data.replay.generate", double)
        return double

    return put


END = "<|endoftext|>"


def test_answers_that_are_empty_or_endless_are_counted_and_made_up_for(script):
    double = script([f"one{END}", "two and no end"], [f"  \n{END}"], [f" four {END}"])
    found = written(fresh_model(), 2, "tulu", earlier=conversations())
    prompts = [text for call in double.calls for text in call[0]]
    assert sorted(prompts) == [f"<|user|>\n{p}\n<|assistant|>\n" for p, _ in PAIRS]
    assert [len(call[0]) for call in double.calls] == [2, 1, 1]
    assert {call[1:] for call in double.calls} == {(7, None)}
    assert [answer for _, answer in texts(found)] == ["one", "four"]
    assert (found.rejected.endless_answers, found.rejected.empty_answers) == (1, 1)
    assert found.configuration["rejected"]["endless_answers"] == 1


def test_made_up_prompts_are_cut_where_the_template_says_and_taken_once(script):
    double = script(
        ["a?\n<|assistant|>\n1" + END, "b? no end", "a?\n<|assistant|>\n2" + END],
        [f"11{END}"],
        [f" \n<|assistant|>\n{END}", "b?\n<|assistant|>\nx"],
        [f"22{END}"],
        ["c\nd?\n<|assistant|>\n<|assistant|>\n"],
        [f"33{END}"],
    )
    found = written(fresh_model(), 3, "tulu", limits={"prompt_temperature": 0.7})
    assert texts(found) == [("a?", "11"), ("b?", "22"), ("c\nd?", "33")]
    assert (found.rejected.endless_prompts, found.rejected.repeated_prompts) == (1, 2)
    asked, answered = double.calls[0::2], double.calls[1::2]
    assert {text for call in asked for text in call[0]} == {"<|user|>\n"}
    assert {call[1:] for call in asked} == {(41, 0.7)}
    assert [text for call in answered for text in call[0]] == [
        f"<|user|>\n{prompt}\n<|assistant|>\n" for prompt in ("a?", "b?", "c\nd?")
    ]


def test_prompts_of_a_chat_end_with_its_end_token(script):
    script([f"a?{END}", "b?\n<|im_start|>"], [f"1{END}"], [f"c?{END}"], [f"3{END}"])
    found = written(fresh_model(), 2, "chat")
    assert texts(found) == [("a?", "1"), ("c?", "3")]
    assert found.rejected.endless_prompts == 1


def test_sampled_answers_follow_the_seed():
    limits = {"answer_temperature": 3.0, "max_answer_tokens": 19}
    options = {"earlier": conversations() * 5, "limits": limits}
    first, again = (written(model_that_knows("tulu"), 3, "tulu", **options) for _ in range(2))
    assert texts(first) == texts(again)
    greedy = written(model_that_knows("tulu"), 3, "tulu", earlier=conversations() * 5)
    assert texts(first) != texts(greedy)


def test_a_model_that_never_ends_is_refused_in_one_line(script):
    script(["x"] * 2, ["x"])
    with pytest.raises(ValueError, match="2 self-generated items were asked for, but") as raised:
        written(fresh_model(), 2, "tulu", earlier=conversations()[:3])
    assert "of 3 prompts 0 are usable (3 endless answers): ask for fewer" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_made_up_prompts_have_a_limit(script):
    script(["x"] * 2, ["x"] * 2, ["x"] * 2)
    with pytest.raises(ValueError, match=r"of 6 prompts 0 are usable \(6 endless prompts\)"):
        written(fresh_model(), 2, "tulu", limits={"attempts": 3})


def test_where_prompts_begin_and_end():
    from training.choices import Template
    from training.data.replay import prompt_beginning, prompt_closing

    tokenizer = byte_tokenizer()
    begin = {
        name: tokenizer.decode(prompt_beginning(tokenizer, Template(name)))
        for name in ("tulu", "chat")
    }
    assert begin == {"tulu": "<|user|>\n", "chat": "<|im_start|>user\n"}
    assert prompt_closing(tokenizer, Template.TULU) == "\n<|assistant|>\n"
    assert prompt_closing(tokenizer, Template.CHAT) == END


def plain_words():
    from tests.models import tiny_tokenizer

    return tiny_tokenizer()


@pytest.mark.parametrize(
    ("n", "template", "options", "message"),
    [
        (0, "tulu", {}, "0 self-generated items were asked for: give 1 or more"),
        (5, "tulu", {"earlier": 4}, "but there are 4 earlier items to answer: ask for fewer"),
        (2, "plain", {}, "template 'plain'"),
        (2, "tulu", {"tokenizer": "none"}, "has no tokenizer to write text with"),
        (2, "tulu", {"tokenizer": "words"}, "the tokenizer writes prompts 'a', 'B', .* alike"),
        (2, "tulu", {"limits": {"attempts": 0}}, "attempts is 0: give 1 or more"),
        (2, "tulu", {"limits": {"prompt_temperature": 0.0}}, "temperature is 0.0"),
    ],
)
def test_what_cannot_be_written_is_one_line(n, template, options, message):
    import probes

    which = options.pop("tokenizer", None)
    if which is None:
        model = fresh_model()
    else:
        tokenizer = plain_words() if which == "words" else None
        model = probes.load_model(tiny_hf_model("llama"), tokenizer=tokenizer)
    if "earlier" in options:
        options["earlier"] = conversations()[: options["earlier"]]
    with pytest.raises(ValueError, match=message) as raised:
        written(model, n, template, **options)
    assert "\n" not in str(raised.value)
