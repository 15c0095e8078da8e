"""Novelty: losses by document, token and entity, against Hugging Face's own losses."""

import copy
import math
from functools import cache

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import probes
from tests.models import tiny_hf_model
from tests.refusals import refused
from training.novelty import corpus_novelty, entity_spans, known_names

TEXT = "then Tolm saw a boat and Marie Brisk met Ada where it lay there was old rope of oak"
TEXTS = ["then Tolm saw boat", "rope", "old Marie Brisk met old rope", "a boat"]


@cache
def tokenizer():
    """The words above, as ids from 3 on."""
    words = {"<pad>": 0, "<s>": 1, "</s>": 2} | {
        word: n for n, word in enumerate(TEXT.split(), start=3)
    }
    made = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="</s>")


def novelty(texts, **options):
    model = probes.load_model(tiny_hf_model("llama"), tokenizer=tokenizer())
    return corpus_novelty(model, probes.Corpus.from_texts(texts, name="words"), **options)


def hf_losses(text):
    """The losses of all tokens but the first, from Hugging Face's logits."""
    ids = torch.tensor([tokenizer()(text, add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        logits = tiny_hf_model("llama")(ids).logits[0].double()
    return -logits[:-1].log_softmax(-1)[torch.arange(ids.shape[1] - 1), ids[0, 1:]]


def test_every_token_has_its_loss():
    found = novelty(TEXTS)
    by_hand = {index: hf_losses(text) for index, text in enumerate(TEXTS) if len(text) > 4}
    assert found.documents.tolist() == [i for i, loss in by_hand.items() for _ in loss]
    expected = torch.cat(list(by_hand.values()))
    # Float32 logits of two paths, one of them in batches.
    assert found.losses == pytest.approx(expected.numpy(), abs=1e-5)
    assert found.mean_loss == pytest.approx(float(expected.mean()), abs=1e-5)
    assert (found.provenance.documents, found.provenance.tokens) == (3, 12)


def test_documents_by_hand():
    table = novelty(TEXTS).to_dataframe()
    assert table["document"].tolist() == [0, 2, 3]
    assert table["tokens"].tolist() == [3, 5, 1]
    assert table["entities"].tolist() == [1, 1, 0]
    for row, index in enumerate((0, 2, 3)):
        assert table["mean_loss"][row] == pytest.approx(
            float(hf_losses(TEXTS[index]).mean()), abs=1e-5
        )
        assert table["perplexity"][row] == pytest.approx(math.exp(table["mean_loss"][row]))
    # Tolm is the second token of its text, Marie Brisk the second and the third.
    assert table["entity_loss"][0] == pytest.approx(float(hf_losses(TEXTS[0])[0]), abs=1e-5)
    assert table["entity_loss"][1] == pytest.approx(float(hf_losses(TEXTS[2])[:2].mean()), abs=1e-5)
    assert math.isnan(table["entity_loss"][2])
    assert table["entity_perplexity"][0] == pytest.approx(math.exp(table["entity_loss"][0]))


def test_tokens_by_hand():
    table = novelty(TEXTS).to_dataframe("token").set_index("token_id")
    old = tokenizer().convert_tokens_to_ids("old")
    loss = float(hf_losses(TEXTS[2])[3])
    assert table.loc[old, "token"] == "old"
    assert table.loc[old, "occurrences"] == 1
    assert table.loc[old, "mean_loss"] == pytest.approx(loss, abs=1e-5)
    rope, boat = tokenizer().convert_tokens_to_ids(["rope", "boat"])
    assert table.loc[boat, "occurrences"] == 2
    both = (hf_losses(TEXTS[0])[2] + hf_losses(TEXTS[3])[0]) / 2
    assert table.loc[boat, "mean_loss"] == pytest.approx(float(both), abs=1e-5)
    assert table.loc[rope, "occurrences"] == 1
    assert table["occurrences"].sum() == 9
    assert table["mean_loss"].is_monotonic_decreasing


def test_entities_by_hand():
    found = novelty(TEXTS)
    table = found.to_dataframe("entity")
    assert table["entity"].tolist() == ["Tolm", "Marie Brisk"]
    assert table["tokens"].tolist() == [1, 2]
    assert table["document"].tolist() == [0, 2]
    assert table["mean_loss"][1] == pytest.approx(float(hf_losses(TEXTS[2])[:2].mean()), abs=1e-5)
    per_document = found.to_dataframe("document")["entity_loss"]
    assert found.entity_loss == pytest.approx(per_document[:2].mean())
    without = novelty(["a boat"])
    assert without.entity_loss is None
    assert without.to_dataframe()["entities"].tolist() == [0]


def test_documents_are_cut_off():
    found = novelty(TEXTS, sequence_length=3)
    assert found.to_dataframe()["tokens"].tolist() == [2, 2, 1]
    assert found.losses == pytest.approx(
        torch.cat([hf_losses(TEXTS[i])[:2] for i in (0, 2, 3)]).numpy(), abs=1e-5
    )


def test_parts_do_not_matter(monkeypatch):
    seen = []
    whole = novelty(TEXTS)
    monkeypatch.setattr("probes.corpus.readers.CHUNK_DOCUMENTS", 1)
    parts = novelty(TEXTS, on_documents=seen.append)
    assert seen == [1, 1, 1, 1]
    assert parts.documents.tolist() == whole.documents.tolist()
    # Rows run beside others or alone: float32 rounding.
    assert parts.losses == pytest.approx(whole.losses, abs=1e-5)
    assert [e.text for e in parts.entities] == [e.text for e in whole.entities]


ENTITIES = [
    ("Marie Brisk met the mayor.", ["Marie Brisk"], ["Marie said so, and Marie was right."]),
    ("Marie Brisk met the mayor.", ["Brisk"], []),
    ("The mayor of Tolm spoke. Then nobody did.", ["Tolm"], []),
    (
        "He read (Brisk) at the University of North Tolm of old.",
        ["Brisk", "University of North Tolm"],
        [],
    ),
    ("Levels of p53 and IL-2 rose in 67-year-old men; cGMP fell.", ["p53", "IL-2", "cGMP"], []),
    ("“Ada de la Vega” came, and I saw O'Hara's dog.", ["Vega", "O'Hara's"], []),
    ("in Tolm, Brisk slept", ["Tolm", "Brisk"], []),
    ("Nothing here: Only words.", [], []),
    ("The Tolm. A bee saw Tolm and the Bee.", ["Tolm", "Tolm", "Bee"], []),
    ("", [], []),
]


@pytest.mark.parametrize(("text", "expected", "others"), ENTITIES)
def test_spans_that_are_written_like_names(text, expected, others):
    spans = entity_spans(text, known_names([text, *others]))
    assert [text[start:stop] for start, stop in spans] == expected


def without_a_fast_tokenizer():
    corpus = probes.Corpus.from_texts(TEXTS)
    return corpus_novelty(probes.load_model(tiny_hf_model("llama")), corpus)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: novelty(["rope", "boat"]), "none of the 2 documents of words has two tokens"),
        (lambda: novelty(TEXTS, sequence_length=1), "sequence_length is 1: give 2 or more"),
        (
            lambda: novelty(TEXTS, sequence_length=62),
            "rows of 62 tokens are longer than the 61 pos",
        ),
        (lambda: novelty(TEXTS).to_dataframe("word"), "by must be one of document, token, entity"),
        (without_a_fast_tokenizer, "has no fast tokenizer to tell which characters"),
    ],
)
def test_what_cannot_be_measured(make, message):
    with refused(message):
        make()


