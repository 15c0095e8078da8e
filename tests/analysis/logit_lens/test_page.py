"""The page and figures of a lens hold its numbers, escape everything and stay small."""

import base64
import dataclasses
import json
import zlib

import numpy as np
import pytest
import torch

from analysis.lens_figures import Criterion, causal_figure, layer_histogram, rank_trajectories
from analysis.lens_page import layer_ranges
from analysis.numbers import visible
from probes.causal import CausalResult
from tests.analysis.lens_results import D_VOCAB, lens_page, make_lens
from tests.analysis.test_page import NASTY, Reader

ARRAYS = {
    "Uint8Array": "<u1",
    "Uint16Array": "<u2",
    "Uint32Array": "<u4",
    "Int16Array": "<i2",
    "Float32Array": "<f4",
}


def unpacked(packed):
    raw = zlib.decompress(base64.b64decode(packed["data"]))
    if packed["type"] == "JSON":
        return json.loads(raw)
    kind = np.dtype(ARRAYS[packed["type"]])
    length = len(raw) // kind.itemsize
    # The first bytes of all numbers, then their second bytes, and so on.
    numbers = [raw[i::length] for i in range(length)]
    return np.frombuffer(b"".join(numbers), kind)


def data_of(page):
    reader = Reader(page)
    kinds = [attrs.get("id") for tag, attrs in reader.tags if tag == "script"]
    return json.loads(reader.scripts[kinds.index("lens-data")])


def test_page_data_is_what_was_read():
    result = make_lens(target_length=2, top_k=3)
    series = data_of(lens_page([result]))["series"][0]
    read = result.per_token
    tokens = unpacked(series["tokens"])
    for name in ("rank", "entropy", "kl"):
        np.testing.assert_array_equal(unpacked(series[name]), getattr(read.readout, name).flatten())
    np.testing.assert_array_equal(unpacked(series["logProb"]), read.readout.log_prob.flatten())
    np.testing.assert_array_equal(unpacked(series["position"]), read.position)
    np.testing.assert_array_equal(unpacked(series["place"]), read.place)
    best = [tokens[i] for i in unpacked(series["topIds"])]
    assert best == [f"·t{token}" for token in read.readout.top_ids.flatten().tolist()]
    log_probs = unpacked(series["topSteps"]) / -2048
    # Half a step, and the rounding of float32.
    exact = read.readout.top_log_probs.flatten()
    np.testing.assert_allclose(log_probs, exact, rtol=0, atol=0.5 / 2048 + 1e-6)
    starts, given, target = (unpacked(series[name]) for name in ("starts", "input", "target"))
    for index, item in enumerate(result.items):
        rows = range(starts[index], starts[index + 1])
        inputs = [tokens[given[row]] for row in rows]
        assert inputs == [f"·t{token}" for token in item.prompt_ids + item.target_ids[:-1]]
        targets = [tokens[target[row]] for row in rows]
        looked_for = (item.target_ids[0],) * len(item.prompt_ids) + item.target_ids[1:]
        assert targets == [f"·t{token}" for token in looked_for]


@pytest.mark.parametrize(
    ("highest", "kind"),
    [(255, "Uint8Array"), (256, "Uint16Array"), (65535, "Uint16Array"), (65536, "Uint32Array")],
)
def test_arrays_are_as_small_as_they_can_be(highest, kind):
    from analysis.lens_figures import packed

    found = packed(np.array([0, highest]))
    assert found["type"] == kind
    assert unpacked(found).tolist() == [0, highest]


def test_a_hundred_items_stay_under_ten_megabytes():
    d_vocab, layers, items, positions, k = 49_152, 30, 100, 25, 10
    base = make_lens(n_items=items, n_layers=1, length=1, positions="last", top_k=1, d_vocab=101)
    random = torch.Generator().manual_seed(0)
    rows = items * positions
    place = torch.full((positions,), -1)
    place[-1] = 0
    ids = torch.randint(d_vocab, (items, positions), generator=random)
    steep = torch.rand(layers, rows, k, generator=random).cumsum(-1)
    # Numbers without any pattern: nothing that a model reads out is as hard to compress.
    readout = dataclasses.replace(
        base.per_token.readout,
        rank=torch.randint(d_vocab, (layers, rows), generator=random),
        log_prob=-10 * torch.rand(layers, rows, generator=random),
        entropy=10 * torch.rand(layers, rows, generator=random),
        kl=10 * torch.rand(layers, rows, generator=random),
        top_ids=torch.randint(d_vocab, (layers, rows, k), generator=random),
        top_log_probs=-steep,
        control_rank=torch.zeros(layers, rows, 0, dtype=torch.long),
    )
    per_token = dataclasses.replace(
        base.per_token,
        item=torch.arange(items).repeat_interleave(positions),
        position=torch.arange(positions).repeat(items),
        target=torch.randint(d_vocab, (items,), generator=random).repeat_interleave(positions),
        place=place.repeat(items),
        readout=readout,
    )
    result = dataclasses.replace(
        base,
        items=tuple(
            dataclasses.replace(item, prompt_ids=tuple(row))
            for item, row in zip(base.items, ids.tolist(), strict=True)
        ),
        layer_labels=tuple(map(str, range(layers))),
        per_token=per_token,
        vocabulary={token: f" token{token}" for token in range(d_vocab)},
        d_vocab=d_vocab,
    )
    assert len(lens_page([result]).encode()) < 10e6


