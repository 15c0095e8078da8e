"""Injection schedules: the papers' own, regular ones, and what a run cannot carry out."""

from collections import Counter

import pytest

from tests.refusals import refused
from training.choices import Exposure
from training.injection import Encounter, InjectionSchedule


def regular(exposures, **options):
    return InjectionSchedule.regular(exposures, **options)


def four(paraphrase=2, duplication=1, once=5, held_out=1):
    """Exposures of passages in the order of the arguments."""
    numbers = {"paraphrase": paraphrase, "duplication": duplication, "once": once}
    numbers["held_out"] = held_out
    dealt = [Exposure(name) for name, number in numbers.items() for _ in range(number)]
    return dict(enumerate(dealt))


def met(schedule):
    return {step: [tuple(e) for e in found] for step, found in schedule.encounters.items()}


def official(**options):
    """That of the Knowledge Entropy paper."""
    return regular(four(70, 0, 60, 0), **{"interval": 160, "first": 159, **options})


def test_knowledge_entropy_as_released():
    # The released map: groups 1 to 10 at steps 160, 320, ..., counted from 1; group g has the
    # paraphrased passages in version g - 1 and the once passages 6 (g - 1) to 6 g.
    schedule = official()
    by_hand = {
        160 * group - 1: [(passage, group - 1) for passage in range(70)]
        + [(70 + 6 * (group - 1) + place, 0) for place in range(6)]
        for group in range(1, 11)
    }
    assert met(schedule) == by_hand
    assert schedule.evaluation_steps([0], steps=1600) == (1600,)


def test_knowledge_entropy_in_large_batches_and_in_three_epochs():
    assert list(official(interval=10, first=9).encounters) == list(range(9, 100, 10))
    thrice = official(cycles=3)
    assert list(thrice.encounters) == list(range(159, 4800, 160))
    one = met(official())
    assert met(thrice) == {
        step: one[159 + 160 * (number % 10)] for number, step in enumerate(thrice.encounters)
    }


def test_factual_acquisition_as_released():
    schedule = regular(four(40, 40, 40, 10), interval=100, once="first")
    found = met(schedule)
    assert list(found) == list(range(0, 1000, 100))
    assert found[0] == [(passage, 0) for passage in range(120)]
    for number in range(1, 10):
        assert found[100 * number] == [(passage, number) for passage in range(40)] + [
            (passage, 0) for passage in range(40, 80)
        ]


def test_rounds_of_every_exposure_by_hand():
    schedule = regular(four(), interval=7, rounds=3, first=2)
    assert met(schedule) == {
        2: [(0, 0), (1, 0), (2, 0), (3, 0), (4, 0)],
        9: [(0, 1), (1, 1), (2, 0), (5, 0), (6, 0)],
        16: [(0, 2), (1, 2), (2, 0), (7, 0)],
    }
    assert schedule.last_step == 16
    assert schedule.evaluation_steps([5, 0, 1]) == (17, 18, 22)
    first = regular(four(), interval=7, rounds=3, once="first")
    assert met(first)[0] == [(passage, 0) for passage in range(8)]
    assert met(first)[7] == [(0, 1), (1, 1), (2, 0)]


@pytest.mark.parametrize(("once", "rounds"), [(1, 10), (3, 10), (11, 4), (60, 7)])
def test_once_is_once_and_rounds_are_as_even_as_can_be(once, rounds):
    schedule = regular(four(0, 0, once, 0), interval=1, rounds=rounds)
    counted = Counter(e.passage for found in schedule.encounters.values() for e in found)
    assert counted == dict.fromkeys(range(once), 1)
    sizes = [len(schedule.encounters.get(step, ())) for step in range(rounds)]
    assert max(sizes) - min(sizes) <= 1


def test_cycles_repeat():
    schedule = regular(four(1, 0, 1, 0), interval=5, rounds=2, first=1, cycles=2)
    assert met(schedule) == {1: [(0, 0), (1, 0)], 6: [(0, 1)], 11: [(0, 0), (1, 0)], 16: [(0, 1)]}


def test_steps_are_put_in_order_and_empty_ones_left_out():
    encounter = Encounter(0, 0)
    schedule = InjectionSchedule({9: (encounter,), 4: (), 2: (encounter,)})
    assert list(schedule.encounters) == [2, 9]
    described = schedule.describe()
    assert described == {"interval": None, "encounters": {"2": [[0, 0]], "9": [[0, 0]]}}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: regular(four(), interval=0), "interval is 0: give 1 or more"),
        (lambda: regular(four(), interval=1, rounds=0), "rounds is 0: give 1 or more"),
        (lambda: regular(four(), interval=1, cycles=0), "cycles is 0: give 1 or more"),
        (lambda: regular(four(), interval=1, once="late"), "once must be one of spread, first"),
        (lambda: regular(four(), interval=1, first=-1), "the first injection is at step -1"),
        (lambda: regular(four(0, 0, 0), interval=1), "the injection schedule is empty"),
        (lambda: InjectionSchedule({}), "the injection schedule is empty"),
        (
            lambda: regular(four(), interval=1).evaluation_steps([-1]),
            "a lag is -1: give updates after the last encounter",
        ),
        (
            lambda: regular(four(), interval=1).evaluation_steps([3, 1], steps=12),
            "3 steps after the last encounter would be after 13 steps, but the run has 12",
        ),
    ],
)
def test_what_makes_no_schedule(make, message):
    with refused(message):
        make()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "the run has 0 steps: give 1 or more"),
        ({"steps": 4}, "passages are injected every 5 steps, but the run has 4"),
        ({"steps": 10}, "the last injection is at step 10, but the run has 10 steps, 0 to 9"),
        ({"rows": 4}, "5 passages are to be injected at step 0, but a batch has 4 rows"),
        ({"row_length": 12}, "passage 0, version 2, has 13 tokens with its end token, but a row"),
        ({"versions": 2}, "passage 0 has 2 wordings, but wording 3 is to be injected"),
    ],
)
def test_what_a_run_cannot_carry_out(changes, message):
    schedule = regular(four(), interval=5, rounds=3)
    settings = {"steps": 11, "rows": 5, "row_length": 13, "versions": 3} | changes
    versions = settings.pop("versions")
    lengths = {Encounter(p, v): 11 + v for p in range(9) for v in range(versions)}
    with refused(message):
        schedule.check(lengths=lengths, **settings)


def test_what_just_fits():
    schedule = regular(four(), interval=5, rounds=3)
    lengths = {Encounter(p, v): 11 + v for p in range(9) for v in range(3)}
    schedule.check(steps=11, rows=5, row_length=13, lengths=lengths)
    schedule.check(steps=None, rows=None, row_length=13, lengths=lengths)
