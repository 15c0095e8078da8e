"""Shapes in annotations are checked while tests run, in all four packages (`tests/shape_checks.py`)."""

from importlib import import_module

import pytest
import torch
from beartype.roar import BeartypeCallHintParamViolation
from jaxtyping import TypeCheckError

from analysis import numbers

WRONG_RANK = torch.zeros(1, 1, 1, 1, 1)
CALLS = {
    "probes.readout.unembed": (None, torch.ones(())),
    "interventions.neurons.multipliers": (WRONG_RANK, WRONG_RANK.bool(), 2.0),
    "training.engine.summed_cross_entropy": (WRONG_RANK, WRONG_RANK.long()),
    "analysis.depth.depth_change": (WRONG_RANK.long(), WRONG_RANK.long()),
}
KEYWORDS = {"analysis.depth.depth_change": {"k": 1, "d_vocab": 1, "seed": 0}}


@pytest.mark.parametrize("name", CALLS)
def test_a_tensor_of_the_wrong_rank_is_refused(name):
    module, _, function = name.rpartition(".")
    with pytest.raises(TypeCheckError):
        getattr(import_module(module), function)(*CALLS[name], **KEYWORDS.get(name, {}))


def test_other_annotations_are_checked_too():
    with pytest.raises(BeartypeCallHintParamViolation):
        numbers.share("half")
