"""What the stages of a chain learn: items and mixes, loaded, made into rows, asked for, batched.

Losses are recorded by source: a stage's own items count for its letter, a mix for its name. With
`familiarity_items`, factoids that the base answers are not taught, and those of stage A are
evaluated instead. With `compat="official"` prompts are asked for as the released evaluation does,
and sets of instructions are not cut to size before the mix is appended: of both together only so
many are kept, so that none of the mix may be left (`OfficialSource`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from probes.choices import Compat
from probes.hooked_model import HookedModel
from training.batches import BatchSource
from training.choices import NoMixControl, Replay
from training.data.factoids import KEY_VALUE_RECALL, FactoidSet, KeyValues
from training.data.items import ItemSet
from training.data.mixed_batches import MixedSource, OfficialSource
from training.data.mixes import (
    MixName,
    load_mix,
    mix_size,
    overlap,
    replay_size,
    replayed,
    self_generated,
)
from training.data.primary_sets import PrimarySet, load_primary
from training.data.rendering import (
    Conversation,
    Rendered,
    RenderedSet,
    factoid_conversations,
    render_all,
    render_prompt,
)
from training.recall import RecallItem, accepted_answers, familiarity, recall_items
from training.remix_config import RemixConfig, StageConfig

LONGER_ANSWERS = 2
"""How much longer than the longest that was taught an answer may be that a model writes."""


@dataclass(frozen=True)
class StageItems:
    """What a stage learns, and its mix."""

    conversations: tuple[Conversation, ...]
    rows: RenderedSet
    """As tokens; where the released trainer would cut them later, more than are asked for."""
    asked: Sequence[RecallItem]
    factoids: FactoidSet | None
    """The items, where they are short answers that can be compared as texts."""
    familiar: Sequence[RecallItem]
    """What is asked of factoids that the base knew; empty where that was not tried."""
    mix: ItemSet[Conversation] | None  # also where a control leaves it out; None for nothing
    mix_rows: Sequence[Rendered]
    inputs: dict[str, Any]  # hashes and counts, for the manifest


def stage_items(config: RemixConfig, stage: StageConfig, model: HookedModel) -> StageItems:
    """Load what a stage learns and its mix, and make rows of it."""
    tokenizer = model.tokenizer
    mixed = 0 if stage.mix is None else mix_size(stage.items, stage.mix_ratio)
    familiar: Sequence[RecallItem] = ()
    pool = None
    if config.familiarity_items is not None and stage.data != KEY_VALUE_RECALL:
        pool = load_set(config, stage.data, limit=config.familiarity_items, offset=0).factoids
    if pool is not None:
        # Factoids that the base does not know are taught; of stage A those that it does are asked.
        split = familiarity(
            model, pool, shots=config.familiarity_shots, cache=config.familiarity_cache
        )
        chosen = split.unfamiliar[stage.offset : stage.offset + stage.items]
        _refuse_few(stage, len(chosen))
        factoids: FactoidSet | None = replace(pool, items=chosen)
        assert factoids is not None
        own = tuple(factoid_conversations(factoids, source=stage.name))
        share = {"asked": len(pool), "share": split.share}
        identity = {**factoids.configuration, "familiarity": {**split.configuration, **share}}
        if stage.name == config.names[0] and len(split.familiar):
            shown = factoid_conversations(split.familiar, source="familiar")
            known = rendered(config, shown, tokenizer)
            familiar = _asked(config, known, split.familiar, tokenizer)
    else:
        found = load_set(config, stage.data, limit=stage.items, offset=stage.offset)
        _refuse_few(stage, len(found.conversations))
        factoids = found.factoids
        if config.compat is Compat.OFFICIAL and factoids is None:
            # The released trainer cuts these when the mix is there.
            found = load_set(config, stage.data, limit=stage.items + mixed, offset=stage.offset)
        own = tuple(replace(item, source=stage.name) for item in found.conversations)
        identity = found.configuration
    rows = rendered(config, own, tokenizer)
    inputs: dict[str, Any] = {"data": {**identity, **rows.configuration}}
    mix, mix_rows = None, RenderedSet((), rows.template, rows.max_length, ())
    if stage.mix is not None:
        corpus = config.mix_corpus if stage.mix == MixName.GENERIC else None
        mix = load_mix(stage.mix, mixed, words=config.mix_words, seed=config.seed, corpus=corpus)
        mix_rows = rendered(config, mix, tokenizer)
        inputs["mix"] = {**mix.configuration, **mix_rows.configuration}
    asked = _asked(config, rows[: stage.items], factoids, tokenizer)
    return StageItems(own, rows, asked, factoids, familiar, mix, mix_rows, inputs)


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


def overlaps(items: Mapping[str, StageItems]) -> dict[str, dict[str, dict[str, int]]]:
    """How many factoids of each stage are held by the mix of each stage."""
    found: dict[str, dict[str, dict[str, int]]] = {}
    for name, one in items.items():
        if one.mix is None:
            continue
        found[name] = {}
        for learnt, own in items.items():
            if own.factoids is not None:
                held = overlap(own.factoids, one.mix)
                found[name][learnt] = {
                    "factoids": held.factoids,
                    "answers": len(held.answers),
                    "subjects": len(held.subjects),
                    "pairs": len(held.pairs),
                }
    return found


def _refuse_few(stage: StageConfig, found: int) -> None:
    if found < stage.items:
        after = f" after the first {stage.offset:,}" * bool(stage.offset)
        raise ValueError(
            f"stage {stage.name} is to learn {stage.items:,} items of {stage.data}, which has "
            f"{found:,}{after}; give --items for each stage"
        )


def _asked(
    config: RemixConfig, rows: Sequence[Rendered], factoids: FactoidSet | None, tokenizer: Any
) -> list[RecallItem]:
    if factoids is None:
        return recall_items(rows, tokenizer)
    items = recall_items(rows, tokenizer, accepted_answers(factoids))
    if config.compat is not Compat.OFFICIAL:
        return items
    shown = factoid_conversations(factoids, compat=config.compat)
    prompts = {
        one.identifier: render_prompt(
            one.turns[0].prompt, tokenizer, config.template, compat=config.compat
        )
        for one in shown
    }
    return [replace(item, prompt_ids=prompts[item.identifier]) for item in items]


@dataclass(frozen=True)
class StageBatches:
    """What a stage trains on."""

    source: BatchSource
    steps: int  # updates at most
    epoch_ends: tuple[int, ...]  # updates after which an epoch is over
    inputs: dict[str, Any]  # hashes and counts, for the manifest


def stage_batches(
    config: RemixConfig, place: int, items: Sequence[StageItems], model: HookedModel
) -> StageBatches:
    """The batches of a stage."""
    stage, own = config.stages[place], items[place]
    if config.compat is Compat.OFFICIAL:
        return _official(config, stage, own, model)
    again, inputs = _again(config, place, items, model)
    inputs = {**own.inputs, **inputs}

    def source(others: Sequence[Rendered], epochs: int) -> MixedSource:
        return MixedSource(
            own.rows,
            others,
            batch_size=config.batch_size,
            epochs=epochs,
            seed=config.seed,
            mixing=config.mixing,
            loss_normalisation=config.loss_normalisation,
            packing=config.packing,
            positions=model.n_positions,
        )

    mixed = source([*own.mix_rows, *again], stage.epochs)
    steps = mixed.steps_of_epochs(stage.epochs)
    if stage.control is None:
        ends = tuple(mixed.steps_of_epochs(n) for n in range(1, stage.epochs + 1))
        return StageBatches(mixed, steps, ends, inputs)
    if stage.control is NoMixControl.TOKENS:
        alone = [*own.rows, *again]
        tokens = sum(row.trained_tokens for row in alone)
        with_mix = tokens + sum(row.trained_tokens for row in own.mix_rows)
        steps = round(stage.epochs * len(alone) / config.batch_size * with_mix / tokens)
    once = source(again, 1)
    epochs = next(n for n in range(1, steps + 1) if once.steps_of_epochs(n) >= steps)
    ends = tuple(once.steps_of_epochs(n) for n in range(1, epochs + 1))
    inputs["control"] = {"same": str(stage.control), "steps": steps}
    return StageBatches(
        source(again, epochs), steps, tuple(end for end in ends if end <= steps), inputs
    )


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
    replay = config.stages[place].replay
    if replay is Replay.NONE:
        return (), {}
    earlier = [conversation for one in items[:place] for conversation in one.conversations]
    if replay is Replay.ITEMS:
        shown: Sequence[Conversation] = replayed(earlier, config.replay_ratio, config.seed)
        settings: dict[str, Any] = {"ratio": config.replay_ratio}
    else:
        longest = max(len(item.answer_ids) for one in items[:place] for item in one.asked)
        shown, settings = self_generated(
            model,
            replay_size(len(earlier), config.replay_ratio),
            earlier=earlier,
            template=config.template,
            seed=config.seed,
            max_answer_tokens=LONGER_ANSWERS * longest,
        )
    rows = rendered(config, shown, model.tokenizer)
    return rows.items, {"replay": {"kind": str(replay), **settings, **rows.configuration}}


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
    steps = source.steps_available
    assert steps is not None
    each = steps // stage.epochs
    return StageBatches(source, steps, tuple(range(each, steps + 1, each)), own.inputs)


def fitted(config: RemixConfig, recipe: RemixConfig) -> tuple[RemixConfig, tuple[str, ...]]:
    """A chain whose recipe's numbers are no larger than its sets, and what was changed; a number
    that was asked for is never changed, and refused where it cannot be met.
    """
    config, said = _fitted_items(config, recipe)

    def is_larger(name: str, most: int) -> bool:
        """Whether a number is still the recipe's, and larger than it can be."""
        value = getattr(config, name)
        return value == getattr(recipe, name) and value > most

    least = min(
        stage.items + (int(stage.items * stage.mix_ratio) if stage.mix else 0)
        for stage in config.stages
    )
    if is_larger("batch_size", least):
        said.append(
            f"batches have {least} items, all of a stage, where the recipe has "
            f"{config.batch_size} (--batch-size)"
        )
        config = replace(config, batch_size=least)
    most = config.stages[0].items - 1
    if config.relearning_steps is not None and config.relearning_items > most:
        if not most and config.relearning_steps == recipe.relearning_steps:
            said.append(
                "relearning is left out, since stage A has one item, and no other to ask for"
            )
            config = replace(config, relearning_steps=None)
        elif is_larger("relearning_items", most):
            few = (most + 1) // 2
            said.append(
                f"relearning teaches {few} of the {most + 1} items of stage A again, where the "
                f"recipe has {config.relearning_items} (--relearning-items)"
            )
            config = replace(config, relearning_items=few)
    wanted = config.relearning_never_taught
    if wanted and config.relearning_steps is not None:
        there = left_over(config, wanted) if wanted == recipe.relearning_never_taught else wanted
        if there < wanted:
            which = f"{there:,} items" if there else "no items"
            said.append(
                f"relearning asks {which} that nothing has taught, where the recipe has "
                f"{wanted:,}: {config.data[0]} has no more (--relearning-never-taught)"
            )
            config = replace(config, relearning_never_taught=there)
    return config, tuple(said)


