"""Factoid sets of the hub: read from a local cache laid out as a download leaves it."""

import json

import pytest

from tests.refusals import refused
from tests.training.hub_caches import BRANCH_COMMIT, cached, parquet
from training.data.factoids import HUB_FACTOIDS, load_factoids, prompt_and_target


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache; `put` fills in files of a set at its pinned revision."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    def put(name, files, revision=None):
        address = HUB_FACTOIDS[name].files
        return cached(tmp_path, address.dataset, revision or address.revision, files)

    return put


def tsv(rows):
    """Tab-separated fields, quoted as published: a quote inside is doubled."""
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    quoted = [['"' + str(field).replace('"', '""') + '"' for field in line] for line in lines]
    return "\n".join("\t".join(line) for line in quoted).encode()


def popqa_row(number, **changes):
    fields = {
        "id": 4222000 + number,
        "subj": f"Person {number}",
        "prop": "occupation",
        "obj": "politician",
        "possible_answers": json.dumps(["politician", "political leader", 'so-called "pol"']),
        "question": f"What is Person {number}'s occupation?",
    }
    return fields | changes


def test_popqa_keeps_aliases_subject_and_relation(hub):
    hub("popqa", {"test.tsv": tsv([popqa_row(0), popqa_row(1, obj="pol"), popqa_row(0, id=7)])})
    first, second = load_factoids("popqa", seed=None)
    assert first.question == "What is Person 0's occupation?"
    assert first.answers == ("politician", "political leader", 'so-called "pol"')
    assert second.answers == ("pol", "politician", "political leader", 'so-called "pol"')
    assert (first.subject, first.relation) == ("Person 0", "occupation")
    assert (first.identifier, second.identifier) == ("popqa-4222000", "popqa-4222001")


def lama_row(template, subject, answer, relation="P19"):
    return {
        "template": template,
        "sub_label": subject,
        "obj_label": answer,
        "predicate_id": relation,
        "masked_sentence": f"{subject} ... [MASK].",
    }


def test_lama_is_asked_where_the_object_comes_last(hub):
    first = [
        lama_row("[X] was born in [Y] .", "Allan Peiper", "Alexandra"),
        lama_row("[X] was born in [Y] .", "Allan Peiper", "Alexandra"),  # another sentence for it
        lama_row("[X] plays [Y] music .", "Ann", "jazz", "P136"),
        lama_row("[Y] is the capital of [X] .", "France", "Paris", "P36"),
        lama_row("The capital is [Y] .", "France", "Paris", "P36"),
        lama_row("[X] has a capital .", "France", "Paris", "P36"),
    ]
    second = [
        lama_row("[X] is located in [Y] .", "Paris", "France", "P17"),
        lama_row("[X] is located in [Y] .", "Paris", "Europe", "P30"),
        lama_row("The capital of [X] is [Y] .", "France", "Paris", "P36"),
    ]
    folder = "trex/train/"
    hub("lama", {f"{folder}0001.parquet": parquet(second), f"{folder}0000.parquet": parquet(first)})
    factoids = load_factoids("lama", seed=None)
    assert [(f.question, f.answers) for f in factoids] == [
        ("Allan Peiper was born in", ("Alexandra",)),
        ("Paris is located in", ("France", "Europe")),
        ("The capital of France is", ("Paris",)),
    ]
    assert factoids[1].identifier == "lama-P17-Paris"
    asked = prompt_and_target(factoids[2], factoids.template)
    assert asked == ("The capital of France is", " Paris")
    assert factoids.source == f"data set facebook/lama, commit {BRANCH_COMMIT}"
    assert factoids.licence == "CC-BY-NC-4.0"


def question_rows(start, stop, column="answers"):
    return [
        {"question": f"who wrote book {n}?", column: [f"Author {n} ", "", f"A. {n}"]}
        for n in range(start, stop)
    ]


