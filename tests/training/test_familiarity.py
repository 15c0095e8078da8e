"""The familiar part of a set, of a model whose every answer is known beforehand."""

import json
import random
from functools import cache
from itertools import pairwise

import pytest
import torch
import transformers as hf

import probes
from tests.models import tiny_hf_model
from tests.refusals import refused
from training.data.factoids import PLAIN, QUESTION_ANSWER, Factoid, FactoidSet, PromptTemplate
from training.model_shapes import train_byte_pairs
from training.recall import familiarity, few_shot_prompts, line_ends

D_VOCAB = 271


@cache
def byte_tokenizer():
    """Hardly more than bytes: the characters of the answers below are a token each."""
    return train_byte_pairs(["who is which number of them"] * 9, d_vocab=D_VOCAB)


def model_that_follows(chains):
    """A model in which a character is followed by the next of its chain, whatever came before.

    The residual stream is the token, one entry for each; the unembedding names the next one. What
    attention and MLP add is far too small to matter.
    """
    config = hf.LlamaConfig(
        vocab_size=D_VOCAB,
        hidden_size=D_VOCAB,
        intermediate_size=7,
        num_hidden_layers=2,
        num_attention_heads=1,
        head_dim=2,
        max_position_embeddings=499,
        initializer_range=1e-3,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hf_model = hf.LlamaForCausalLM(config).eval()
    hf_model.model.embed_tokens.weight.data = torch.eye(D_VOCAB)
    unembed = torch.zeros(D_VOCAB, D_VOCAB)
    for chain in chains:
        ids = [token for part in chain for token in byte_tokenizer().encode(part)]
        assert len(ids) == len(chain)
        for token, following in pairwise(ids):
            unembed[following, token] = 1.0
    hf_model.lm_head.weight.data = unembed
    return probes.load_model(hf_model, tokenizer=byte_tokenizer())


END = "<|endoftext|>"
CHAINS = [
    ["1", "A", "\n", "Z"],
    ["2", "B", END, "Z"],
    ["3", "C", "D", "E", "F", END],
    ["4", "\n"],
    ["5", "H", "\n"],
]
# Question, accepted answers, what the model writes of it in three tokens, whether that is right.
CASES = [
    ("who is number 1", ("A",), "A", True),
    ("who is number 2", ("Q", "the b."), "B", True),
    ("who is number 3", ("CDE",), "CDE", True),
    ("who is number 4", ("G",), "", False),
    ("who is number 5", ("I",), "H", False),
]


def factoid(identifier, question, answers):
    return Factoid(question, answers, identifier)


def factoid_set(cases=CASES):
    items = tuple(factoid(f"f{i}", case[0], case[1]) for i, case in enumerate(cases))
    return FactoidSet("numbers", "none", "made up", items, PLAIN)


def split(model=None, factoids=None, **options):
    options = {"shots": 2, "max_new_tokens": 3} | options
    return familiarity(model or model_that_follows(CHAINS), factoids or factoid_set(), **options)


def test_familiar_are_those_that_the_model_answers_right():
    found = split()
    assert found.answers == {f"f{i}": case[2] for i, case in enumerate(CASES)}
    assert [f.identifier for f in found.familiar] == ["f0", "f1", "f2"]
    assert [f.identifier for f in found.unfamiliar] == ["f3", "f4"]
    assert found.share == 3 / 5
    assert found.familiar.template == factoid_set().template
    assert json.loads(json.dumps(found.configuration)) == found.configuration
    assert (found.configuration["familiar"], found.configuration["unfamiliar"]) == (3, 2)


def test_the_limit_of_tokens_cuts_answers():
    found = split(max_new_tokens=2)
    assert found.answers["f2"] == "CD"
    assert [f.identifier for f in found.familiar] == ["f0", "f1"]


def test_an_answer_ends_at_a_line_break_inside_a_token(monkeypatch):
    def write(model, prompts, **options):
        ends = options["stop_ids"]
        assert {byte_tokenizer().encode(text)[0] for text in ("\n", END)} == set(ends)
        return [byte_tokenizer().encode(" K L \n M") for _ in prompts]

    monkeypatch.setattr("training.recall.generate", write)
    assert set(split().answers.values()) == {"K L"}


def test_line_ends_begin_with_the_line_break():
    tokenizer = train_byte_pairs(["a\n\n\nb\n\n\nc"] * 9, d_vocab=259)
    # The special token decodes to nothing, as it does in an answer.
    assert {tokenizer.decode([token]) for token in line_ends(tokenizer)} == {"\n", "\n\n", END}


def test_prompts_are_other_items_then_the_item_as_written_by_hand():
    factoids = factoid_set([("a b", ("1",)), ("c", ("2", "3")), ("d", ("3",)), ("e", ("4",))])
    order = list(factoids)
    random.Random(7).shuffle(order)
    asked = few_shot_prompts(factoids, shots=2, prompt=QUESTION_ANSWER, seed=7)
    for item, text in zip(factoids, asked, strict=True):
        # The second and the third accept the same answer, so neither is a shot of the other.
        taboo = {"f1", "f2"} if item.identifier in ("f1", "f2") else {item.identifier}
        shots = [f for f in order if f.identifier not in taboo][:2]
        told = [f"Question: {f.question}\nAnswer: {f.answers[0]}" for f in shots]
        assert text == "\n\n".join([*told, f"Question: {item.question}\nAnswer:"])


def test_without_shots_the_item_stands_alone():
    asked = few_shot_prompts(factoid_set(), shots=0, prompt=PLAIN, seed=0)
    assert asked == [case[0] for case in CASES]


def test_no_shot_asks_the_items_own_question_or_gives_its_answer():
    draw = random.Random(3)
    cases = [(f"q{draw.randrange(23)}?", (f"the a{draw.randrange(29)}",)) for _ in range(41)]
    for seed in range(3):
        asked = few_shot_prompts(factoid_set(cases), shots=5, prompt=PLAIN, seed=seed)
        for (question, (answer,)), text in zip(cases, asked, strict=True):
            assert text.endswith(f"\n\n{question}")
            shots = text.split("\n\n")[:-1]
            assert len(shots) == 5
            assert not any(shot.startswith(question) or shot.endswith(answer) for shot in shots)


def test_another_template_asks_another_way():
    # "Answer:" ends with a character that nothing is known to follow.
    found = split(prompt=QUESTION_ANSWER)
    assert not found.familiar
    assert found.configuration["prompt"]["prompt"].startswith("Question:")


def test_kept_answers_are_not_asked_for_again(tmp_path, monkeypatch):
    folder = tmp_path / "kept" / "answers"
    first = split(cache=folder)
    (path,) = folder.iterdir()  # nothing half-written beside it
    assert path.name.startswith("familiarity-")

    def refuse(*arguments, **options):
        raise AssertionError("asked again")

    monkeypatch.setattr("training.recall.generate", refuse)
    again = split(cache=folder)
    assert again.answers == first.answers
    assert again.configuration == first.configuration
    assert list(again.familiar) == list(first.familiar)


def changed_model():
    return model_that_follows([*CHAINS, ["6", "K", END]])


@pytest.mark.parametrize(
    "change",
    [
        {"shots": 1},
        {"seed": 1},
        {"max_new_tokens": 2},
        {"model": changed_model},
        {"factoids": lambda: factoid_set(CASES[:4])},
        {"factoids": lambda: factoid_set([*CASES[:4], ("who is number 5", ("J",))])},
        {"prompt": "? {question}"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_anything_that_decides_answers_asks_again(change, tmp_path):
    if "prompt" in change:
        change = {"prompt": PromptTemplate(change["prompt"])}
    change = {name: value() if callable(value) else value for name, value in change.items()}
    split(cache=tmp_path)
    split(cache=tmp_path, **change)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda held: "{",
        lambda held: json.dumps({**held, "answers": held["answers"][:-1]}),
        lambda held: json.dumps({**held, "settings": {}}),
        lambda held: json.dumps([]),
        lambda held: "",
    ],
    ids=["cut", "short", "other", "list", "empty"],
)
def test_a_damaged_file_is_named_in_one_line(damage, tmp_path):
    split(cache=tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_text(damage(json.loads(path.read_text())))
    with refused("does not hold answers to these items: delete") as raised:
        split(cache=tmp_path)
    assert path.name in str(raised.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shots": -1}, "shots is -1: give 0 or more"),
        ({"shots": 5}, "5 shots were asked for, but numbers has 4 other items beside 'f0'"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
    ],
)
def test_bad_options_are_one_line(options, message):
    with refused(message):
        split(**options)


def test_a_model_without_a_tokenizer_is_refused():
    with pytest.raises(ValueError, match="has no tokenizer to ask in words: load it with one"):
        split(probes.load_model(tiny_hf_model("llama")))


def test_a_real_model_knows_capitals_and_no_made_up_one(smollm2):
    known = [("France", "Paris"), ("Japan", "Tokyo"), ("Xanth", "Zyrgolin")]
    cases = [(f"The capital of {country} is", (city,)) for country, city in known]
    found = split(smollm2, factoid_set(cases), shots=1, max_new_tokens=3)
    assert [f.identifier for f in found.familiar] == ["f0", "f1"]