def test_hostile_prompts_and_tokens_stay_text():
    nasty = {token: NASTY for token in range(0, D_VOCAB, 2)}
    result = make_lens(
        model=NASTY,
        vocabulary=nasty,
        prompts=(NASTY,) * 3,
        targets=(NASTY,) * 3,
        notes=("<u>note</u>",),
    )
    page = lens_page([result])
    reader, plain = Reader(page), Reader(lens_page([make_lens()]))
    assert {tag for tag, _ in reader.tags}.isdisjoint({"img", "u"})
    assert len(reader.scripts) == len(plain.scripts)
    series = data_of(page)["series"][0]
    assert series["items"][0]["prompt"] == NASTY
    assert NASTY.replace(" ", "·") in unpacked(series["tokens"])


def test_page_says_what_was_found():
    result = make_lens(n_items=11)
    text = Reader(lens_page([result], k=5)).text
    found = round(result.localization(5).share_found * 11)
    assert f"{found} of 11 targets" in text
    assert "Where tiny finds the answer" in text


def test_further_findings_are_shown():
    assert "p = 0.04 <" in Reader(lens_page([make_lens()], findings=["p = 0.04 <"])).text


def test_two_models_are_shown_side_by_side():
    page = lens_page([make_lens(), make_lens(model="other", n_layers=3)])
    text = Reader(page).text
    assert "Where tiny and other find the answer" in text
    assert [series["name"] for series in data_of(page)["series"]] == ["tiny", "other"]
    # Two histograms for both, a plot of ranks for each.
    assert page.count('class="plot"') == 4


def test_two_lenses_of_a_model_are_told_apart():
    page = lens_page([make_lens(), make_lens(lens="tuned")])
    names = [series["name"] for series in data_of(page)["series"]]
    assert names == ["tiny, logit lens", "tiny, tuned lens"]


def test_a_single_item_has_no_histogram_and_no_search():
    page = lens_page([make_lens(n_items=1)])
    assert page.count('class="plot"') == 1
    assert not [attrs for tag, attrs in Reader(page).tags if tag == "input"]


@pytest.mark.parametrize(
    ("results", "message"),
    [
        (lambda: [], "needs at least one result, found none"),
        (lambda: [make_lens(), make_lens(n_items=2)], "must be of the same items, found 2 with"),
    ],
)
def test_what_makes_no_page_is_refused(results, message):
    with pytest.raises(ValueError, match=message) as refusal:
        lens_page(results())
    assert "\n" not in str(refusal.value)


def make_causal(n_items=3, n_layers=5, least_drop=0.1):
    """Recovery 0.2 per layer of the stream, 0.1 everywhere of the MLP; the last item undamaged."""
    clean = torch.full((n_items,), -1.0, dtype=torch.float64)
    corrupted = torch.full((n_items,), -5.0, dtype=torch.float64)
    corrupted[-1] = -1.0
    share = torch.stack(
        [
            torch.arange(1, n_layers + 1).double() / n_layers,
            torch.full((n_layers,), 0.1, dtype=torch.float64),
        ]
    )
    restored = corrupted + share[:, :, None] * (clean - corrupted)
    return CausalResult(
        sites=("resid_post", "mlp_out"),
        clean=clean,
        corrupted=corrupted,
        restored=restored,
        subjects=((0,),) * n_items,
        restored_at=((0,),) * n_items,
        least_drop=least_drop,
        noise_std=1.0,
        provenance=make_lens().provenance,
    )


def test_the_causal_check_stands_beside_what_can_be_read():
    result = make_lens()
    readable, stream, mlp = causal_figure(make_causal(), [result], k=5).data
    # Log-probabilities that were divided again, in float64.
    np.testing.assert_allclose(stream.x, [0.2, 0.4, 0.6, 0.8, 1.0], rtol=1e-12)
    np.testing.assert_allclose(mlp.x, [0.1] * 5, rtol=1e-12)
    np.testing.assert_array_equal(readable.x, [(r < 5).double().mean() for r in result.rank])
    assert list(stream.y) == list(readable.y) == [0, 1, 2, 3, 4]