@pytest.mark.parametrize(
    ("name", "column", "files"),
    [
        ("entityquestions", "answers", ("default/test/0000.parquet", "default/test/0001.parquet")),
        (
            "webquestions",
            "answers",
            ("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"),
        ),
        (
            "nq-open-train",
            "answer",
            ("nq_open/train-00000-of-00002.parquet", "nq_open/train-00001-of-00002.parquet"),
        ),
    ],
)
def test_questions_with_lists_of_answers(hub, name, column, files):
    parts = question_rows(0, 5, column), question_rows(3, 13, column)
    hub(name, {file: parquet(rows) for file, rows in zip(files, parts, strict=True)})
    factoids = load_factoids(name, seed=None)
    assert [f.question for f in factoids] == [f"who wrote book {n}?" for n in range(13)]
    assert factoids[11].answers == ("Author 11", "A. 11")
    # Row 5 + (11 - 3) of both files together: repeated questions are left out, not renumbered.
    assert factoids[11].identifier == f"{name}-13"
    assert factoids.licence == HUB_FACTOIDS[name].files.licence
    second = load_factoids(name, limit=5, offset=5)
    assert not {f.identifier for f in second} & {f.identifier for f in load_factoids(name, limit=5)}


def test_triviaqa_has_several_rows_to_a_question(hub):
    def row(number, identifier, aliases):
        return {
            "question": f" Who came {number}th? ",
            "question_id": identifier,
            "answer": {"value": f"Runner {number}", "aliases": aliases, "type": "WikipediaEntity"},
        }

    rows = [
        row(1, "tc_1", ["R1", " "]),
        row(1, "tc_1", ["other"]),
        row(2, "tc_1", []),
        row(3, "q", []),
    ]
    hub("triviaqa-train", {"rc.nocontext/train-00000-of-00001.parquet": parquet(rows)})
    factoids = load_factoids("triviaqa-train", seed=None)
    assert [(f.question, f.answers, f.identifier) for f in factoids] == [
        ("Who came 1th?", ("Runner 1", "R1"), "tc_1"),
        ("Who came 3th?", ("Runner 3",), "q"),
    ]


def test_another_revision_can_be_asked_for(hub):
    hub("popqa", {"test.tsv": tsv([popqa_row(0)])})
    hub("popqa", {"test.tsv": tsv([popqa_row(1), popqa_row(2)])}, revision="main")
    assert len(load_factoids("popqa")) == 1
    assert len(load_factoids("popqa", revision="main")) == 2
    assert load_factoids("popqa", revision="main").source.endswith(BRANCH_COMMIT)
    assert load_factoids("popqa").source.endswith(HUB_FACTOIDS["popqa"].files.revision)


def test_revisions_are_for_sets_of_the_hub_alone():
    for name in ("kvr", "triviaqa"):
        with pytest.raises(
            ValueError, match=f"revision was given, but {name} is no set of the hub"
        ):
            load_factoids(name, revision="main")


def test_what_is_not_there_is_said_in_one_line(hub):
    with pytest.raises(ValueError, match="cannot open data set 'akariasai/PopQA', revision '0987"):
        load_factoids("popqa")
    hub("popqa", {"train.tsv": b"id\n1"})
    with pytest.raises(
        ValueError, match=r"has no file 'test\.tsv', found train\.tsv: check the"
    ) as e:
        load_factoids("popqa")
    assert "\n" not in str(e.value)
    hub("nq-open-train", {"nq_open/train-00001-of-00003.parquet": parquet(question_rows(0, 1))})
    with pytest.raises(ValueError, match=r"has 1 of 3 parts of 'nq_open/train': fetch it again"):
        load_factoids("nq-open-train")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"possible_answers": "[politician]"}, "line 2, column 'possible_answers': not valid JSON"),
        ({"possible_answers": "{}"}, "line 2: 'possible_answers' holds no list of texts"),
        ({"possible_answers": '[" "]'}, "line 2: 'possible_answers' holds no answer"),
        ({"obj": " "}, "line 2: 'obj' holds an empty text"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(hub, changes, message):
    hub("popqa", {"test.tsv": tsv([popqa_row(0, **changes)])})
    with refused(message):
        load_factoids("popqa")


def test_changed_columns_are_named(hub):
    hub("triviaqa-train", {"rc.nocontext/train-0.parquet": parquet([{"question": "Q?"}])})
    with pytest.raises(ValueError, match="row 1: no 'answer'; found 'question': the data set has"):
        load_factoids("triviaqa-train")
    rows = [{"question": "Q?", "answer": "A", "question_id": "1"}]
    hub("triviaqa-train", {"rc.nocontext/train-0.parquet": parquet(rows)})
    with pytest.raises(ValueError, match="row 1: 'answer' holds str: the data set has changed"):
        load_factoids("triviaqa-train")
