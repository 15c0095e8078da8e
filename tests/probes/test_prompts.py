"""Prompts: where a prompt ends and its continuation begins, and what stands before a text."""

import copy
from copy import deepcopy

import pytest
import torch
from transformers import AutoTokenizer

import analysis
import probes
from analysis.lens_page import lens_findings
from analysis.lens_tables import items_table, lens_dict
from probes.causal import subject_positions
from probes.prompts import Prompts, lens_items, texts_of
from tests.border_tokenizers import KINDS, tiny_llama, tokenizer_of
from tests.models import tiny_model
from training.model_shapes import set_bos_habit

UNDERLINED = ("llama", "mistral", "always")
BYTES = ("gpt2", "gpt2 with a space", "olmo", "llama3", "begun and ended")
BEGUN = ("llama", "mistral", "llama3", "begun and ended", "python")
PAIRS = [
    ("The capital of France is", " Paris"),
    ("The capital of France is ", "Paris"),
    ("The capital of France is ", " Paris"),
    ("The is\n", "\n\nat"),
    ("The co", "at"),
    ("The is", " 北京"),
    ("The is", " 🙂, 7"),
    ("The", "\tParis"),
]


def pieces(kind, ids):
    return tokenizer_of(kind).convert_ids_to_tokens(list(ids))


def split(kind, *pair, **given):
    return Prompts(tokenizer_of(kind), **given).pairs([pair])[0]


def log_prob(model, prompt, target):
    """Of a whole target, from the logits of its row, in nats."""
    ids = torch.tensor([[*prompt, *target]])
    with torch.no_grad():
        logits = model.hf_model(ids).logits[0].double().log_softmax(-1)
    at = range(len(prompt) - 1, len(prompt) + len(target) - 1)
    return sum(float(logits[place, token]) for place, token in zip(at, target, strict=True))


@pytest.mark.parametrize("kind", UNDERLINED)
def test_a_word_after_a_prompt_has_its_space_once(kind):
    found = split(kind, "The capital of France is", " Paris")
    assert pieces(kind, found.parts[1]) == ["▁Paris"]
    assert not found.apart
    # By itself Llama 2 would put a second one before it.
    alone = pieces(kind, tokenizer_of(kind)(" Paris", add_special_tokens=False)["input_ids"])
    assert alone == (["▁", "▁Paris"] if kind == "llama" else ["▁Paris"])


@pytest.mark.parametrize("kind", [*UNDERLINED, "gpt2", "gpt2 with a space"])
def test_a_prompt_that_ends_with_a_space_keeps_it_and_gets_no_second_one(kind):
    found = split(kind, "The capital is ", "Paris")
    assert pieces(kind, found.parts[0])[-2:] in (["▁is", "▁"], ["Ġis", "Ġ"])
    assert pieces(kind, found.parts[1]) == ["Paris"]
    assert found.apart


