"""Mixes, overlap and replay against small cases worked out by hand."""

import json
import random
import re
from collections import Counter
from dataclasses import replace
from functools import cache

import pytest
import torch
import transformers as hf

import probes
from probes.assets import AssetError, fetch
from probes.assets.table import HUB_CORPORA
from tests.models import tiny_hf_model
from tests.refusals import refused
from training.data import mixes as mixing
from training.data.factoids import Factoid, load_factoids
from training.data.mixes import (
    generic_passages,
    load_mix,
    mix_size,
    overlap,
    random_sequences,
    replayed,
    self_generated,
)
from training.data.rendering import Conversation, Turn, render
from training.model_shapes import train_byte_pairs

WORDS = ["ant", "Bee", "cow", "dog", "eel"]
# 53 texts, of 1 to 53 words; word k of text i is "i.k".
TEXTS = [" ".join(f"{i}.{k}" for k in range(i)) for i in range(1, 54)]


def loaded(name, n, **options):
    try:
        return load_mix(name, n, **options)
    except AssetError as error:
        pytest.skip(f"{name} cannot be had here: {error}")


def sequences(n, words=7, seed=3):
    return random_sequences(WORDS, n, words=words, seed=seed)


def passages(n, texts=TEXTS, **options):
    from probes.corpus.sources import Corpus

    options = {"words": 11, "seed": 3} | options
    return generic_passages(Corpus.from_texts(texts, "counted"), n, **options)


def told(conversation):
    """Prompt without its first line, and answer."""
    (turn,) = conversation.turns
    return turn.prompt.partition("\n")[2].lstrip("\n"), turn.answer


def test_random_words_are_in_the_papers_form_and_to_be_copied():
    for conversation in sequences(13):
        (turn,) = conversation.turns
        assert turn.prompt == f"Memorize the following random-string passage:\n{turn.answer}"
        words = turn.answer.split(" ")
        assert len(words) == 7
        assert set(words) <= set(WORDS)
        assert conversation.source == "random"
    assert len({c.identifier for c in sequences(13)}) == 13


def test_random_words_are_those_of_the_seed_for_ever():
    # Written down once: another machine or Python version must give the same words.
    by_hand = " ".join(random.Random("3/1").choices(WORDS, k=7))
    assert sequences(2)[1].turns[0].answer == by_hand == "cow cow dog eel cow cow dog"


def test_random_words_nest_in_number_and_in_length():
    assert sequences(19)[:7] == sequences(7)
    for long, short in zip(sequences(7, words=50), sequences(7, words=8), strict=True):
        assert told(long)[1].split()[:8] == told(short)[1].split()
    assert {told(c) for c in sequences(7, seed=4)}.isdisjoint({told(c) for c in sequences(7)})


def test_random_words_are_uniform_and_independent():
    drawn = [told(c)[1].split() for c in sequences(2003)]
    counts = Counter(word for words in drawn for word in words)
    n = 2003 * 7
    # Six standard deviations of a binomial count.
    bound = 6 * (n * 0.2 * 0.8) ** 0.5
    assert all(abs(counts[word] - n / 5) < bound for word in WORDS)
    again = sum(words[0] == words[1] for words in drawn)
    assert abs(again - 2003 / 5) < 6 * (2003 * 0.2 * 0.8) ** 0.5


def test_random_mix_draws_from_the_webster_list():
    mix = loaded("random", 5, words=50, seed=7)
    assert [len(told(c)[1].split(" ")) for c in mix] == [50] * 5
    listed = set(fetch("webster-words").read_text(encoding="utf-8").split())
    drawn = {word for c in mix for word in told(c)[1].split()}
    assert drawn <= listed
    assert any(word[0].isupper() for word in drawn)  # capitals are kept
    assert mix.configuration["items"] == len(mix) == 5
    assert "public domain" in mix.licence


def test_passages_are_cut_as_counted_by_hand():
    found = {told(c) for c in passages(32)}
    # Texts of 22 to 53 words, 32 of them: words 0 to 10 are asked, 11 to 21 are told.
    expected = {
        (
            " ".join(f"{i}.{k}" for k in range(11)),
            " ".join(f"{i}.{k}" for k in range(11, 22)),
        )
        for i in range(22, 54)
    }
    assert found == expected
    (turn,) = passages(1)[0].turns
    assert turn.prompt.startswith("Complete the following partial passage:\n\n")


