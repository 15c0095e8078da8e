"""Figures hold the numbers they are given, layer 0 at the bottom, and show names as text."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from analysis.entropy_figures import (
    attention_by_layer,
    attention_heads,
    coefficient_table,
    convergence_figure,
    convergence_table,
    entropy_figure,
    head_table,
    kept_ranks,
    knowledge_by_layer,
    layer_table,
    series_labels,
    sorted_coefficients,
)
from probes.choices import EntropyKind
from probes.corpus_means import Interval
from probes.results import ConvergencePoint
from tests.analysis.results import make_result

NASTY = "<b>bold</b> %{x} <script>"


@pytest.fixture
def results():
    return [make_result("general"), make_result("biomedical", seed=1)]


@pytest.fixture
def layers(results):
    return layer_table(results)


@pytest.fixture
def heads(results):
    return head_table(results)


def data_traces(figure):
    """Traces that stand for data, not for room on an axis."""
    return [trace for trace in figure.data if trace.hoverinfo != "skip"]


def test_entropy_figure_holds_each_results_entropies_and_the_maximum(results):
    traces = data_traces(results[0].plot())
    assert len(traces) == 1
    np.testing.assert_array_equal(traces[0].x, results[0].knowledge.per_layer)
    np.testing.assert_array_equal(traces[0].y, range(5))

    figure = entropy_figure(results)
    assert [trace.name for trace in data_traces(figure)] == ["general", "biomedical"]
    assert [line.x0 for line in figure.layout.shapes] == [pytest.approx(np.log(211), abs=1e-12)]


def test_entropy_figure_marks_the_maximum_of_every_size_of_model(results):
    wider = make_result("general", model="wide", d_mlp=307)
    lines = entropy_figure([results[0], wider]).layout.shapes
    assert [line.x0 for line in lines] == pytest.approx([np.log(211), np.log(307)])


def test_entropy_figure_refuses_results_without_knowledge():
    with pytest.raises(ValueError, match="needs kind 'knowledge', which none of the 1 results"):
        entropy_figure([make_result(kinds=("attention",))])


def test_knowledge_by_layer_draws_effective_shares(results, layers):
    figure = knowledge_by_layer(layers)
    traces = {trace.name: trace for trace in data_traces(figure)}
    assert list(traces) == [
        "general",
        "general, by contribution",
        "biomedical",
        "biomedical, by contribution",
    ]
    for series, result in zip(("general", "biomedical"), results, strict=True):
        used = result.knowledge.effective_memory_vectors.numpy()
        np.testing.assert_allclose(traces[series].x, used / 211, rtol=1e-12)
        np.testing.assert_array_equal(traces[series].y, range(5))
    assert traces["general"].line.color != traces["biomedical"].line.color
    assert traces["general, by contribution"].marker.symbol == "circle-open"


def test_upper_axis_names_the_same_places_in_nats(layers):
    axis = knowledge_by_layer(layers).layout.xaxis2
    assert axis.matches == "x"
    named = [float(text) for text in axis.ticktext]
    np.testing.assert_allclose(axis.tickvals, np.exp(-np.array(named)), rtol=1e-12)
    assert named[0] == 0.0
    assert len(named) > 2


def test_attention_by_layer_has_means_and_heads(results, layers, heads):
    mean, _, dots, _ = attention_by_layer(layers, heads).data
    per_head = results[0].attention.per_head.numpy()
    np.testing.assert_array_equal(dots.x, per_head.ravel())
    np.testing.assert_array_equal(dots.y, np.repeat(np.arange(5), 3))
    np.testing.assert_allclose(mean.x, per_head.mean(axis=1), rtol=1e-12)


def test_heatmap_is_layers_by_heads_on_the_shared_scale(results, heads):
    (grid,) = attention_heads(heads[heads["series"] == "biomedical"], (0.0, 7.0)).data
    np.testing.assert_array_equal(grid.z, results[1].attention.per_head)
    assert (grid.zmin, grid.zmax) == (0.0, 7.0)
    np.testing.assert_array_equal(grid.y, range(5))


def test_difference_is_signed_around_zero(results, heads):
    general, biomedical = (heads[heads["series"] == name] for name in ("general", "biomedical"))
    (grid,) = attention_heads(biomedical, baseline=general).data
    expected = (results[1].attention.per_head - results[0].attention.per_head).numpy()
    np.testing.assert_allclose(grid.z, expected, rtol=1e-12, atol=1e-15)
    assert (grid.zmid, grid.zmin) == (0.0, -grid.zmax)
    assert grid.zmax == pytest.approx(np.abs(expected).max())


def test_difference_of_equal_series_is_drawn(heads):
    general = heads[heads["series"] == "general"]
    (grid,) = attention_heads(general, baseline=general).data
    assert not np.any(grid.z)
    assert grid.zmax > 0


def test_sorted_coefficients_fall_from_the_largest_to_the_smallest(results):
    table = coefficient_table(results[:1], points=300)
    figure = sorted_coefficients(table)
    traces = [trace for trace in figure.data if trace.meta]
    assert [trace.meta["layer"] for trace in traces] == [0, 1, 2, 3, 4]
    values = results[0].mean_coefficients.numpy()[3]
    expected = np.sort(values)[::-1] / values.mean()
    # The figure holds float32: half its last digit.
    np.testing.assert_allclose(traces[3].y, expected, rtol=6e-8)
    assert figure.layout.yaxis.type == "log"


@pytest.mark.parametrize(("size", "points"), [(1, 7), (7, 7), (211, 60), (11008, 120)])
def test_kept_ranks_cover_both_ends_within_the_budget(size, points):
    ranks = kept_ranks(size, points)
    assert ranks[0] == 0
    assert ranks[-1] == size - 1
    assert len(ranks) <= points
    assert np.all(np.diff(ranks) > 0)


def test_downsampled_line_stays_close_to_the_whole_one():
    results = [make_result(d_mlp=1531)]
    whole, thin = (coefficient_table(results, points=points) for points in (1531, 120))
    for layer in range(5):
        x, y = (whole.loc[whole["layer"] == layer, name] for name in ("rank", "ratio"))
        kept = thin[thin["layer"] == layer]
        guess = np.interp(x, kept["rank"], np.log(kept["ratio"]))
        # Seen on an axis of several decades: a twentieth of a decade is a line's width.
        assert np.abs(guess - np.log(y)).max() < 0.05 * np.log(10)


def test_a_coefficient_of_zero_does_not_break_the_logarithmic_axis():
    table = pd.DataFrame(
        {"layer": [0, 0], "rank": [0, 1], "quantile": [0.0, 0.5], "ratio": [2.0, 0.0]}
    )
    assert np.isfinite(sorted_coefficients(table).layout.yaxis.range).all()


def test_names_are_text_to_plotly():
    figure = knowledge_by_layer(layer_table([make_result(NASTY)]))
    assert data_traces(figure)[0].name == "&lt;b&gt;bold&lt;/b&gt; %{x} &lt;script&gt;"


@pytest.mark.parametrize(
    ("results", "labels"),
    [
        ([("m", None, "a")], ["a"]),
        ([("m", None, "a"), ("m", None, "b")], ["a", "b"]),
        ([("m", "step1", "a"), ("m", "step2", "a")], ["step1", "step2"]),
        ([("m", None, "a"), ("n", None, "b")], ["m · a", "n · b"]),
        ([("m", None, "a"), ("m", None, "a")], ["a", "a (2)"]),
    ],
)
def test_series_are_called_after_what_varies(results, labels):
    made = [make_result(c, model=m, revision=r, kinds=()) for m, r, c in results]
    assert series_labels(made) == labels


def test_convergence_is_drawn_as_it_was_measured():
    points = tuple(
        ConvergencePoint(EntropyKind.KNOWLEDGE, n, 11 * n, 30.0 + 1 / n, interval)
        for n, interval in ((1, None), (3, Interval(29.0, 31.5)), (7, Interval(29.7, 30.8)))
    )
    result = dataclasses.replace(make_result(), convergence=points)
    figure = convergence_figure(convergence_table([result]), "knowledge")
    band, total = figure.data
    assert list(band.y) == [31.5, 30.8, 29.7, 29.0]
    assert list(total.x) == [3, 7]
    # The estimates that the intervals are of, in their middle.
    assert list(total.y) == [30.25, 30.25]
