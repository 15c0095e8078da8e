"""Rows of tokens: against a naive loop, and that no token is lost or doubled."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from probes.choices import RowLayout
from probes.corpus.batching import token_batches
from probes.corpus.sources import Corpus, load_corpus
from probes.corpus.token_batch import as_token_batch

EOS, PAD = 1, 0
LENGTHS = (3, 1, 17, 7, 2, 5, 11, 13, 1, 19)  # words a document, mostly primes
SEQUENCE_LENGTHS = (2, 5, 7, 13, 101)
BATCH_SIZES = (1, 3)


def word_tokenizer(**options):
    """One token a word; the word "nothing" gives none."""
    words = {"<pad>": PAD, "<eos>": EOS} | {f"w{n}": n + 2 for n in range(200)}
    backend = Tokenizer(models.WordLevel(words))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.normalizer = normalizers.Replace("nothing", "")
    return PreTrainedTokenizerFast(tokenizer_object=backend, **options)


def begun(habit):
    made = word_tokenizer(eos_token="<eos>", bos_token="w148", pad_token="<pad>")
    made.add_special_tokens({"bos_token": "w148"})
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=habit.replace("<bos>", "w148"), special_tokens=[("w148", FIRST), ("<eos>", EOS)]
    )
    return made


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer(eos_token="<eos>", pad_token="<pad>", model_max_length=4)


@pytest.fixture(scope="module")
def documents():
    """Token ids of each document; every word of the whole corpus occurs once."""
    starts = np.cumsum((2, *LENGTHS[:-1]))
    return [list(range(start, start + n)) for start, n in zip(starts, LENGTHS, strict=True)]


@pytest.fixture(scope="module")
def texts(documents):
    return [" ".join(f"w{token - 2}" for token in ids) for ids in documents]


def rows_of(batches):
    """Per row: the real tokens and their segments, as lists."""
    return [
        (ids[mask == 1].tolist(), segments[mask == 1].tolist())
        for batch in batches
        for ids, mask, segments in zip(*batch.values(), strict=True)
    ]


def naive_packed(documents, length, max_tokens=None):
    """The definition, token by token."""
    stream = [(t, i) for i, ids in enumerate(documents) for t in (*ids, EOS)][:max_tokens]
    rows = []
    for position, (token, segment) in enumerate(stream):
        if position % length == 0:
            rows.append(([], []))
        rows[-1][0].append(token)
        rows[-1][1].append(segment)
    return rows


@pytest.mark.parametrize("length", SEQUENCE_LENGTHS)
@pytest.mark.parametrize("batch_size", BATCH_SIZES)
def test_packed_rows_equal_the_naive_loop(tokenizer, texts, documents, length, batch_size):
    batches = token_batches(texts, tokenizer, sequence_length=length, batch_size=batch_size)
    found = list(batches)
    assert rows_of(found) == naive_packed(documents, length)
    assert {batch.input_ids.shape[1] for batch in found} == {length}
    assert [len(batch.input_ids) for batch in found[:-1]] == [batch_size] * (len(found) - 1)


@pytest.mark.parametrize("length", SEQUENCE_LENGTHS)
def test_document_rows_are_truncated_documents(tokenizer, texts, documents, length):
    batches = token_batches(
        texts, tokenizer, sequence_length=length, batch_size=3, layout="document"
    )
    found = list(batches)
    expected = [(ids[:length], [i] * len(ids[:length])) for i, ids in enumerate(documents)]
    assert rows_of(found) == expected
    widths = [batch.input_ids.shape[1] for batch in found]
    groups = [LENGTHS[i : i + 3] for i in range(0, len(LENGTHS), 3)]
    assert widths == [min(length, max(group)) for group in groups]
    assert batches.counts.tokens == sum(min(length, n) for n in LENGTHS)


@pytest.mark.parametrize("layout", list(RowLayout))
def test_left_and_right_padding_mirror_each_other(tokenizer, texts, layout):
    def batches(side):
        options = {"sequence_length": 13, "batch_size": 7, "layout": layout}
        return list(token_batches(texts, tokenizer, padding_side=side, **options))

    for left, right in zip(batches("left"), batches("right"), strict=True):
        for l_ids, l_mask, r_ids, r_mask in zip(
            left["input_ids"],
            left["attention_mask"],
            right["input_ids"],
            right["attention_mask"],
            strict=True,
        ):
            n = int(r_mask.sum())
            width = len(r_mask)
            assert r_mask.tolist() == [1] * n + [0] * (width - n)
            assert l_mask.tolist() == [0] * (width - n) + [1] * n
            assert l_ids[width - n :].tolist() == r_ids[:n].tolist()
            assert r_ids[n:].tolist() == [PAD] * (width - n)
        for batch in (left, right):
            assert torch.equal(batch.segment_ids < 0, batch.attention_mask == 0)


@pytest.mark.parametrize("max_tokens", [1, 5, 7, 14, 23, 10_000])
def test_max_tokens_ends_the_stream_exactly(tokenizer, texts, documents, max_tokens):
    batches = token_batches(
        texts, tokenizer, sequence_length=7, batch_size=3, max_tokens=max_tokens
    )
    expected = naive_packed(documents, 7, max_tokens)
    assert rows_of(batches) == expected
    assert batches.counts.tokens == min(max_tokens, sum(LENGTHS) + len(LENGTHS))


def test_max_tokens_cuts_the_last_document_row(tokenizer, texts, documents):
    rows = rows_of(token_batches(texts, tokenizer, layout="document", max_tokens=10))
    assert [tokens for tokens, _ in rows] == [documents[0], documents[1], documents[2][:6]]


def test_a_second_pass_is_the_first_again(tokenizer, texts):
    batches = token_batches(texts, tokenizer, sequence_length=5, batch_size=3)
    first, first_hash = rows_of(batches), batches.content_hash
    assert rows_of(batches) == first
    assert batches.content_hash == first_hash == batches.corpus.content_hash
    assert batches.counts.documents == len(LENGTHS)


def test_documents_without_tokens_are_skipped_and_counted(tokenizer):
    batches = token_batches(["w0", "nothing", "w1 w2"], tokenizer, sequence_length=5)
    assert rows_of(batches) == [([2, EOS, 3, 4, EOS], [0, 0, 1, 1, 1])]
    assert (batches.counts.documents, batches.counts.empty_documents) == (2, 1)
    with pytest.raises(ValueError, match="gave no token"):
        list(token_batches(["nothing"], tokenizer))


def test_long_documents_bring_no_warning(tokenizer, texts):
    assert tokenizer.model_max_length < max(LENGTHS)
    list(token_batches(texts, tokenizer, sequence_length=5))
    # Where transformers notes that it has warned about a sequence beyond the tokenizer's maximum.
    assert not tokenizer.deprecation_warnings


FIRST = 150


@pytest.mark.parametrize("prepend_bos", [None, True, False])
@pytest.mark.parametrize("habit", ["<bos> $A", "<bos> $A <eos>", "$A <eos>", "$A"])
def test_documents_begin_as_their_tokenizer_begins_a_text(texts, documents, habit, prepend_bos):
    """A tokenizer with a BOS, as Gemma's; no document gets two ends."""
    tokenizer = begun(habit)
    is_begun = habit.startswith("<bos>") if prepend_bos is None else prepend_bos
    whole = [[FIRST, *ids] if is_begun else ids for ids in documents]
    given = {"layout": "document", "prepend_bos": prepend_bos}
    batches = token_batches(texts, tokenizer, **given)
    assert [ids for ids, _ in rows_of(batches)] == whole
    assert batches.configuration["prepend_bos"] is is_begun
    cut = rows_of(token_batches(texts, tokenizer, sequence_length=5, **given))
    assert [ids for ids, _ in cut] == [ids[:5] for ids in whole]
    written = [f"w148 {text}" for text in texts]
    twice = rows_of(token_batches(written, tokenizer, **given))
    assert [ids for ids, _ in twice] == [[FIRST, *ids] for ids in documents]


