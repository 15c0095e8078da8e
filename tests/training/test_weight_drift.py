"""Weight drift and the parts of models: against sums over names written out by hand."""

import math

import pytest
import torch

from tests.models import tiny_hf_model, tiny_model
from tests.training.loop_runs import model_of, run, same_bits, weights_of
from training.observers import Cadence
from training.runs.records import WeightDriftRecord, records_of
from training.weight_drift import (
    Part,
    WeightDriftObserver,
    angle_of,
    drift_since,
    drift_table,
    parameter_parts,
    start_weights,
    with_weights,
)


def drifted(family="gpt2", dtype=torch.float64):
    """A start, the model moved away from it, and the record of that."""
    model = tiny_model(family, dtype)
    start = start_weights(model)
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for place, weight in enumerate(model.hf_model.parameters()):
            noise = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
            weight += 0.01 * (place % 7) * noise
    return start, model, drift_since(start, model, 5)


PARTS = {
    "embedding": ["wte.weight"],
    "other": ["wpe.weight"],
    "norm": ["ln_f."],
    "1.attention": ["h.1.attn."],
    "1.mlp_in": ["h.1.mlp.c_fc."],
    "1.mlp_out": ["h.1.mlp.c_proj."],
    "2.norm": ["h.2.ln_1.", "h.2.ln_2."],
}


def by_hand(start, model, names):
    before = torch.cat([start[name].flatten() for name in names])
    weights = dict(model.hf_model.named_parameters())
    after = torch.cat([weights[name].detach().flatten() for name in names])
    distance = float((after - before).norm())
    cosine = float(before @ after / (before.norm() * after.norm()))
    return distance, distance / float(before.norm()), math.acos(min(cosine, 1.0))


@pytest.mark.parametrize("part", PARTS)
def test_drift_of_parts(part):
    start, model, record = drifted()
    names = [name for name in start if any(mark in name for mark in PARTS[part])]
    assert names
    place = record.parts.index(part)
    found = (record.distance[place], record.relative[place], record.angle[place])
    # float64; the arc cosine loses half the digits of small angles.
    assert found == pytest.approx(by_hand(start, model, names), rel=1e-6, abs=1e-7)


@pytest.mark.parametrize(
    ("where", "mark"),
    [
        ({"level": "model"}, ""),
        ({"level": "layer", "layer": 2}, "h.2."),
        ({"level": "module", "module": "attention"}, ".attn."),
        ({"level": "part", "layer": 0, "module": "mlp_out"}, "h.0.mlp.c_proj."),
    ],
)
def test_parts_put_together(where, mark):
    start, model, record = drifted()
    table = drift_table(record)
    for column, value in where.items():
        table = table[table[column] == value]
    (row,) = table.to_dict("records")
    names = [name for name in start if mark in name]
    # As above.
    expected = by_hand(start, model, names)
    assert (row["distance"], row["relative"], row["angle"]) == pytest.approx(expected, rel=1e-6)
    assert row["step"] == 5


def test_the_table_has_every_level_once():
    counts = drift_table(drifted()[2])["level"].value_counts().to_dict()
    # Of gpt2's parts: four in each of three layers, the embedding, positions and the final norm.
    assert counts == {"model": 1, "layer": 3, "module": 6, "part": 15}


@pytest.mark.parametrize(
    ("family", "part", "count"),
    [
        # Queries, keys, values and output; gate and up; both of these in one.
        ("llama", "0.attention", 4),
        ("llama", "0.mlp_in", 2),
        ("phi3", "0.mlp_in", 1),
        ("gpt_neox", "unembedding", 1),
        ("gpt_neox", "2.mlp_out", 2),
        ("qwen3", "1.attention", 6),
        ("opt", "1.mlp_in", 2),
        ("opt", "1.mlp_out", 2),
        ("opt", "1.attention", 8),
        ("opt", "1.norm", 4),
    ],
)
def test_parameters_of_families(family, part, count):
    parts = parameter_parts(tiny_model(family))
    assert list(map(str, parts.values())).count(part) == count
    assert str(Part.named(part)) == part
    named = dict(tiny_hf_model(family).named_parameters())
    assert parts.keys() == named.keys()


