"""Gradient alignment: products against `backward` on copies, errors against a jackknife."""

import math
from dataclasses import asdict

import pytest
import torch
from torch.distributed.fsdp import fully_shard

import interventions
from tests.models import tiny_model
from tests.training.gradient_samples import (
    gradient_by_hand,
    loss_by_hand,
    product_by_hand,
    row_of,
    rows_of,
)
from tests.training.loop_runs import model_of, run, same_bits, weights_of
from training.forgetting_terms import alignment, change_of_loss
from training.gradients import GradientAlignmentObserver, gradient_sample
from training.observers import Cadence
from training.runs.records import GradientAlignmentRecord, records_of
from training.weight_drift import WeightDriftObserver, start_weights

ROWS = {"A": rows_of(7, 1), "B": rows_of(5, 2), "M": rows_of(11, 3, answer=(4, 2, 1))}


def observer_of(model, *, blocks=3, **cadence):
    samples = [gradient_sample(name, rows, blocks=blocks) for name, rows in ROWS.items()]
    return GradientAlignmentObserver(
        samples, Cadence(**{"every": 1, **cadence}), start_weights(model)
    )


def product_of(record, first, second):
    return math.fsum(record.products[record.pairs.index([first, second])])


def losses_by_hand(model):
    with torch.no_grad():
        return [float(loss_by_hand(model.hf_model, rows)) for rows in ROWS.values()]


def moved_by(model, vector, size):
    """Add a vector to the weights."""
    with torch.no_grad():
        for name, weight in model.hf_model.named_parameters():
            weight += size * vector[name]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_products_are_those_of_backward_on_copies(family):
    model = tiny_model(family, torch.float64)
    (record,) = observer_of(model).observe(model, 3)
    by_hand = {name: gradient_by_hand(model.hf_model, rows) for name, rows in ROWS.items()}
    # float64, but for norms that transformers takes in float32.
    for first, second in [("A", "A"), ("A", "B"), ("A", "M"), ("B", "M"), ("M", "M")]:
        expected = product_by_hand(by_hand[first], by_hand[second])
        scale = math.sqrt(
            product_by_hand(by_hand[first], by_hand[first])
            * product_by_hand(by_hand[second], by_hand[second])
        )
        for other in (second, second + "@start"):
            assert product_of(record, first, other) == pytest.approx(expected, abs=1e-6 * scale)
    losses = losses_by_hand(model)
    assert record.losses == pytest.approx(losses, rel=1e-6)
    assert record.start_losses == record.losses
    assert (record.step, record.samples, record.tokens) == (3, ["A", "B", "M"], [17, 12, 27])
    assert product_of(record, "moved", "moved") == 0.0


def test_parts_are_parts_of_the_model():
    model = tiny_model("llama", torch.float64)
    (record,) = observer_of(model).observe(model, 0)
    a, b = (gradient_by_hand(model.hf_model, ROWS[name]) for name in "AB")
    for part, marks in {
        "1.mlp_out": ["layers.1.mlp.down_proj"],
        "2.mlp_in": ["layers.2.mlp.up_proj", "layers.2.mlp.gate_proj"],
        "0.attention": ["layers.0.self_attn."],
        "2.norm": ["layers.2.input_layernorm", "layers.2.post_attention_layernorm"],
        "norm": ["model.norm"],
        "embedding": ["embed_tokens"],
    }.items():
        names = [name for name in a if any(mark in name for mark in marks)]
        expected = sum(float((a[name] * b[name]).sum()) for name in names)
        norms = [math.sqrt(sum(float((g[n] ** 2).sum()) for n in names)) for g in (a, b)]
        found = alignment(record, "B", "A", part=part)
        # float64, but for norms that transformers takes in float32.
        assert found.product == pytest.approx(expected, abs=1e-6 * math.prod(norms))
        assert found.cosine == pytest.approx(expected / math.prod(norms), abs=1e-6)
        assert found.interval is None
        assert found.sign is None
    assert len(record.parts) == 4 * 3 + 2


def test_a_small_step_along_b_changes_the_loss_on_a_as_the_product_says():
    """Central differences, so that what is left is of third order in the step."""
    model = tiny_model("gpt2", torch.float64)
    (record,) = observer_of(model).observe(model, 0)
    b = gradient_by_hand(model.hf_model, ROWS["B"])
    size = 1e-5 / alignment(record, "A", "B").norms[1]
    losses = []
    for there in (-size, 2 * size):
        moved_by(model, b, there)
        with torch.no_grad():
            losses.append(float(loss_by_hand(model.hf_model, ROWS["A"])))
    slope = (losses[1] - losses[0]) / (2 * size)
    # The loss is good to 1e-15 of some nats, over a step of 1e-5: a part in a million is plenty.
    assert slope == pytest.approx(product_of(record, "A", "B"), rel=1e-5)


