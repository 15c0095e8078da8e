"""Corpora: every source gives the same documents, and what cannot be read is named."""

import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from probes.corpus.sources import Corpus, load_corpus

TEXTS = ["The first document.", "Ein zweites, mit Umlaut: ä.", "A third\nwith two lines."]


def write_jsonl(path, texts, column="text"):
    lines = [json.dumps({"id": i, column: text}) for i, text in enumerate(texts)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_parquet(path, texts, column="text"):
    table = pa.table({"id": list(range(len(texts))), column: pa.array(texts, pa.string())})
    parquet.write_table(table, path, row_group_size=2)


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path):
    """Keep data sets off the network, and their cache out of the home."""
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf-cache")


def test_every_format_gives_the_same_documents_and_hash(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", TEXTS)
    write_parquet(tmp_path / "a.parquet", TEXTS)
    folder = tmp_path / "texts"
    (folder / "deeper").mkdir(parents=True)
    (folder / "1.txt").write_text(TEXTS[0], encoding="utf-8")
    (folder / "2.txt").write_text("\ufeff" + TEXTS[1], encoding="utf-8")
    (folder / "deeper" / "3.txt").write_text(TEXTS[2], encoding="utf-8")
    (folder / "notes.md").write_text("not a document")
    sources = (tmp_path / "a.jsonl", str(tmp_path / "a.parquet"), folder)
    corpora = [load_corpus(source) for source in sources]
    for corpus in corpora:
        assert list(corpus.documents()) == TEXTS
        assert list(corpus.documents()) == TEXTS  # again from the start
    assert {c.content_hash for c in corpora} == {Corpus.from_texts(TEXTS).content_hash}
    assert Corpus.from_texts(TEXTS[::-1]).content_hash != corpora[0].content_hash
    # The lengths are hashed too, so a moved boundary shows.
    assert (
        Corpus.from_texts(["ab", "c"]).content_hash != Corpus.from_texts(["a", "bc"]).content_hash
    )


def test_folder_mixes_text_formats_in_sorted_order(tmp_path):
    write_jsonl(tmp_path / "b.jsonl", TEXTS[1:])
    (tmp_path / "a.txt").write_text(TEXTS[0])
    assert list(load_corpus(tmp_path).documents()) == TEXTS


def test_named_column_and_max_documents(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", TEXTS, column="body")
    write_parquet(tmp_path / "a.parquet", TEXTS, column="body")
    for suffix in ("jsonl", "parquet"):
        corpus = load_corpus(tmp_path / f"a.{suffix}", column="body", max_documents=2)
        assert list(corpus.documents()) == TEXTS[:2]
        assert corpus.content_hash == Corpus.from_texts(TEXTS[:2]).content_hash


def test_empty_documents_are_skipped_and_counted(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"text": ""}\n\n{"text": "one"}\n{"text": " \\n"}\n{"text": null}\n{"text": "two"}'
    )
    corpus = load_corpus(path)
    assert list(corpus.documents()) == ["one", "two"]
    assert (corpus.counts.documents, corpus.counts.empty) == (2, 4)
    assert list(load_corpus(path, max_documents=1).documents()) == ["one"]


def test_lines_after_the_last_wanted_document_are_not_read(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\nnonsense\n')
    assert list(load_corpus(path, max_documents=1).documents()) == ["one"]


def test_a_folder_laid_out_as_a_data_set_is_streamed_by_split(tmp_path):
    (tmp_path / "README.md").write_text(
        "---\nlicense: mit\nconfigs:\n- config_name: default\n  data_files:\n"
        "  - split: train\n    path: train.jsonl\n  - split: test\n    path: test.jsonl\n---\n"
    )
    write_jsonl(tmp_path / "train.jsonl", TEXTS)
    write_jsonl(tmp_path / "test.jsonl", TEXTS[:1])
    assert list(load_corpus(tmp_path).documents()) == TEXTS
    held_out = load_corpus(tmp_path, split="test")
    assert list(held_out.documents()) == list(held_out.documents()) == TEXTS[:1]
    with pytest.raises(ValueError, match=r"cannot open data set .*split 'dev'"):
        load_corpus(tmp_path, split="dev")
    with pytest.raises(ValueError, match="no column 'body'; found 'id', 'text'"):
        load_corpus(tmp_path, column="body")


def test_unknown_hub_data_set_is_one_line():
    with pytest.raises(ValueError, match="cannot open data set 'nobody/nothing'") as raised:
        load_corpus("nobody/nothing")
    assert "\n" not in str(raised.value)


BAD_LINES = [
    (b'{"text": "fine"}\n{"text": \n', "line 2: not valid JSON"),
    (b'{"text": "fine"}\n{"text": "\xff"}\n', "line 2: not UTF-8"),
    (b'{"text": "fine"}\n["a list"]\n', "line 2: expected an object, found list"),
    (
        b'{"text": "fine"}\n\n{"body": "b", "id": 1}\n',
        "line 3: no column 'text'; found 'body', 'id'",
    ),
    (b'{"text": "fine"}\n{"text": 3}\n', "line 2: 'text' holds int"),
    (b'{"text": "fine"}\n{"text": "\\ud800"}\n', "line 2: 'text' holds half of a surrogate pair"),
]


@pytest.mark.parametrize(("content", "message"), BAD_LINES)
def test_unreadable_lines_name_file_and_line(tmp_path, content, message):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    corpus = load_corpus(path)
    with pytest.raises(ValueError, match=rf"bad\.jsonl, {message}"):
        list(corpus.documents())


def test_unreadable_files_are_named(tmp_path):
    (tmp_path / "bad.txt").write_bytes(b"one\ntwo\n\xff\n")
    with pytest.raises(ValueError, match=r"bad\.txt, line 3: not UTF-8"):
        load_corpus(tmp_path / "bad.txt")
    (tmp_path / "bad.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(ValueError, match=r"bad\.parquet: not a Parquet file"):
        load_corpus(tmp_path / "bad.parquet")
    write_parquet(tmp_path / "other.parquet", TEXTS, column="body")
    with pytest.raises(ValueError, match=r"other\.parquet: no column 'text'; found 'id', 'body'"):
        load_corpus(tmp_path / "other.parquet")
    with pytest.raises(ValueError, match=r"other\.parquet, row 1: 'id' holds int"):
        load_corpus(tmp_path / "other.parquet", column="id")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.arange(6), r"found int64 of shape \[6\]"),
        (np.ones((2, 3)), r"found float64 of shape \[2, 3\]"),
        (np.ones((2, 1), dtype=np.int32), r"rows have 1 token\(s\)"),
        (np.ones((0, 3), dtype=np.int32), "is empty"),
    ],
)
def test_bad_token_arrays_are_refused(tmp_path, array, message):
    np.save(tmp_path / "rows.npy", array)
    with pytest.raises(ValueError, match=message):
        load_corpus(tmp_path / "rows.npy")


