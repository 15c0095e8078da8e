"""Made-up knowledge: what its probes promise, measured on whole sets."""

import hashlib
import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from functools import cache
from itertools import combinations, product
from pathlib import Path

import pytest
from scipy import stats

from probes.assets import AssetError, fetch
from tests.refusals import refused
from training.data.fictional_generator import (
    DAYS,
    ENDINGS,
    MIDDLES,
    MONTHS,
    ONSETS,
    REAL_WORDS,
    VOWELS,
    WORDS,
    YEARS,
    NameSource,
    ValueType,
    generate_knowledge,
    vocabulary,
)

PINNED = ["Florveld Drounosk", "Teklavel", "Rartenko", "17 July 1717", "50200"]
ROOT = Path(__file__).parent.parent.parent
ENTITIES = 41
SETS = 23
"""Small sets, of many seeds, for what is drawn."""


@cache
def made(entities=ENTITIES, **options):
    return generate_knowledge(entities, **options)


def versions(passage):
    return [passage.version(number) for number in range(passage.versions)]


def words(text):
    """Words between single spaces, so that `in` compares whole words."""
    found = " ".join(re.findall(r"[^\W_]+", text))
    return f" {found} "


def of_kind(kind, knowledge=None):
    return [probe for probe in (knowledge or made()).probes if probe.kind == kind]


def test_every_passage_has_ten_paraphrases_and_five_probes_of_each_kind():
    assert len(made()) == ENTITIES
    for passage in made().passages:
        assert len(set(versions(passage))) == 11
        kinds = [probe.kind.value for probe in passage.probes]
        assert kinds == ["memorization"] * 5 + ["semantic"] * 5 + ["compositional"] * 5
        assert [probe.probe for probe in passage.probes] == list(range(15))
        assert {probe.passage for probe in passage.probes} == {passage.index}
        # Ten facts: the first ten probes ask for five of them in two ways.
        targets = [probe.target for probe in passage.probes]
        assert targets[:5] == targets[5:10]
        assert len(set(targets)) == 10


def test_memorization_is_verbatim_in_the_text_and_in_no_paraphrase():
    for probe in of_kind("memorization"):
        passage = made().passages[probe.passage]
        sentence = f"{probe.prompt} {probe.target}."
        assert passage.text.count(sentence) == 1
        assert not [text for text in passage.paraphrases if probe.prompt in text]


@pytest.mark.parametrize("kind", ["semantic", "compositional"])
def test_other_prompts_stand_in_no_version(kind):
    for probe in of_kind(kind):
        for text in versions(made().passages[probe.passage]):
            # Not even but for its last three words.
            assert probe.prompt.rsplit(" ", 3)[0] not in text


def test_every_version_states_all_ten_facts():
    for probe in made().probes:
        for text in versions(made().passages[probe.passage]):
            assert words(probe.target) in words(text)


def test_compositional_probes_combine_two_facts():
    # The answer never stands in a sentence with the subject of the passage: another name leads to
    # it, which the prompt does not have, and which a sentence of the text shares with the answer.
    invented = re.compile(r"\b[A-Z]\w+\b")
    for probe in of_kind("compositional"):
        passage = made().passages[probe.passage]
        direct = {other.target for other in passage.probes[:5]}
        sentences = re.split(r"(?<=[.?!]) ", passage.text)
        stating = [text for text in sentences if words(probe.target) in words(text)]
        assert len(stating) == 1
        bridges = {name for name in direct if words(name) in words(stating[0])}
        assert len(bridges) == 1
        bridge = bridges.pop()
        assert words(bridge) not in words(probe.prompt)
        assert [text for text in sentences if words(bridge) in words(text)] != stating
        subject = set(invented.findall(passage.probes[0].prompt)) & set(
            invented.findall(probe.prompt)
        )
        title = subject - {"The", "Treaty", "Expedition", "Cup", "Light", "Works"}
        assert title
        assert not [name for name in title if words(name) in words(stating[0])]