def test_in_packed_rows_a_bos_stands_at_every_document_and_not_at_every_row(texts, documents):
    tokenizer = begun("<bos> $A")
    batches = token_batches(texts, tokenizer, sequence_length=7, batch_size=3)
    assert rows_of(batches) == naive_packed([[FIRST, *ids] for ids in documents], 7)
    bare = token_batches(texts, tokenizer, sequence_length=7, prepend_bos=False)
    assert rows_of(bare) == naive_packed(documents, 7)
    assert batches.content_hash == bare.content_hash == batches.corpus.content_hash


def test_a_bos_that_a_tokenizer_has_not_is_refused(tokenizer, texts):
    with pytest.raises(ValueError, match="has no BOS token; set"):
        token_batches(texts, tokenizer, prepend_bos=True)


def test_token_rows_are_used_as_they_are(tmp_path):
    rows = np.arange(5 * 11, dtype=np.uint16).reshape(5, 11)
    np.save(tmp_path / "rows.npy", rows)
    batches = token_batches(
        load_corpus(tmp_path / "rows.npy"), None, sequence_length=3, batch_size=2
    )
    found = rows_of(batches)
    assert [tokens for tokens, _ in found] == rows.tolist()
    assert [segments for _, segments in found] == [[i] * 11 for i in range(5)]
    assert batches.content_hash == batches.corpus.content_hash
    limited = token_batches(batches.corpus, None, max_tokens=23)
    assert len(rows_of(limited)) == 2