def test_white_space_of_any_kind_becomes_one_space():
    (only,) = passages(1, ["a\tb \n\n c\u00a0d\n"], words=2)
    assert told(only) == ("a b", "c d")


def test_passages_nest_in_number_and_follow_the_seed():
    assert passages(23)[:7] == passages(7)
    assert passages(32) != passages(32, seed=4)
    assert sorted(map(told, passages(32))) == sorted(map(told, passages(32, seed=4)))
    assert passages(32) != sorted(passages(32), key=lambda c: int(c.identifier.split("-")[1]))


def test_only_so_many_documents_are_read(monkeypatch):
    monkeypatch.setattr("training.data.mixes.READ_DOCUMENTS", 31)
    assert len(passages(10)) == 10  # texts of 22 to 31 words
    with pytest.raises(ValueError, match="counted has 10 of"):
        passages(11)


def test_generic_is_the_general_corpus_unless_one_is_given(tmp_path):
    mix = loaded("generic", 7, words=5, seed=1)
    assert mix.source == "general"
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    own = loaded("generic", 7, words=5, seed=1, corpus=path)
    assert own.source == str(path)
    assert {c.source for c in own} == {"generic"}
    assert own.content_hash != mix.content_hash
    assert own.content_hash == loaded("generic", 7, words=5, seed=1, corpus=str(path)).content_hash


@pytest.mark.parametrize(
    ("name", "column"), [("knowledge-pile", "content"), ("arxiv-pile", "text"), ("fineweb", "text")]
)
def test_sets_of_the_hub_are_read_from_their_column(name, column, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "README.md").write_text(
        "---\nlicense: mit\nconfigs:\n- config_name: default\n  data_files: train.jsonl\n---\n"
    )
    rows = [{"number": i, column: text} for i, text in enumerate(TEXTS)]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    row = HUB_CORPORA[name]
    assert re.fullmatch(r"[\w-]+/[\w-]+", row.dataset)
    monkeypatch.setitem(HUB_CORPORA, name, replace(row, dataset=str(folder)))
    mix = mixing.load_mix(name, 32, words=11, seed=3)
    assert list(map(told, mix)) == list(map(told, passages(32)))
    assert {c.source for c in mix} == {name}
    assert mix.configuration["revision"] == row.revision
    pinned = mixing.load_mix(name, 32, words=11, seed=3, revision="abc1234")
    assert pinned.configuration["revision"] == "abc1234"


def test_a_set_that_the_hub_does_not_give_is_one_line(monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with refused("cannot open data set 'kh4dien/fineweb"):
        loaded("fineweb", 3)


def test_identities_follow_what_is_in_the_mix():
    one, same, other = (loaded("random", 5, words=8, seed=seed) for seed in (1, 1, 2))
    assert one.content_hash == same.content_hash != other.content_hash
    assert json.loads(json.dumps(one.configuration)) == one.configuration


@pytest.mark.parametrize(
    ("primary", "ratio", "expected"),
    [(128, 2.0, 256), (100, 0.29, 29), (7, 0.5, 3), (3, 1 / 3, 1), (2, 0.9, 1), (1, 1.0, 1)],
)
def test_mix_sizes_are_exact(primary, ratio, expected):
    assert mix_size(primary, ratio) == expected


@pytest.mark.parametrize(
    ("ratio", "message"),
    [
        (0.0, "the mix ratio is 0: give a positive number, or leave it out"),
        (-1.0, "the mix ratio is -1: give a positive number"),
        (float("nan"), "the mix ratio is nan: give a positive number"),
        (float("inf"), "the mix ratio is inf: give a positive number"),
        (0.01, "the mix ratio is 0.01, which of 99 items is less than one: give a larger ratio"),
    ],
)
def test_ratios_that_come_to_nothing_are_refused(ratio, message):
    with refused(re.escape(message)):
        mix_size(99, ratio)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("genric", 3), {}, "no mix is called 'genric': did you mean generic?"),
        (("random+generic", 3), {}, "no mix is called 'random+generic'"),
        (("random", 0), {}, "a mix of 0 items was asked for: give 1 or more"),
        (("random", 3), {"words": 0}, "mix items of 0 words were asked for: give 1 or more"),
        (("random", 3), {"corpus": "general"}, "a corpus was given, but mix random has its own"),
        (("generic", 3), {"revision": "x"}, "revision 'x' was given, but mix generic is not from"),
        (("generic", 3), {"corpus": "genera"}, "no corpus 'genera'"),
    ],
)
def test_bad_options_are_one_line(arguments, options, message):
    with refused(re.escape(message)):
        load_mix(*arguments, **options)