def test_token_rows_are_mapped_and_hashed_by_value(tmp_path):
    rows = np.arange(3 * 5).reshape(3, 5)
    (tmp_path / "split").mkdir()
    np.save(tmp_path / "whole.npy", rows.astype(np.uint16))
    np.save(tmp_path / "split" / "a.npy", rows[:1].astype(np.int64))
    np.save(tmp_path / "split" / "b.npy", rows[1:].astype(np.int32))
    whole, split = load_corpus(tmp_path / "whole.npy"), load_corpus(tmp_path / "split")
    assert isinstance(whole.token_rows[0], np.memmap)
    assert np.concatenate(split.token_rows).tolist() == rows.tolist()
    assert whole.content_hash == split.content_hash
    with pytest.raises(ValueError, match="rows of token ids, not texts"):
        next(whole.documents())


def test_other_numpy_files_are_refused(tmp_path):
    (tmp_path / "junk.npy").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"junk\.npy: not a \.npy array"):
        load_corpus(tmp_path / "junk.npy")
    (tmp_path / "widths").mkdir()
    np.save(tmp_path / "widths" / "a.npy", np.ones((2, 3), dtype=int))
    np.save(tmp_path / "widths" / "b.npy", np.ones((2, 5), dtype=int))
    with pytest.raises(ValueError, match=r"b\.npy has rows of 5 tokens"):
        load_corpus(tmp_path / "widths")


def test_mixed_unknown_and_empty_sources_are_refused(tmp_path):
    (tmp_path / "notes.md").write_text("hello")
    with pytest.raises(ValueError, match=r"found \.md: give \.txt, \.jsonl, \.parquet, \.npy"):
        load_corpus(tmp_path)
    (tmp_path / "a.txt").write_text("hello")
    np.save(tmp_path / "b.npy", np.ones((2, 3), dtype=int))
    with pytest.raises(ValueError, match="mixes texts with rows of token ids"):
        load_corpus(tmp_path)
    (tmp_path / "empty.jsonl").write_text('{"text": " "}\n')
    with pytest.raises(ValueError, match=r"is empty \(documents without text: 1\)"):
        load_corpus(tmp_path / "empty.jsonl")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("generl", "did you mean general"),
        ("./nowhere.jsonl", r"accepted files are \.txt, \.jsonl, \.parquet, \.npy"),
        ("/nowhere/at/all", "not a file or folder"),
        ("corpora/missing.txt", "no corpus 'corpora/missing.txt'"),
    ],
)
def test_missing_sources_say_what_there_is(source, message):
    with pytest.raises(ValueError, match=message):
        load_corpus(source)


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_below_one_is_refused(tmp_path, limit):
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(ValueError, match=f"max_documents is {limit}"):
        load_corpus(tmp_path / "a.txt", max_documents=limit)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"revision": "main"}, "revision was asked for, but .* is not a Hugging Face data set"),
        ({"split": "test"}, "split was asked for"),
        ({"column": "body"}, r"column 'body' was asked for, but .* has \.txt files"),
    ],
)
def test_options_that_do_not_apply_are_refused(tmp_path, options, message):
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(ValueError, match=message):
        load_corpus(tmp_path / "a.txt", **options)
