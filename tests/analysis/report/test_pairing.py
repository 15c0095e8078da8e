"""Every arm beside the base that agrees with it in all else: numbers that were paired by hand."""

from itertools import product
from statistics import mean, stdev

import pandas as pd
import pytest

from analysis.measurements import Table
from analysis.report.knowledge import resuscitation_part
from analysis.report.memorization import memorization_part
from analysis.report.parts import Material, differences, over_seeds
from analysis.result_folders import Results
from tests.analysis.report import planted
from tests.analysis.report.drawn import plots, traces

T_95 = {1: 12.706204736432095, 2: 4.302652729911275}
"""Student's t of a 95 % interval, from a printed table, by degrees of freedom."""
AGES = (100, 300, 700)
UNEDITED = {100: (0.10, 0.12, 0.14), 300: (0.20, 0.25, 0.21), 700: (0.40, 0.37, 0.34)}
ADDED = {
    100: (-0.011, -0.014, -0.008),
    300: (-0.001, 0.002, -0.004),
    700: (0.018, 0.012, 0.024),
}
"""Acquisition of three seeds by the age of the start, and what an edit adds to each."""
UP = {"site": "up", "ratio": 0.5, "factor": 2.0}
RUN = {"trajectory": "tiny", "novelty": "new", "batch_size": 12, "interval": 5}


def acquired(step, seed, value, learning_rate=1e-3, **edit):
    where = {"measure": "A", "moment": "last injection", "against": "start"}
    run = {**RUN, "step": step, "seed": seed, "learning_rate": learning_rate}
    return {**run, **planted.MET, **where, **edit, "value": value}


def resuscitation(rows):
    table = planted.filled(Table.ACQUISITION, rows)
    return resuscitation_part(Material(results=Results(), measured={Table.ACQUISITION: table}))


def of_ages(learning_rate=1e-3, shift=0.0):
    for step, seed in product(AGES, range(3)):
        plain = UNEDITED[step][seed] + shift
        yield acquired(step, seed, plain, learning_rate)
        yield acquired(step, seed, plain + ADDED[step][seed], learning_rate, **UP)


def half_width(values):
    return T_95[len(values) - 1] * stdev(values) / len(values) ** 0.5


def test_what_edits_add_is_taken_from_the_start_of_the_same_age():
    part = resuscitation(of_ages())
    table = part.tables["edits-by-age"].set_index("x")
    assert table["value"].to_dict() == pytest.approx({100: -0.011, 300: -0.001, 700: 0.018})
    # Bars are over three seeds, not over three seeds of three starts.
    assert table["seeds"].tolist() == [3, 3, 3]
    for step, values in ADDED.items():
        assert table.loc[step, "high"] - mean(values) == pytest.approx(half_width(values))
    (drawn,) = [p for p in plots(part.pieces) if p["layout"].get("meta", {}).get("axis")]
    name = "up, ratio 0.5, factor 2"
    (line,) = [t for t in traces(drawn, name) if "mean over seeds" in t["meta"]["keys"]]
    assert line["y"] == pytest.approx([-0.011, -0.001, 0.018])


def test_edits_at_two_learning_rates_are_each_less_their_own_base():
    part = resuscitation([*of_ages(1e-3), *of_ages(4e-4, shift=0.3)])
    table = part.tables["edits-by-age"]
    assert len(table) == 2 * len(AGES)
    expected = [mean(ADDED[step]) for step in table["x"]]
    assert table["value"].tolist() == pytest.approx(expected)


def test_an_age_without_unedited_runs_has_no_difference():
    rows = [row for row in of_ages() if row["step"] != 300 or "site" in row]
    table = resuscitation(rows).tables["edits-by-age"]
    assert table["x"].tolist() == [100, 700]


def test_controls_of_two_strengths_are_two_arms():
    control = {"control": "random_rows", "ratio": 0.5}
    rows = [acquired(700, seed, 0.1) for seed in range(3)]
    for factor, added in ((1.0, 0.02), (3.0, 0.08)):
        rows += [
            acquired(700, s, 0.1 + added + s / 100, **control, factor=factor) for s in range(3)
        ]
    table = resuscitation(rows).tables["edits-less-unedited"].set_index("arm")
    assert table["value"].to_dict() == pytest.approx(
        {"random rows, factor 1": 0.03, "random rows, factor 3": 0.09}
    )
    assert table["seeds"].tolist() == [3, 3]


def test_a_resuscitation_with_a_temperature_is_on_no_line_of_those_without():
    rows = [acquired(700, seed, 0.1) for seed in range(3)]
    for factor, temperature in ((1.0, None), (2.0, None), (2.0, 1.5)):
        edit = {**UP, "factor": factor, "temperature": temperature}
        value = 0.1 * factor + (5.0 if temperature else 0.0)
        rows += [acquired(700, seed, value, **edit) for seed in range(3)]
    drawn = [
        p
        for p in plots(resuscitation(rows).pieces)
        if p["layout"]["xaxis"]["title"].get("text") == "amplifying factor"
    ]
    (line,) = [
        t for t in traces(drawn[0], "up, ratio 0.5") if "mean over seeds" in t["meta"]["keys"]
    ]
    assert (line["x"], line["y"]) == ([1.0, 2.0], pytest.approx([0.1, 0.2]))


@pytest.mark.parametrize("seeds", [(0, 0), (0, 1, 1)])
def test_two_runs_of_a_seed_do_not_count_as_two_seeds(seeds):
    runs = pd.DataFrame({"arm": "a", "seed": list(seeds), "value": 1.0})
    with pytest.raises(ValueError, match="found 2 runs that nothing here tells apart"):
        over_seeds(runs, ["arm"])
    with pytest.raises(ValueError, match=f"arm a, seed {seeds[-1]}; report them one by one"):
        differences(runs, runs)


def right(seed, value, **settings):
    data = {"first": "facts.jsonl", "later": "lama", "stages": 2, "moment": "after B"}
    told = {"measure": "share right", "cluster": "fact 0", "seed": seed, "value": value}
    return {**data, **told, **settings}


def memorization(rows):
    table = planted.filled(Table.MEMORIZATION, rows)
    return memorization_part(Material(results=Results(), measured={Table.MEMORIZATION: table}))


def test_facts_that_are_new_are_not_pooled_with_those_nobody_asked_about():
    rows = [right(s, v, familiar=f) for s in (0, 1) for f, v in ((False, 0.25), (None, 0.75))]
    table = memorization(rows).tables["share-right"].set_index("data")
    sets = "facts.jsonl, then lama"
    assert table["value"].to_dict() == {f"{sets}, new facts": 0.25, sets: 0.75}
    assert table["seeds"].tolist() == [2, 2]


def test_a_longer_chain_takes_no_line_from_a_shorter_one():
    mix = {"mix_first": "random", "mix_words": 8}
    rows = [
        right(seed, share, **mix, **chain, mix_ratio=ratio)
        for seed in (0, 1)
        for ratio, share in ((1.0, 0.25), (2.0, 0.5))
        for chain in ({}, {"later": "lama+eq", "stages": 3, "moment": "after C"})
    ]
    (drawn,) = [
        p
        for p in plots(memorization(rows).pieces)
        if p["layout"]["xaxis"]["title"].get("text") == "items mixed in, over the stage's own"
    ]
    lines = traces(drawn, "mean over seeds")
    assert len({t["meta"]["keys"][0] for t in lines}) == 2
    assert all(t["y"] == [0.25, 0.5] for t in lines)