def test_first_order_and_measured_change_agree_the_better_the_smaller_the_step():
    left = []
    for size in (4e-3, 2e-3, 1e-3):
        model = tiny_model("gpt2", torch.float64)
        observer = observer_of(model)
        b = gradient_by_hand(model.hf_model, ROWS["B"])
        norm = math.sqrt(product_by_hand(b, b))
        moved_by(model, b, -size / norm)
        (record,) = observer.observe(model, 1)
        change = change_of_loss(record, "A")
        slope = -product_of(record, "A@start", "B@start") / norm
        # float64; the step is added to weights a thousand times its size.
        assert change.first_order == pytest.approx(size * slope, rel=1e-9)
        left.append(change.measured - change.first_order)
        assert abs(left[-1]) < 0.1 * abs(change.measured)
    # What is left is of second order: a quarter for half the step, but for the third order.
    assert left[1] / left[0] == pytest.approx(0.25, abs=0.03)
    assert left[2] / left[1] == pytest.approx(0.25, abs=0.03)


def test_errors_are_those_of_a_jackknife_over_blocks():
    """Exactly so where all items train as many tokens and all blocks hold as many items."""
    model = tiny_model("gpt2", torch.float64)
    rows = {"A": rows_of(15, 4, answer=(3,)), "B": rows_of(10, 5, answer=(2,))}
    samples = [gradient_sample(name, items, blocks=5) for name, items in rows.items()]
    observer = GradientAlignmentObserver(samples, Cadence(every=1), start_weights(model))
    (record,) = observer.observe(model, 0)
    whole = {name: gradient_by_hand(model.hf_model, items) for name, items in rows.items()}

    def variance(sample, statistic):
        items = rows[sample]
        without = [
            statistic(
                gradient_by_hand(model.hf_model, [r for i, r in enumerate(items) if i % 5 != k])
            )
            for k in range(5)
        ]
        mean = sum(without) / 5
        return 4 / 5 * sum((value - mean) ** 2 for value in without)

    of_a = variance("A", lambda gradient: product_by_hand(gradient, whole["B"]))
    of_b = variance("B", lambda gradient: product_by_hand(gradient, whole["A"]))
    found = record.errors[record.pairs.index(["A", "B"])]
    # float64; a linear statistic, for which the linearised jackknife is the jackknife.
    assert found == pytest.approx(math.sqrt(of_a + of_b), rel=1e-9)
    of_square = 4 * variance("A", lambda gradient: product_by_hand(gradient, whole["A"]))
    assert record.errors[0] == pytest.approx(math.sqrt(of_square), rel=1e-9)
    assert record.errors[record.pairs.index(["A", "B@start"])] is None


def test_nothing_is_left_behind():
    model = model_of(dropout=0.3)
    observer = observer_of(model)
    model.hf_model.train()
    names = dict(model.hf_model.named_parameters())
    for weight in names.values():
        weight.grad = torch.full_like(weight, 7.0)
    moved_by(model, {name: torch.ones_like(weight) for name, weight in names.items()}, 1e-3)
    before = weights_of(model)
    with torch.no_grad():
        first, second = (observer.observe(model, step)[0] for step in (2, 2))
        assert not torch.is_grad_enabled()
    assert first == second
    assert model.hf_model.training
    assert same_bits(before, weights_of(model))
    assert all(bool((weight.grad == 7).all()) for weight in names.values())


def test_a_frozen_weight_is_left_out():
    model = tiny_model("llama", torch.float64)
    for weight in model.anatomy.layers[1].block.parameters():
        weight.requires_grad_(False)
    (record,) = observer_of(model).observe(model, 0)
    assert not [part for part in record.parts if part.startswith("1.")]
    by_hand = [gradient_by_hand(model.hf_model, ROWS[name]) for name in "AB"]
    trained = [{n: g for n, g in one.items() if g is not None} for one in by_hand]
    # float64, but for norms that transformers takes in float32.
    assert product_of(record, "A", "B") == pytest.approx(product_by_hand(*trained), rel=1e-5)


