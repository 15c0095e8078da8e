"""Relearning: are items that a model no longer answers erased, or only out of reach?

A few of the items are trained on again, and after every step all of them are asked. If the
answers to the **other** items come back as well, they were still in the weights and only could not
be reached. Items of the same form that the model was never taught (`never_taught`) show how far the
other answers rise from the form alone; what comes back beyond that was kept.

The **spill-over** is the largest rise in the share of exact matches among the other items, over all
steps, less that among items never taught at the same step. Chance alone gives a little more than 0:
compare with the same probe on a model that never learnt the items. The optimizer is AdamW at a
constant rate, without weight decay; afterwards the model has the bits that it had.

Source: Zheng et al., "Spurious Forgetting in Continual Learning of Language Models", ICLR 2025, for
the question; exact match by teacher forcing (`probes.scoring`).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float64
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from probes.hooked_model import HookedModel
from probes.prompts import Ids
from probes.scoring import TargetReadings, target_readings
from probes.shown import Result, frame_of
from training.choices import Packing
from training.data.mixed_batches import MixedSource
from training.data.rendering import Rendered
from training.engine import Engine, adamw, hold_in_float32
from training.processes import random_states_kept, seed_all
from training.settings import LoopSettings, OptimizerSettings
from training.weight_drift import refuse_sharded

CLIP_NORM = 1.0


class Relearned(StrEnum):
    """What became of an item in a relearning probe."""

    AGAIN = "again"  # trained on again
    OTHER = "other"  # only asked
    NEVER_TAUGHT = "never taught"  # of the same form, never trained on, and only asked


@dataclass(frozen=True, eq=False)
class RelearningCurve(Result):
    """What was answered before relearning (evaluation 0) and after each of its steps."""

    groups: tuple[Relearned, ...]  # what became of each item; those never taught come last
    identifiers: tuple[str, ...]
    correct: Bool[Tensor, "evaluation item"]  # whether each is answered exactly, by teacher forcing
    log_probs: Float64[Tensor, "evaluation item"]  # log-probability of each whole answer, in nats
    configuration: dict[str, Any]

    def exact_match(self, group: Relearned | str) -> Float64[Tensor, "evaluation"]:
        """Share of a group that is answered exactly; NaN for a group of none."""
        return self.correct[:, self._of(group)].double().mean(dim=1)

    def mean_log_prob(self, group: Relearned | str) -> Float64[Tensor, "evaluation"]:
        return self.log_probs[:, self._of(group)].mean(dim=1)

    @property
    def rises(self) -> Float64[Tensor, "evaluation"]:
        """Exact match of the other items above that before, less the same of those never taught."""
        other = self.exact_match(Relearned.OTHER)
        if Relearned.NEVER_TAUGHT not in self.groups:
            return other - other[0]
        never = self.exact_match(Relearned.NEVER_TAUGHT)
        return (other - other[0]) - (never - never[0])

    @property
    def spill_over(self) -> float:
        return float(self.rises.max())

    def _facts(self) -> Mapping[str, Any]:
        counts = {"items": len(self.groups), "evaluations": len(self.correct)}
        return {**counts, "spill-over": self.spill_over}

    def to_dataframe(self) -> Any:
        """One row per evaluation and group: `exact_match`, and mean `log_prob` in nats."""
        import pandas as pd

        return pd.concat(
            frame_of(
                {
                    "evaluation": range(len(self.correct)),
                    "group": str(group),
                    "exact_match": self.exact_match(group),
                    "log_prob": self.mean_log_prob(group),
                }
            )
            for group in Relearned
            if group in self.groups
        )

    def as_json(self) -> dict[str, Any]:
        groups = [group for group in Relearned if group in self.groups]
        return {
            "configuration": self.configuration,
            "groups": [str(group) for group in self.groups],
            "identifiers": list(self.identifiers),
            "exact_match": {group: self.exact_match(group).tolist() for group in groups},
            "log_prob": {group: self.mean_log_prob(group).tolist() for group in groups},
            "spill_over": self.spill_over,
            "correct": self.correct.int().tolist(),
            "log_probs": self.log_probs.tolist(),
        }

    def _of(self, group: Relearned | str) -> Bool[Tensor, "item"]:
        return torch.tensor([one is Relearned(group) for one in self.groups])


def relearn(
    model: HookedModel,
    rows: Sequence[Rendered],
    *,
    count: int,
    steps: int,
    learning_rate: float,
    batch_size: int,
    seed: int = 0,
    never_taught: Sequence[Rendered] = (),
) -> RelearningCurve:
    """Train on a few items again, and ask all of them after every step.

    Args:
        model: the hooked model, on the native backend and unsharded; what is attached to it counts.
            Its weights are put back afterwards.
        rows: the items, as they were trained on; the last answer of each is asked.
        count: how many of them to train on again, drawn by the seed.
        steps: updates.
        learning_rate: of every update.
        batch_size: items in a batch.
        seed: which items are drawn, their order, and dropout.
        never_taught: items of the same form that the model was never trained on.

    Raises:
        ValueError: a number is out of range, no other item would be left, the batch is larger than
            the items that are relearned, or the weights cannot be trained here.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}: give 1 or more")
    if not 0 < count < len(rows):
        raise ValueError(
            f"{count} of {len(rows)} items are to be relearned: give at least one, and fewer than "
            "all, so that others are left to be asked"
        )
    refuse_sharded(model, "relearning", "load the last checkpoint and relearn from there")
    again = set(np.random.default_rng(seed).choice(len(rows), count, replace=False).tolist())
    source = MixedSource(
        [row for place, row in enumerate(rows) if place in again],
        batch_size=batch_size,
        epochs=-(-steps * batch_size // count),
        seed=seed,
        packing=Packing.BUCKETED,
    )
    optimizing = OptimizerSettings(
        learning_rate=learning_rate, eps=1e-8, weight_decay=0.0, clip_norm=CLIP_NORM
    )
    settings = LoopSettings(steps=steps, batch_size=batch_size, seed=seed, optimizer=optimizing)
    asked = [*rows, *never_taught]
    readings = _readings(
        model, source, settings, [(row.prompt_ids, row.answer_ids) for row in asked]
    )
    groups = [Relearned.AGAIN if i in again else Relearned.OTHER for i in range(len(rows))]
    return RelearningCurve(
        (*groups, *(Relearned.NEVER_TAUGHT for _ in never_taught)),
        tuple(row.identifier for row in asked),
        torch.stack([reading.matches for reading in readings]),
        torch.stack([reading.sums for reading in readings]),
        {"count": count, "items": len(rows), "never_taught": len(never_taught), "seed": seed}
        | {"steps": steps, "batch_size": batch_size, "optimizer": asdict(optimizing)},
    )


def _readings(
    model: HookedModel,
    source: MixedSource,
    settings: LoopSettings,
    pairs: Sequence[tuple[Ids, Ids]],
) -> list[TargetReadings]:
    """What is answered before the first update and after each."""
    readings = []
    with random_states_kept(), torch.enable_grad(), _put_back(model):
        hold_in_float32(model)
        with Engine(model, settings) as engine:
            optimizer = adamw(model.hf_model, settings.optimizer)
            seed_all(settings.seed)
            for step in range(settings.steps + 1):
                with engine.observing():
                    readings.append(target_readings(model, pairs))
                if step < settings.steps:
                    _update(engine, optimizer, source, step)
    return readings


def _update(
    engine: Engine, optimizer: torch.optim.Optimizer, source: MixedSource, step: int
) -> None:
    batch = source.batch(step)
    (engine.loss(batch)[0] / batch.trained_weight).backward()
    norm = clip_grad_norm_(engine.parameters, CLIP_NORM)
    if not bool(torch.isfinite(norm)):
        raise ValueError(
            f"the gradient of relearning step {step + 1} is {float(norm)}; try a lower learning "
            "rate"
        )
    optimizer.step()
    optimizer.zero_grad()


@contextmanager
def _put_back(model: HookedModel) -> Iterator[None]:
    """Weights and gradients as they were before a `with` block, whatever happens in it."""
    parts = [*model.hf_model.parameters(), *model.hf_model.buffers()]
    kept = [(part, part.detach().clone(), part.grad) for part in parts]
    try:
        for part in parts:
            part.grad = None
        yield
    finally:
        for part, value, gradient in kept:
            part.grad = None
            part.data = part.data.to(value.device, value.dtype)
            part.data.copy_(value)
            part.grad = gradient
