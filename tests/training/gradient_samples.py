"""Samples of made-up items, and their gradients the obvious way."""

import copy

import torch

from tests.models import tokens
from training.data.rendering import Rendered


def row_of(ids, trained):
    """One item."""
    return Rendered(tuple(ids), tuple(trained), "made up")


def rows_of(count, seed, *, lengths=(7, 11, 5), answer=(2, 3)):
    """Items of several lengths, the last tokens of each trained."""
    rows = []
    for place in range(count):
        length, trained = lengths[place % len(lengths)], answer[place % len(answer)]
        ids = tokens(1, length, seed=101 * seed + place)[0].tolist()
        rows.append(row_of(ids, [i >= length - trained for i in range(length)]))
    return rows


def loss_by_hand(hf_model, rows):
    """Mean of -ln p over trained tokens, item by item."""
    losses = []
    for row in rows:
        log_probs = hf_model(torch.tensor([row.input_ids])).logits[0].log_softmax(-1)
        losses += [
            -log_probs[place - 1, row.input_ids[place]]
            for place in range(1, len(row.input_ids))
            if row.trained[place]
        ]
    return torch.stack(losses).mean()


def gradient_by_hand(hf_model, rows):
    """The gradient of that, from `backward` on a copy."""
    other = copy.deepcopy(hf_model)
    with torch.enable_grad():
        loss_by_hand(other, rows).backward()
    return {name: weight.grad for name, weight in other.named_parameters()}


def product_by_hand(one, other):
    """Inner product of two gradients."""
    return sum(float((one[name] * other[name]).sum()) for name in one)
