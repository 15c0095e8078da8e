"""Parts of the page: their numbers against loops over planted tables, and what they leave out."""

from statistics import mean, stdev

import pandas as pd
import pytest

from analysis.claims.choices import Anchor
from analysis.measurements import NONE, Table
from analysis.report.measured_models import pretraining_part
from analysis.report.page import MEASURED
from analysis.report.parts import EDITS, Material, between_ends, differences, edit_name, over_seeds
from analysis.result_folders import Results
from tests.analysis.report import planted
from tests.analysis.report.drawn import plots, traces

T_95_TWO_DEGREES = 4.302652729911275
"""Student's t, from a printed table: the half width of a 95 % interval of three seeds, in standard
errors."""


@pytest.fixture(scope="module")
def tables():
    return planted.tables()


@pytest.fixture(scope="module")
def material(tables):
    """Tables alone: no runs, no ledger."""
    return Material(results=Results(), measured=tables)


@pytest.fixture(scope="module")
def parts(material):
    """Every part that there are tables for."""
    return {name: made for name, make in MEASURED.items() if (made := make(material)) is not None}


def half_width(values):
    return T_95_TWO_DEGREES * stdev(values) / len(values) ** 0.5


def test_means_and_intervals_are_over_seeds():
    values = {"a": [1.0, 2.0, 4.5], "b": [3.0], "c": [2.0, 2.0, 2.0]}
    rows = [(arm, seed, v) for arm, found in values.items() for seed, v in enumerate(found)]
    table = over_seeds(pd.DataFrame(rows, columns=["arm", "seed", "value"]), ["arm"])
    by_arm = table.set_index("arm")
    assert by_arm["value"].to_dict() == {"a": 2.5, "b": 3.0, "c": 2.0}
    assert by_arm["seeds"].to_dict() == {"a": 3, "b": 1, "c": 3}
    assert by_arm.loc["a", "high"] == pytest.approx(2.5 + half_width(values["a"]))
    assert by_arm.loc["a", "low"] == pytest.approx(2.5 - half_width(values["a"]))
    # One seed, and seeds that are all the same, have no spread to make an interval of.
    assert by_arm.loc[["b", "c"], ["low", "high"]].isna().all(axis=None)


def test_differences_are_within_a_seed_and_without_rounding():
    runs = pd.DataFrame({"arm": "a", "seed": [0, 1, 2], "value": [0.1 + 0.2, 1.0, 5.0]})
    base = pd.DataFrame({"seed": [1, 0], "value": [0.75, 0.3]})
    found = differences(runs, base).set_index("seed")["value"]
    # 0.1 + 0.2 is not 0.3 to the last bit, which is no effect of an edit.
    assert found.to_dict() == {0: 0.0, 1: 0.25}


def test_entropies_are_drawn_seed_by_seed_and_as_their_mean(parts):
    part = parts["pretraining"]
    first = plots(part.pieces)[0]
    (mean_line,) = [t for t in traces(first, "plants") if "mean over seeds" in t["meta"]["keys"]]
    assert mean_line["x"] == list(planted.STEPS)
    assert mean_line["y"] == [total + 0.25 for total in planted.ENTROPIES]
    (second,) = [t for t in traces(first, "plants") if "seed 1" in t["meta"]["keys"]]
    assert second["y"] == [total + 0.5 for total in planted.ENTROPIES]
    assert first["layout"]["meta"] == {"axis": "pretraining step"}


def test_acquisition_is_on_the_axis_of_the_entropies(parts):
    part = parts["pretraining"]
    table = part.tables["outcomes-by-age"]
    found = table[table["measure"] == "A"].groupby("step")["value"].mean()
    expected = [mean(0.5 - 0.1 * place + 0.02 * seed for seed in (0, 1, 2)) for place in range(5)]
    assert found.tolist() == pytest.approx(expected)
    (drawn,) = [
        plot
        for plot in plots(part.pieces)
        if plot["layout"].get("meta")
        and traces(plot, "tiny")
        and plot["layout"]["yaxis"].get("tickformat")
        and traces(plot, "mean over seeds")[0]["y"][0] > 0.5
    ]
    assert traces(drawn, "mean over seeds")[0]["y"] == pytest.approx(expected, rel=1e-5)
    assert drawn["layout"]["meta"] == {"axis": "pretraining step"}


