"""Factoids: by name, from files, as prompts; and key-value recall."""

import csv
import gzip
import json
import random
from collections import Counter
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from probes.assets import AssetError, fetch, find_asset
from tests.refusals import refused
from training.data.factoids import (
    ANSWER_IS,
    BUILT_IN_FACTOIDS,
    HUB_FACTOIDS,
    Factoid,
    KeyValues,
    PromptTemplate,
    factoid_names,
    load_factoids,
    prompt_and_target,
    subject_span,
)

ROOT = Path(__file__).parent.parent.parent
PRIME = 31


def load(*arguments, **keywords):
    return load_factoids(*arguments, **keywords)


def built_in(name, **options):
    try:
        return load(name, **options)
    except AssetError as error:
        pytest.skip(f"{name} cannot be fetched here: {error}")


def form(**fields):
    return KeyValues(**fields)


def test_key_values_are_those_of_the_seed_for_ever():
    # Written down once: another machine or Python version must give the same pairs.
    pairs = [(f.subject, f.object) for f in load("kvr", limit=2, seed=5)]
    generator = random.Random(5)
    by_hand = ["".join(generator.choices("0123456789abcdef", k=8)) for _ in range(4)]
    assert [text for pair in pairs for text in pair] == by_hand
    assert pairs[0] == ("9bcfbe07", "fae17389")


@pytest.mark.parametrize(
    ("charset", "length", "characters"),
    [
        ("hex", 8, "0123456789abcdef"),
        ("alphanumeric", 3, "0123456789abcdefghijklmnopqrstuvwxyz"),
    ],
)
def test_keys_and_values_are_unique_uniform_and_of_their_form(charset, length, characters):
    factoids = load("kvr", limit=2003, key_values=form(charset=charset, length=length))
    strings = [text for f in factoids for text in (f.subject, f.object)]
    assert len(set(strings)) == len(strings) == 2 * 2003
    assert {len(text) for text in strings} == {length}
    counts = Counter("".join(strings))
    assert set(counts) == set(characters)
    expected = len(strings) * length / len(characters)
    # Six standard deviations of a binomial count, one of 52 being beyond five by chance.
    assert max(abs(n - expected) for n in counts.values()) < 6 * expected**0.5


def test_key_values_are_a_plain_question():
    factoids = load("kvr", limit=1, seed=5)
    prompt, target = prompt_and_target(factoids[0], factoids.template)
    assert (prompt, target) == ("The value of key 9bcfbe07 is?", " fae17389")
    start, stop = subject_span(factoids[0], factoids.template)
    assert prompt[start:stop] == "9bcfbe07"
    assert factoids[0].relation == "value"


def test_a_small_space_of_keys_is_used_up_and_no_further():
    factoids = load("kvr", limit=128, key_values=form(length=2))
    assert len({text for f in factoids for text in (f.subject, f.object)}) == 16**2
    with pytest.raises(ValueError, match="129 pairs need 258 different strings, but hex of length"):
        load("kvr", limit=129, key_values=form(length=2))


def test_seeds_differ_and_repeat():
    assert load("kvr", limit=PRIME).content_hash == load("kvr", limit=PRIME).content_hash
    assert load("kvr", limit=PRIME).content_hash != load("kvr", limit=PRIME, seed=1).content_hash
    assert len(load("kvr")) == 2000


ROWS = [
    {"question": f"Who wrote book {n}?", "answer": f"Author {n}", "id": f"b{n}"}
    for n in range(PRIME)
]


@pytest.fixture
def books(tmp_path):
    path = tmp_path / "books.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


@pytest.mark.parametrize("source", ["kvr", "file"])
def test_limits_nest_and_offsets_share_nothing(source, books):
    name = books if source == "file" else source
    long = load(name, limit=23, seed=3)
    assert tuple(load(name, limit=7, seed=3)) == long[:7]
    second = load(name, limit=16, offset=7, seed=3)
    assert tuple(second) == long[7:]
    assert not {f.identifier for f in second} & {f.identifier for f in long[:7]}