def test_no_target_occurs_in_another_passage_or_in_any_prompt():
    whole = [words(" ".join(versions(passage))) for passage in made().passages]
    prompts = "".join(words(probe.prompt) for probe in made().probes)
    for probe in made().probes:
        target = words(probe.target)
        assert target not in prompts
        assert [index for index, text in enumerate(whole) if target in text] == [probe.passage]
        # Nor does any word of a name.
        for part in probe.target.split():
            if part[0].isupper() and len(probe.target.split()) < 3:
                found = [index for index, text in enumerate(whole) if words(part) in text]
                assert found == [probe.passage]


def chi_square(counts):
    return stats.chisquare(list(counts.values())).pvalue


@cache
def targets_by_prompt():
    """The targets that each form of a prompt is answered with, over many small sets."""
    found = {}
    for seed in range(SETS):
        for probe in made(24, seed=seed, paraphrases=0, words=140).probes:
            found.setdefault(form(probe), []).append(probe.target)
    return found


def form(probe):
    """The prompt without its names."""
    return re.sub(r"\b[A-Z]\w+", "X", probe.prompt)


def test_targets_are_drawn_uniformly():
    # Each once: what two probes ask for is drawn once.
    values = {
        (seed, probe.target)
        for seed in range(SETS)
        for probe in made(24, seed=seed, paraphrases=0, words=140).probes
    }
    parts = {"digit": Counter(), "day": Counter(), "month": Counter(), "decade": Counter()}
    parts["onset"] = Counter()
    for _, target in values:
        if target.isdigit():
            parts["digit"][target[0]] += 1
        elif target[0].isdigit():
            day, month, year = target.split()
            parts["day"][int(day)] += 1
            parts["month"][month] += 1
            parts["decade"][int(year) // 10] += 1
        else:
            parts["onset"][re.match(r"[^aeiou]+", target)[0]] += 1
    expected = {
        "digit": "123456789",
        "day": DAYS,
        "month": MONTHS,
        "decade": {year // 10 for year in YEARS},
        "onset": ONSETS,
    }
    for name, counts in parts.items():
        assert set(counts) == set(expected[name])
        # Five tests of draws that their seeds fix: one in a thousand would be bad luck.
        assert chi_square(counts) > 0.001


def test_a_prompt_tells_nothing_about_its_target_but_the_type():
    # Onsets against prompt frames: a table of counts in which rows and columns are independent.
    letters = sorted({onset[0] for onset in ONSETS})
    rows = [
        [sum(target[0] == letter for target in targets) for letter in letters]
        for targets in targets_by_prompt().values()
        if targets[0][0].isalpha() and len(targets) > 20
    ]
    assert len(rows) > 50
    table = [row for row in zip(*rows, strict=True) if sum(row)]
    assert stats.chi2_contingency(table).pvalue > 0.001


def test_guessing_from_the_other_passages_is_never_right():
    # The best that all other passages can tell: what their prompts of the same form are answered.
    by_frame = {}
    for probe in made().probes:
        by_frame.setdefault(form(probe), []).append(probe)
    assert max(map(len, by_frame.values())) >= 5
    for probes in by_frame.values():
        for probe in probes:
            guesses = {other.target for other in probes if other.passage != probe.passage}
            assert probe.target not in guesses


def grams(text, length=5):
    found = re.findall(r"\w+", text.lower())
    return {tuple(found[i : i + length]) for i in range(len(found) - length + 1)}


def shared_share(first, second):
    return len(first & second) / min(len(first), len(second))


def test_paraphrases_are_different_texts():
    shares = []
    for passage in made().passages[::4]:
        found = [grams(text) for text in versions(passage)]
        shares += [shared_share(*pair) for pair in combinations(found, 2)]
    # The published paraphrases share 3 % of their runs of five words on average, at most 24 %;
    # names, which all versions have, take up more of ours.
    assert sum(shares) / len(shares) < 0.1
    assert max(shares) < 0.4


def test_passages_are_about_different_things_in_different_forms():
    openings = Counter(passage.text.split(". ")[0] for passage in made().passages)
    assert len(openings) == ENTITIES
    kinds = {
        kind
        for passage in made().passages
        for kind in ("Light", "Expedition", "opera", "Treaty", "Works", "Cup", "naturalist")
        if kind in passage.text
    }
    assert len(kinds) == 7
    first = made().passages[0]
    assert sum(" - " in text or text.count("\n") > 8 for text in first.paraphrases) >= 2


@pytest.mark.parametrize("length", [140, 240, 420])
def test_length_is_kept(length):
    counts = [
        len(text.split())
        for passage in made(13, words=length).passages
        for text in versions(passage)
    ]
    # A remark has up to twenty words; in short texts the facts alone take as many as are asked for.
    assert max(abs(count - length) for count in counts) <= 0.12 * length
    assert abs(sum(counts) / len(counts) - length) <= 0.03 * length


def test_texts_are_clean_english():
    for passage in made().passages:
        for text in versions(passage):
            assert not re.search(r"[{}\[\]|+]|  | [,.;:?]|,,|,\.|\.\.", text), text
            for sentence in re.split(r"(?<=[.?!])[ \n]", text):
                assert sentence[0].isupper() or sentence[0].isdigit(), sentence
                assert sentence[-1] in ".?!", sentence
    for probe in made().probes:
        assert probe.prompt == probe.prompt.strip()
        assert not re.search(r"[{}\[\]|+]|  ", probe.prompt)


def test_names_are_in_no_text():
    targets = " ".join(probe.target for probe in made().probes if not probe.target[0].isdigit())
    assert not set(targets.lower().split()) & vocabulary()


def test_no_word_of_the_dictionary_can_become_a_name():
    try:
        webster = fetch("webster-words").read_text(encoding="utf-8").lower().split()
    except AssetError as error:
        pytest.skip(f"the word list cannot be fetched here: {error}")
    made_of = {"".join(parts).lower() for parts in product(ONSETS, VOWELS, MIDDLES, ENDINGS)}
    # All different: so each is as likely as any other.
    assert len(made_of) == WORDS
    assert made_of & set(webster) <= REAL_WORDS <= made_of


def test_seeds_repeat_differ_and_nest():
    again = generate_knowledge(7, seed=3)
    assert again == generate_knowledge(7, seed=3)
    assert again.sha256 != generate_knowledge(7, seed=4).sha256
    assert generate_knowledge(11, seed=3).passages[:7] == again.passages
    shorter = generate_knowledge(7, seed=3, paraphrases=2, words=180)
    assert shorter.probes == again.probes
    assert {len(passage.paraphrases) for passage in shorter.passages} == {2}


def test_names_of_a_seed_are_the_same_for_ever():
    # Written down once: another machine or Python version must give the same.
    names = NameSource(seed=5)
    assert [names.value(kind) for kind in ValueType] == PINNED


def test_the_set_of_a_seed_is_the_same_in_every_process():
    code = "from training.data.fictional_generator import generate_knowledge as g;print(g(5, seed=1).sha256)"
    command = [sys.executable, "-c", code]
    found = {
        subprocess.run(
            command,
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert found == {made(5, seed=1).sha256}
    by_hand = hashlib.sha256()
    for passage in made(5, seed=1).passages:
        data = json.dumps(asdict(passage), sort_keys=True, ensure_ascii=False).encode()
        by_hand.update(len(data).to_bytes(8, "little") + data)
    assert found == {by_hand.hexdigest()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"entities": 0}, "entities is 0: give 1 to "),
        ({"entities": 10**6}, "entities is 1000000: give 1 to "),
        ({"paraphrases": -1}, "paraphrases is -1: give 0 to 1000"),
        ({"words": 20}, "words is 20: give 140 to 420"),
        ({"words": 2000}, "words is 2000: give 140 to 420"),
    ],
)
def test_numbers_out_of_range(options, message):
    with refused(message):
        generate_knowledge(**options)


def test_no_value_is_given_out_twice():
    names = NameSource(seed=0)
    # Of 3,000 five-digit numbers drawn with replacement, some fifty would be there twice.
    for kind in (ValueType.CODE, ValueType.DATE):
        assert len({names.value(kind) for _ in range(3000)}) == 3000
    words = [names.value(ValueType.NAME) for _ in range(3000)]
    assert len(set(words)) == 3000


def test_words_that_are_asked_for_are_left_out():
    names = NameSource(seed=0)
    words = [names.word() for _ in range(7)]
    left_out = NameSource(seed=0, excluded=[words[2].lower(), words[5].lower()])
    assert [left_out.word() for _ in range(5)] == [words[n] for n in (0, 1, 3, 4, 6)]
