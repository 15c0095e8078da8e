"""Files of a corpus: what is a document, what is named as left out, and what packed files hold."""

import csv
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pytest

from interventions.patch import PatchArguments
from interventions.patch_run import open_texts
from probes.choices import SampleBy
from probes.cli import TextSettings
from probes.corpus.batching import token_batches
from probes.corpus.files import kind_of
from probes.corpus.sources import Corpus, load_corpus
from tests.models import tiny_tokenizer

TEXTS = ["The first document.", 'Ein zweites: ä, "quoted".', "A third\nwith two lines."]
LINES = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)


def write(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    "name",
    [
        ".git/description.txt",
        "deep/.ipynb_checkpoints/a-checkpoint.txt",
        ".a.txt.swp",
        "a.txt~",
        "#a.txt#",
        "~$a.txt",
        "._a.txt",
        "__MACOSX/b.txt",
    ],
)
def test_hidden_files_and_what_editors_leave_are_no_documents(tmp_path, name, capsys):
    write(tmp_path, {"a.txt": TEXTS[0], name: "no document"})
    assert list(load_corpus(tmp_path).documents()) == TEXTS[:1]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "name",
    [
        "LICENSE.txt",
        "sub/LICENCE-MIT.txt",
        "README.txt",
        "readme_de.TXT",
        "requirements.txt",
        "requirements-dev.txt",
        "CMakeLists.txt",
        "dataset_info.json",
        "metadata.csv",
        "scan.pdf",
        "notes.md",
    ],
)
def test_what_is_left_out_is_named(tmp_path, name, capsys):
    write(tmp_path, {"a.txt": TEXTS[0], name: "text\nno document"})
    corpus = load_corpus(tmp_path)
    assert list(corpus.documents()) == TEXTS[:1]
    assert name in " ".join(corpus.left_out)
    said = capsys.readouterr().err
    assert name in said
    assert said.count("\n") == 1
    # Results carry the configuration of their batches.
    assert token_batches(corpus, tiny_tokenizer()).configuration["left_out"] == [*corpus.left_out]


def test_a_file_that_is_asked_for_by_name_is_read(tmp_path):
    write(tmp_path, {"LICENSE.txt": TEXTS[0], ".hidden/b.txt": TEXTS[1]})
    assert list(load_corpus(tmp_path / "LICENSE.txt").documents()) == TEXTS[:1]
    assert list(load_corpus(tmp_path / ".hidden").documents()) == TEXTS[1:2]
    assert list(load_corpus(str(tmp_path / ".hidden" / "*.txt")).documents()) == TEXTS[1:2]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"LICENSE.txt": "x", "b.pdf": "x"}, r"found \.pdf, LICENSE\.txt: give \.txt"),
        ({".git/a.txt": "x"}, "found hidden files: give"),
        ({"a.docx": "x", "b.epub": "x"}, r"found \.docx, \.epub: give"),
        ({"a.txt": "x", "a.txt.gz": "x"}, "would both be read and have one name"),
    ],
)
def test_a_folder_without_clear_documents_is_refused(tmp_path, files, message):
    write(tmp_path, files)
    with pytest.raises(ValueError, match=message):
        load_corpus(tmp_path)


def test_packed_files_and_tables_give_the_same_documents(tmp_path):
    """The hash is of documents, so it says that every kind gives the same ones in one order."""
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(LINES.encode()))
    # Two frames, as written by programs that append.
    half = LINES.index("\n") + 1
    parts = LINES.encode()[:half], LINES.encode()[half:]
    frames = [pa.compress(part, codec="zstd", asbytes=True) for part in parts]
    (tmp_path / "b.jsonl.zst").write_bytes(b"".join(frames))
    (tmp_path / "c.json").write_text(json.dumps([{"text": t, "n": 1} for t in TEXTS]))
    (tmp_path / "lines.json").write_text(LINES)
    with (tmp_path / "d.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["n", "text"], *([3, text] for text in TEXTS)])
    (tmp_path / "e.tsv.gz").write_bytes(
        gzip.compress(("text\n" + "".join(f"{json.dumps(TEXTS[0])}\n")).encode())
    )
    wanted = Corpus.from_texts(TEXTS).content_hash
    for name in ("a.jsonl.gz", "b.jsonl.zst", "c.json", "lines.json", "d.csv"):
        assert load_corpus(tmp_path / name).content_hash == wanted, name
    assert list(load_corpus(tmp_path / "e.tsv.gz").documents()) == TEXTS[:1]
    (tmp_path / "f.TXT.GZ").write_bytes(gzip.compress(TEXTS[2].encode()))
    assert list(load_corpus(tmp_path / "f.TXT.GZ").documents()) == TEXTS[2:]


def test_a_document_longer_than_the_usual_limit_of_a_csv_field(tmp_path):
    long = "word " * 40_000
    (tmp_path / "a.csv").write_text(f"text\n{long}\n")
    assert list(load_corpus(tmp_path / "a.csv").documents()) == [long]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)[:-9], r"a\.jsonl\.gz: cannot be"),
        ("a.txt.gz", b"not packed", r"a\.txt\.gz: cannot be read \(Not a gzipped file"),
        ("a.jsonl.zst", b"not packed", r"a\.jsonl\.zst: cannot be read"),
        ("a.csv", b'text\n"one\n', r"a\.csv, line 2: not valid CSV"),
        ("a.csv", b"body,n\none,1\n", r"a\.csv, line 2: no column 'text'; found 'body', 'n'"),
        ("a.json", b'[{"text": "one"}, {"text": 2}]', r"a\.json, item 2: 'text' holds int"),
        ("a.json", b"[1", r"a\.json: not valid JSON"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "a"}\n{', mtime=0), r"gz, line 2: not valid JSON"),
    ],
)
def test_unreadable_rows_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        list(load_corpus(tmp_path / name).documents())
    assert "\n" not in str(raised.value)


