"""The items of the stages of a chain, and their mixes: loaded, made into rows, and asked for.

Losses are told apart by source: a stage's own items count for its letter, a mix for its name.

With `familiarity_items` the start is asked so many factoids of each set first. Those that it
answers are not taught, as in the paper, and those of the set of stage A are looked at instead. Key-
value pairs are made up, so that nobody knows any.

With `compat="official"` prompts are asked for as the released evaluation does, and sets of
instructions are not cut to size before the mix is appended: of both together only so many are kept,
so that none of the mix may be left (`training.data.official_batches`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from probes.choices import Compat
from probes.hooked_model import HookedModel
from training.batches import BatchSource
from training.choices import NoMixControl, Replay
from training.data.conversations import Conversation, factoid_conversations
from training.data.factoid_sources import KEY_VALUE_RECALL
from training.data.factoids import FactoidSet, KeyValues
from training.data.familiarity import familiarity
from training.data.mixed_batches import MixedSource
from training.data.mixes import MixName, MixSet, OverlapReport, load_mix, mix_size, overlap
from training.data.official_batches import OfficialSource
from training.data.primary_sets import PrimarySet, load_primary
from training.data.rendering import Rendered, RenderedSet, render_all, render_prompt
from training.data.replay import Writing, replay_size, replayed, self_generated
from training.recall import RecallItem, accepted_answers, recall_items
from training.remix.config import RemixConfig, StageConfig


@dataclass(frozen=True)
class StageItems:
    """What a stage learns, and its mix.

    Attributes:
        conversations: the items.
        rows: as tokens; where the released trainer would cut them later, more than are asked for.
        asked: what is asked of them.
        factoids: they themselves, where they are short answers that can be compared as texts.
        familiar: what is asked of factoids that the start knew; empty where that was not tried.
        mix: what is mixed in, also where a control leaves it out; None for nothing.
        mix_rows: as tokens.
        inputs: hashes and counts, for the manifest.
    """

    conversations: tuple[Conversation, ...]
    rows: RenderedSet
    asked: Sequence[RecallItem]
    factoids: FactoidSet | None
    familiar: Sequence[RecallItem]
    mix: MixSet | None
    mix_rows: Sequence[Rendered]
    inputs: dict[str, Any]


@dataclass(frozen=True)
class _Own:
    """What a stage learns, before it is made into rows."""

    conversations: tuple[Conversation, ...]
    factoids: FactoidSet | None
    familiar: FactoidSet | None
    inputs: dict[str, Any]


def stage_items(config: RemixConfig, stage: StageConfig, model: HookedModel) -> StageItems:
    """Load what a stage learns and its mix, and make rows of it."""
    tokenizer, mixed = model.tokenizer, 0
    if stage.mix is not None:
        mixed = mix_size(stage.items, stage.mix_ratio)
    own = _own(config, stage, model, mixed)
    rows = rendered(config, own.conversations, tokenizer)
    inputs: dict[str, Any] = {"data": {**own.inputs, **rows.configuration}}
    mix, mix_rows = None, RenderedSet((), rows.template, rows.max_length, ())
    if stage.mix is not None:
        mix = _mix(config, stage.mix, mixed)
        mix_rows = rendered(config, mix.conversations, tokenizer)
        inputs["mix"] = {**mix.configuration, **mix_rows.configuration}
    return StageItems(
        own.conversations,
        rows,
        _asked(config, rows[: stage.items], own.factoids, tokenizer),
        own.factoids,
        _familiar(config, own.familiar, tokenizer),
        mix,
        mix_rows.items,
        inputs,
    )


def overlaps(items: Mapping[str, StageItems]) -> dict[str, dict[str, dict[str, int]]]:
    """How many factoids of each stage are held by the mix of each stage."""
    return {
        name: {
            learnt: _counts(overlap(own.factoids, one.mix.conversations))
            for learnt, own in items.items()
            if own.factoids is not None
        }
        for name, one in items.items()
        if one.mix is not None
    }


def load_set(config: RemixConfig, name: str, *, limit: int, offset: int) -> PrimarySet:
    """Items of a set that a stage learns."""
    is_recall = name == KEY_VALUE_RECALL
    form = KeyValues(config.charset, config.key_length) if is_recall else None
    return load_primary(name, limit=limit, offset=offset, seed=config.data_seed, key_values=form)


def rendered(
    config: RemixConfig, conversations: Sequence[Conversation], tokenizer: Any
) -> RenderedSet:
    """Conversations as rows, in the way of a chain."""
    return render_all(
        conversations, tokenizer, config.template, config.max_length, compat=config.compat
    )


def _own(config: RemixConfig, stage: StageConfig, model: HookedModel, mixed: int) -> _Own:
    """So many items of the set of a stage as it learns."""
    asks = config.familiarity_items
    if asks is not None and stage.data != KEY_VALUE_RECALL:
        pool = load_set(config, stage.data, limit=asks, offset=0)
        if pool.factoids is not None:
            return _unfamiliar(config, stage, model, pool.factoids)
    found = load_set(config, stage.data, limit=stage.items, offset=stage.offset)
    _refuse_few(stage, len(found.conversations))
    if config.compat is Compat.OFFICIAL and found.factoids is None:
        # The released trainer cuts these when the mix is there.
        found = load_set(config, stage.data, limit=stage.items + mixed, offset=stage.offset)
    own = tuple(replace(item, source=stage.name) for item in found.conversations)
    return _Own(own, found.factoids, None, found.configuration)


def _unfamiliar(
    config: RemixConfig, stage: StageConfig, model: HookedModel, pool: FactoidSet
) -> _Own:
    """Factoids that the start does not know, and those that it does."""
    split = familiarity(model, pool, shots=config.familiarity_shots, cache=config.familiarity_cache)
    chosen = split.unfamiliar[stage.offset : stage.offset + stage.items]
    _refuse_few(stage, len(chosen))
    factoids = replace(pool, factoids=chosen)
    inputs = {
        **factoids.configuration,
        "familiarity": {**split.configuration, "asked": len(pool), "share": split.share},
    }
    own = tuple(factoid_conversations(factoids, source=stage.name))
    return _Own(own, factoids, split.familiar if stage.name == config.names[0] else None, inputs)


def _counts(found: OverlapReport) -> dict[str, int]:
    return {
        "factoids": found.factoids,
        "answers": len(found.answers),
        "subjects": len(found.subjects),
        "pairs": len(found.pairs),
    }


def _refuse_few(stage: StageConfig, found: int) -> None:
    if found < stage.items:
        after = f" after the first {stage.offset:,}" * bool(stage.offset)
        raise ValueError(
            f"stage {stage.name} is to learn {stage.items:,} items of {stage.data}, which has "
            f"{found:,}{after}; give --items for each stage"
        )


def _mix(config: RemixConfig, name: str, size: int) -> MixSet:
    corpus = config.mix_corpus if name == MixName.GENERIC else None
    return load_mix(name, size, words=config.mix_words, seed=config.seed, corpus=corpus)


def _familiar(
    config: RemixConfig, factoids: FactoidSet | None, tokenizer: Any
) -> Sequence[RecallItem]:
    if factoids is None or not len(factoids):
        return ()
    rows = rendered(config, factoid_conversations(factoids, source="familiar"), tokenizer)
    return _asked(config, rows, factoids, tokenizer)


def _asked(
    config: RemixConfig, rows: Sequence[Rendered], factoids: FactoidSet | None, tokenizer: Any
) -> list[RecallItem]:
    if factoids is None:
        return recall_items(rows, tokenizer)
    items = recall_items(rows, tokenizer, accepted_answers(factoids))
    if config.compat is not Compat.OFFICIAL:
        return items
    asked_as = factoid_conversations(factoids, compat=config.compat)
    prompts = {one.identifier: one.turns[0].prompt for one in asked_as}
    return [
        replace(
            item,
            prompt_ids=render_prompt(
                prompts[item.identifier], tokenizer, config.template, compat=config.compat
            ),
        )
        for item in items
    ]


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
    """The batches of a stage."""
    stage, own = config.stages[place], items[place]
    if config.compat is Compat.OFFICIAL:
        return _official(config, stage, own, model)
    again, inputs = _again(config, place, items, model)
    inputs = {**own.inputs, **inputs}
    longest = model.n_positions
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
    """Make sure before a chain begins that each of its stages will have batches."""
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
