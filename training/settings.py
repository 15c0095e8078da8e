"""Settings of the training loop: how long, how fast, how precisely, and what is kept.

Plain frozen dataclasses that check themselves, so that a command can show and compare them without
loading PyTorch. `Misfits` collects what is wrong with several settings, to refuse it all at once.

Example:
    >>> LoopSettings(steps=1600, batch_size=128, checkpoint_every=160).checkpoint_is_due(320)
    True
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from probes.choices import as_choice
from probes.refusals import shown
from training.choices import DecayGroup, Parallel, Precision, RateCount, ScheduleKind


class Misfits:
    """Collects refusals (`ValueError`), each of which is a line, to be one refusal in the end."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def noted(self) -> "_Noted":
        """Around one thing that may be refused; what comes after it is done all the same."""
        return _Noted(self.found)

    def check(self, *checks: Callable[[], object]) -> None:
        """Call every check, whatever the others refuse; then refuse what they and others did."""
        for one in checks:
            with self.noted():
                one()
        self.refuse()

    def refuse(self) -> None:
        """Refuse all that was noted; nothing is done where nothing was."""
        if self.found:
            raise Refusals(self.found)


class _Noted:
    """Says by its type that it keeps refusals to itself, which `contextmanager` could not."""

    def __init__(self, found: list[str]) -> None:
        self._found = found

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        if not isinstance(error, ValueError):
            return False
        lines = error.lines if isinstance(error, Refusals) else [str(error)]
        self._found += [line for line in lines if line not in self._found]
        return True


