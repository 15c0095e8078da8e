"""Which documents are held out: every fifth, from texts and from rows of token ids alike."""

import numpy as np
import pytest

from probes import load_corpus
from probes.corpus.sources import Corpus, split_held_out


def texts(count):
    return [f"document {number}" for number in range(count)]


@pytest.mark.parametrize("count", [2, 3, 5, 7, 23])
@pytest.mark.parametrize("every", [2, 3, 5])
def test_each_document_is_in_one_part_and_in_order(count, every):
    rest, held_out = split_held_out(Corpus.from_texts(texts(count), name="plants"), every)
    expected = texts(count)[1::every]
    assert list(held_out.documents()) == expected
    assert list(rest.documents()) == [text for text in texts(count) if text not in expected]
    assert rest.name == f"plants ({every - 1} of {every} documents)"
    assert held_out.name == f"plants (1 of {every} documents)"
    assert held_out.counts.documents == len(expected)
    # Read again: the same, and neither part counts for the other.
    assert list(held_out.documents()) == expected
    assert rest.counts.documents == count - len(expected)


def test_the_limit_of_the_corpus_is_that_of_both_parts_together(tmp_path):
    lines = "\n".join(f'{{"text": "{text}"}}' for text in texts(40))
    (tmp_path / "plants.jsonl").write_text(lines)
    rest, held_out = split_held_out(load_corpus(tmp_path / "plants.jsonl", max_documents=11))
    assert len(list(rest.documents())) == 11 - 2
    assert list(held_out.documents()) == texts(11)[1::5]


def test_rows_of_token_ids_are_dealt_out_through_all_blocks_and_not_copied():
    rows = np.arange(13 * 3).reshape(13, 3)
    blocks = (rows[:4], rows[4:5], rows[5:])
    rest, held_out = split_held_out(Corpus("ids", token_rows=blocks))
    kept = {tuple(row) for block in rest.token_rows for row in block.tolist()}
    out = [tuple(row) for block in held_out.token_rows for row in block.tolist()]
    assert out == [tuple(row) for row in rows[1::5].tolist()]
    assert kept == {tuple(row) for row in rows.tolist()} - set(out)
    parts = (*rest.token_rows, *held_out.token_rows)
    assert sum(map(len, parts)) == 13
    assert all(np.shares_memory(part, rows) for part in parts)
    assert list(rest.open_texts or []) == []


@pytest.mark.parametrize("of_ids", [False, True])
def test_one_document_cannot_be_split(of_ids):
    one = (
        Corpus("plants", token_rows=(np.ones((1, 3), dtype=np.int64),))
        if of_ids
        else Corpus.from_texts(["alone"], name="plants")
    )
    with pytest.raises(ValueError, match="corpus plants has one document only, so none can"):
        split_held_out(one)


def test_a_share_of_everything_is_refused():
    with pytest.raises(ValueError, match="one of every 1 documents was to be held out; give 2"):
        split_held_out(Corpus.from_texts(texts(3)), every=1)