def test_scores_are_drawn_before_and_after_what_is_taught():
    levels = {"start": -4.0, "last injection": -3.0}
    rows = [
        {
            **{**planted.RUN, **planted.MET, "measure": "K", "moment": moment, "step": step},
            **{"seed": seed, "cluster": cluster, "value": level + step / 100 + seed + size},
        }
        for moment, level in levels.items()
        for step in (10, 20)
        for seed in (0, 1)
        for cluster, size in (("a", -1.0), ("b", 1.0))
    ]
    acquired = [row | {"measure": "A", "cluster": None, "against": "start"} for row in rows[8::2]]
    filled = {Table.ACQUISITION: planted.filled(Table.ACQUISITION, [*rows, *acquired])}
    part = pretraining_part(Material(results=Results(), measured=filled))
    found = part.tables["scores-by-age"].groupby(["series", "step"])["value"].mean().to_dict()
    expected = {("tiny, before", 10): -3.4, ("tiny, before", 20): -3.3}
    expected |= {("tiny, after", 10): -2.4, ("tiny, after", 20): -2.3}
    assert found == pytest.approx(expected)


def test_a_turn_between_the_ends_is_told(parts):
    first, second, *_ = parts["pretraining"].findings
    assert first == (
        "Knowledge entropy (|c|) over plants falls, from 20.25 nats at pretraining step 0 to 17.25 "
        "nats at pretraining step 1,100, but not steadily: it is lowest, 14.25 nats, at "
        "pretraining step 100 (mean of 2 seeds)."
    )
    assert second == (
        "Acquisition falls, from 52.0% at pretraining step 0 to 12.0% at pretraining step 1,100 "
        "(mean of 3 seeds)."
    )


def test_layers_are_drawn_as_they_are_and_less_their_first_value(parts):
    drawn = [p for p in plots(parts["pretraining"].pieces) if p["data"][0]["type"] == "heatmap"]
    levels, changes = (plot["data"][0] for plot in drawn[:2])
    for layer in range(planted.LAYERS):
        row = [(total + 0.25) / 3 + layer for total in planted.ENTROPIES]
        assert levels["z"][layer] == pytest.approx(row, rel=1e-5)
        moved = [(total - planted.ENTROPIES[0]) / 3 for total in planted.ENTROPIES]
        assert changes["z"][layer] == pytest.approx(moved, rel=1e-5, abs=1e-12)
    assert changes["zmid"] == 0
    assert changes["zmin"] == -changes["zmax"]
    assert drawn[0]["layout"]["xaxis"]["ticktext"] == ["0", "100", "300", "700", "1,100"]


def test_edits_are_compared_with_unedited_runs_of_their_seed(parts):
    table = parts["resuscitation"].tables["edits-less-unedited"].set_index(["panel", "arm"])
    for name, added in (
        ("up, ratio 0.5, factor 2", 0.1),
        ("up, ratio 0.3, factor 2", 0.06),
        ("up, ratio 0.5, factor 0.5", 0.025),
        ("random rows", 0.0),
        ("attention temperature 1.5", 0.0),
    ):
        seeds = [added + 0.01 * seed for seed in planted.SEEDS]
        for panel in ("A, from its own start", "K, last injection"):
            row = table.loc[(panel, name)]
            assert row["value"] == pytest.approx(mean(seeds))
            assert row["high"] - row["value"] == pytest.approx(half_width(seeds))
    # An unedited start is the same against itself: 0.1 + 0.02 s, and half of (0.2 + 0.03 s).
    own = [0.5 * (0.1 + 0.02 * s + 0.1 + 0.01 * s) - (0.1 + 0.02 * s) for s in planted.SEEDS]
    row = table.loc[("A, from the unedited start", "up, ratio 0.5, factor 2")]
    assert row["value"] == pytest.approx(mean(own))


def test_doses_are_lines_beside_the_unedited_start(parts):
    drawn = plots(parts["resuscitation"].pieces)
    titles = [plot["layout"]["xaxis"]["title"].get("text") for plot in drawn]
    assert {"amplifying factor", "resuscitation ratio", "attention temperature"} <= set(titles)
    first = drawn[titles.index("amplifying factor")]
    (line,) = [t for t in traces(first, "up, ratio 0.5") if "mean over seeds" in t["meta"]["keys"]]
    assert line["x"] == [0.5, 1.0, 2.0]
    assert line["y"] == pytest.approx([0.13 + 0.05 * f for f in (0.5, 1.0, 2.0)])
    assert first["layout"]["shapes"][0]["y0"] == pytest.approx(0.12)


def test_the_best_resuscitation_is_told_with_how_sure_it_is(parts):
    first = parts["resuscitation"].findings[0]
    assert first == (
        "Of 5 resuscitations, \u201cup, ratio 0.7, factor 2\u201d has the highest K after the last "
        "injection: +0.150 nats against unedited runs, 3 seeds, an interval that excludes no "
        "change."
    )


