"""Documents in memory: every kind of object gives the documents that it holds, and their hash."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch

from probes.corpus.batching import token_batches
from probes.corpus.sources import Corpus, load_corpus
from tests.models import tiny_tokenizer

TEXTS = ["w1 w2 w3", "w5 w8 w13 w21", "w34 w55"]
ROWS = [{"n": n, "body": text} for n, text in enumerate(TEXTS)]
IDS = [[2, 3, 5], [7, 11], [13, 17, 19, 23]]


def dataset(rows):
    import datasets

    return datasets.Dataset.from_list(rows)


MADE = {
    "tuple": lambda: (tuple(TEXTS), None),
    "generator": lambda: ((text for text in TEXTS), None),
    "numpy": lambda: (np.array(TEXTS), None),
    "mappings": lambda: (ROWS, "body"),
    "series": lambda: (pd.DataFrame(ROWS)["body"], None),
    "frame": lambda: (pd.DataFrame(ROWS, index=[7, 5, 3]), "body"),
    "dataset": lambda: (dataset(ROWS), "body"),
    "column": lambda: (dataset(ROWS)["body"], None),
    "stream": lambda: (dataset(ROWS).to_iterable_dataset(), "body"),
    "shuffled stream": lambda: (
        dataset(ROWS[::-1]).to_iterable_dataset().map(lambda row: {"t": row["body"]}).skip(0),
        "t",
    ),
}


@pytest.mark.parametrize("kind", MADE)
def test_every_kind_of_object_gives_its_documents(kind):
    source, column = MADE[kind]()
    texts = TEXTS[::-1] if kind == "shuffled stream" else TEXTS
    corpus = load_corpus(source, column=column)
    assert list(corpus.documents()) == texts
    assert corpus.content_hash == Corpus.from_texts(texts).content_hash
    assert list(corpus.documents()) == texts  # again from the start
    source, column = MADE[kind]()
    batches = token_batches(source, tiny_tokenizer(), column=column, sequence_length=5)
    wanted = token_batches(texts, tiny_tokenizer(), sequence_length=5)
    for batch, other in zip(batches, wanted, strict=True):
        assert batch.input_ids.tolist() == other.input_ids.tolist()


@pytest.mark.parametrize(
    "source",
    [
        [TEXTS[0], None, TEXTS[1]],
        [{"text": TEXTS[0]}, {"text": None}, {"text": TEXTS[1]}],
        pd.Series([TEXTS[0], np.nan, TEXTS[1]]),
        pd.DataFrame({"text": [TEXTS[0], None, TEXTS[1]]}),
    ],
)
def test_missing_texts_are_empty_documents(source):
    corpus = load_corpus(source)
    assert list(corpus.documents()) == TEXTS[:2]
    assert corpus.counts.empty == 1


@pytest.mark.parametrize(
    ("source", "column"),
    [
        (IDS, None),
        ([np.array(row, dtype=np.uint16) for row in IDS], None),
        ([torch.tensor(row) for row in IDS], None),
        ([{"input_ids": row, "attention_mask": [1] * len(row)} for row in IDS], "input_ids"),
        (dataset([{"input_ids": row, "attention_mask": [1]} for row in IDS]), "input_ids"),
        (pd.DataFrame({"ids": IDS}), "ids"),
    ],
)
def test_rows_of_token_ids_are_used_as_they_are(source, column):
    batches = token_batches(source, None, column=column, batch_size=3, sequence_length=2)
    (batch,) = batches
    found = [
        row[mask.bool()].tolist()
        for row, mask in zip(batch.input_ids, batch.attention_mask, strict=True)
    ]
    assert found == IDS
    assert batch.segment_ids.amax(dim=1).tolist() == [0, 1, 2]
    corpus = load_corpus(source, column=column)
    assert corpus.content_hash == batches.content_hash
    limited = load_corpus(source, column=column, max_documents=2)
    assert [row.tolist() for block in limited.token_rows for row in block] == IDS[:2]


def test_whole_rows_of_several_lengths_fit_within_max_tokens():
    (batch,) = token_batches(IDS, None, max_tokens=8)
    assert int(batch.attention_mask.sum()) == 3 + 2  # the third would make it nine
    with pytest.raises(ValueError, match="max_tokens is 2 but a row has 3 tokens"):
        token_batches(IDS, None, max_tokens=2)


def test_a_saved_data_set_and_its_splits_are_read(tmp_path):
    import datasets

    dataset(ROWS).save_to_disk(tmp_path / "one")
    assert list(load_corpus(tmp_path / "one", column="body").documents()) == TEXTS
    both = datasets.DatasetDict({"train": dataset(ROWS), "dev": dataset(ROWS[:1])})
    both.save_to_disk(tmp_path / "two")
    found = load_corpus(tmp_path / "two", column="body", split="dev")
    assert list(found.documents()) == TEXTS[:1]
    with pytest.raises(ValueError, match="found the splits train, dev"):
        load_corpus(tmp_path / "two", column="body", split="test")
    with pytest.raises(ValueError, match="DatasetDict with 'train', 'dev': give one of these"):
        load_corpus(both)


@pytest.mark.parametrize(
    ("source", "column", "message"),
    [
        ([], None, "is empty"),
        (["", " "], None, r"is empty \(documents without text: 2\)"),
        (["a", 3], None, "texts, item 2: found int, not text"),
        ([3, 5, 7], None, "item 1: found int, not text: give strings, mappings"),
        (["a", "\ud800"], None, "texts, item 2 holds half of a surrogate pair"),
        ([{"text": "a"}, {"body": "b"}], None, "texts, item 2: no column 'text'; found 'body'"),
        ([{"text": "a"}, "b"], None, "item 2: found str, not a mapping"),
        (["a"], "body", "column 'body' was asked for, but texts have no columns"),
        ({"text": ["a", "b"]}, None, "the corpus is one dict with 'text'"),
        ({"a", "b"}, None, "a set, which has no order"),
        (b"abc", None, "the corpus is bytes"),
        ([[1, 2], [3]], None, r"item 2: found int64 of shape \[1\]: give a list of 2 token ids"),
        ([[1, 2], [3.0, 4.0]], None, "item 2: found float64"),
        ([[1, 2], ["a"]], None, "item 2: found <U1"),
        ([{"ids": [1, 2], "attention_mask": [1, 0]}], "ids", r"item 1: has pads \(attention_mask"),
        (dataset([{"ids": [1, 2, 0], "attention_mask": [1, 1, 0]}]), "ids", "item 1: has pads"),
        (dataset(ROWS), None, "no column 'text'; found 'n', 'body'"),
        (pd.DataFrame(ROWS), None, "data frame: no column 'text'; found 'n', 'body'"),
    ],
)
def test_what_holds_no_documents_is_refused_in_one_line(source, column, message):
    with pytest.raises(ValueError, match=message) as raised:
        list(load_corpus(source, column=column).documents())
    assert "\n" not in str(raised.value)


def test_an_endless_stream_of_ids_is_read_no_further_than_asked():
    import datasets

    def rows():
        for n in itertools.count():
            yield {"ids": [n, n + 1]}

    endless = datasets.IterableDataset.from_generator(rows)
    corpus = load_corpus(endless, column="ids", max_documents=3)
    assert [row.tolist() for row in corpus.token_rows[0]] == [[0, 1], [1, 2], [2, 3]]


def test_a_name_is_no_text_and_columns_are_for_rows():
    with pytest.raises(ValueError, match="corpus is the text 'general'"):
        token_batches("general", tiny_tokenizer())
    with pytest.raises(ValueError, match="column 'body' is for documents in memory"):
        token_batches(Corpus.from_texts(TEXTS), tiny_tokenizer(), column="body")