def test_the_order_is_drawn_unless_no_seed_is_given(books):
    names = [row["id"] for row in ROWS]
    assert [f.identifier for f in load(books, seed=None)] == names
    drawn = [[f.identifier for f in load(books, seed=seed)] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert sorted(drawn[0]) == sorted(drawn[2]) == sorted(names)
    assert drawn[0] != names
    assert len(load(books, limit=1000)) == PRIME


def test_every_file_format_gives_the_same_factoids(tmp_path):
    rows = [
        {
            "question": "What is\nthe capital, of France? ",
            "target": " Paris",
            "aliases": ["Paname", " Paris", "Lutetia"],
            "subject": "France",
            "relation": "capital",
            "identifier": "7",
        },
        {"question": "Où est « Genève »?", "answers": ["Suisse", "Svizzera"]},
    ]
    columns = ["question", "target", "aliases", "answers", "subject", "relation", "identifier"]
    (tmp_path / "x.json").write_text(json.dumps(rows), encoding="utf-8")
    lines = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "x.jsonl").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    with (tmp_path / "x.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        for row in rows:
            lists = {name: json.dumps(row[name]) for name in ("aliases", "answers") if name in row}
            writer.writerow(row | lists)
    table = pyarrow.Table.from_pylist([dict.fromkeys(columns) | row for row in rows])
    parquet.write_table(table, tmp_path / "x.parquet")
    for suffix in ("json", "jsonl", "csv", "parquet"):
        path = tmp_path / f"x.{suffix}"
        first, second = load(path, seed=None)
        assert first.question == "What is\nthe capital, of France?"
        assert first.answers == ("Paris", "Paname", "Lutetia")
        assert (first.object, first.subject, first.relation) == ("Paris", "France", "capital")
        assert first.identifier == "7"
        assert second.answers == ("Suisse", "Svizzera")
        assert (second.subject, second.relation) == (None, None)
        assert second.identifier == f"{path.name}-1"


def test_a_file_of_prompts_is_put_as_it_is(tmp_path):
    path = tmp_path / "x.jsonl"
    row = {"prompt": "The capital of {France} is ", "target": "Paris"}
    path.write_text(json.dumps(row), encoding="utf-8")
    factoids = load(path)
    found = prompt_and_target(factoids[0], factoids.template)
    assert found == ("The capital of {France} is", " Paris")


def test_a_file_of_questions_is_put_between_question_and_answer(books):
    factoids = load(books, seed=None)
    found = prompt_and_target(factoids[0], factoids.template)
    assert found == ("Question: Who wrote book 0?\nAnswer:", " Author 0")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question": "Q"', "line 2: not valid JSON .* at character 17"),
        ("[1, 2]", "line 2: expected an object, found list"),
        ('{"answer": "A"}', "line 2: no question or prompt; found 'answer': add it"),
        ('{"question": "Q", "subject": "S"}', "line 2: no answer, target or answers; found"),
        ('{"question": "Q", "answer": " "}', "line 2: no answer, target or answers; found"),
        ('{"question": "Q", "prompt": "P", "answer": "A"}', "line 2: has 'question' and 'prompt'"),
        ('{"question": "Q", "answer": "A", "target": "A"}', "line 2: has 'answer' and 'target'"),
        ('{"question": "Q", "answer": 1912}', "line 2: 'answer' holds int: give text"),
        ('{"question": "Q", "answer": "\\ud800"}', "line 2: 'answer' holds half of a surrogate"),
        ('{"question": "Q", "answers": "A"}', "line 2: 'answers' must be a list of texts"),
        ('{"question": "Q", "answers": ["A", ""]}', "line 2: 'answers' must be a list of texts"),
        ('{"prompt": "P", "answer": "A"}', "line 2: has 'prompt' after items with 'question'"),
        ('{"question": "Q", "answer": "A", "id": "one"}', "line 2: identifier 'one' is that of"),
        (b'{"question": "\xff"}', "line 2: not UTF-8"),
    ],
)
def test_a_broken_line_is_named(tmp_path, line, message):
    path = tmp_path / "broken.jsonl"
    line = line if isinstance(line, bytes) else line.encode()
    path.write_bytes(b'{"question": "Fine", "answer": "A", "id": "one"}\n' + line + b"\n")
    with refused(message) as raised:
        load(path)
    assert str(raised.value).startswith(str(path))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.json", '[{"question": "Q",\n"answer" "A"}]', "at line 2, character 10"),
        ("x.json", '{"question": "Q"}', "expected a list of objects, found dict"),
        ("x.json", '[{"question": "Q", "answer": "A"}, 3]', "item 2: expected an object"),
        ("x.json", "[]", "holds no factoid: give items"),
        ("x.csv", "question,answer\nQ,A\nQ,A,B\n", "line 3: has another number of fields"),
        ("x.csv", "question,answer\nQ\n", "line 2: has another number of fields"),
        ("x.csv", 'question,answer\nQ,"A"B\n', "line 2: not valid CSV"),
        ("x.csv", "question,answers\nQ,A\n", "line 2, column 'answers': not valid JSON"),
        ("x.csv", b"question,answer\nQ,A\nQ,\xff\n", "line 3: not UTF-8"),
        ("x.parquet", "no", "not a Parquet file"),
        ("x.txt", "Q A", r"is no factoid file: give \.jsonl, \.json"),
    ],
)
def test_broken_files_are_answered_in_one_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with refused(message):
        load(path)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("triviqa",), {}, "no factoid set 'triviqa' .did you mean triviaqa"),
        (("zzz",), {}, "choose from kvr, triviaqa, nq-open, jeopardy"),
        (("missing.jsonl",), {}, r"no factoid file at missing\.jsonl: check the path"),
        (("kvr",), {"limit": 0}, "limit is 0: give a positive number"),
        (("kvr",), {"offset": -1}, "offset is -1: give 0 or more"),
        (("kvr",), {"seed": None}, "kvr is generated and has no order of its own: give a seed"),
    ],
)
def test_bad_options_are_answered_in_one_line(arguments, options, message):
    with refused(message):
        load(*arguments, **options)