def test_a_token_across_the_border_is_said():
    assert split("gpt2", "co", "at").apart
    assert not split("gpt2", "The", " at").apart
    items = lens_items(tiny_llama("gpt2"), ["co", "The"], ["at", " at"])
    assert [item.split_apart for item in items] == [True, False]


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "python"])
def test_nothing_is_added_or_lost_at_a_border(kind, pair):
    """The tokens spell the two texts as the tokenizer spells them together."""
    tokenizer = tokenizer_of(kind)
    before, after = split(kind, *pair, prepend_bos=False).parts
    together = tokenizer("".join(pair), add_special_tokens=False)["input_ids"]
    assert tokenizer.decode([*before, *after]) == tokenizer.decode(together)
    assert list(before) == tokenizer(pair[0], add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_begins_as_its_tokenizer_begins_a_text(kind):
    begun = [1] if kind in BEGUN else []
    text = Prompts(tokenizer_of(kind)).ids(["The is"])[0]
    plain = tokenizer_of(kind)("The is", add_special_tokens=False)["input_ids"]
    assert list(text) == [*begun, *plain]
    never = Prompts(tokenizer_of(kind), prepend_bos=False).ids(["The is"])[0]
    always = Prompts(tokenizer_of(kind), prepend_bos=True).ids(["The is"])[0]
    assert (list(never), list(always)) == (plain, [1, *plain])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prepend_bos", [None, True, False])
def test_a_written_bos_is_not_doubled_and_a_written_end_stays(kind, prepend_bos):
    ids = Prompts(tokenizer_of(kind), prepend_bos=prepend_bos).ids(["<s>The</s>"])[0]
    assert ids[0] == 1
    assert ids.count(1) == 1
    assert ids[-1] == 2
    assert ids.count(2) == 1


def test_a_bos_that_is_not_there_is_refused():
    bare = copy.deepcopy(tokenizer_of("gpt2"))
    bare.bos_token = None
    with pytest.raises(ValueError, match=r"prepend_bos is True, but the tokenizer of .* has no"):
        Prompts(bare, prepend_bos=True).ids(["The"])


@pytest.mark.parametrize("kind", ["llama", "mistral", "gpt2 with a space", "begun and ended"])
def test_scores_of_text_are_those_of_the_tokens_that_are_meant(kind):
    """Choices, targets and exact matches: one split, checked by plain transformers."""
    model = tiny_llama(kind, double=True)
    tokenizer = model.tokenizer
    ids = tokenizer("The capital of France is Paris", add_special_tokens=False)["input_ids"]
    prompt, target = ([1] if kind in BEGUN else []) + ids[:-1], ids[-1:]
    expected = log_prob(model, prompt, target)
    pair = ("The capital of France is", " Paris")
    choices = probes.choice_scores(model, [[pair, ("The capital of France is ", "Paris")]])
    # float64 throughout.
    assert float(choices.log_probs[0][0]) == pytest.approx(expected, abs=1e-12)
    assert choices.split_apart == 1
    assert float(probes.target_log_probs(model, [pair], "sum")) == pytest.approx(
        expected, abs=1e-12
    )
    assert float(probes.target_readings(model, [pair]).sums) == pytest.approx(expected, abs=1e-12)
    matches = probes.exact_matches(model, [pair, (prompt, target)])
    assert matches[0] == matches[1]


def test_official_choices_are_split_apart():
    model = tiny_llama("llama", double=True)
    pair = ("The capital of France is", " Paris")
    tokenizer = model.tokenizer
    before = tokenizer(pair[0])["input_ids"]
    after = tokenizer(pair[1], add_special_tokens=False)["input_ids"]
    found = probes.choice_scores(model, [[pair]], compat="official")
    expected = log_prob(model, before, after)
    assert len(after) == 2
    # float64 throughout.
    assert float(found.log_probs[0][0]) == pytest.approx(expected, abs=1e-12)
    assert found.split_apart == 1
    assert float(probes.choice_scores(model, [[pair]]).log_probs[0][0]) != pytest.approx(expected)


@pytest.mark.parametrize("kind", ["llama", "mistral", "gpt2", "python"])
@pytest.mark.parametrize("target", [" 北京", " 🙂", " 7", " Ж"])
def test_the_lens_looks_for_the_first_token_that_is_more_than_a_space(kind, target):
    model = tiny_llama(kind)
    found = analysis.lens(model, "The is", target, positions="all")
    item = found.items[0]
    assert pieces(kind, item.target_ids[:1]) in (["▁"], ["Ġ"], [" "])
    token = item.target_ids[1]
    ids = [*item.prompt_ids, item.target_ids[0]]
    with torch.no_grad():
        logits = model.hf_model(torch.tensor([ids])).logits[0, -1]
    assert int(found.rank[-1, 0]) == int((logits > logits[token]).sum())
    # float32, one row of another length.
    assert float(found.log_prob[-1, 0]) == pytest.approx(
        float(logits.log_softmax(-1)[token]), abs=1e-4
    )
    assert set(found.per_token.target.tolist()) == {token}
    assert found.per_token.position.tolist() == list(range(len(ids)))
    assert "token after it is looked for" in found.notes[0]
    ranks = probes.target_ranks(model, found.items)
    assert torch.equal(ranks, found.rank)


def test_the_token_looked_for_is_named():
    found = analysis.lens(tiny_llama("llama"), ["The is", "The is"], [" 北京", " Paris"])
    assert items_table(found)["token"].tolist() == ["<0xE5>", "Paris"]
    assert "token 2 of 7 (<0xE5>)" in lens_findings(found, k=5)[0]
    assert "token" not in lens_findings(found, k=5)[1]
    assert [item["first"] for item in lens_dict(found)["items"]] == [1, 0]


def test_the_causal_check_reads_where_the_lens_reads():
    model = tiny_llama("llama")
    item = lens_items(model, ["The capital is"], [" 北"], subjects=[(4, 11)])[0]
    assert (item.first, item.subject) == (1, (2, 3))
    result = probes.causal_recovery(model, [item], generator=torch.Generator().manual_seed(0))
    expected = log_prob(model, item.read_ids, (item.first_id,))
    # float32.
    assert float(result.clean[0]) == pytest.approx(expected, abs=1e-4)


def test_a_subject_is_found_without_offsets():
    """A Python tokenizer has none; a token a character and a BOS before them."""
    model = tiny_llama("python")
    assert not model.tokenizer.is_fast
    item = lens_items(model, ["The capital is"], [" at"], subjects=[(4, 11)])[0]
    assert item.subject == (5, 12)
    no_subject = lens_items(model, ["The capital is"], [" at"])[0]
    assert subject_positions(model, no_subject) == tuple(range(5, 12))


def test_one_prompt_is_one_prompt():
    model = tiny_model("llama")
    one = analysis.lens(model, "w1 w2", "w3")
    assert len(one.items) == 1
    assert torch.equal(one.rank, analysis.lens(model, ["w1 w2"], ["w3"]).rank)
    assert torch.equal(one.rank, analysis.lens(model, [4, 5], [6]).rank)
    assert torch.equal(one.rank, analysis.lens(model, (4, 5), [[6]]).rank)


def test_generation_takes_text():
    model = tiny_llama("llama")
    tokenizer = model.tokenizer
    ids = tokenizer("The capital")["input_ids"]
    given = {"max_new_tokens": 5}
    expected = probes.generate(model, [ids], **given)
    assert probes.generate(model, "The capital", **given) == expected
    assert probes.generate(model, ["The capital"], **given) == expected
    assert probes.generate(model, ids, **given) == expected
    without = probes.generate(model, [ids[1:]], **given)
    assert probes.generate(model, "The capital", prepend_bos=False, **given) == without
    assert len(probes.generate(model, "The capital", stop_ids=expected[0][0], **given)[0]) == 1


def test_the_model_itself_begins_a_text_as_the_lens_does():
    model = tiny_llama("llama3")
    item = lens_items(model, "The is", " at")[0]
    ids = torch.tensor([item.prompt_ids])
    assert torch.equal(model.to_tokens("The is"), ids)
    assert torch.equal(model("The is"), model(ids))
    assert torch.equal(model.run_with_cache("The is", "hook_embed")[0], model(ids))
    bare = model.run_with_cache("The is", "hook_embed", prepend_bos=False)[0]
    assert torch.equal(bare, model(ids[:, 1:]))
    assert torch.equal(model("The is", prepend_bos=False), bare)
    assert model.to_tokens("").tolist() == [[1]]


def test_texts_of_takes_rows_of_ids():
    assert texts_of("ab") == ["ab"]
    assert texts_of((3, 4)) == [(3, 4)]
    assert texts_of(torch.tensor([3, 4])) == [(3, 4)]
    assert texts_of([torch.tensor([3, 4]), "ab"]) == [[3, 4], "ab"]
    assert texts_of([]) == []
    with pytest.raises(
        ValueError, match=r"prompts must be texts or lists of token ids, found the number 1.5"
    ):
        texts_of([1.5])


def test_a_mapping_by_itself_is_one_batch_and_a_string_one_kind():
    model = tiny_model("llama")
    batch = {"input_ids": torch.tensor([[3, 4, 5, 6, 7], [8, 9, 10, 11, 12]])}
    many = probes.measure_entropy(model, [batch], kinds=("knowledge",))
    one = probes.measure_entropy(model, batch, kinds="knowledge", variants="relu_output")
    assert one.knowledge.total == many.knowledge.total
    assert one.attention is None
    assert list(one.variants) == ["relu_output"]
    assert one.knowledge.total == probes.measure_entropy(model, batch).knowledge.total
    whole = probes.measure_perplexity(model, [batch])
    assert probes.measure_perplexity(model, batch).mean_loss == whole.mean_loss
    name = "blocks.1.mlp.hook_post"
    means = [
        probes.stream(model, given, {name: probes.RunningMean()})[name]
        for given in (batch, [batch])
    ]
    assert torch.equal(*means)
    with pytest.raises(ValueError, match=r"kinds must be one of .*, found 'knowledgeable'"):
        probes.measure_entropy(model, batch, kinds="knowledgeable")


def test_entropy_of_a_tokenizer_with_a_bos_is_that_of_begun_rows():
    """What Gemma is: with plain transformers' own rows, BOS first, as the model was trained."""
    model = tiny_llama("llama3")
    texts = ["The capital of France is Paris", "The co", "of France", "is at Paris"]
    given = {"layout": "document", "batch_size": 1}
    found = probes.measure_entropy(
        model, probes.token_batches(texts, model.tokenizer, **given), kinds="next_token"
    )
    rows = [model.tokenizer(text, return_tensors="pt")["input_ids"] for text in texts]
    assert all(int(row[0, 0]) == 1 for row in rows)
    entropies = []
    for row in rows:
        with torch.no_grad():
            p = model.hf_model(row).logits[0].double().softmax(-1)
        entropies.append(float(-(p * p.log()).sum(-1).mean()))
    # float32 logits.
    assert found.next_token.mean == pytest.approx(sum(entropies) / len(entropies), abs=1e-5)
    assert found.provenance.configuration["prepend_bos"] is True
    bare = probes.measure_entropy(
        model,
        probes.token_batches(texts, model.tokenizer, prepend_bos=False, **given),
        kinds="next_token",
    )
    assert bare.next_token.mean != pytest.approx(found.next_token.mean, abs=1e-3)


@pytest.mark.parametrize("habit", [True, False])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "python"])
def test_a_tokenizer_takes_the_habit_of_a_bos_and_keeps_it(kind, habit, tmp_path):
    tokenizer = set_bos_habit(deepcopy(tokenizer_of(kind)), habit)
    plain = Prompts(tokenizer_of(kind)).plain(["The capital"])[0]
    begun = (1, *plain) if habit else plain
    tokenizer.save_pretrained(tmp_path)
    for one in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        assert Prompts(one).ids(["The capital"]) == [begun]
        assert one.decode(plain) == tokenizer_of(kind).decode(plain)
    assert set_bos_habit(tokenizer, None) is tokenizer
    assert set_bos_habit(None, habit) is None


def test_a_habit_that_a_tokenizer_cannot_take_is_refused():
    python = tokenizer_of("python")
    assert Prompts(set_bos_habit(python, True)).puts_bos
    with pytest.raises(ValueError, match=r"prepend_bos is False, and Characters cannot take"):
        set_bos_habit(python, False)
    without = deepcopy(tokenizer_of("gpt2"))
    without.bos_token = None
    with pytest.raises(ValueError, match="has no BOS token"):
        set_bos_habit(without, True)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_half_a_character_is_refused(kind):
    with pytest.raises(ValueError, match=r"text '.*ud800' holds half a character"):
        probes.choice_scores(tiny_llama(kind), [[("The", " \ud800"), ("The", " at")]])
