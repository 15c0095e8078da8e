"""Schedule: the learning rate of every update, as a pure function of its number.

With W warm-up updates of S in all, the rate at point s is a share of the peak: up to W it rises in
a straight line from `warmup_start`, at point 0, to 1, and then falls, by how far
x = (s - W) / (S - W) the rest has come,

    cosine:  f + (1 - f) (1 + cos(pi x)) / 2        linear:  1 - (1 - f) x        constant:  1

down to the final fraction f at point S. Updates count from 1, and two conventions are about:

    from_one    update s has the rate of point s, the last one that of S: OLMo's trainer
    from_zero   update s has the rate of point s - 1, the first one that of 0: transformers'
                schedulers, which are stepped after an update; they round W up

Source: OLMo's `cosine_with_warmup` and `linear_with_warmup`, whose warm-up starts at a tenth;
transformers' `get_scheduler`, whose warm-up starts at 0.

Example:
    >>> settings = LoopSettings(steps=1600, batch_size=128)
    >>> [round(learning_rate(update, settings), 6) for update in (1, 80, 840, 1600)]
    [4.5e-05, 0.0004, 0.00022, 4e-05]
"""

import math

from training.choices import RateCount, ScheduleKind
from training.settings import LoopSettings, ScheduleSettings


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
    warmup = warmup_updates(settings)
    if point < warmup:
        return peak * (schedule.warmup_start + (1 - schedule.warmup_start) * point / warmup)
    along = (point - warmup) / (steps - warmup) if steps > warmup else 0.0
    return peak * _share_left(along, schedule)


def warmup_updates(settings: LoopSettings) -> int:
    """How many updates of a run the rate takes to reach its peak."""
    if settings.schedule.warmup_steps is not None:
        return settings.schedule.warmup_steps
    share = settings.schedule.warmup_fraction * settings.steps
    return math.ceil(share) if settings.schedule.count is RateCount.FROM_ZERO else round(share)


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