def test_token_rows_of_several_files_run_on(tmp_path):
    np.save(tmp_path / "a.npy", np.full((2, 3), 7))
    np.save(tmp_path / "b.npy", np.full((3, 3), 5))
    batches = token_batches(load_corpus(tmp_path, max_documents=4), None, batch_size=3)
    assert rows_of(batches) == [([v] * 3, [i] * 3) for i, v in enumerate((7, 7, 5, 5))]


def test_a_batch_is_a_mapping(tokenizer, texts):
    batch = next(iter(token_batches(texts, tokenizer, sequence_length=5)))
    assert list(batch.keys()) == ["input_ids", "attention_mask", "segment_ids"]
    assert dict(batch)["input_ids"] is batch.input_ids
    assert "position_ids" not in batch
    assert as_token_batch(batch) is batch


def test_any_mapping_becomes_a_batch(tokenizer):
    encoded = tokenizer(["w0 w1 w2", "w3"], padding=True, return_tensors="pt")
    batch = as_token_batch(encoded, document_offset=5)
    assert batch.input_ids.tolist() == [[2, 3, 4], [5, PAD, PAD]]
    assert batch.segment_ids.tolist() == [[5, 5, 5], [6, -1, -1]]
    bare = as_token_batch({"input_ids": np.array([[3, 4]], dtype=np.int32)})
    assert bare.attention_mask.tolist() == [[1, 1]]
    given = as_token_batch(
        {"input_ids": [[1, 2, 3]], "attention_mask": [[1, 1, 0]], "segment_ids": [[7, 8, 8]]}
    )
    assert given.segment_ids.tolist() == [[7, 8, -1]]


IDS = [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"ids": IDS}, "no 'input_ids', only 'ids'"),
        ({"input_ids": [1, 2]}, r"shape \[2\]: give integers \[batch pos\]"),
        ({"input_ids": [[0.5]]}, "torch.float32"),
        ({"input_ids": [[1, 2], [3]]}, "not a rectangle"),
        ({"input_ids": [[], []]}, r"shape \[2, 0\]: give integers"),
        ({"input_ids": IDS, "attention_mask": [[1, 1, 1]]}, r"shape \[1, 3\], input_ids \[2, 3\]"),
        ({"input_ids": IDS, "attention_mask": [[1, 1, 2]] * 2}, "values from 1 to 2"),
        ({"input_ids": IDS, "segment_ids": [[0, 0, -1]] * 2}, "negative on a token"),
    ],
)
def test_bad_mappings_are_refused(mapping, message):
    with pytest.raises(ValueError, match=message):
        as_token_batch(mapping)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sequence_length": 1}, "sequence_length is 1: give 2 or more"),
        ({"batch_size": 0}, "batch_size is 0: give 1 or more"),
        ({"max_tokens": 0}, "max_tokens is 0: give 1 or more"),
        ({"layout": "pack"}, "layout must be one of packed, document, found 'pack'"),
        ({"padding_side": "up"}, "padding_side must be one of left, right, found 'up'"),
    ],
)
def test_bad_options_are_refused(tokenizer, options, message):
    with pytest.raises(ValueError, match=message):
        token_batches(["w0"], tokenizer, **options)


def test_texts_need_a_tokenizer_and_packing_an_end_of_sequence():
    with pytest.raises(ValueError, match="there is no tokenizer"):
        token_batches(["w0"], None)
    endless = word_tokenizer()
    with pytest.raises(ValueError, match="end-of-sequence token and this tokenizer has none"):
        token_batches(["w0"], endless)
    assert rows_of(token_batches(["w0"], endless, layout="document")) == [([2], [0])]


def test_bad_token_rows_are_refused(tmp_path):
    np.save(tmp_path / "rows.npy", np.array([[3, 4], [5, -1]]))
    corpus = load_corpus(tmp_path / "rows.npy")
    with pytest.raises(ValueError, match="row 1: token id -1 is negative"):
        list(token_batches(corpus, None))
    with pytest.raises(ValueError, match="max_tokens is 1 but a row has 2 tokens"):
        token_batches(corpus, None, max_tokens=1)


def test_documents_are_read_as_they_are_asked_for(tokenizer):
    served = []

    def texts():
        for number in range(1000):
            served.append(number)
            yield f"w{number % 100}"

    corpus = Corpus("endless", open_texts=texts)
    next(iter(token_batches(corpus, tokenizer, sequence_length=2, batch_size=1)))
    assert len(served) < 200