def test_the_causal_check_is_put_into_words():
    result = make_lens()
    text = Reader(lens_page([result], causal=make_causal(), k=D_VOCAB - 1)).text
    assert "Of 3 items, 1 lost less than 0.1 nats to the noise" in text
    assert "residual stream brings back half or more of what noise took at layers 2 to 4." in text
    assert "MLP output helps most at layer 0, where 10.0% comes back" in text
    # With such a k every target can be read at every layer.
    assert "through the residual stream at layers 2 to 4" in text


def test_a_causal_check_of_other_items_is_refused():
    with pytest.raises(ValueError, match="of 7 items does not go with a lens of 3"):
        lens_page([make_lens()], causal=make_causal(n_items=7))


@pytest.mark.parametrize(
    ("chosen", "text"),
    [
        ([True, False, False], "layer 0"),
        ([True, False, True], "layers 0 and 2"),
        ([True, True, False, True, False, True, True], "layers 0 to 1, 3 and 5 to 6"),
    ],
)
def test_layers_are_told_as_ranges(chosen, text):
    assert layer_ranges(chosen) == text


def test_heatmap_holds_one_items_numbers():
    result = make_lens()
    figure = result.plot(1)
    (trace,) = figure.data
    rows = [row for row in range(len(result.per_token.item)) if result.per_token.item[row] == 1]
    read = result.per_token.readout
    np.testing.assert_array_equal(trace.z, read.log_prob.numpy()[:, rows])
    assert list(figure.layout.yaxis.ticktext) == ["0", "1", "2", "3", "4"]
    assert [t.lstrip("·") for t in figure.layout.xaxis.ticktext] == [
        f"t{token}" for token in result.items[1].prompt_ids
    ]
    row, hover = rows[3], trace.customdata[2][3]
    assert int(read.rank[2, row]) in hover
    best = next(text for text in hover if "<br>" in str(text))
    assert [line.split("·")[1] for line in best.split("<br>")] == [
        f"t{token}" for token in read.top_ids[2, row].tolist()
    ]


def test_heatmap_shows_markup_as_text():
    result = make_lens(vocabulary={token: "<b>x</b>" for token in range(D_VOCAB)})
    (trace,) = result.plot(0).data
    assert trace.text[0][0] == "&lt;b&gt;x&lt;/b&gt;"
    assert not any("<b>x" in str(text) for text in trace.customdata[0][0])
    assert "&lt;b&gt;x" in result._repr_html_()
    assert "<b>x" not in result._repr_html_()


@pytest.mark.parametrize("item", [3, -1])
def test_a_heatmap_of_nothing_is_refused(item):
    with pytest.raises(ValueError, match=f"there is no item {item}; this result has 0 to 2"):
        make_lens().plot(item)


def test_histograms_are_of_all_items_and_start_beneath_layer_0():
    result = make_lens(n_items=11, embedding=True, seed=1)
    other = make_lens(n_items=11, model="other", n_layers=3)
    assert ((result.first_layer(1) == -1) & (result.settling_layer(1) == -1)).any(), (
        "some items must be missing from the bars"
    )
    for criterion in Criterion:
        figure = layer_histogram([result, other], criterion, k=1)
        assert [bar.name for bar in figure.data] == ["tiny", "other"]
        assert list(figure.layout.yaxis.ticktext) == ["embed", "0", "1", "2", "3", "4"]
        layers = getattr(result, f"{criterion}_layer")(1)
        by_hand = [sum(int(x) == row for x in layers) / 11 for row in range(6)]
        assert list(figure.data[0].x) == by_hand
        of_other = getattr(other, f"{criterion}_layer")(1)
        assert list(figure.data[1].x)[1:4] == [
            sum(int(x) == row for x in of_other) / 11 for row in range(3)
        ]


def test_rank_trajectories_are_medians_with_controls():
    result = make_lens(n_items=7, controls=("shuffled",))
    figure = rank_trajectories(result)
    named = {trace.name: trace for trace in figure.data if trace.name}
    middle = [sorted(ranks)[3] + 1 for ranks in result.rank.tolist()]
    assert list(named["median of the targets"].x) == middle
    control = [sorted(ranks)[3] + 1 for ranks in result.control_rank("shuffled").tolist()]
    assert list(named["shuffled"].x) == control
    assert list(figure.layout.xaxis.ticktext) == ["0", "1", "10", "100"]
    assert list(figure.layout.xaxis.tickvals) == [1, 2, 11, 101]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (" a b", "·a·b"),
        ("\n\t", "↵⇥"),
        ("", "∅"),
        ("\u202egnp", "\\u202egnp"),
        ("\x00\u200b", "\\u0000\\u200b"),
        ("né <b>", "né·<b>"),
    ],
)
def test_every_character_of_a_token_can_be_seen(text, shown):
    assert visible(text) == shown
