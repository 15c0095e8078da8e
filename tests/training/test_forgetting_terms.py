"""Forgetting terms: against what one step really does, on quadratics and on a tiny model."""

import math

import numpy as np
import pytest
import torch

from tests.models import tiny_model
from tests.training.gradient_samples import gradient_by_hand, loss_by_hand, rows_of
from training.forgetting_terms import change_of_loss, delta_1, delta_2
from training.gradients import GradientAlignmentObserver, gradient_sample
from training.observers import Cadence
from training.runs.records import GradientAlignmentRecord
from training.weight_drift import start_weights

SIZE = 7


class Quadratic:
    """L(x) = (x - c)' H (x - c) / 2 with a positive definite H."""

    def __init__(self, seed):
        draw = np.random.default_rng(seed)
        root = draw.normal(size=(SIZE, SIZE))
        self.hessian = root @ root.T / SIZE + 0.1 * np.eye(SIZE)
        self.centre = draw.normal(size=SIZE)

    def loss(self, x):
        return float((x - self.centre) @ self.hessian @ (x - self.centre)) / 2

    def gradient(self, x):
        return self.hessian @ (x - self.centre)


SETS = {name: Quadratic(seed) for seed, name in enumerate("ABM", start=3)}


def record_at(x, errors=0.0):
    """What an observer would see of the quadratics at a point."""
    gradients = {name: one.gradient(x) for name, one in SETS.items()}
    gradients |= {f"{name}@start": gradients[name] for name in SETS}
    names = list(gradients)
    pairs = [[a, b] for i, a in enumerate(names) for b in names[i:]]
    losses = [one.loss(x) for one in SETS.values()]
    return GradientAlignmentRecord(
        step=0,
        samples=list(SETS),
        losses=losses,
        start_losses=losses,
        tokens=[11, 13, 17],
        blocks=[5, 5, 5],
        parts=["embedding"],
        pairs=pairs,
        products=[[float(gradients[a] @ gradients[b])] for a, b in pairs],
        errors=[None if "@" in a + b else errors for a, b in pairs],
    )


def saved_by_mixing(x, mixed_x, share, rate):
    """L_A after a step of B alone, less L_A after a step of B and M."""
    a, b, m = SETS.values()
    mixed_gradient = (1 - share) * b.gradient(mixed_x) + share * m.gradient(mixed_x)
    return a.loss(x - rate * b.gradient(x)) - a.loss(mixed_x - rate * mixed_gradient)


def stage_one(share, rate):
    """Where a few plain steps of A, mixed with M, lead from the same start."""
    a, _, m = SETS.values()
    x = np.linspace(-2, 3, SIZE)
    for _ in range(13):
        x = x - rate * ((1 - share) * a.gradient(x) + share * m.gradient(x))
    return x


@pytest.mark.parametrize(("first", "second"), [(0.0, 0.6), (0.7, 0.0), (0.7, 0.6)])
def test_both_terms_make_up_what_a_small_step_saves(first, second):
    x, mixed_x = stage_one(0.0, 0.2), stage_one(first, 0.2)
    alone, mixed = record_at(x), record_at(mixed_x)
    left = []
    for rate in (1e-3, 5e-4):
        two = delta_2(alone, mixed, mix_share=second, learning_rate=rate)
        one = delta_1(alone, mixed)
        assert (one == 0) == (first == 0)
        left.append(saved_by_mixing(x, mixed_x, second, rate) - one - two.value)
        assert abs(left[-1]) < 0.05 * abs(two.value)
    # On quadratics what is left is of second order to the bit, but for rounding of the losses.
    assert left[1] / left[0] == pytest.approx(0.25, abs=1e-3)


