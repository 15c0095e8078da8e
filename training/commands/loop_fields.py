"""The settings that every training command has: how large a step, how fast, how precise, how often.

They stand in one flat frozen dataclass that `training.pretrain.config` and `training.ckl.config`
inherit, so that each is an option of both commands and is described once. `loop_settings` makes the
nested settings of the loop (`training.settings`) from them.
"""

from dataclasses import dataclass

from training.choices import DecayGroup, Parallel, Precision, RateCount, ScheduleKind
from training.settings import LoopSettings, OptimizerSettings, ScheduleSettings


@dataclass(frozen=True, kw_only=True)
class LoopFields:
    """What decides how a model is trained, whatever it is trained on."""

    batch_size: int
    """Rows of a step, over all processes."""
    micro_batch_size: int | None = None
    """Rows of one forward pass in one process; all that it has of a step."""
    learning_rate: float
    """The peak."""
    schedule: ScheduleKind = ScheduleKind.COSINE
    """How the learning rate falls after its warm-up."""
    warmup_fraction: float = 0.05
    """Share of the steps in which the learning rate rises."""
    warmup_start: float = 0.1
    """Share of the peak that it rises from."""
    final_fraction: float = 0.1
    """Share of the peak that it ends at."""
    schedule_count: RateCount = RateCount.FROM_ONE
    """from_one (OLMo's): update s has the rate of point s; from_zero (transformers'): of s - 1."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's."""
    eps: float = 1e-5
    """AdamW's."""
    weight_decay: float = 0.1
    """AdamW's, decoupled."""
    decay: DecayGroup = DecayGroup.LINEAR_WEIGHTS
    """Which weights decay."""
    clip_norm: float | None = 1.0
    """Norm that gradients are clipped to; None for no clipping."""
    precision: Precision = Precision.FP32
    """What forward and backward passes compute in; weights and optimizer are float32."""
    parallel: Parallel = Parallel.NONE
    """How the processes of torchrun share a step."""
    compile: bool = False
    """Compile the blocks and the loss."""
    gradient_checkpointing: bool = False
    """Save memory: compute blocks again in the backward pass."""
    seed: int = 0
    """Of all that is drawn: new weights, orders, passages."""
    resume_every: int | None = None
    """Steps between checkpoints that only serve --resume; each replaces the one before."""
    prepend_bos: bool | None = None
    """Whether texts begin with a BOS token, also for the tokenizer that checkpoints keep; None for
    the tokenizer's own habit. A chat template has its own beginning."""
    device: str | None = None
    """cpu or cuda; cuda where there is one."""

    def loop_settings(
        self,
        steps: int,
        *,
        checkpoint_every: int | None = None,
        checkpoint_steps: tuple[int, ...] = (),
    ) -> LoopSettings:
        """What the loop is told."""
        return LoopSettings(
            steps=steps,
            batch_size=self.batch_size,
            micro_batch_size=self.micro_batch_size,
            optimizer=OptimizerSettings(
                learning_rate=self.learning_rate,
                betas=self.betas,
                eps=self.eps,
                weight_decay=self.weight_decay,
                decay=self.decay,
                clip_norm=self.clip_norm,
            ),
            schedule=ScheduleSettings(
                kind=self.schedule,
                warmup_fraction=self.warmup_fraction,
                warmup_start=self.warmup_start,
                final_fraction=self.final_fraction,
                count=self.schedule_count,
            ),
            precision=self.precision,
            parallel=self.parallel,
            compile=self.compile,
            gradient_checkpointing=self.gradient_checkpointing,
            seed=self.seed,
            checkpoint_every=checkpoint_every,
            checkpoint_steps=checkpoint_steps,
            resume_every=self.resume_every,
        )
