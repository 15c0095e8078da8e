"""The figure kit holds the numbers it is given, and shows every name as text."""

import json

import numpy as np
import pandas as pd
import pytest

from analysis.figures import colours_of, dots, dots_by_name, heatmap, histogram, lines

NASTY = "<b>bold</b> %{x}"


@pytest.fixture
def rows():
    """Two arms of three steps; the second one's last interval is not known."""
    return pd.DataFrame(
        {
            "arm": ["a"] * 3 + [NASTY] * 3,
            "step": [0, 5, 7] * 2,
            "value": [1.0, 2.0, 4.0, -1.0, 0.5, 3.0],
            "low": [0.5, 1.0, 3.0, -2.0, 0.0, np.nan],
            "high": [2.0, 4.0, 7.0, 1.0, 1.0, np.nan],
        }
    )


def test_a_line_for_each_group_in_its_colour_with_text_escaped(rows):
    colours = {"a": "#112233", NASTY: "#445566"}
    hover = "at {step}: <b>{value:.2f}</b>, {arm}, from {low:.1f}"
    figure = lines(rows, "step", "value", by="arm", colours=colours, hover=hover, keys=True)
    first, second = figure.data
    assert (list(first.x), list(first.y)) == ([0, 5, 7], [1, 2, 4])
    assert (first.line.color, second.line.color) == ("#112233", "#445566")
    assert second.name == "&lt;b&gt;bold&lt;/b&gt; %{x}"
    assert second.meta["keys"] == [NASTY]
    # The name comes from the trace: its own "%{x}" is not filled in.
    assert first.hovertemplate == (
        "%{fullData.name}<br>at %{x}: <b>%{y:.2f}</b>, %{customdata[0]}, from "
        "%{customdata[1]:.1f}<extra></extra>"
    )
    assert [row[0] for row in second.customdata] == [second.name] * 3
    np.testing.assert_array_equal([row[1] for row in second.customdata], [-2.0, 0.0, np.nan])
    assert figure.layout.showlegend
    json.loads(figure.to_json())


@pytest.mark.parametrize("on", ["x", "y"])
def test_intervals_are_bars_or_a_band_along_their_axis(rows, on):
    axes = ("value", "step") if on == "x" else ("step", "value")
    bars = lines(rows, *axes, by="arm", ends=("low", "high"), ends_on=on).data
    np.testing.assert_allclose(bars[0][f"error_{on}"].array, [1, 2, 3])
    np.testing.assert_allclose(bars[0][f"error_{on}"].arrayminus, [0.5, 1, 1])
    band, line, *_ = lines(rows, *axes, by="arm", ends=("low", "high"), ends_on=on, band=True).data
    # Out along the upper ends, back along the lower ones.
    np.testing.assert_allclose(band[on], [2, 4, 7, 3, 1, 0.5])
    np.testing.assert_allclose(band["y" if on == "x" else "x"], [0, 5, 7, 7, 5, 0])
    assert line[f"error_{on}"].array is None


def test_kinds_differ_in_dash_and_marker_and_layers_in_depth():
    found = pd.DataFrame({"layer": [0, 1, 2] * 2, "kind": ["", "", "", *["by c"] * 3], "v": 1.0})
    figure = lines(found.assign(arm="a"), "v", "layer", by=("arm", "kind"), mode="lines+markers")
    plain, variant = figure.data
    assert (plain.name, variant.name) == ("a", "a, by c")
    assert plain.line.color == variant.line.color
    assert (plain.line.dash, variant.line.dash) == ("solid", "dot")
    assert variant.marker.symbol == "circle-open"
    bar, *layers = lines(found, "v", "v", by="layer", hover="{layer}").data
    assert [one.meta["layer"] for one in layers] == [0, 1, 2]
    assert len({one.line.color for one in layers}) == 3
    assert bar.marker.colorbar.title.text == "layer"
    assert not any(one.showlegend for one in layers)
    again = dots(found.assign(arm="a"), "v", "layer", by=("arm", "kind"), onto=figure)
    assert [one.showlegend for one in again.data] == [True, True, False, False]


def test_a_row_for_every_name_the_first_at_the_top():
    means = pd.DataFrame({"arm": ["b", "a"], "value": [0.25, -0.5]})
    means = means.assign(low=[0.2, np.nan], high=[0.4, np.nan])
    seeds = pd.DataFrame({"arm": ["a", "a"], "value": [-0.75, -0.25]})
    figure = dots_by_name(means, colours_of(["a", "b"]), "A", seeds=seeds, form=".1%")
    of_seeds, first, second = figure.data
    assert (list(of_seeds.x), list(of_seeds.y)) == ([-0.75, -0.25], [1, 1])
    assert [(one.x[0], one.y[0]) for one in (first, second)] == [(0.25, 0), (-0.5, 1)]
    assert first.error_x.array[0] == pytest.approx(0.15)
    assert first.error_x.arrayminus[0] == pytest.approx(0.05)
    assert second.error_x.array is None
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]
    assert list(figure.layout.yaxis.ticktext) == ["b", "a"]


def test_heatmap_puts_every_number_in_its_cell():
    cells = [
        (layer, name, 10.0 * layer + place)
        for layer in (2, 0, 1)
        for place, name in enumerate("zy")
    ]
    rows = pd.DataFrame(cells, columns=["layer", "model", "value"]).iloc[:-1]
    settings = {"unit": "nats", "titles": ("model", "layer"), "hover": "{model}, {layer}: {value}"}
    figure = heatmap(rows, "model", "layer", "value", **settings)
    (grid,) = figure.data
    # Names in the order in which they come, numbers by size; what is missing has no colour.
    np.testing.assert_array_equal(grid.z, [[0, 1], [10, np.nan], [20, 21]])
    assert list(figure.layout.xaxis.ticktext) == ["z", "y"]
    assert list(grid.y) == [0, 1, 2]
    assert list(grid.customdata[2][1]) == ["y", 2]
    signed = heatmap(rows, "model", "layer", "value", **settings, signed=True).data[0]
    assert (signed.zmin, signed.zmid, signed.zmax) == (-21, 0, 21)
    limited = heatmap(rows, "model", "layer", "value", **settings, limits=(0, 30)).data[0]
    assert (limited.zmin, limited.zmax) == (0, 30)


def test_histogram_is_of_all_rows_also_of_those_at_no_layer():
    found = ["0", "2", "2", None, "1"]
    rows = pd.DataFrame({"model": ["m"] * 4 + ["n"], "first": found})
    figure = histogram(rows, "first", ["embed", "0", "1", "2"], by="model")
    assert [list(bar.x) for bar in figure.data] == [[0, 0.25, 0, 0.5], [0, 0, 1, 0]]
    assert list(figure.layout.yaxis.ticktext) == ["embed", "0", "1", "2"]
    assert figure.layout.yaxis.range[0] < figure.layout.yaxis.range[1]
