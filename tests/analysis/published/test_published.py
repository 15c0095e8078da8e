"""Published numbers: as printed, and as wrong as they are said to be; what agrees with them."""

from statistics import mean

import pytest

OTHERS = ("GSM8K", "MATH", "EC", "APPS", "UC")


def value(identifier):
    from analysis.published import published_named

    return published_named(identifier).value


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
            a, k = (value(f"kim-table-{n}-{recipe}-{column}-{m}") for n, m in ((1, "A"), (2, "K")))
            f, p = (value(f"kim-table-{n}-{recipe}-{column}-{m}") for n, m in ((1, "F"), (2, "P")))
            assert k / (1 - a / 100) == pytest.approx(k_start, abs=0.002)
            assert p / (1 - f / 100) == pytest.approx(p_start, abs=0.12)


def test_printed_means_are_those_of_their_cells_but_for_two():
    from analysis.published import inconsistencies_of
    from analysis.published.continual_memorization import GRIDS, MEANS

    wrong = []
    for grid in GRIDS:
        numbers = grid.numbers()
        for row in grid.rows:
            for printed, columns in ((MEANS[0], ("ID", "LAMA", "EQ", "WQ")), (MEANS[1], OTHERS)):
                if printed not in grid.columns:
                    continue
                cells = [numbers[row, c] for c in columns if c in grid.columns]
                # Cells and means are printed to 0.1, so that they differ by at most 0.1.
                if abs(mean(cells) - numbers[row, printed]) > 0.1:
                    name = f"{grid.prefix}-{row}-{printed}-accuracy".replace(" ", "-")
                    wrong.append(name)
                    assert any(one.no_target for one in inconsistencies_of(name))
    assert wrong == [
        "chen-table-2-PopQA-random-at-A-other-mean-accuracy",
        "chen-table-3-KVR-both-other-mean-accuracy",
    ]


def test_headlines_are_means_over_other_sets():
    cells = [value(f"chen-table-2-KVR-both-{c}-accuracy") for c in ("ID", "LAMA", "EQ", "WQ")]
    replay = [value(f"chen-table-4-KVR-0.1-{c}-accuracy") for c in ("LAMA", "EQ", "WQ")]
    assert mean(cells) == pytest.approx(value("chen-headline-mixes"), abs=0.05)
    assert mean(cells[1:]) == pytest.approx(67.4, abs=0.05)
    assert mean(replay) == pytest.approx(value("chen-headline-replay"), abs=0.05)


def test_no_replay_is_not_no_mixing():
    for first, column, at_most in (
        ("KVR", "WQ", 3.3),
        ("PopQA", "GSM8K", 15),
        ("TriviaQA", "GSM8K", 49),
    ):
        replay = value(f"chen-table-4-{first}-0-{column}-accuracy")
        none = value(f"chen-table-2-{first}-none-{column}-accuracy")
        assert 0 < replay - none <= at_most
    assert value("chen-table-4-PopQA-0-LAMA-accuracy") == 15.7
    assert value("chen-table-2-PopQA-none-LAMA-accuracy") == 7.7


def test_table_6_repeats_itself():
    from analysis.published import inconsistencies_of

    for first in ("PopQA", "TriviaQA"):
        for column in OTHERS:
            names = [
                f"chen-table-6-{first}-{mix}-{column}-accuracy"
                for mix in ("knowledge-pile", "arxiv", "random", "fineweb")
            ]
            assert len({value(name) for name in names}) == 1
            assert all(inconsistencies_of(name)[0].no_target for name in names)
            assert not inconsistencies_of(f"chen-table-6-{first}-none-{column}-accuracy")


def test_pythia_of_24_layers_could_reach_far_more():
    from math import log

    from analysis.published import published_named

    found = published_named("kim-figure-6")
    assert found.high < 16 * log(8192) < 24 * log(8192) - 72
    for name, layers, width in (("kim-figure-2-1b", 16, 8192), ("kim-figure-2-7b", 32, 11008)):
        found = published_named(name)
        # Within 0.5 % below what is possible.
        assert 0.995 * layers * log(width) < found.low < found.high < layers * log(width)


def test_every_number_has_a_name_of_its_own_and_every_doubt_a_number():
    from analysis.published import (
        INCONSISTENCIES,
        PUBLISHED,
        continual_memorization,
        factual_knowledge,
        inconsistencies_of,
        knowledge_entropy,
    )

    modules = (knowledge_entropy, factual_knowledge, continual_memorization)
    assert len(PUBLISHED) == sum(len(module.RECORDS) for module in modules) == 94 + 6 + 517
    met = {one.identifier for name in PUBLISHED for one in inconsistencies_of(name)}
    assert met == {one.identifier for one in INCONSISTENCIES}
    for found in PUBLISHED.values():
        assert (found.value is None) == (found.reading != "printed")
        assert found.direction is None or found.change_from


