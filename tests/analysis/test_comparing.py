"""Comparing results: the second less the first, and a line for what cannot be compared."""

import dataclasses

import numpy as np
import pytest

from analysis.numbers import signed_nats
from analysis.runs import read_chain, read_run
from tests.analysis.ckl_runs import make_run
from tests.analysis.lens_results import lens_page, make_lens
from tests.analysis.remix_runs import make_run as make_chain
from tests.analysis.results import entropy_page, make_result


def value(difference, **where):
    table = difference.to_dataframe()
    for name, wanted in where.items():
        table = table[table[name].isna() if wanted is None else table[name] == wanted]
    assert len(table) == 1, table
    return table["difference"].iloc[0]


def test_entropies_by_total_and_by_layer():
    one, other = make_result(seed=1), make_result(seed=2)
    difference = one.compare(other)
    totals = [result.knowledge.estimate for result in (one, other)]
    assert value(difference, measure="knowledge", layer=None) == pytest.approx(
        totals[1] - totals[0]
    )
    layers = [result.attention.per_layer[3] for result in (one, other)]
    assert value(difference, measure="attention", layer=3) == pytest.approx(
        float(layers[1] - layers[0])
    )
    first, second = (
        trace for trace in difference.plot().data if trace.name and trace.y is not None
    )
    assert first.x.tolist() == one.knowledge.per_layer.tolist()
    assert second.x.tolist() == other.knowledge.per_layer.tolist()
    assert "knowledge" in repr(difference)


def test_lenses_by_item_layer_and_position():
    one, other = make_lens(n_items=3), make_lens(n_items=3, model="other", seed=0)
    other = dataclasses.replace(
        other,
        per_token=dataclasses.replace(
            other.per_token,
            readout=dataclasses.replace(
                other.per_token.readout, log_prob=other.per_token.readout.log_prob - 0.25
            ),
        ),
    )
    difference = one.compare(other, k=5)
    assert value(difference, measure="log_prob", layer="2", item=1) == pytest.approx(-0.25)
    assert value(difference, measure="rank", layer="4", item=2) == 0
    (by_item,) = difference.plot().data
    assert by_item.z.shape == (5, 3)
    np.testing.assert_allclose(by_item.z, -0.25, atol=1e-6)
    (by_position,) = difference.plot(item=1).data
    np.testing.assert_allclose(by_position.z, -0.25, atol=1e-6)
    assert by_position.z.shape == (5, 8)
    assert "tiny" in difference.plot().layout.title.text


def test_runs_at_the_steps_that_both_have(tmp_path):
    runs = [read_run(make_run(tmp_path / name, shift=by)) for name, by in (("a", 0.0), ("b", -1.0))]
    difference = runs[0].compare(runs[1])
    probes = {"group": "knowledge probes", "step": 20}
    assert value(difference, **probes) == pytest.approx(-1.0)
    measure = difference.numbers.loc[difference.numbers["group"] == "knowledge probes", "measure"]
    first, second = difference.plot(measure.iloc[0]).data
    assert (first.name, second.name) == ("a", "b")
    np.testing.assert_allclose(second.y - first.y, -1.0)
    with pytest.raises(ValueError, match="share no measure 'lost'; they share 'loss'"):
        difference.plot("lost")
    chains = [read_chain(make_chain(tmp_path / f"chain{kept}", kept=kept)) for kept in (2, 5)]
    kept = chains[0].compare(chains[1]).to_dataframe()
    assert (kept[kept["moment"] == "after B"]["difference"] > 0).any()
    assert (kept[kept["moment"] == "after A"]["difference"] == 0).all()
    with pytest.raises(ValueError, match="TrainingRun cannot be compared with Chain"):
        runs[0].compare(chains[0])


def of_configuration(result, **settings):
    origin = result.provenance
    origin = dataclasses.replace(origin, configuration={**origin.configuration, **settings})
    return dataclasses.replace(result, provenance=origin)


def of_origin(result, **fields):
    return dataclasses.replace(result, provenance=dataclasses.replace(result.provenance, **fields))


@pytest.mark.parametrize(
    ("one", "other", "refusal"),
    [
        (make_result(), of_configuration(make_result(), coefficient="contribution"), "coefficient: abs and contribution"),
        (make_result(), make_result(n_layers=7), r"layers and memory vectors: \[5, 211\] and \[7, 211\]"),
        (make_result(), of_origin(make_result(), weights_sha256="x", corpus_sha256="y"), "in model and in text"),
        (make_result(kinds=("attention",)), make_result(kinds=("next_token",)), "no number in common"),
        (make_result(), make_lens(), "EntropyResult cannot be compared with LensResult"),
        (make_lens(), make_lens(n_items=2), "different items"),
        (make_lens(), make_lens(seed=1), "different tokens"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_one_line(one, other, refusal):
    with pytest.raises(ValueError, match=refusal) as refused:
        one.compare(other)
    assert "\n" not in str(refused.value)


def test_pages_of_two_show_the_difference():
    one, other = make_result(seed=1), make_result(seed=2, model="other")
    moved = other.knowledge.estimate - one.knowledge.estimate
    page = entropy_page([one, other])
    assert "other over general less tiny over general" in page
    assert signed_nats(moved) in page
    assert "less tiny" not in entropy_page([one, make_result(n_layers=7)])
    first, second = make_lens(), make_lens(model="other")
    pair = first.compare(second)
    assert "log-probability, other less tiny." in lens_page([first, second], difference=pair)