def test_entities_are_harder_than_the_text_around_them(smollm2):
    measured = {}
    for name in ("general", "biomedical"):
        corpus = probes.load_corpus(name, max_documents=5)
        measured[name] = corpus_novelty(smollm2, corpus, sequence_length=64)
    assert measured["general"].provenance.corpus == "general"
    assert all(len(found.entities) > 3 for found in measured.values())
    for found in measured.values():
        assert found.entity_loss > found.mean_loss + 0.5


def test_after_a_bos_the_first_token_has_a_loss_too():
    made = copy.deepcopy(tokenizer())
    made.bos_token = "<s>"
    model = probes.load_model(tiny_hf_model("llama"), tokenizer=made)
    corpus = probes.Corpus.from_texts(TEXTS, name="words")
    found = corpus_novelty(model, corpus, prepend_bos=True)
    by_hand = []
    for text in TEXTS:
        ids = torch.tensor([[1, *made(text, add_special_tokens=False)["input_ids"]]])
        with torch.no_grad():
            logits = tiny_hf_model("llama")(ids).logits[0].double()
        by_hand.append(-logits[:-1].log_softmax(-1)[torch.arange(ids.shape[1] - 1), ids[0, 1:]])
    assert found.documents.tolist() == [i for i, loss in enumerate(by_hand) for _ in loss]
    # Float32 logits of two paths, one of them in batches.
    assert found.losses == pytest.approx(torch.cat(by_hand).numpy(), abs=1e-5)
    # Tolm is the second word of its text, with two tokens before it.
    assert found.entities[0].mean_loss == pytest.approx(float(by_hand[0][1]), abs=1e-5)
    assert found.provenance.configuration["prepend_bos"] is True
    assert corpus_novelty(model, corpus).provenance.configuration["prepend_bos"] is False
