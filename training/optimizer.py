"""Optimizer: fused AdamW, which weights it lets decay, and the learning rate of every update.

Example:
    >>> import torch
    >>> from training.settings import OptimizerSettings
    >>> small = torch.nn.Sequential(torch.nn.Embedding(5, 3), torch.nn.Linear(3, 2))
    >>> [len(group["params"]) for group in adamw(small, OptimizerSettings()).param_groups]
    [1, 2]
"""

import math

import torch
from torch import nn

from training.choices import DecayGroup, RateCount, ScheduleKind
from training.settings import LoopSettings, OptimizerSettings


def adamw(module: nn.Module, settings: OptimizerSettings) -> torch.optim.AdamW:
    """AdamW over the trainable parameters of a model: first those that decay, then the others."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    if not trainable:
        raise ValueError("every parameter of the model is frozen; let some require gradients")
    match DecayGroup(settings.decay):
        case DecayGroup.NONE:
            decaying: set[torch.Tensor] = set()
        case DecayGroup.ALL_MATRICES:
            decaying = {p for p in trainable if p.ndim >= 2}
        case DecayGroup.LINEAR_WEIGHTS:
            from transformers.pytorch_utils import Conv1D

            parts = list(module.modules())
            decaying = {part.weight for part in parts if isinstance(part, nn.Linear | Conv1D)}
            # An unembedding that is tied to the embedding is one.
            decaying -= {part.weight for part in parts if isinstance(part, nn.Embedding)}
    groups = [
        {"params": [p for p in trainable if p in decaying], "weight_decay": settings.weight_decay},
        {"params": [p for p in trainable if p not in decaying], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.learning_rate,
        betas=settings.betas,
        eps=settings.eps,
        fused=True,
    )


def learning_rate(update: int, settings: LoopSettings) -> float:
    """The learning rate of one update.

    Args:
        update: which, from 1 to the steps of the run.
        settings: the run's.
    """
    steps, schedule, warmup = settings.steps, settings.schedule, settings.warmup_updates
    assert 1 <= update <= steps
    peak, final = settings.optimizer.learning_rate, schedule.final_fraction
    point = update - 1 if schedule.count is RateCount.FROM_ZERO else update
    if point < warmup:
        return peak * (schedule.warmup_start + (1 - schedule.warmup_start) * point / warmup)
    along = (point - warmup) / (steps - warmup) if steps > warmup else 0.0
    match ScheduleKind(schedule.kind):
        case ScheduleKind.COSINE:
            return peak * (final + (1 - final) * (1 + math.cos(math.pi * along)) / 2)
        case ScheduleKind.LINEAR:
            return peak * (1 - (1 - final) * along)
        case ScheduleKind.CONSTANT:
            return peak