def test_edits_are_gone_through():
    model = tiny_model("llama", torch.float64)
    (plain,) = observer_of(model).observe(model, 0)
    with interventions.applied(model, interventions.AttentionTemperature(1.7)), torch.no_grad():
        (record,) = observer_of(model).observe(model, 0)
    interventions.patch_weights(model, interventions.AttentionTemperature(1.7))
    by_hand = {name: gradient_by_hand(model.hf_model, rows) for name, rows in ROWS.items()}
    losses = losses_by_hand(model)
    # The same function, by hooks and by weights; norms are in float32.
    assert record.losses == pytest.approx(losses, rel=1e-5)
    # Of a part that the patch does not touch, the gradients are the same as well.
    place = record.parts.index("1.mlp_out")
    expected = sum(
        float((by_hand["A"][n] * by_hand["B"][n]).sum())
        for n in by_hand["A"]
        if "layers.1.mlp.down_proj" in n
    )
    pair = record.pairs.index(["A", "B"])
    assert record.products[pair][place] == pytest.approx(expected, rel=1e-5)
    assert plain.products[pair][place] != pytest.approx(expected, rel=1e-3)


def test_an_observer_that_comes_later_sees_the_same_start():
    model = model_of()
    from_start, later = observer_of(model), observer_of(model)
    from_start.observe(model, 0)
    b = gradient_by_hand(model.hf_model, ROWS["B"])
    moved_by(model, b, -1e-2)
    assert from_start.observe(model, 5) == later.observe(model, 5)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("aligned") / "run"
    model = model_of()
    return path, run(path, model, observers=[observer_of(model, every=4)])[0]


def test_a_run_is_not_changed_by_being_looked_at(trained, tmp_path):
    path, model = trained
    plain, _ = run(tmp_path / "plain")
    assert same_bits(weights_of(model), weights_of(plain))
    records = records_of(path, GradientAlignmentRecord)
    assert [record.step for record in records] == [0, 4, 8]
    assert [product_of(r, "moved", "moved") > 0 for r in records] == [False, True, True]
    assert all(record.start_losses == records[0].losses for record in records)


def test_a_run_that_goes_on_records_the_same(trained, tmp_path):
    path, _ = trained
    for resume in (False, True):
        model = model_of()
        limit = None if resume else 0.0
        run(
            tmp_path / "run",
            model,
            observers=[observer_of(model, every=4)],
            resume=resume,
            time_limit=limit,
        )
    files = [folder / "records.jsonl" for folder in (path, tmp_path / "run")]
    assert files[0].read_bytes() == files[1].read_bytes()


def found_by_a_process():
    """The record, and what is said once the weights are sharded."""
    model = tiny_model("llama", torch.float64)
    observer, drift = (
        observer_of(model),
        WeightDriftObserver(start_weights(model), Cadence(every=1)),
    )
    found = asdict(observer.observe(model, 1)[0])
    mesh = torch.distributed.init_device_mesh("cpu", (2,))
    fully_shard(model.hf_model, mesh=mesh)
    refused = []
    for one in (observer, drift):
        with pytest.raises(ValueError, match="shards them") as refusal:
            one.observe(model, 2)
        refused.append(str(refusal.value))
    return found, refused


def test_two_processes_come_to_the_same_record_and_shards_are_refused(both_found):
    (first, refused), (second, _) = both_found[__name__]
    assert first == second
    model = tiny_model("llama", torch.float64)
    (alone,) = observer_of(model).observe(model, 1)
    # float64; blocks added up in another order.
    for one, two in zip(alone.products, first["products"], strict=True):
        assert one == pytest.approx(two, rel=1e-9, abs=1e-12)
    assert alone.losses == pytest.approx(first["losses"], rel=1e-12)
    whole = [error for error in alone.errors if error is not None]
    assert whole == pytest.approx([e for e in first["errors"] if e is not None], rel=1e-9)
    assert refused == [
        "gradient alignment needs whole float32 weights, and 'fsdp' shards them; leave it out, or "
        "take 'ddp' or a single process",
        "weight drift needs whole float32 weights, and 'fsdp' shards them; compare checkpoints "
        "instead (`drift_since`)",
    ]


@pytest.mark.parametrize("names", [["A"], ["A", "A"], ["A", "moved"], ["A", "B@start"]])
def test_names_that_records_cannot_tell_apart_are_refused(names):
    samples = [gradient_sample(name, ROWS["A"]) for name in names]
    with pytest.raises(ValueError, match="gradient alignment needs two samples or more, each with"):
        GradientAlignmentObserver(samples, Cadence(every=1), {})


