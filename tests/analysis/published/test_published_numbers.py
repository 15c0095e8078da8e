"""Published numbers: as printed, and as wrong as they are said to be; what agrees with them."""

from math import log
from statistics import mean

import pytest

from analysis.published.results import INCONSISTENCIES, PUBLISHED, Measured
from analysis.published.verification import compare
from probes.corpus_means import Interval

A = "kim-table-1-baseline-738k-A"
FACTOID, OTHERS = ("ID", "LAMA", "EQ", "WQ"), ("GSM8K", "MATH", "EC", "APPS", "UC")


def number(identifier):
    return PUBLISHED[identifier]


def value(identifier):
    return number(identifier).value


def doubts(identifier):
    return {one.identifier for one in number(identifier).inconsistencies}


def test_tables_of_acquisition_go_together_with_the_size_of_k_and_not_with_k():
    # Printed to 0.1 points and 0.001: K of the start that both imply is known to 0.002, and P to
    # 0.12, and both have to be the same in all five recipes.
    for column, k_start, p_start in (
        ("118k", -0.375, 60.3),
        ("369k", -0.3725, 62.7),
        ("554k", -0.372, 63.6),
        ("738k", -0.371, 64.6),
    ):
        for recipe in (
            *("baseline", "batch-size-2048", "learning-rate-1e-3", "learning-rate-1e-4"),
            "3-epochs",
        ):
            a, f = (value(f"kim-table-1-{recipe}-{column}-{m}") for m in "AF")
            k, p = (value(f"kim-table-2-{recipe}-{column}-{m}") for m in "KP")
            assert k / (1 - a / 100) == pytest.approx(k_start, abs=0.002)
            assert p / (1 - f / 100) == pytest.approx(p_start, abs=0.12)


def test_printed_means_are_those_of_their_cells_but_for_two():
    wrong = []
    for name in PUBLISHED:
        for printed, columns in (("factoid-mean", FACTOID), ("other-mean", OTHERS)):
            if name.endswith(f"{printed}-accuracy"):
                cells = [name.replace(printed, column) for column in columns]
                found = mean(value(cell) for cell in cells if cell in PUBLISHED)
                # Cells and means are printed to 0.1, so that they differ by at most 0.1.
                if abs(found - value(name)) > 0.1:
                    assert number(name).refusal
                    wrong.append(name.removesuffix("-other-mean-accuracy"))
    assert wrong == ["chen-table-2-PopQA-random-at-A", "chen-table-3-KVR-both"]


def test_inconsistencies_follow_from_the_numbers():
    both = [value(f"chen-table-2-KVR-both-{column}-accuracy") for column in FACTOID]
    replay = [value(f"chen-table-4-KVR-0.1-{column}-accuracy") for column in FACTOID[1:]]
    assert mean(both) == pytest.approx(value("chen-headline-mixes"), abs=0.05)
    assert mean(both[1:]) == pytest.approx(67.4, abs=0.05)
    assert mean(replay) == pytest.approx(value("chen-headline-replay"), abs=0.05)
    for first, column, least in (("PopQA", "LAMA", 7.9), ("TriviaQA", "GSM8K", 48)):
        replayed = f"chen-table-4-{first}-0-{column}-accuracy"
        assert value(replayed) - value(f"chen-table-2-{first}-none-{column}-accuracy") >= least
        assert doubts(replayed) == {"replay-without-replay"}
    for first in ("PopQA", "TriviaQA"):
        for column in OTHERS:
            cell = f"chen-table-6-{first}-{{}}-{column}-accuracy".format
            mixes = [cell(mix) for mix in ("knowledge-pile", "arxiv", "random", "fineweb")]
            assert len({value(name) for name in mixes}) == 1
            assert all(doubts(name) == {"table-6-repeats"} for name in mixes)
            assert not doubts(cell("none"))
    assert number("kim-figure-6").high < 16 * log(8192) < 24 * log(8192) - 72
    assert doubts("kim-table-1-learning-rate-1e-4-118k-A") >= {"low-rate"}


def test_the_catalogue_is_whole_and_changes_follow_from_it():
    assert len(PUBLISHED) == 94 + 6 + 517
    assert {name for each in PUBLISHED for name in doubts(each)} == set(INCONSISTENCIES)
    for one in PUBLISHED.values():
        assert (one.value is None) == (one.reading != "printed")
        assert one.direction is None or one.change_from
        if one.base:
            assert one.change == pytest.approx(one.value - value(one.base))
    assert number(A).base == "kim-table-1-baseline-118k-A"
    none = number("chen-table-2-KVR-none-factoid-mean-accuracy")
    assert (none.change, none.change_from) == (13.5 - 38.9, "later other mean")
    # Every cell but those of first columns (Kim) and first rows (Chen), six means of first rows,
    # and two numbers of texts.
    with_base = [one for one in PUBLISHED.values() if one.base]
    assert len(with_base) == 80 - 20 + (514 - 3 * 11 - 3 * 10 - 7 * 8) + 6 + 2


RANGE, WORDS = "kim-figure-2-1b", "chang-duplication"


@pytest.mark.parametrize(
    ("name", "ours", "given", "agreement", "why"),
    [
        (A, 19.3, {"same": True}, "match", "19.3 against the published 18.8; the source is"),
        (A, 18.31, {"same": True}, "match", ""),
        (A, 18.2, {"same": True}, "disagrees", ""),
        (A, 19.4, {"same": True}, "disagrees", ""),
        (A, 21.0, {"same": True, "interval": (18, 24)}, "match", "within our interval of 18 to 24"),
        (A, 21.0, {"same": True, "interval": (18.9, 24)}, "disagrees", ""),
        (A, 25.0, {"same": True, "change": -1.0}, "direction only", "18.8; both fall from"),
        (A, 18.8, {"change": -3.0}, "direction only", "model not said, published OLMo-1B; corpus"),
        (A, 18.8, {"change": 3.0}, "disagrees", "rises from checkpoint 118k, where the published"),
        (A, 18.8, {"change": 3.0, "change_interval": (-1, 7)}, "within chance", "may be chance"),
        (A, 18.8, {}, "not comparable", "the change from checkpoint 118k is not measured"),
        (A, 18.8, {"change": -3.0, "seeds": 1}, "direction only", "of one run, without an inter"),
        (RANGE, 143.9, {"same": True}, "match", "143.9 against 143.6 to 144, read off an axis"),
        (RANGE, 150.0, {"same": True, "change": -1.0}, "direction only", "150 against 143.6 to"),
        (WORDS, -0.3, {"change": -0.1}, "direction only", ""),
        (WORDS, -0.3, {"same": True, "change": 0.1}, "disagrees", ""),
        ("chen-table-6-PopQA-arxiv-GSM8K-accuracy", 28.1, {"same": True}, "not comparable", "copy"),
        (
            "kim-table-1-baseline-369k-A",
            1.0,
            {"change": -1.0},
            "not comparable",
            "within the tolera",
        ),
        (
            "kim-table-1-baseline-118k-A",
            1.0,
            {"change": -1.0},
            "not comparable",
            "has no direction",
        ),
    ],
)
def test_values_are_compared_where_all_conditions_are_met_and_directions_elsewhere(
    name, ours, given, agreement, why
):
    given = {k: Interval(*map(float, v)) if "interval" in k else v for k, v in given.items()}
    same = number(name).conditions if given.pop("same", False) else {}
    found = compare(Measured(value=ours, conditions=same, **given), number(name))
    assert found.agreement == agreement
    assert why in found.why


def test_a_number_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="a measured number is nan: leave out"):
        compare(Measured(value=float("nan")), number(A))