def agreement(name, number, **given):
    from analysis.published import Measured, compare, published_named

    published = published_named(name)
    if given.pop("same", False):
        given["conditions"] = published.conditions
    return compare(Measured(value=number, **given), published)


A = "kim-table-1-baseline-738k-A"


def test_values_are_compared_where_all_conditions_are_met():
    from probes.intervals import Interval

    assert agreement(A, 19.3, same=True).agreement == "match"
    assert agreement(A, 19.3, same=True).why == "19.3 against the published 18.8"
    assert agreement(A, 18.31, same=True).agreement == "match"
    for number in (18.2, 19.4):
        assert agreement(A, number, same=True).agreement == "disagrees"
    covered = agreement(A, 21.0, same=True, interval=Interval(18.0, 24.0))
    assert covered.agreement == "match"
    assert covered.why.endswith("18.8, which is within our interval of 18 to 24")
    assert agreement(A, 21.0, same=True, interval=Interval(18.9, 24.0)).agreement != "match"
    found = agreement(A, 25.0, same=True, change=-1.0)
    assert found.agreement == "direction only"
    assert found.why == "25 against the published 18.8; both fall from checkpoint 118k"
    assert len(found.cautions) == 2


def test_directions_are_compared_where_they_are_not():
    from probes.intervals import Interval

    found = agreement(A, 18.8, conditions={"model": "tiny"}, change=-3.0)
    assert found.agreement == "direction only"
    assert found.why.startswith("model tiny, published OLMo-1B; corpus not said, published PubMed")
    found = agreement(A, 18.8, change=3.0)
    assert found.agreement == "disagrees"
    assert found.why.endswith("rises from checkpoint 118k, where the published one falls")
    unsure = agreement(A, 18.8, change=3.0, change_interval=Interval(-1.0, 7.0))
    assert unsure.agreement == "within chance"
    assert unsure.unmet[:2] == ("model", "corpus")
    assert unsure.way == "the change measured may be chance"
    assert unsure.why.endswith("the change measured may be chance")
    assert agreement(A, 18.8).why.endswith("the change from checkpoint 118k is not measured")


def test_ranges_and_words_are_compared_too():
    assert agreement("kim-figure-2-1b", 143.9, same=True).agreement == "match"
    found = agreement("kim-figure-2-1b", 150.0, same=True, change=-1.0)
    assert found.why.startswith("150 against 143.6 to 144, read off an axis; both fall")
    assert agreement("chang-duplication", -0.3, change=-0.1).agreement == "direction only"
    assert agreement("chang-duplication", -0.3, same=True, change=0.1).agreement == "disagrees"


def test_what_is_known_to_be_wrong_is_no_target():
    name = "chen-table-6-PopQA-arxiv-GSM8K-accuracy"
    found = agreement(name, 28.1, same=True)
    assert found.agreement == "not comparable"
    assert "almost certainly by a copying error" in found.why
    same = "chen-table-2-PopQA-random-at-A-MATH-accuracy"
    assert agreement(same, 50.0, change=-1.0).agreement == "direction only"
    flat = "kim-table-1-baseline-369k-A"
    assert "is within the tolerance" in agreement(flat, 1.0, change=-1.0).why
    start = "kim-table-1-baseline-118k-A"
    assert "has no direction" in agreement(start, 1.0, change=-1.0).why


def test_what_is_compared_with_what_follows_from_the_tables():
    from analysis.published import PUBLISHED, published_named

    assert published_named(A).base == "kim-table-1-baseline-118k-A"
    assert published_named("chen-table-4-KVR-0.1-LAMA-accuracy").base.endswith(
        "4-KVR-0-LAMA-accuracy"
    )
    none = published_named("chen-table-2-KVR-none-factoid-mean-accuracy")
    assert (none.change, none.change_from) == (13.5 - 38.9, "later other mean")
    assert published_named("kim-gap-pubmed").change == -3.0
    assert published_named("chen-headline-mixes").change == pytest.approx(53.2 - 41.6)
    with_base = [one for one in PUBLISHED.values() if one.base]
    for one in with_base:
        assert one.change == pytest.approx(one.value - value(one.base))
    # Every cell but those of first columns (Kim) and first rows (Chen), six means of first rows,
    # and two numbers of texts.
    assert len(with_base) == 80 - 20 + (514 - 3 * 11 - 3 * 10 - 7 * 8) + 6 + 2


def test_bad_requests_are_refused_in_a_line():
    from analysis.published import published_named

    with pytest.raises(ValueError, match="did you mean 'kim-table-1-baseline-738k-A'"):
        published_named("kim-table-1-baseline-738-A")
    with pytest.raises(ValueError, match="they begin with kim-, chang- or chen-"):
        published_named("?")
    with pytest.raises(ValueError, match="a measured number is nan: leave out"):
        agreement(A, float("nan"))