def test_a_part_of_no_kind_is_refused():
    with pytest.raises(ValueError, match=r"part '3\.mlp' is none of embedding, attention, mlp_in"):
        Part.named("3.mlp")


@pytest.mark.parametrize("angle", [1e-9, 1e-4, 0.7, math.pi / 2, 3.0, math.pi])
@pytest.mark.parametrize("ratio", [1.0, 0.3, 5.0])
def test_angles_from_lengths(angle, ratio):
    # The law of cosines, in a form that small angles do not cancel in.
    apart = math.hypot(1 - ratio, 2 * math.sqrt(ratio) * math.sin(angle / 2))
    # Lengths are good to 1e-16: unequal ones leave out the square root of that of an angle near 0,
    # and any do so near pi.
    far = 1e-7 if ratio != 1 or angle > 3 else 0.0
    assert angle_of(1.0, ratio, apart) == pytest.approx(angle, rel=1e-9, abs=far)


def test_an_angle_needs_two_lengths():
    assert angle_of(0.0, 1.0, 1.0) is None
    assert angle_of(1.0, 0.0, 1.0) is None
    assert angle_of(1.0, 1.0, 0.0) == 0.0


def test_a_part_of_zeros_has_no_relative_distance():
    model = tiny_model("gpt2")
    with torch.no_grad():
        model.hf_model.transformer.wpe.weight.zero_()
    start = start_weights(model)
    with torch.no_grad():
        model.hf_model.transformer.wpe.weight.fill_(0.5)
    record = drift_since(start, model)
    place = record.parts.index("other")
    assert (record.relative[place], record.angle[place]) == (None, None)
    # 61 positions of 42 entries.
    assert record.distance[place] == pytest.approx(0.5 * math.sqrt(61 * 42))
    assert drift_table(record).query("module == 'other'")["relative"].isna().all()


def test_a_run_records_how_far_it_has_come(tmp_path):
    model = model_of()
    start = start_weights(model)
    observer = WeightDriftObserver(start, Cadence(every=5, last=11))
    run(tmp_path / "run", model, observers=[observer])
    records = records_of(tmp_path / "run", WeightDriftRecord)
    assert [record.step for record in records] == [0, 5, 10, 11]
    whole = [drift_table(record)["distance"][0] for record in records]
    assert whole[0] == 0
    assert whole == sorted(whole)
    assert records[-1] == drift_since(start, model, 11)


def test_other_weights_for_a_while():
    model = model_of()
    start, before = start_weights(model), weights_of(model)
    other = {name: weight + 1 for name, weight in start.items()}
    with with_weights(model, other):
        assert same_bits(weights_of(model), other)
        assert torch.is_grad_enabled()
    assert same_bits(weights_of(model), before)


def test_own_weights_are_back_after_an_error():
    model = model_of()
    before = weights_of(model)
    other = {name: weight + 1 for name, weight in start_weights(model).items()}
    with pytest.raises(ValueError, match="layer 7 does not exist"), with_weights(model, other):
        model.hook_point(("resid_post", 7))
    assert same_bits(weights_of(model), before)


def test_the_start_is_a_copy_in_float32():
    model = tiny_model("llama", torch.bfloat16)
    start = start_weights(model)
    weight = next(model.hf_model.parameters())
    name = next(iter(start))
    assert start[name].dtype == torch.float32
    assert torch.equal(start[name], weight.float())
    before = start[name].clone()
    with torch.no_grad():
        weight += 1
    assert torch.equal(start[name], before)


def test_the_start_of_another_model_is_refused():
    start = start_weights(tiny_model("llama"))
    with pytest.raises(ValueError, match=r"the start weights are not those of .*; take them from"):
        drift_since(start, tiny_model("gpt2"))


@pytest.mark.parametrize("of_start", [True, False])
def test_a_weight_that_is_not_finite_has_no_drift(of_start):
    model = tiny_model("gpt2")
    start = start_weights(model)
    weights = start if of_start else dict(model.hf_model.named_parameters())
    weights["transformer.h.1.mlp.c_fc.bias"].data[3] = float("inf")
    with pytest.raises(ValueError, match=r"is not finite, at transformer\.h\.1\.mlp\.c_fc\.bias"):
        drift_since(start, model)
