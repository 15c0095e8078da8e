"""Packed rows: a corpus as rows of one length, and batches of them."""

import numpy as np
import pytest

import probes
from tests.models import tiny_tokenizer
from tests.refusals import refused
from training.data.packed_rows import corpus_source, packed_corpus

LENGTH = 5
END = 2


def texts(documents=13):
    """Documents of 1 to 13 words, all different."""
    words = iter(f"w{n}" for n in range(95))
    return [" ".join(next(words) for _ in range(length)) for length in range(1, documents + 1)]


def corpus(documents=13):
    return probes.Corpus.from_texts(texts(documents), name="words")


def packed(length=LENGTH, **options):
    return packed_corpus(corpus(), tiny_tokenizer(), length, **options)


def source(batch_size=3, **options):
    return corpus_source(corpus(), tiny_tokenizer(), LENGTH, batch_size, **options)


def stream():
    """All tokens with end tokens after documents, and the document of each, by hand."""
    ids, documents = [], []
    for index, text in enumerate(texts()):
        own = [int(word[1:]) + 3 for word in text.split()] + [END]
        ids += own
        documents += [index] * len(own)
    return ids, documents


def test_rows_are_the_stream_cut_up():
    ids, documents = stream()
    found = packed()
    rows = len(ids) // LENGTH
    assert found.ids.ravel().tolist() == ids[: rows * LENGTH]
    assert found.segments.ravel().tolist() == documents[: rows * LENGTH]
    assert found.ids.shape == (rows, LENGTH)
    assert found.configuration == {
        "corpus": "words",
        "licence": "not stated",
        "content_hash": corpus().content_hash,
        "documents": 13,
        "dropped_tokens": len(ids) % LENGTH,
    }


def test_fewer_rows_are_the_first_ones():
    few = packed(max_rows=4)
    assert few.ids.tolist() == packed().ids[:4].tolist()
    assert few.configuration["dropped_tokens"] == 0
    assert packed(max_rows=1000).ids.tolist() == packed().ids.tolist()


def test_rows_do_not_depend_on_how_many_are_read_at_a_time(monkeypatch):
    whole = packed()
    monkeypatch.setattr("training.data.packed_rows.READ_ROWS", 2)
    again = packed()
    assert again.ids.tolist() == whole.ids.tolist()
    assert again.segments.tolist() == whole.segments.tolist()


def test_batches_go_through_the_rows():
    plain = source()
    assert plain.steps_available == 20 // 3
    for step in range(6):
        batch = plain.batch(step)
        assert batch.input_ids.tolist() == packed().ids[3 * step : 3 * step + 3].tolist()
        assert batch.labels.tolist() == batch.input_ids.tolist()
        assert batch.segment_ids is None
    shuffled = source(shuffle_seed=1, epochs=2)
    assert shuffled.steps_available == 12
    rows = {tuple(row) for step in range(6) for row in shuffled.batch(step).input_ids.tolist()}
    assert rows < {tuple(row) for row in packed().ids.tolist()}
    assert len(rows) == 18


def test_masked_documents_are_numbered_and_their_first_tokens_not_trained_on():
    masked = source(document_mask=True, shuffle_seed=1)
    for step in range(6):
        batch, which = masked.batch(step), masked.rows_at(step)
        assert batch.segment_ids.tolist() == packed().segments[which].tolist()
        for row, segments in enumerate(batch.segment_ids.tolist()):
            for place in range(LENGTH):
                begins = place > 0 and segments[place] != segments[place - 1]
                expected = -100 if begins else int(batch.input_ids[row, place])
                assert int(batch.labels[row, place]) == expected
    assert source(shuffle_seed=1).batch(0).trained_tokens > masked.batch(0).trained_tokens


def test_the_description_decides_the_batches():
    described = source().describe()
    assert described["corpus"] == "words"
    assert described["content_hash"] == corpus().content_hash
    assert (described["rows"], described["row_length"]) == (20, LENGTH)
    assert (described["dropped_tokens"], described["documents"]) == (4, 13)
    for other in (source(2), source(shuffle_seed=0), source(document_mask=True), source(epochs=2)):
        assert other.describe() != described


def test_rows_of_token_ids_are_taken_as_they_are(tmp_path):
    rows = np.arange(3, 3 + 7 * LENGTH).reshape(7, LENGTH)
    np.save(tmp_path / "rows.npy", rows)
    given = probes.load_corpus(tmp_path / "rows.npy")
    found = corpus_source(given, None, LENGTH, 2)
    assert found.batch(1).input_ids.tolist() == rows[2:4].tolist()
    assert packed_corpus(given, None, LENGTH, max_rows=3).ids.tolist() == rows[:3].tolist()
    with pytest.raises(
        ValueError, match="has rows of 5 tokens, but 4 were asked for: give a row_le"
    ):
        packed_corpus(given, None, 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: packed(62, positions=61), "rows of 62 tokens are longer than the 61 positions"),
        (lambda: packed(105), "has 104 tokens, which do not fill one row of 105: give more text"),
        (lambda: packed(max_rows=0), "max_rows is 0: give 1 or more"),
        (lambda: packed(1), "sequence_length is 1: give 2 or more"),
        (lambda: source(21), "20 rows do not fill one batch of 21"),
        (lambda: source(3, epochs=0), "must be 1 or more, found 3 and 0"),
    ],
)
def test_what_gives_no_rows(make, message):
    with refused(message):
        make()


def test_an_empty_corpus_is_refused():
    with pytest.raises(ValueError, match="corpus nothing is empty"):
        probes.Corpus.from_texts(["", " "], name="nothing")