def test_the_line_as_printed_misses_the_size():
    """The appendix swaps the weights of B and M in its last line of mixing at stage 2."""
    x, rate, share = stage_one(0.0, 0.2), 1e-5, 2 / 3
    record = record_at(x)
    a, b, m = (one.gradient(x) for one in SETS.values())
    printed = rate * ((1 - share) * m - (1 - share) * b) @ a
    ours = delta_2(record, record, mix_share=share, learning_rate=rate).value
    real = saved_by_mixing(x, x, share, rate)
    # The second order is the rate's size smaller.
    assert ours == pytest.approx(real, rel=1e-3)
    # With mixing at 1 : 2 the printed line is half as large.
    assert printed == pytest.approx(ours / 2, rel=1e-9)


def test_a_step_of_a_model_on_b_and_m_together():
    """The union's gradient comes from one backward pass over all tokens, by their number."""
    rows = {"A": rows_of(5, 1), "B": rows_of(3, 2), "M": rows_of(7, 3, answer=(4, 3))}
    tokens = {name: sum(sum(row.trained) for row in items) for name, items in rows.items()}
    share = tokens["M"] / (tokens["M"] + tokens["B"])
    model = tiny_model("gpt2", torch.float64)
    samples = [gradient_sample(name, items, blocks=3) for name, items in rows.items()]
    observer = GradientAlignmentObserver(samples, Cadence(every=1), start_weights(model))
    (record,) = observer.observe(model, 0)

    def loss_after(items, rate):
        hf_model = tiny_model("gpt2", torch.float64).hf_model
        gradient = gradient_by_hand(hf_model, items)
        with torch.no_grad():
            for name, weight in hf_model.named_parameters():
                weight -= rate * gradient[name]
            return float(loss_by_hand(hf_model, rows["A"]))

    left = []
    for rate in (4e-6, 2e-6):
        term = delta_2(record, record, mix_share=share, learning_rate=rate)
        saved = loss_after(rows["B"], rate) - loss_after(rows["B"] + rows["M"], rate)
        left.append(saved - term.value)
        assert abs(left[-1]) < 0.1 * abs(saved)
    # A quarter for half the step, but for the third order and the rounding of losses.
    assert left[1] / left[0] == pytest.approx(0.25, abs=0.03)


def test_a_sign_is_claimed_only_outside_of_the_errors():
    x = stage_one(0.0, 0.2)
    value = delta_2(record_at(x), record_at(x), mix_share=0.5).value
    # Two products, each times 0.5, at 2.776 standard errors (t of 4 degrees of freedom).
    edge = abs(value) / 2.776
    for errors, sign in ((0.9 * edge, math.copysign(1, value)), (1.1 * edge, None)):
        record = record_at(x, errors)
        term = delta_2(record, record, mix_share=0.5)
        assert term.sign == sign
        # To the digits of a printed table.
        assert term.interval.width == pytest.approx(2 * 2.776 * errors, rel=1e-3)
    small = delta_2(record_at(x), record_at(x), mix_share=0.5, near_zero=1.0)
    assert small.sign is None
    assert small.near_zero


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mix_share": 1.5}, "mix_share is 1.5 and learning_rate 1.0: give a share from 0 to 1"),
        ({"mix_share": 0.5, "learning_rate": 0.0}, "mix_share is 0.5 and learning_rate 0.0"),
        ({"mix_share": 0.0}, "both records are of one start, and mix_share is 0: nothing was"),
        ({"mix_share": 0.5, "mix": "N"}, "there are no 'N' and 'A'; the record has A, B, M"),
    ],
)
def test_terms_that_make_no_sense_are_refused(given, message):
    record = record_at(stage_one(0.0, 0.2))
    with pytest.raises(ValueError, match=message):
        delta_2(record, record, **given)


def test_a_sample_that_is_not_there_is_named():
    record = record_at(stage_one(0.0, 0.2))
    for ask in (lambda: delta_1(record, record, earlier="N"), lambda: change_of_loss(record, "N")):
        with pytest.raises(ValueError, match="there is no sample 'N'; found A, B, M"):
            ask()
