"""What of a recipe's numbers a set is too small for, and what is taken instead.

A recipe is written for the sets that it names. Where a number is still the recipe's and one's own
set has less, the run takes what there is, and says so in a line; a number that was asked for is
never changed, and refused where it cannot be met.
"""

from collections import Counter
from dataclasses import replace
from typing import Any

from training.data.factoid_sources import KEY_VALUE_RECALL
from training.remix.config import RemixConfig
from training.remix.items import load_set


def fitted(config: RemixConfig, recipe: RemixConfig) -> tuple[RemixConfig, tuple[str, ...]]:
    """A chain whose recipe's numbers are no larger than its sets, and what was changed."""
    found: list[str] = []
    for fit in (_items, _batch_size, _relearning_items, _never_taught):
        config = fit(config, recipe, found)
    return config, tuple(found)


def left_over(config: RemixConfig, most: int) -> int:
    """How many items of the set of stage A no stage learns; at most so many are counted."""
    name = config.data[0]
    taught = sum(stage.items for stage in config.stages if stage.data == name)
    return max(_size(config, name, taught + most) - taught, 0)


def _items(config: RemixConfig, recipe: RemixConfig, said: list[str]) -> RemixConfig:
    # What the start knows is not learnt, and how much that is only the start can say.
    if config.items != recipe.items or config.familiarity_items is not None:
        return config
    asked = [stage.items for stage in config.stages]
    given, stages = list(asked), Counter(config.data)
    for name, count in stages.items():
        places = [place for place, data in enumerate(config.data) if data == name]
        wanted = sum(asked[place] for place in places)
        there = _size(config, name, wanted)
        if there >= wanted:
            continue
        if there < count:
            raise ValueError(f"{name} has {there:,} items, and {count} stages are to learn of it")
        for place in places:
            given[place] = there // count
            said.append(
                f"{name} has {there:,} items: stage {config.names[place]} learns {given[place]:,}, "
                f"where the recipe has {asked[place]:,} (--items)"
            )
    return config if given == asked else replace(config, items=tuple(given))


def _batch_size(config: RemixConfig, recipe: RemixConfig, said: list[str]) -> RemixConfig:
    least = min(
        stage.items + (int(stage.items * stage.mix_ratio) if stage.mix else 0)
        for stage in config.stages
    )
    if not _is_larger(config, recipe, "batch_size", least):
        return config
    said.append(
        f"batches have {least} items, all of a stage, where the recipe has "
        f"{config.batch_size} (--batch-size)"
    )
    return replace(config, batch_size=least)


def _relearning_items(config: RemixConfig, recipe: RemixConfig, said: list[str]) -> RemixConfig:
    most = config.stages[0].items - 1
    if config.relearning_steps is None or config.relearning_items <= most:
        return config
    if not most and config.relearning_steps == recipe.relearning_steps:
        said.append("relearning is left out, since stage A has one item, and no other to ask for")
        return replace(config, relearning_steps=None)
    if not _is_larger(config, recipe, "relearning_items", most):
        return config
    few = (most + 1) // 2
    said.append(
        f"relearning teaches {few} of the {most + 1} items of stage A again, where the recipe has "
        f"{config.relearning_items} (--relearning-items)"
    )
    return replace(config, relearning_items=few)


def _never_taught(config: RemixConfig, recipe: RemixConfig, said: list[str]) -> RemixConfig:
    wanted = config.relearning_never_taught
    if config.relearning_steps is None or not wanted:
        return config
    if wanted != recipe.relearning_never_taught:
        return config
    there = left_over(config, wanted)
    if there >= wanted:
        return config
    which = f"{there:,} items" if there else "no items"
    said.append(
        f"relearning asks {which} that nothing has taught, where the recipe has {wanted:,}: "
        f"{config.data[0]} has no more (--relearning-never-taught)"
    )
    return replace(config, relearning_never_taught=there)


def _is_larger(config: RemixConfig, recipe: Any, name: str, most: int) -> bool:
    """Whether a number is still the recipe's, and larger than it can be."""
    value = getattr(config, name)
    return value == getattr(recipe, name) and value > most


def _size(config: RemixConfig, name: str, most: int) -> int:
    """How many items a set has, of so many that are wanted; pairs are made up, as many as asked."""
    if name == KEY_VALUE_RECALL or not most:
        return most
    return len(load_set(config, name, limit=most, offset=0).conversations)