def test_a_zstandard_file_cut_short_gives_no_documents(tmp_path):
    packed = pa.compress(LINES.encode() * 997, codec="zstd", asbytes=True)
    (tmp_path / "a.jsonl.zst").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(ValueError, match=r"a\.jsonl\.zst"):
        list(load_corpus(tmp_path / "a.jsonl.zst").documents())


def test_patterns_and_lists_of_files_are_read_in_order(tmp_path):
    write(tmp_path, {"b/2.txt": TEXTS[1], "a/1.txt": TEXTS[0], "b/deep/3.txt": TEXTS[2]})
    paths = [tmp_path / "b" / "2.txt", tmp_path / "a"]
    assert list(load_corpus(str(tmp_path / "*" / "*.txt")).documents()) == TEXTS[:2]
    assert list(load_corpus(str(tmp_path / "**" / "*.txt")).documents()) == TEXTS
    assert list(load_corpus(paths).documents()) == [TEXTS[1], TEXTS[0]]
    with pytest.raises(ValueError, match=r"\*\.md: found nothing: give \.txt"):
        load_corpus(str(tmp_path / "*.md"))
    with pytest.raises(ValueError, match="would both be read"):
        load_corpus([tmp_path / "a", tmp_path / "a" / "1.txt"])
    with pytest.raises(ValueError, match="no such file or folder"):
        load_corpus([tmp_path / "a", tmp_path / "c.txt"])
    with pytest.raises(ValueError, match=r"2\.txt' among them, which is a file: give Path"):
        load_corpus(["a text", str(tmp_path / "b" / "2.txt")])


def test_a_text_file_by_lines_and_paragraphs(tmp_path):
    text = "one\r\n\r\ntwo\nthree\n\n \nfour\n"
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    path = tmp_path / "a.txt"
    assert list(load_corpus(path).documents()) == [text]
    lines = load_corpus(path, sample_by="line")
    assert list(lines.documents()) == ["one", "two", "three", "four"]
    paragraphs = load_corpus(path, sample_by="paragraph")
    assert [one.split() for one in paragraphs.documents()] == [["one"], ["two", "three"], ["four"]]
    with pytest.raises(ValueError, match="sample_by must be one of document, line, paragraph"):
        load_corpus(path, sample_by="word")
    (tmp_path / "b.jsonl").write_text(LINES)
    assert list(load_corpus(tmp_path / "b.jsonl", sample_by="line").documents()) == TEXTS


def test_a_text_that_is_one_document_says_how_it_becomes_many(tmp_path):
    """The option that the error names is there, in the library and on the command line."""
    (tmp_path / "a.txt").write_text("".join(f"w{n} w{n + 1}\n" for n in range(11)))
    with pytest.raises(ValueError, match=r"sample_by='line' \(--sample-by line\)"):
        open_texts(TextSettings(), str(tmp_path / "a.txt"), None)
    by_line = TextSettings(sample_by=SampleBy.LINE)
    parts = open_texts(by_line, str(tmp_path / "a.txt"), None)
    assert [len(list(part.documents())) for part in parts] == [9, 2]
    fields = PatchArguments.__dataclass_fields__
    assert fields["sample_by"].default == "document"


def test_kinds():
    for name, kind in (("a.parquet.gz", None), ("a.gz", None), ("A.NPY", ".npy"), ("txt", None)):
        assert kind_of(Path(name)) == kind