def _fitted_items(config: RemixConfig, recipe: RemixConfig) -> tuple[RemixConfig, list[str]]:
    """The items of each stage, where a set has fewer than its stages are to learn of it."""
    said: list[str] = []
    # What the base knows is not learnt, and how much that is only the base can say.
    if config.items != recipe.items or config.familiarity_items is not None:
        return config, said
    given = [stage.items for stage in config.stages]
    for name, count in Counter(config.data).items():
        stages = [stage for stage in config.stages if stage.data == name]
        wanted = sum(stage.items for stage in stages)
        there = _size(config, name, wanted)
        if there < count:
            raise ValueError(f"{name} has {there:,} items, and {count} stages are to learn of it")
        for stage in stages if there < wanted else ():
            share = given[config.names.index(stage.name)] = there // count
            said.append(
                f"{name} has {there:,} items: stage {stage.name} learns {share:,}, where the "
                f"recipe has {stage.items:,} (--items)"
            )
    return replace(config, items=tuple(given)) if said else config, said


def left_over(config: RemixConfig, most: int) -> int:
    """How many items of the set of stage A no stage learns; at most so many are counted."""
    name = config.data[0]
    taught = sum(stage.items for stage in config.stages if stage.data == name)
    return max(_size(config, name, taught + most) - taught, 0)


