r"""Teach a model items by heart, then others, and see what is left: `python -m training.remix`.

Stage A trains the model on a set of factoids until it answers them, stage B on another set (and C,
...), and the first are asked for again. An arm of a study is a change of the defaults, which learn
key-value pairs and then others: `--mix random generic` is REMIX. Writes into `--out`:

- `stage-A/`, `stage-B/`, ...: a run directory for each stage, and `outcome.json`: how it ended
- `stage-A/baseline.jsonl`: what an edited model scored before it was edited, in its stage
- `relearning.json`: what comes back when a few items of stage A are taught again
- `manifest.json`, `done.json`: what the whole is, and how its stages ended

The papers' recipes are the main table's cell of KVR and LAMA with its best mix; another cell is
another `--data`, whose length follows `--stop`: 20 epochs in both stages after KVR, else the
released rule of the loss. What the released runs filter by files that were not released,
`--familiarity-items` does here. They were on several GPUs under FSDP (start with torchrun, or give
`--parallel none`), and kept weights and moments in bfloat16, where these keep them in float32.

Example:
    $ python -m training.remix --recipe smoke --model runs/tiny --mix random generic \
          --out runs/remix
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from training.choices import (
    Charset,
    NoMixControl,
    Parallel,
    Precision,
    RateCount,
    Replay,
    StopWhen,
    Template,
)
from training.commands import (
    Plan,
    RunFields,
    Section,
    TrainingCommand,
    base_section,
    evaluated_on,
    training_section,
    with_changes,
)
from training.options import TINY_RUN
from training.remix_config import RemixConfig


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
        # Twice as many passages are in the built-in text.
        items=(600,),
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
    """Llama-3-8B as the released configuration has it, with whose numbers most defaults agree;
    never executed.
    """
    return RemixConfig(
        model="meta-llama/Meta-Llama-3-8B",
        data=("kvr", "lama"),
        charset=Charset.ALPHANUMERIC,
        mix=("random", "knowledge-pile"),
        batch_size=32,
        micro_batch_size=8,
        learning_rate=5e-5,
        warmup_start=0.0,
        final_fraction=0.0,
        schedule_count=RateCount.FROM_ZERO,
        eps=1e-8,
        weight_decay=0.0,
        precision=Precision.BF16,
        parallel=Parallel.FSDP,
        gradient_checkpointing=True,
        recall_every=None,
        drift=False,
    )


def paper_mistral_7b() -> RemixConfig:
    """As `paper-llama3-8b`, with Mistral-7B-v0.3 and its learning rate; never executed."""
    return replace(paper_llama3_8b(), model="mistralai/Mistral-7B-v0.3", learning_rate=1e-5)


def familiar_8b() -> RemixConfig:
    """As `paper-llama3-8b`, with batches of 128 (Chen et al., B.4), and asked for facts of PopQA
    that the base knew, as in Table 5; stages end by the released rule of the loss. There stage A is
    left out; here it learns facts that the base did not know. Never executed.
    """
    return replace(
        paper_llama3_8b(),
        data=("popqa", "lama"),
        mix=("none", "knowledge-pile"),
        batch_size=128,
        stop=(StopWhen.RELEASED,),
        familiarity_items=6000,
    )


REMIX_RECIPES: Mapping[str, Callable[[], RemixConfig]] = {
    "smoke": smoke,
    "lab": lab,
    "paper-llama3-8b": paper_llama3_8b,
    "paper-mistral-7b": paper_mistral_7b,
    "familiar-8b": familiar_8b,
}


@dataclass(frozen=True, kw_only=True)
class RemixArguments(RunFields):
    """Train a model on one set of items after another, and score what it keeps."""

    recipe: str
    """Named settings, the defaults below: smoke, lab, paper-llama3-8b, paper-mistral-7b or
    familiar-8b."""
    config: RemixConfig


def remix_plan(config: RemixConfig, recipe: RemixConfig | None = None) -> Plan:
    """What a chain would do; a set of unknown size is taken to be as large as asked for."""
    shown = (
        ("template", str(config.template)),
        ("rows", f"{config.packing}, at most {config.max_length:,} tokens"),
        ("loss", f"mean over {config.loss_normalisation}s"),
        ("as", "the released trainer" if config.compat else "defined"),
    )
    name, training = training_section(config, None, config.max_length)
    sections: list[Section] = [
        base_section(config, f", before stage {config.edit_before}"),
        *(_stage_section(config, place) for place in range(len(config.stages))),
        ("items are shown", shown),
        (name, tuple(line for line in training if line[0] != "tokens")),
        ("evaluation", _evaluation(config)),
    ]
    return Plan("continual memorization", with_changes(sections, config, recipe))


def planned_examples(config: RemixConfig, place: int) -> tuple[int, int, int]:
    """Items of a stage, of its mix, and of earlier stages that it is shown again."""
    from training.data.items import share_of

    stage = config.stages[place]
    mixed = again = 0
    if stage.mix is not None:
        mixed = share_of(stage.items, stage.mix_ratio, "the mix ratio")
    if stage.replay is not Replay.NONE:
        earlier = sum(one.items for one in config.stages[:place])
        again = share_of(earlier, config.replay_ratio, "the replay ratio")
    return stage.items, mixed, again


def planned_updates(config: RemixConfig, place: int) -> int:
    """Updates of a stage at most; of a control for tokens, of the stage that has its mix."""
    examples = sum(planned_examples(config, place))
    return -(-examples * config.stages[place].epochs // config.batch_size)


def _stage_section(config: RemixConfig, place: int) -> Section:
    stage = config.stages[place]
    if place == 0 and config.from_stage_a is not None:
        return f"stage {stage.name}", (("taken from", str(config.from_stage_a)),)
    examples, mixed, again = planned_examples(config, place)
    mix = "none"
    if stage.mix is not None:
        mix = f"{mixed:,} items of {stage.mix}, {config.mix_words} words, by {config.mixing}"
        mix += ", left out by the control" * (stage.control is not None)
    examples += mixed + again
    steps = planned_updates(config, place)
    epochs = "1 epoch" if stage.epochs == 1 else f"{stage.epochs} epochs"
    updates = {
        None: f"{steps:,}: {epochs} of {examples:,} examples in batches of {config.batch_size}",
        NoMixControl.STEPS: f"{steps:,}, as with the mix",
        NoMixControl.TOKENS: "as many trained tokens as with the mix",
    }[stage.control]
    after = f", after the first {stage.offset:,}" * bool(stage.offset)
    return f"stage {stage.name}", (
        ("learns", f"{stage.items:,} items of {stage.data}{after}"),
        ("mix", mix),
        ("shown again", f"{again:,} earlier items, {stage.replay}" if again else "nothing"),
        ("updates", updates),
        ("ends", _end(config, StopWhen.EPOCHS if stage.control is not None else stage.stop)),
        ("learning rate", f"{stage.learning_rate:g} at its peak, optimizer {stage.optimizer}"),
    )


def _end(config: RemixConfig, stop: StopWhen) -> str:
    loss = f"loss of its own items below {config.loss_threshold:g} nats"
    match = f"exact match of {config.exact_match:g} of them"
    times = "" if config.patience == 1 else f", {config.patience} times in a row"
    return {
        StopWhen.EPOCHS: "",
        StopWhen.RELEASED: "when ten losses were below 1e-4, or ",
        StopWhen.LOSS: f"at {loss}{times}, or ",
        StopWhen.EXACT_MATCH: f"at {match}{times}, or ",
        StopWhen.LOSS_AND_EXACT_MATCH: f"at {loss} and {match}{times}, or ",
    }[stop] + "after its last update"


def _evaluation(config: RemixConfig) -> tuple[tuple[str, str], ...]:
    def when(every: int | None) -> str:
        epochs = "epoch" if every == 1 else f"{every} epochs"
        often = "" if every is None else f"every {epochs}, "
        return f"{often}at the beginning and the end of a stage"

    found = [
        ("recall", f"of the items of every stage, {when(config.recall_every)}"),
        ("others", f"{evaluated_on(config)}, {when(config.evaluate_every)}"),
    ]
    if config.gradient_every is not None:
        of = f"of {config.gradient_items} items of each"
        found.append(("gradients", f"{of}, {when(config.gradient_every)}"))
    if config.relearning_steps is not None:
        few = f"{config.relearning_items} items of stage A, on a copy"
        found.append(("relearning", f"{config.relearning_steps} steps of {few}"))
    return tuple(found)


def _run(config: RemixConfig, out: Path, *, recipe: str, **how: Any) -> None:
    from training.remix_run import run_remix

    run_remix(config, out, REMIX_RECIPES[recipe](), recipe=recipe, **how)


def _attempt(config: RemixConfig, recipe: RemixConfig, out: Path | None) -> tuple[str, ...]:
    from training.remix_run import try_remix

    return try_remix(config, recipe, out)


COMMAND = TrainingCommand(
    program="training.remix",
    arguments=RemixArguments,
    recipes=REMIX_RECIPES,
    plan=remix_plan,
    run=_run,
    attempt=_attempt,
)
main = COMMAND.main


if __name__ == "__main__":
    sys.exit(main())