@pytest.mark.parametrize(
    ("rows", "blocks", "message"),
    [
        (ROWS["A"][:1], 3, "sample 'A' has 1 items in 3 blocks; give two or more of both"),
        (ROWS["A"], 1, "sample 'A' has 7 items in 1 blocks; give two or more of both"),
        (
            [*ROWS["A"], row_of((5, 6), (True, False))],
            3,
            "item 7 of sample 'A' trains no token; leave it out",
        ),
    ],
)
def test_samples_that_say_nothing_are_refused(rows, blocks, message):
    with pytest.raises(ValueError, match=message):
        gradient_sample("A", rows, blocks=blocks)


def test_a_sample_of_another_vocabulary_or_another_start_is_refused():
    model = tiny_model("llama")
    wrong = [row_of((5, 6, 101), (False, True, True))] * 2
    samples = [gradient_sample("A", ROWS["A"]), gradient_sample("B", wrong)]
    with pytest.raises(ValueError, match="token ids of a batch run from 5 to 101"):
        GradientAlignmentObserver(samples, Cadence(every=1), start_weights(model)).observe(model, 0)
    with pytest.raises(ValueError, match=r"the start weights are not those of .* they differ in"):
        observer_of(tiny_model("gpt2")).observe(model, 0)


def record_of(norms, product, errors):
    """A record of two samples, in one part."""
    a, b = norms
    return GradientAlignmentRecord(
        step=0,
        samples=["A", "B"],
        losses=[1.0, 1.0],
        start_losses=[1.0, 1.0],
        tokens=[13, 17],
        blocks=[8, 5],
        parts=["embedding"],
        pairs=[["A", "A"], ["A", "B"], ["B", "B"], ["A@start", "A@start"], ["B@start", "B@start"]],
        products=[[a**2], [product], [b**2], [a**2], [b**2]],
        errors=[*errors, None, None],
    )


@pytest.mark.parametrize(
    ("norms", "product", "error", "sign", "small"),
    [
        ((2.0, 3.0), -1.5, 0.5, -1, ()),
        ((2.0, 3.0), 1.5, 0.5, 1, ()),
        # t of 4 degrees of freedom: 2.776 * 0.55 = 1.527.
        ((2.0, 3.0), 1.5, 0.55, None, ()),
        ((2e-3, 3.0), 5e-3, 1e-5, None, ("A",)),
        ((4e-3, 3.0), 5e-3, 1e-5, 1, ()),
        ((0.0, 3.0), 0.0, 0.0, None, ("A",)),
    ],
)
def test_when_a_sign_is_claimed(norms, product, error, sign, small):
    found = alignment(record_of(norms, product, [0.1, error, 0.1]), "A", "B")
    assert (found.sign, found.near_zero) == (sign, small)
    assert found.interval is not None
    # Student's t at 97.5 %, four degrees of freedom, to the digits of a printed table.
    assert found.interval.high - product == pytest.approx(2.776 * error, rel=1e-3)
    if not norms[0]:
        assert found.cosine is None


def test_what_a_record_does_not_have_is_named():
    record = record_of((1.0, 1.0), 0.5, [0.1] * 3)
    with pytest.raises(ValueError, match="there are no 'A' and 'C'; the record has A, B, A@start"):
        alignment(record, "A", "C")
    with pytest.raises(ValueError, match=r"there is no part '3.mlp_out'; the record has embedding"):
        alignment(record, "A", "B", part="3.mlp_out")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.layers.1.mlp.down_proj.weight", "not finite: weight model.layers.1.mlp.down_proj"),
        # The loss is finite, and the gradient of the norm's input is not.
        (None, "the gradient of sample 'A' is not finite, at model.embed_tokens.weight"),
    ],
)
def test_a_gradient_that_is_not_finite_is_refused(name, message):
    model = tiny_model("llama")
    observer = observer_of(model)
    if name is None:
        embed = model.hf_model.model.embed_tokens

        def spoil(_module, _inputs, output):
            output.register_hook(lambda gradient: gradient * float("nan"))

        embed.register_forward_hook(spoil)
    else:
        dict(model.hf_model.named_parameters())[name].data[2, 3] = float("nan")
    with pytest.raises(ValueError, match=message):
        observer.observe(model, 0)