def _size(config: RemixConfig, name: str, most: int) -> int:
    """How many items a set has, of so many that are wanted; pairs are made up, as many as asked."""
    if name == KEY_VALUE_RECALL or not most:
        return most
    return len(load_set(config, name, limit=most, offset=0).conversations)


def refuse_relearning(config: RemixConfig, items: StageItems) -> None:
    """Make sure before the first step that some items can be taught again and others asked."""
    count, there = config.relearning_items, len(items.rows[: config.stages[0].items])
    if config.relearning_steps is not None and count >= there:
        most = f"{there - 1} or fewer" if there > 1 else "--relearning-steps None"
        raise ValueError(
            f"--relearning-items asks for {count} of the {there} items of stage A, and others have "
            f"to be left to be asked; give {most}"
        )


def never_taught(config: RemixConfig, tokenizer: Any) -> Sequence[Rendered]:
    """Items of the set of stage A after all that any stage learns of it, as many as asked for."""
    wanted, data = config.relearning_never_taught, config.data[0]
    if not wanted or config.relearning_steps is None:
        return ()
    there = left_over(config, wanted)
    if there < wanted:
        raise ValueError(
            f"--relearning-never-taught asks for {wanted:,} items of {data} that no stage learns, "
            f"which has {there:,}; ask for {there:,} or fewer"
        )
    taught = sum(stage.items for stage in config.stages if stage.data == data)
    found = load_set(config, data, limit=wanted, offset=taught)
    return rendered(config, found.conversations, tokenizer)