def test_what_is_right_is_the_mean_over_facts_then_seeds(parts):
    part = parts["memorization"]
    table = part.tables["share-right"].set_index(["arm", "moment"])
    assert table.loc[("no mixing", "after B"), "value"] == 0.25
    assert (
        table.loc[
            ("random at A, generic at B, \N{MULTIPLICATION SIGN}2, 16 words", "after B"), "value"
        ]
        == 0.75
    )
    assert table.loc[("replay of 10 %", "after A"), "value"] == 1.0
    assert (
        "Of kvr, then lama, 25.0% of stage A is right after B without mixing or replay; most of 7 "
        "other arms with random at A, generic at B, \N{MULTIPLICATION SIGN}1, 8 words: 75.0% (+50.0 points)."
    ) in part.findings


def test_amounts_are_varied_one_at_a_time(parts):
    part = parts["memorization"]
    assert part.anchors == (Anchor.MIXES, Anchor.DEPTH)
    drawn = {plot["layout"]["xaxis"]["title"].get("text"): plot for plot in plots(part.pieces)}
    by_ratio = traces(drawn["items mixed in, over the stage's own"], "mean over seeds")
    assert {t["meta"]["keys"][0] for t in by_ratio} == {
        "random at A, 8 words",
        "random at A, generic at B, 8 words",
    }
    assert all(t["x"] == [1.0, 2.0] for t in by_ratio)
    # After the last stage: after A everything is right.
    assert [t["y"] for t in by_ratio] == [[0.5, 0.5], [0.75, 0.75]]
    by_length = traces(drawn["words of an item mixed in"], "random at A, \N{MULTIPLICATION SIGN}2")
    assert [t["x"] for t in by_length][-1] == [8, 16]


def test_updates_are_a_map_of_layers_and_a_mean_over_them(parts):
    part = parts["updates"]
    line, gradients, updates = plots(part.pieces)
    (drawn,) = [t for t in traces(line, "gradients") if "mean over seeds" in t["meta"]["keys"]]
    assert drawn["y"] == pytest.approx([0.6] * 5)
    assert gradients["data"][0]["z"][2] == pytest.approx([0.7] * 5)
    assert updates["data"][0]["z"][0] == pytest.approx([-0.5] * 5)
    assert part.findings == (
        "The rank correlation of memory vectors' mean coefficients is 0.60 for gradients and "
        "\N{MINUS SIGN}0.60 for updates under Adam at pretraining step 1,100.",
    )


def test_effectivity_is_a_mean_over_passages_then_seeds(parts):
    part = parts["encounters"]
    table = part.tables["effectivity"].set_index(["arm", "kind"])
    for kind, gain in planted.KINDS.items():
        row = table.loc[("step 1,100", kind)]
        assert row["value"] == pytest.approx(gain)
        spread = half_width([gain - 0.1, gain, gain + 0.1])
        assert row["high"] - row["value"] == pytest.approx(spread)
    assert list(table.index.get_level_values("arm").unique()) == [
        f"step {step:,}" for step in planted.STEPS
    ]


def test_nothing_measured_has_no_part():
    nothing = Material(results=Results())
    assert [name for name, make in MEASURED.items() if make(nothing) is not None] == []


def test_one_checkpoint_is_no_trajectory(tables):
    rows = tables[Table.PRETRAINING]
    alone = Material(results=Results(), measured={Table.PRETRAINING: rows[rows["step"] == 100]})
    assert pretraining_part(alone) is None


def test_series_between_their_ends():
    rows = [("a", 0, 0, 2.0), ("a", 0, 1, 4.0), ("a", 1, 0, 8.0), ("a", 2, 0, 4.0)]
    rows += [("still", 0, 0, 1.0), ("still", 1, 0, 1.0)]
    found = between_ends(pd.DataFrame(rows, columns=["series", "x", "seed", "value"]))
    assert found["value"].tolist() == pytest.approx([0.0, 1.0, 0.2])
    assert set(found["series"]) == {"a"}


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "unedited"),
        ({"site": "up", "ratio": 0.5, "factor": 2.0}, "up, ratio 0.5, factor 2"),
        ({"control": "random_rows", "ratio": 0.5, "factor": 2.0}, "random rows"),
        ({"temperature": 1.5}, "attention temperature 1.5"),
        ({"temperature": 1.5, "edit_form": "hooks"}, "attention temperature 1.5, as hooks"),
        (
            {"control": "row_learning_rates", "ratio": 0.5, "factor": 2.0, "edit_form": "hooks"},
            "row learning rates",
        ),
    ],
)
def test_edits_have_the_names_of_the_reports(settings, name):
    assert edit_name({**dict.fromkeys(EDITS, NONE), **settings}) == name
