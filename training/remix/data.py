"""The batches of the stages of a chain: a stage's own items, its mix, and what is shown again.

Self-generated replay depends on the model that a stage begins with, so batches are made when the
stage's turn comes. What is shown again counts for a source of its own, `replay` or `self-replay`.

A control leaves out the mix of its stage and goes on with the rest for as many updates, or as many
trained tokens to within a batch, as the mix would have made.

Example:
    >>> batches = stage_batches(config, 1, items, model)                      # doctest: +SKIP
    >>> batches.steps, batches.at_epochs(5)                                   # doctest: +SKIP
    (480, (40, 80, 120, 160, 200, 240, 280, 320, 360, 400, 440, 480))
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from probes.choices import Compat
from probes.hooked_model import HookedModel
from training.batches import BatchSource
from training.datasets.conversations import Conversation
from training.datasets.mixed_batches import MixedSource
from training.datasets.official_batches import OfficialSource
from training.datasets.packed_rows import model_positions
from training.datasets.rendering import Rendered
from training.datasets.replay import replay_size, replayed
from training.datasets.self_replay import Writing, self_generated
from training.remix.config import RemixConfig, StageConfig
from training.remix.items import StageItems, rendered
from training.stage_choices import NoMixControl, Replay

LONGER_ANSWERS = 2
"""How much longer than the longest that was taught an answer may be that a model writes."""


@dataclass(frozen=True)
class StageBatches:
    """What a stage trains on.

    Attributes:
        source: the batches.
        steps: updates at most.
        epoch_ends: updates after which an epoch is over.
        inputs: hashes and counts, for the manifest.
    """

    source: BatchSource
    steps: int
    epoch_ends: tuple[int, ...]
    inputs: dict[str, Any]

    def at_epochs(self, every: int | None) -> tuple[int, ...]:
        """The ends of every so-manyth epoch; none for None."""
        return () if every is None else self.epoch_ends[every - 1 :: every]


def stage_batches(
    config: RemixConfig, place: int, items: Sequence[StageItems], model: HookedModel
) -> StageBatches:
    """The batches of a stage.

    Args:
        config: the chain.
        place: of the stage, from 0.
        items: of every stage.
        model: what the stage begins with.

    Raises:
        ValueError: a ratio comes to nothing, there is too little of something, or the model's
            answers are no use to it.
    """
    stage, own = config.stages[place], items[place]
    if config.compat is Compat.OFFICIAL:
        return _official(config, stage, own, model)
    again, inputs = _again(config, place, items, model)
    inputs = {**own.inputs, **inputs}
    longest = model_positions(model)
    mixed = _source(config, own.rows, [*own.mix_rows, *again], stage.epochs, longest)
    if stage.control is None:
        assert mixed.steps_available is not None
        ends = tuple(mixed.steps_of_epochs(n) for n in range(1, stage.epochs + 1))
        return StageBatches(mixed, mixed.steps_available, ends, inputs)
    steps = _matched_steps(config, stage, mixed, own, again)
    alone = _source(config, own.rows, again, 1, longest)
    epochs = next(n for n in range(1, steps + 1) if alone.steps_of_epochs(n) >= steps)
    ends = tuple(alone.steps_of_epochs(n) for n in range(1, epochs + 1))
    inputs["control"] = {"same": str(stage.control), "steps": steps}
    source = _source(config, own.rows, again, epochs, longest)
    return StageBatches(source, steps, tuple(end for end in ends if end <= steps), inputs)


def refuse_no_batches(
    config: RemixConfig, place: int, items: Sequence[StageItems], model: HookedModel
) -> None:
    """Make sure before a chain begins that each of its stages will have batches.

    Args:
        config: the chain.
        place: of the stage.
        items: of every stage.
        model: the start; what it will say when a stage shows its own answers again is not asked.

    Raises:
        ValueError: a ratio comes to nothing, or there is too little of something.
    """
    if config.stages[place].replay is not Replay.SELF:
        stage_batches(config, place, items, model)
        return
    replay_size(sum(len(one.conversations) for one in items[:place]), config.replay_ratio)


def _again(
    config: RemixConfig, place: int, items: Sequence[StageItems], model: HookedModel
) -> tuple[Sequence[Rendered], dict[str, Any]]:
    """What of earlier stages is shown again, and where it is from."""
    replay, seed = config.stages[place].replay, config.seed
    if replay is Replay.NONE:
        return (), {}
    earlier = [conversation for one in items[:place] for conversation in one.conversations]
    shown: Sequence[Conversation]
    if replay is Replay.ITEMS:
        shown = replayed(earlier, config.replay_ratio, seed)
        settings: dict[str, Any] = {"ratio": config.replay_ratio}
    else:
        longest = max(len(item.answer_ids) for one in items[:place] for item in one.asked)
        written = self_generated(
            model,
            replay_size(len(earlier), config.replay_ratio),
            earlier=earlier,
            template=config.template,
            seed=seed,
            writing=Writing(max_answer_tokens=LONGER_ANSWERS * longest),
        )
        shown, settings = written.conversations, written.configuration
    rows = rendered(config, shown, model.tokenizer)
    return rows.items, {"replay": {"kind": str(replay), **settings, **rows.configuration}}


def _source(
    config: RemixConfig,
    own: Sequence[Rendered],
    others: Sequence[Rendered],
    epochs: int,
    positions: int | None,
) -> MixedSource:
    return MixedSource(
        own,
        others,
        batch_size=config.batch_size,
        epochs=epochs,
        seed=config.seed,
        mixing=config.mixing,
        loss_normalisation=config.loss_normalisation,
        packing=config.packing,
        positions=positions,
    )


def _official(
    config: RemixConfig, stage: StageConfig, own: StageItems, model: HookedModel
) -> StageBatches:
    """What the released trainer would train on."""
    assert model.tokenizer is not None
    source = OfficialSource(
        own.rows,
        own.mix_rows,
        batch_size=config.batch_size,
        end_id=model.tokenizer.eos_token_id,
        epochs=stage.epochs,
        seed=config.seed,
        keep=stage.items + len(own.mix_rows),
    )
    assert source.steps_available is not None
    each = source.steps_available // stage.epochs
    ends = tuple(each * n for n in range(1, stage.epochs + 1))
    return StageBatches(source, source.steps_available, ends, own.inputs)


def _matched_steps(
    config: RemixConfig,
    stage: StageConfig,
    mixed: MixedSource,
    own: StageItems,
    again: Sequence[Rendered],
) -> int:
    """How many updates a stage without its mix makes."""
    assert mixed.steps_available is not None
    if stage.control is NoMixControl.STEPS:
        return mixed.steps_available
    alone = [*own.rows, *again]
    tokens = sum(row.trained_tokens for row in alone)
    with_mix = tokens + sum(row.trained_tokens for row in own.mix_rows)
    steps_alone = stage.epochs * len(alone) / config.batch_size
    return round(steps_alone * with_mix / tokens)