def factoid(identifier, answers, subject=None):
    return Factoid(f"What is {identifier}?", answers, identifier, subject=subject)


def mix_of(*texts):
    from training.data.mixes import Corpus, generic_passages

    corpus = Corpus.from_texts(texts)
    return generic_passages(corpus, len(texts), words=3, seed=0)


FACTS = [
    ("pair", ("Jane Austen", "Austen"), "Emma"),
    ("apart", ("Rome",), "Lazio"),
    ("across", ("New York",), None),
    ("inside", ("art",), "art"),
    ("frame", ("passage",), "Complete"),
    ("none", ("Ω!", "++"), "?"),
    ("case", ("o'brien",), "ÉCOLE"),
]


def test_overlap_by_hand():
    mix = mix_of(
        "in emma, AUSTEN is very funny",
        "all roads to Rome they say",
        "a party in Lazio was held",
        "they left for new York early",  # parted between prompt and answer
        "une école and Mr O'Brien there",
    )
    report = overlap([factoid(*fact) for fact in FACTS], mix)
    assert report.answers == ("pair", "apart", "across", "case")
    assert report.subjects == ("pair", "apart", "case")
    assert report.pairs == ("pair", "case")
    assert report.factoids == 7


def test_overlap_against_padded_text_search():
    """Phrases of numbers in passages of numbers, looked for by hand as text between spaces."""
    draw = random.Random(5)
    texts = [" ".join(draw.choices("0123456789", k=6)) for _ in range(31)]
    facts = [
        factoid(
            str(i),
            tuple(" ".join(draw.choices("0123456789", k=k)) for k in (3, 5)),
            " ".join(draw.choices("0123456789", k=2)),
        )
        for i in range(211)
    ]
    report = overlap(facts, mix_of(*texts))

    def held(phrase, text):
        return f" {phrase} " in f" {text} "

    expected = [
        f.identifier
        for f in facts
        if any(held(f.subject, t) and any(held(a, t) for a in f.answers) for t in texts)
    ]
    assert list(report.pairs) == expected
    assert 0 < len(expected) < 211


def test_a_made_up_set_does_not_overlap_with_its_mix():
    mix = loaded("random", 61, words=50, seed=0)
    report = overlap(load_factoids("kvr", limit=97), mix)
    assert (report.answers, report.subjects, report.pairs) == ((), (), ())


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


def texts(items):
    return [(c.turns[0].prompt, c.turns[0].answer) for c in items]


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
    found, settings = written(model_that_knows(template), 4, template, earlier)
    assert sorted(texts(found)) == sorted(PAIRS)
    assert {c.source for c in found} == {"self-replay"}
    assert {c.identifier for c in found} == {f"self-item-{i}" for i in range(4)}
    assert json.loads(json.dumps(settings)) == settings


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
    found, settings = written(fresh_model(), 2, "tulu", conversations())
    prompts = [text for call in double.calls for text in call]
    assert sorted(prompts) == [f"<|user|>\n{p}\n<|assistant|>\n" for p, _ in PAIRS]
    assert [len(call) for call in double.calls] == [2, 1, 1]
    assert [answer for _, answer in texts(found)] == ["one", "four"]
    assert settings["rejected"] == {"endless_answers": 1, "empty_answers": 1}


def test_a_model_that_never_ends_is_refused_in_one_line(script):
    script(["x"] * 2, ["x"])
    with refused("2 self-generated items were asked for, but") as raised:
        written(fresh_model(), 2, "tulu", conversations()[:3])
    assert "of 3 prompts 0 are usable (3 endless answers, 0 empty ones): ask for fewer" in str(
        raised.value
    )


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
