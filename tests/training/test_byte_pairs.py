"""A tokenizer of one's own, against merges counted by hand."""

import json
from collections import Counter
from itertools import pairwise

import pytest
from transformers import AutoTokenizer

from training.model_shapes import END, MINIMUM_VOCABULARY, PADDING, train_byte_pairs

TEXTS = ["low lower lowest low low", "new newer newest", "wide wider widest naïve 東京 🜁"]


def merges_by_hand(texts, count):
    """The most frequent pairs, one after the other, over words as GPT-2 splits these texts."""
    words = Counter()
    for text in texts:
        for place, word in enumerate(text.split(" ")):
            words[tuple(("Ġ" if place else "") + word)] += 1
    found = []
    for _ in range(count):
        pairs = Counter()
        for word, times in words.items():
            for pair in pairwise(word):
                pairs[pair] += times
        most = max(pairs.values())
        found.append({pair for pair, times in pairs.items() if times == most})
        best = yield found[-1]
        words = Counter({_merged(word, best): times for word, times in words.items()})


def _merged(word, pair):
    out, place = [], 0
    while place < len(word):
        joined = word[place : place + 2] == pair
        out.append("".join(pair) if joined else word[place])
        place += 2 if joined else 1
    return tuple(out)


def test_merges_are_the_most_frequent_pairs_each_time():
    texts = TEXTS[:2]
    tokenizer = train_byte_pairs(texts, MINIMUM_VOCABULARY + 7)
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    assert len(merges) == 7
    most_frequent = merges_by_hand(texts, 7)
    allowed = next(most_frequent)
    for place, merge in enumerate(merges):
        # Of pairs that are equally frequent either may come first.
        assert tuple(merge) in allowed
        if place < 6:
            allowed = most_frequent.send(tuple(merge))


@pytest.mark.parametrize(
    "text", [*TEXTS, "  two  spaces\n\ttabs ", "", "never seen: ßøñ \U0001d518"]
)
def test_any_text_comes_back_as_it_was(text):
    tokenizer = train_byte_pairs(TEXTS, 271)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_special_tokens_are_the_first_two_and_encoding_adds_none():
    tokenizer = train_byte_pairs(TEXTS, 271)
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == (END, 0)
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == (PADDING, 1)
    assert tokenizer.bos_token_id is None
    assert not {0, 1} & set(tokenizer("low lower")["input_ids"])
    assert len(tokenizer) == 271


def test_the_same_texts_give_the_same_tokenizer_and_others_another():
    def learnt(texts):
        return train_byte_pairs(iter(texts), 271).backend_tokenizer.to_str()

    assert learnt(TEXTS) == learnt(TEXTS)
    assert learnt(TEXTS) != learnt([*TEXTS, "quick quick quick quick quick quick"])


def test_it_is_saved_and_loaded_as_transformers_does(tmp_path):
    tokenizer = train_byte_pairs(TEXTS, 271)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded(TEXTS)["input_ids"] == tokenizer(TEXTS)["input_ids"]
    assert loaded.eos_token_id == 0


def test_vocabularies_that_cannot_be():
    with pytest.raises(ValueError, match="a vocabulary of 257 cannot hold all bytes; give 258"):
        train_byte_pairs(TEXTS, 257)
    with pytest.raises(ValueError, match=r"fewer than the 4096 asked for; ask for \d+ at most"):
        train_byte_pairs(TEXTS, 4096)
