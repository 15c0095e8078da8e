"""Optimizer: fused AdamW, and which weights it lets decay.

Example:
    >>> import torch
    >>> from training.settings import OptimizerSettings
    >>> small = torch.nn.Sequential(torch.nn.Embedding(5, 3), torch.nn.Linear(3, 2))
    >>> [len(group["params"]) for group in adamw(small, OptimizerSettings()).param_groups]
    [1, 2]
"""

import math

import torch
from torch import Tensor, nn

from training.choices import DecayGroup, RateCount, ScheduleKind
from training.settings import LoopSettings, OptimizerSettings, ScheduleSettings


def adamw(module: nn.Module, settings: OptimizerSettings) -> torch.optim.AdamW:
    """AdamW over the trainable parameters of a model: first those that decay, then the others."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    if not trainable:
        raise ValueError("every parameter of the model is frozen; let some require gradients")
    decaying = _decaying(module, DecayGroup(settings.decay))
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


def _decaying(module: nn.Module, group: DecayGroup) -> set[Tensor]:
    match group:
        case DecayGroup.NONE:
            return set()
        case DecayGroup.ALL_MATRICES:
            return {p for p in module.parameters() if p.ndim >= 2}
        case DecayGroup.LINEAR_WEIGHTS:
            from transformers.pytorch_utils import Conv1D

            linear = _weights_of(module, (nn.Linear, Conv1D))
            return linear - _weights_of(module, (nn.Embedding,))


def _weights_of(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> set[Tensor]:
    found = (part.weight for part in module.modules() if isinstance(part, kinds))
    return {weight for weight in found if isinstance(weight, Tensor)}


def learning_rate(update: int, settings: LoopSettings) -> float:
    """The learning rate of one update.

    Args:
        update: which, from 1 to the steps of the run.
        settings: the run's.
    """
    steps, schedule = settings.steps, settings.schedule
    assert 1 <= update <= steps
    peak = settings.optimizer.learning_rate
    point = update - 1 if schedule.count is RateCount.FROM_ZERO else update
    warmup = settings.warmup_updates
    if point < warmup:
        return peak * (schedule.warmup_start + (1 - schedule.warmup_start) * point / warmup)
    along = (point - warmup) / (steps - warmup) if steps > warmup else 0.0
    return peak * _share_left(along, schedule)


def _share_left(along: float, settings: ScheduleSettings) -> float:
    """Share of the peak when so much of the time after the warm-up is over."""
    final = settings.final_fraction
    match ScheduleKind(settings.kind):
        case ScheduleKind.COSINE:
            return final + (1 - final) * (1 + math.cos(math.pi * along)) / 2
        case ScheduleKind.LINEAR:
            return 1 - (1 - final) * along
        case ScheduleKind.CONSTANT:
            return 1.0