def test_a_path_is_a_file_even_with_the_name_of_a_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("kvr", "triviaqa"):
        with pytest.raises(ValueError, match=f"no factoid set '{name}' .*, and no file of that"):
            load(Path(name))


def test_options_that_do_not_apply_are_refused(books):
    with pytest.raises(ValueError, match=r"key_values was given, but .* is not kvr: leave it out"):
        load(books, key_values=form())
    with pytest.raises(ValueError, match=r"offset is 31, but .* has 31 items: give a smaller one"):
        load(books, offset=PRIME)
    with pytest.raises(ValueError, match="charset must be one of hex, alphanumeric, found 'octal'"):
        form(charset="octal")
    with pytest.raises(ValueError, match="keys and values have length 0: give 1 or more"):
        form(length=0)


@pytest.mark.parametrize(
    ("subject", "question", "expected"),
    [
        ("Art", "Which Party did Art join?", "Art"),
        ("art", "Which Party did Art join?", "Art"),
        ("Art", "Is art what Art made?", "Art"),
        ("C++ (1985)", "Who made C++ (1985)?", "C++ (1985)"),
        ("Art", "Which Party did Bart or Arthur join?", None),
        (None, "Which Party did Art join?", None),
    ],
)
def test_the_span_of_the_subject(subject, question, expected):
    factoid = Factoid(question, ("A",), "1", subject)
    for prompt in ("{question}", "Subject of {question} Answer:"):
        template = PromptTemplate(prompt)
        span = subject_span(factoid, template)
        text = prompt_and_target(factoid, template)[0]
        assert (span and text[slice(*span)]) == expected
    if expected:
        assert span[0] == len("Subject of ") + question.index(expected)


def test_the_form_of_the_paper():
    factoid = Factoid("Q?", ("A", "B"), "1")
    found = prompt_and_target(factoid, ANSWER_IS)
    assert found == ("Question: Q?\nThe answer is:", " A")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (("no field",), r"'no field' holds \{question\} 0 times: write it once"),
        (("{question} {question}",), r"holds \{question\} 2 times"),
        (("{question}", "target"), r"'target' holds \{answer\} 0 times"),
    ],
)
def test_a_template_without_its_field_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        PromptTemplate(*fields)


