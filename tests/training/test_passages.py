"""Fictional knowledge: from files in the published layouts, from the hub, and dealt to exposures."""

import json
from collections import Counter
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from probes.assets import AssetError, fetch
from tests.refusals import refused
from training.data.passages import assign_exposures, load_knowledge
from training.injection import InjectionSchedule, encode_passages

ROOT = Path(__file__).parent.parent.parent
PASSAGES = 7


def published(*names):
    """The published files, where they lie beside the checkout; otherwise a skip that says so."""
    for folder in (ROOT / "shared" / "data", ROOT.parent / "shared" / "data"):
        files = [folder / f"fictional_knowledge{name}.json" for name in names]
        if all(file.is_file() for file in files):
            return files
    pytest.skip(
        "the published Fictional Knowledge files are not in shared/data beside this checkout"
    )


def row(index, paraphrases=None):
    fields = {"train_context": f" The capital of land {index} is Tolm{index}. "}
    for name in ("mem", "gen", "hard_gen"):
        fields[f"{name}_input"] = [f"{name} {index} {n} is " for n in range(2)]
        fields[f"{name}_target"] = [f"Tolm{index}{n}" for n in range(2)]
    if paraphrases is not None:
        fields["paraphrases"] = [f"Tolm{index}, again {n}." for n in range(paraphrases)]
    return fields


def write(path, rows):
    lines = map(json.dumps, rows)
    text = "\n\n".join(lines) if path.suffix == ".jsonl" else json.dumps(rows)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def file(tmp_path):
    rows = [row(index, paraphrases=index) for index in range(PASSAGES)]
    return write(tmp_path / "k.json", rows)


def test_one_file_field_by_field(file, tmp_path):
    knowledge = load_knowledge(file)
    assert len(knowledge) == PASSAGES
    assert len(knowledge.probes) == 6 * PASSAGES
    passage = knowledge.passages[3]
    assert passage.text == "The capital of land 3 is Tolm3."
    assert passage.paraphrases == ("Tolm3, again 0.", "Tolm3, again 1.", "Tolm3, again 2.")
    assert [passage.version(n) for n in range(4)] == [passage.text, *passage.paraphrases]
    probe = passage.probes[3]
    assert (probe.passage, probe.probe, probe.kind.value) == (3, 3, "semantic")
    assert probe.pair == ("gen 3 1 is", " Tolm31")
    assert knowledge.configuration["sha256"] == knowledge.sha256
    lines = write(tmp_path / "k.jsonl", json.loads(file.read_text()))
    assert load_knowledge(lines).passages == knowledge.passages
    assert load_knowledge(lines).sha256 == knowledge.sha256


def test_several_files_are_numbered_through(tmp_path):
    first = write(tmp_path / "a.json", [row(0, 2), row(1, 2)])
    second = write(tmp_path / "b.jsonl", [row(2)])
    knowledge = load_knowledge([first, str(second)])
    assert [passage.index for passage in knowledge.passages] == [0, 1, 2]
    assert [probe.passage for probe in knowledge.passages[2].probes] == [2] * 6
    assert (knowledge.name, knowledge.licence) == ("a.json, b.jsonl", "not stated")
    assert load_knowledge([first, second], limit=1).passages == knowledge.passages[:1]
    assert load_knowledge([second, first]).sha256 != knowledge.sha256


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache of the hub with one data set in it; nothing may be asked of the hub itself."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    folder = tmp_path / "datasets--some--knowledge"
    snapshot = folder / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    write(snapshot / "fictional.json", [row(0), row(1)])
    (snapshot / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# Knowledge\n")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return snapshot


def test_a_data_set_of_the_hub(hub):
    knowledge = load_knowledge("some/knowledge")
    assert [passage.text[:22] for passage in knowledge.passages] == [
        "The capital of land 0 ",
        "The capital of land 1 ",
    ]
    assert (knowledge.name, knowledge.licence) == ("some/knowledge", "cc-by-4.0")
    assert load_knowledge("some/knowledge", revision="main", limit=1).name == "some/knowledge@main"
    assert load_knowledge("some/knowledge").sha256 == load_knowledge(hub / "fictional.json").sha256


def test_a_data_set_that_cannot_be_had_or_chosen_from(hub):
    for arguments, message in (
        (("nobody/nothing", None), "cannot open data set 'nobody/nothing': .* or give a file"),
        (("some/knowledge", "v9"), "cannot open data set 'some/knowledge', revision 'v9'"),
    ):
        with refused(message):
            load_knowledge(arguments[0], revision=arguments[1])
    write(hub / "more.jsonl", [row(5)])
    with pytest.raises(
        ValueError, match=r"one .json or .jsonl file, found fictional.json, more.jsonl"
    ):
        load_knowledge("some/knowledge")


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("generate", {}, "no file of fictional knowledge at generate: give a .json or .jsonl"),
        ("missing.json", {}, "no file of fictional knowledge at missing.json"),
        ([], {}, "no file holds no passage"),
        ("k.json", {"limit": 0}, "limit is 0: give a positive number"),
        ("k.json", {"revision": "main"}, "revision was given, but the source is not a data set"),
    ],
)
def test_what_cannot_be_loaded(source, options, message):
    with refused(message):
        load_knowledge(source, **options)