class Refusals(ValueError):
    """Several refusals in one; `lines` has each of them."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = list(lines)
        listed = "; ".join(f"({number}) {line}" for number, line in enumerate(lines, start=1))
        several = f"{len(lines)} things do not fit: {listed}"
        super().__init__(lines[0] if len(lines) == 1 else several)


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """AdamW, fused, with decoupled weight decay; the defaults are those of the released runs."""

    learning_rate: float = 4e-4
    """The peak, which the schedule reaches after its warm-up."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of the mean gradient and of the mean squared gradient."""
    eps: float = 1e-5
    """Added to the root of the mean squared gradient."""
    weight_decay: float = 0.1
    """Share of a weight that is taken off in a step, over the learning rate."""
    decay: DecayGroup | str = DecayGroup.LINEAR_WEIGHTS
    """Which weights decay."""
    clip_norm: float | None = 1.0
    """Norm that the gradient of all parameters is clipped to; None for no clipping."""

    def __post_init__(self) -> None:
        require_kinds(self)
        _as_choice(self, "decay", DecayGroup)
        _require(self, "learning_rate", 0 < self.learning_rate < math.inf, "above 0 and finite")
        _require(self, "betas", all(0 <= beta < 1 for beta in self.betas), "from 0 to below 1")
        _require(self, "eps", 0 < self.eps < math.inf, "above 0 and finite")
        _require(self, "weight_decay", 0 <= self.weight_decay < math.inf, "0 or more and finite")
        clips = self.clip_norm is None or self.clip_norm > 0
        _require(self, "clip_norm", clips, "above 0, or None")


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """The learning rate over a run, as shares of the peak; see `training.engine`."""

    kind: ScheduleKind | str = ScheduleKind.COSINE
    """How the rate falls after the warm-up."""
    warmup_fraction: float = 0.05
    """Share of the steps in which the rate rises; ignored where `warmup_steps` is given."""
    warmup_steps: int | None = None
    """Steps in which the rate rises."""
    warmup_start: float = 0.1
    """Share of the peak at which the warm-up begins."""
    final_fraction: float = 0.1
    """Share of the peak at which the schedule ends."""
    count: RateCount | str = RateCount.FROM_ONE
    """Whether the first update has the rate of point 1 or of point 0."""

    def __post_init__(self) -> None:
        require_kinds(self)
        _as_choice(self, "kind", ScheduleKind)
        _as_choice(self, "count", RateCount)
        for name in ("warmup_fraction", "warmup_start", "final_fraction"):
            _require(self, name, 0 <= getattr(self, name) <= 1, "from 0 to 1")
        steps = self.warmup_steps
        _require(self, "warmup_steps", steps is None or steps >= 0, "0 or more, or None")


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """One training run: everything that decides its bits, but for the model and the data."""

    steps: int
    """Optimizer updates."""
    batch_size: int
    """Rows of a global batch, over all processes and micro-batches."""
    micro_batch_size: int | None = None
    """Rows of one forward pass in one process; None for all that it has."""
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    precision: Precision | str = Precision.FP32
    parallel: Parallel | str = Parallel.NONE
    compile: bool = False
    """Compile the blocks and the loss (`torch.compile`)."""
    gradient_checkpointing: bool = False
    """Compute the blocks again in the backward pass instead of keeping their insides."""
    lora_rank: int | None = None
    """Rank of the adapters (LoRA) that are trained instead of the weights; None to train these."""
    lora_alpha: float | None = None
    """What the adapters' change is multiplied by, times the rank; None for twice the rank."""
    seed: int = 0
    """Seed of dropout and of new adapters; the data have seeds of their own."""
    checkpoint_every: int | None = None
    """Steps between checkpoints; None for those of `checkpoint_steps` and the last alone."""
    checkpoint_steps: tuple[int, ...] = ()
    """More steps at which to write one; 0 is the unchanged model. The last always has one."""
    resume_every: int | None = None
    """Steps between checkpoints that only serve resuming: the next one of any kind replaces it."""
    keep_training_states: int = 1
    """How many checkpoints, the newest, keep the optimizer's state; older ones keep weights."""

    def __post_init__(self) -> None:
        require_kinds(self)
        _as_choice(self, "precision", Precision)
        _as_choice(self, "parallel", Parallel)
        for name in ("steps", "batch_size", "keep_training_states"):
            _require(self, name, getattr(self, name) >= 1, "1 or more")
        for name in ("micro_batch_size", "checkpoint_every", "resume_every", "lora_rank"):
            value = getattr(self, name)
            _require(self, name, value is None or value >= 1, "1 or more, or None")
        within = all(0 <= step <= self.steps for step in self.checkpoint_steps)
        _require(self, "checkpoint_steps", within, f"from 0 to the {self.steps} steps of the run")
        if self.precision is Precision.FP16 and self.parallel is Parallel.FSDP:
            raise ValueError("precision 'fp16' cannot scale its loss under 'fsdp'; use 'bf16'")
        if self.lora_alpha is not None:
            _require(self, "lora_alpha", 0 < self.lora_alpha < math.inf, "above 0 and finite")
            _require(self, "lora_rank", self.lora_rank is not None, "given with lora_alpha")
        if self.lora_rank is not None and self.parallel is Parallel.FSDP:
            raise ValueError("adapters are not trained under 'fsdp'; use 'ddp' or one process")

    @property
    def warmup_updates(self) -> int:
        """How many updates of the run the rate takes to reach its peak."""
        if self.schedule.warmup_steps is not None:
            return self.schedule.warmup_steps
        share = self.schedule.warmup_fraction * self.steps
        return math.ceil(share) if self.schedule.count is RateCount.FROM_ZERO else round(share)

    def checkpoint_is_due(self, step: int) -> bool:
        """Whether the run's plan has a checkpoint after this many updates."""
        every = self.checkpoint_every
        at_interval = every is not None and step > 0 and step % every == 0
        return at_interval or step in self.checkpoint_steps or step == self.steps

    def resume_point_is_due(self, step: int) -> bool:
        """Whether a checkpoint is written at this step only so that a run can go on from it."""
        return self.resume_every is not None and step > 0 and step % self.resume_every == 0


def log_spaced_steps(steps: int) -> tuple[int, ...]:
    """Steps that double from 1 on, and the last step of a run."""
    if steps < 1:
        raise ValueError(f"steps must be 1 or more, found {steps}")
    return tuple(sorted({2**turn for turn in range(steps.bit_length())} | {steps}))


def require_kinds(settings: Any) -> None:
    """Refuse values of another kind than their fields: text for a number, a name for settings."""
    for name, wanted in get_type_hints(type(settings)).items():
        several = get_args(wanted) if isinstance(wanted, UnionType) else (wanted,)
        plain = [get_origin(one) or one for one in several]
        kinds = [_KINDS.get(kind, kind) for kind in plain]
        if not any(isinstance(value := getattr(settings, name), kind) for kind in kinds):
            words = " or ".join(kind.__name__ for kind in plain if kind is not NoneType)
            raise ValueError(f"{name} is {shown(value)}; give {words}")


_KINDS: dict[Any, Any] = {int: Integral, float: Real, tuple: tuple | list}


def _as_choice(settings: Any, name: str, kind: type[StrEnum]) -> None:
    """Let a choice be given as its string."""
    object.__setattr__(settings, name, as_choice(kind, getattr(settings, name), name))


def _require(settings: Any, name: str, holds: bool, allowed: str) -> None:
    if not holds:
        raise ValueError(f"{name} must be {allowed}, found {getattr(settings, name)!r}")