@pytest.mark.parametrize("fields", [("", ("A",), "1"), ("Q", (), "1"), ("Q", ("A", ""), "1")])
def test_a_factoid_without_question_or_answer_is_refused(fields):
    with pytest.raises(ValueError, match=r"factoid '1' has question .* give a question and at"):
        Factoid(*fields)


def test_the_hash_covers_every_field_and_the_order(books):
    factoids = load(books)
    first = factoids[0]
    changes = [
        {"question": "?"},
        {"answers": (*first.answers, "other")},
        {"identifier": "other"},
        {"subject": "other"},
        {"relation": "other"},
    ]
    changed = [(replace(first, **change), *factoids[1:]) for change in changes]
    changed.append((factoids[1], first, *factoids[2:]))
    hashes = {replace(factoids, items=items).content_hash for items in changed}
    assert len(hashes | {factoids.content_hash}) == len(changed) + 1
    assert replace(factoids, name="elsewhere").content_hash == factoids.content_hash


def test_a_set_is_a_sequence_that_says_where_it_is_from(books):
    factoids = load(books, limit=5)
    assert len(factoids) == len(list(factoids)) == 5
    assert factoids[-1] in factoids
    assert isinstance(factoids[1:3], tuple)
    configuration = factoids.configuration
    assert json.loads(json.dumps(configuration)) == configuration
    assert configuration["items"] == 5
    assert configuration["licence"] == "not stated"
    assert configuration["template"]["target"] == " {answer}"
    with pytest.raises(FrozenInstanceError):
        factoids.name = "other"


@pytest.mark.parametrize(
    ("name", "items", "licence"),
    [
        ("triviaqa", 7993, "see source (TriviaQA)"),
        ("nq-open", 3610, "CC-BY-SA-3.0 (Natural Questions (open))"),
        ("jeopardy", 2108, "see source (Jeopardy)"),
    ],
)
def test_the_built_in_sets(name, items, licence):
    factoids = built_in(name)
    assert len(factoids) == items
    assert len({f.question for f in factoids}) == len({f.identifier for f in factoids}) == items
    assert factoids.licence == licence
    assert factoids.source.startswith("https://")
    for f in factoids:
        texts = (f.question, *f.answers)
        assert all(text and text == text.strip() for text in texts)
        assert len(set(f.answers)) == len(f.answers)
        assert "Question:" not in f.question
        assert "Category:" not in f.question


def test_triviaqa_and_nq_open_are_those_that_datasets_reads():
    from datasets import load_from_disk

    for name in ("triviaqa", "nq-open"):
        ours = {f.question: f for f in built_in(name)}
        for row in load_from_disk(str(fetch(name).parent)).select(range(0, 3610, 7)):
            answer, f = row["answer"], ours[row["question"].strip()]
            listed = answer if name == "nq-open" else [answer["value"], *answer["aliases"]]
            assert f.object == listed[0].strip()
            assert set(f.answers) == {alias.strip() for alias in listed}


def test_jeopardy_is_the_clue_of_the_last_question_in_its_request():
    factoids = {f.identifier: f for f in built_in("jeopardy", seed=None)}
    with gzip.open(fetch("jeopardy"), "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    seen = 0
    for row in rows:
        f = factoids.get(f"jeopardy-{row['doc']['index']}")
        if f is not None:
            seen += 1
            clue = row["request"]["context"].split("\nQuestion: ")[-1].removesuffix("\nAnswer:")
            assert f.question == clue.strip()
            assert f.answers == (row["request"]["continuation"].strip(),)
    assert seen == len(factoids) == 2108


def test_names_of_built_in_sets_are_assets():
    for name in BUILT_IN_FACTOIDS:
        assert len(find_asset(name).sources) == 1
    assert factoid_names() == ["kvr", *BUILT_IN_FACTOIDS, *HUB_FACTOIDS]
