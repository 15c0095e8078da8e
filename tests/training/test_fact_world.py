"""Worlds of facts: texts tell them all, items ask for them, and nothing gives them away."""

from collections import Counter
from itertools import combinations

import pytest
from scipy.stats import chi2_contingency, chisquare

import probes
from probes.assets import is_here
from probes.corpus.sources import Corpus
from training.data.fact_world import (
    RELATIONS,
    Wording,
    cloze_items,
    fact_documents,
    generate_world,
    mixed,
)


@pytest.fixture(scope="module")
def world():
    return generate_world(people=11, places=5, seed=3)


def test_a_world_has_every_relation_of_every_subject(world):
    of_people = [name for name, relation in RELATIONS.items() if relation.of_people]
    of_places = [name for name in RELATIONS if name not in of_people]
    assert len(world.facts) == 11 * len(of_people) + 5 * len(of_places)
    for person in world.people:
        assert [fact.relation for fact in world.facts_of[person]] == of_people
    for place in world.places:
        assert [fact.relation for fact in world.facts_of[place]] == of_places
    assert all(fact.value in world.values(fact.relation) for fact in world.facts)
    assert len(set(world.subjects)) == 16


def test_people_are_born_in_places_of_the_same_world(world):
    born = {fact.value for fact in world.facts if fact.relation == "birthplace"}
    assert born <= set(world.places)


def test_the_seed_decides_the_world():
    assert generate_world(7, 3, seed=1) == generate_world(7, 3, seed=1)
    assert generate_world(7, 3, seed=1).facts != generate_world(7, 3, seed=2).facts


def test_values_are_uniform_and_independent():
    """Chi-square of every relation, and of every pair of a person's relations."""
    world = generate_world(people=3000, places=13, seed=0)
    of = {
        name: [fact.value for fact in world.facts if fact.relation == name]
        for name, relation in RELATIONS.items()
        if relation.of_people
    }
    # Five tests of each kind or ten: a threshold of 1e-4 fails an honest generator once in 700.
    for name, values in of.items():
        counts = Counter(values)
        assert len(counts) == len(world.values(name))
        assert chisquare(list(counts.values())).pvalue > 1e-4
    for one, other in combinations(of, 2):
        table = Counter(zip(of[one], of[other], strict=True))
        rows = [[table[a, b] for b in world.values(other)] for a in world.values(one)]
        assert chi2_contingency(rows).pvalue > 1e-4


def subject_of(text, world):
    """Whom every sentence names."""
    sentences = text.rstrip(".").split(". ")
    (subject,) = [one for one in world.subjects if all(one in sentence for sentence in sentences)]
    return subject


def test_a_document_tells_all_facts_of_one_subject(world):
    for text in fact_documents(world, 100):
        subject = subject_of(text, world)
        assert text.count(".") == len(world.facts_of[subject])
        for fact in world.facts_of[subject]:
            told = [
                wording
                for wording in RELATIONS[fact.relation].wordings
                if f"{wording.format(subject)} {fact.value}." in text
            ]
            assert len(told) == 1


def test_all_subjects_come_up_equally_often(world):
    counts = Counter(subject_of(text, world) for text in fact_documents(world, 16 * 9))
    assert counts == dict.fromkeys(world.subjects, 9)


def test_orders_and_wordings_are_drawn_anew(world):
    texts = list(fact_documents(world, 16 * 40))
    assert len(set(texts)) > 0.9 * len(texts)
    for relation in RELATIONS.values():
        for wording in relation.wordings:
            told = sum(wording.format(s) in text for text in texts for s in world.subjects)
            subjects = len(world.people) if relation.of_people else len(world.places)
            # 40 documents of each subject, a quarter of them in this wording: binomial, 5 sigma.
            expected, spread = 10 * subjects, (40 * subjects * 3 / 16) ** 0.5
            assert abs(told - expected) < 5 * spread


def test_a_few_documents_are_the_first_of_many(world):
    many = list(fact_documents(world, 50, seed=4))
    assert list(fact_documents(world, 7, seed=4)) == many[:7]
    assert list(fact_documents(world, 7, seed=5)) != many[:7]


def test_items_stop_before_the_value_and_say_which_wording_is_new(world):
    items = cloze_items(world)
    assert len(items) == 2 * len(world.facts)
    text = " ".join(fact_documents(world, 3000))
    facts = [fact for fact in world.facts for _ in range(2)]
    for fact, item in zip(facts, items, strict=True):
        assert (item.subject, item.relation, item.target) == (
            fact.subject,
            fact.relation,
            f" {fact.value}",
        )
        told = f"{item.prompt}{item.target}." in text
        assert told is (item.wording is Wording.SEEN)
        if item.wording is Wording.UNSEEN:
            assert item.prompt not in text


def test_a_sample_of_the_facts_is_asked_for_in_both_wordings(world):
    some = cloze_items(world, facts=7)
    assert len(some) == 14
    asked = [(item.subject, item.relation) for item in some]
    assert asked[::2] == asked[1::2]
    assert len(set(asked)) == 7
    assert set(asked) < {(fact.subject, fact.relation) for fact in world.facts}
    assert cloze_items(world, facts=7) == some
    assert len(cloze_items(world, facts=9999)) == 2 * len(world.facts)


def test_alternatives_are_other_values_of_the_relation(world):
    for item in cloze_items(world, alternatives=3):
        values = {f" {value}" for value in world.values(item.relation)}
        assert len({item.target, *item.alternatives}) == 4
        assert {item.target, *item.alternatives} <= values
    few = [item for item in cloze_items(world, 99) if item.relation == "birthplace"]
    assert {len(item.alternatives) for item in few} == {4}


def test_mixing_shuffles_texts_and_facts_together(world):
    corpus = Corpus.from_texts([f"plain {i}" for i in range(37)], name="plain")
    found = list(mixed([corpus], world, 23, seed=1).documents())
    assert sorted(found) == sorted([*corpus.documents(), *fact_documents(world, 23, seed=1)])
    places = [place for place, text in enumerate(found) if text.startswith("plain")]
    assert places != list(range(37))
    assert list(mixed([corpus], world, 23, seed=1).documents()) == found
    assert list(mixed([corpus], world, 23, seed=2).documents()) != found


def test_what_is_mixed_is_in_the_name(world):
    corpus = Corpus.from_texts(["plain"], name="plain")
    assert mixed([corpus], world, 2).name == (
        "plain + 2 documents about 11 made-up people and 5 places"
    )
    assert mixed([corpus], world, 0).name == "plain"


@pytest.mark.parametrize(
    ("people", "places", "line"),
    [
        (0, 5, "a world has 1 to .* people, found 0"),
        (5, 1, "a world has 2 to .* places, found 1"),
        (10**6, 5, "people, found 1000000"),
    ],
)
def test_worlds_that_cannot_be(people, places, line):
    with pytest.raises(ValueError, match=line):
        generate_world(people, places)


def test_nothing_to_mix_is_refused(world):
    with pytest.raises(ValueError, match="nothing to train on"):
        mixed([], world, 0)


def test_invented_names_do_not_stand_in_the_texts():
    """Where the built-in texts are at hand: a name that is real would not be made up."""
    if not is_here("general-train"):
        pytest.skip("the built-in texts are not on this machine")
    world = generate_world(people=400, places=100)
    text = "\n".join(probes.load_corpus("general-train").documents())
    assert [name for name in world.people if name in text] == []