def broken(**changes):
    return {key: value for key, value in {**row(0), **changes}.items() if value is not None}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (broken(train_context=None), "item 2: no 'train_context'; found 'mem_input'"),
        (broken(train_context=" "), "item 2: 'train_context' holds an empty text: give text"),
        (broken(gen_input=None), "item 2: no 'gen_input'"),
        (broken(mem_target=["one"]), "item 2: mem_input has 2 texts and mem_target 1"),
        (broken(hard_gen_target="text"), "item 2: 'hard_gen_target' holds str: give a list"),
        (broken(mem_input=["one", 3]), "item 2: 'mem_input' holds int: give text"),
        (broken(paraphrases="text"), "item 2: 'paraphrases' holds str: give a list of texts"),
        (["a list"], "item 2: expected an object, found list"),
    ],
)
def test_a_broken_item_is_named(tmp_path, fields, message):
    path = write(tmp_path / "broken.json", [row(0), fields])
    with refused(message) as raised:
        load_knowledge(path)
    assert str(raised.value).startswith(str(path))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.txt", b"[]", "x.txt is no file of fictional knowledge: give .json, .jsonl"),
        ("x.json", b"{}", "x.json: expected a list of objects, found dict"),
        ("x.json", b"[", "x.json: not valid JSON .* at character 2"),
        ("x.jsonl", b"\n\n{", "x.jsonl, line 3: not valid JSON"),
        ("x.jsonl", b"{'\xff'}", "x.jsonl, line 1: not UTF-8"),
        ("x.json", b"[]", "x.json holds no passage: give .json or .jsonl files"),
    ],
)
def test_a_broken_file_is_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with refused(message):
        load_knowledge(path)


def test_a_version_that_is_not_there(file):
    with pytest.raises(ValueError, match="passage 2 has versions 0 to 2, asked for 3"):
        load_knowledge(file).passages[2].version(3)


def test_the_published_files():
    # Counts and shares as they were found when the files were looked into, item by item.
    whole = load_knowledge(*published("_paraphrased"))
    assert Counter(len(passage.paraphrases) for passage in whole.passages) == {9: 40, 0: 90}
    two = load_knowledge(published("_paraphrase70", "_once60"))
    assert len(two) == 130
    assert {len(passage.paraphrases) for passage in two.passages} == {9}
    plain = load_knowledge(*published(""))
    assert not any(passage.paraphrases for passage in plain.passages)
    for knowledge in (whole, two, plain):
        assert Counter(probe.kind.value for probe in knowledge.probes) == {
            "memorization": 650,
            "semantic": 650,
            "compositional": 650,
        }
        assert [probe.pair for probe in knowledge.probes] == [probe.pair for probe in two.probes]
    verbatim = [
        probe
        for probe in two.probes
        if f"{probe.prompt} {probe.target}" in two.passages[probe.passage].text
    ]
    assert Counter(probe.kind.value for probe in verbatim)["memorization"] == 638
    for passage in two.passages:
        targets = [probe.target for probe in passage.probes]
        assert targets[:5] == targets[5:10]


def test_the_published_passages_have_the_lengths_of_the_published_map():
    files = published("_paraphrase70", "_once60")
    try:
        folder = fetch("olmo-tokenizer")
    except AssetError as error:
        pytest.skip(f"the tokenizer cannot be fetched here: {error}")
    passages = encode_passages(load_knowledge(files), AutoTokenizer.from_pretrained(folder))
    dealt = assign_exposures(load_knowledge(files), paraphrase=70, once=60)
    schedule = InjectionSchedule.regular(dealt, interval=160, first=159)
    lengths = [[len(passages[e]) for e in met] for met in schedule.encounters.values()]
    # The token ids released with the paper: 121 to 687 tokens, a mean of 502 in the first group.
    assert (min(map(min, lengths)), max(map(max, lengths))) == (121, 687)
    assert round(sum(lengths[0]) / 76) == 502
    assert {int(ids[-1]) for ids in passages.values()} == {50279}


def dealt(file, **options):
    return {
        index: how.value for index, how in assign_exposures(load_knowledge(file), **options).items()
    }


def test_exposures_are_dealt_in_order(tmp_path):
    rows = [row(index, paraphrases=PASSAGES - index) for index in range(PASSAGES)]
    file = write(tmp_path / "k.json", rows)
    numbers = {"paraphrase": 2, "duplication": 1, "once": 3}
    by_hand = dict(enumerate(["paraphrase"] * 2 + ["duplication"] + ["once"] * 3 + ["held_out"]))
    assert dealt(file, **numbers) == dealt(file, **numbers, held_out=1) == by_hand
    assert dealt(file, duplication=2) == {0: "duplication", 1: "duplication"} | dict.fromkeys(
        range(2, 7), "held_out"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"once": 8}, "8 once, -1 held_out, but there are 7 passages: give numbers of 0 or more"),
        ({"once": 3, "held_out": 3}, "3 once, 3 held_out, but there are 7 passages"),
        (
            {"paraphrase": 1},
            "1 of the 1 passages to be paraphrased have no paraphrase, such as pass",
        ),
    ],
)
def test_exposures_that_cannot_be_dealt(file, options, message):
    with refused(message):
        dealt(file, **options)
