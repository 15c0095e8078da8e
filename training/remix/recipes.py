"""Recipes of `training.remix`.

| recipe            | is                                                                         |
|-------------------|----------------------------------------------------------------------------|
| `smoke`           | the model of `training.pretrain --recipe tiny`, short keys; 2 CPU cores    |
| `lab`             | SmolLM2-135M on key-value pairs; minutes on one GPU                        |
| `paper-llama3-8b` | Llama-3-8B as the released configuration has it; never executed            |
| `paper-mistral-7b`| the same with Mistral-7B-v0.3; never executed                              |

The defaults learn key-value pairs and then others, without a mix. An arm of a study is a change of
that: `--mix random generic` is REMIX with random words at A and passages at B.

The papers' recipes are the main table's cell of KVR and LAMA with its best mix; another cell is
another `--data`, whose length follows `--stop` as said there: 20 epochs in both stages after KVR,
else the released rule of the loss. What was not known before is in the released runs filtered by
files that were not released (`--familiarity-items` does the same here). Released runs were on
several GPUs under FSDP: start them with torchrun, or give `--parallel none`. They kept weights and
moments in bfloat16, where these keep them in float32. Their learning rate is transformers'
`get_scheduler`, stepped after each update, so it is counted from zero: the first update has rate 0.

Source: Chen et al., "Continual Memorization of Factoids in Large Language Models", 2024: B.4, and
the released configuration.

Example:
    >>> REMIX_RECIPES["paper-mistral-7b"]().learning_rate
    1e-05
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from training.choices import Charset, Parallel, Precision, RateCount, StopWhen, Template
from training.recipes import TINY_RUN
from training.remix.config import RemixConfig


def smoke() -> RemixConfig:
    """The tiny model, in minutes on two CPU cores."""
    return RemixConfig(
        model=TINY_RUN,
        data=("kvr", "kvr"),
        items=(128,),
        charset=Charset.ALPHANUMERIC,
        key_length=2,
        template=Template.PLAIN,
        mix_ratio=(1.0,),
        mix_words=8,
        batch_size=16,
        epochs=(60,),
        stop=(StopWhen.EXACT_MATCH,),
        learning_rate=1e-3,
        weight_decay=0.0,
        recall_every=5,
        gradient_every=20,
        relearning_steps=8,
        relearning_never_taught=64,
        row_length=384,
        evaluation_corpora=("general-heldout",),
        evaluation_tokens=8192,
        entropy_tokens=4096,
    )


def lab() -> RemixConfig:
    """SmolLM2-135M on key-value pairs, in minutes on one GPU."""
    return RemixConfig(
        model="smollm2-135m-instruct-q4",
        data=("kvr", "kvr"),
        items=(2000,),
        mix_words=50,
        batch_size=32,
        epochs=(40,),
        stop=(StopWhen.EXACT_MATCH,),
        learning_rate=3e-4,
        eps=1e-8,
        weight_decay=0.0,
        final_fraction=0.0,
        precision=Precision.BF16,
        recall_every=2,
        gradient_every=10,
        relearning_steps=16,
        evaluation_corpora=("general-heldout",),
        evaluation_tokens=65_536,
        entropy_tokens=16_384,
        resume_every=200,
    )


def paper_llama3_8b() -> RemixConfig:
    """Llama-3-8B as the released configuration has it; never executed."""
    return RemixConfig(
        model="meta-llama/Meta-Llama-3-8B",
        data=("kvr", "lama"),
        items=(2000,),
        charset=Charset.ALPHANUMERIC,
        key_length=8,
        mix=("random", "knowledge-pile"),
        mix_ratio=(2.0,),
        mix_words=50,
        max_length=2048,
        batch_size=32,
        micro_batch_size=8,
        epochs=(20,),
        stop=(StopWhen.EPOCHS,),
        learning_rate=5e-5,
        warmup_start=0.0,
        final_fraction=0.0,
        schedule_count=RateCount.FROM_ZERO,
        betas=(0.9, 0.95),
        eps=1e-8,
        weight_decay=0.0,
        clip_norm=1.0,
        precision=Precision.BF16,
        parallel=Parallel.FSDP,
        gradient_checkpointing=True,
        seed=0,
        recall_every=None,
        drift=False,
    )


def paper_mistral_7b() -> RemixConfig:
    """As `paper-llama3-8b`, with Mistral-7B-v0.3 and its learning rate; never executed."""
    return replace(paper_llama3_8b(), model="mistralai/Mistral-7B-v0.3", learning_rate=1e-5)


REMIX_RECIPES: Mapping[str, Callable[[], RemixConfig]] = {
    "smoke": smoke,
    "lab": lab,
    "paper-llama3-8b": paper_llama3_8b,
    "paper-mistral-7b": paper_mistral_7b,
}


def fitted(config: RemixConfig, recipe: RemixConfig) -> tuple[RemixConfig, tuple[str, ...]]:
    """A chain whose recipe's numbers are no larger than its sets, and what was changed.

    Where a number is still the recipe's and one's own set has less, the run takes what there is,
    and says so; a number that was asked for is never changed, and refused where it cannot be met.
    """
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
    from training.remix.items import KEY_VALUE_RECALL, load_set

    if name == KEY_VALUE_RECALL or not most:
        return most
    return len(load_set(config, name, limit=most, offset=0).conversations)
