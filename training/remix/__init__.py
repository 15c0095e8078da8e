r"""Teach a model items by heart, then others, and see what is left: `python -m training.remix`.

Continual memorization: stage A trains the model on a set of factoids until it answers them, stage B
on another set (and C, ...), and the first are asked for again. What is mixed into a stage (random
words, generic passages), earlier items that are shown again, an edited start and controls of all of
that are options. Writes into `--out`:

- `stage-A/`, `stage-B/`, ...: a run directory for each stage, with `records.jsonl` (losses by
  source, exact match and log-probabilities of the items of every stage, text, entropies, gradients,
  drift), `items/`, `checkpoints/`, `manifest.json`, and `outcome.json`: how it ended
- `stage-A/baseline.jsonl`: what an edited model scored before it was edited, in its stage
- `relearning.json`: what comes back when a few items of stage A are taught again
- `manifest.json`, `done.json`: what the whole is, and how its stages ended

Recipes are in `training.remix.recipes`, the paper's among them. A run that was stopped or killed
goes on with `--resume`, in the stage where it was, to the same bits.

Example:
    $ python -m training.remix --recipe smoke --model runs/tiny --out runs/plain
    $ python -m training.remix --recipe smoke --model runs/tiny --mix random generic \
          --out runs/remix
    $ python -m training.remix --recipe smoke --model runs/tiny --from-stage-a runs/plain \
          --replay items --replay-ratio 0.1 --out runs/replay
    $ torchrun --nproc-per-node 4 -m training.remix --recipe paper-llama3-8b --out runs/paper
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.choices import NoMixControl, Replay, StopWhen
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
from training.remix.config import RemixConfig, StageConfig
from training.remix.recipes import REMIX_RECIPES, fitted

__all__ = ["COMMAND", "RemixArguments", "main", "remix_plan"]


@dataclass(frozen=True, kw_only=True)
class RemixArguments(RunFields):
    """Train a model on one set of items after another, and score what it keeps."""

    recipe: str
    """Where the defaults below are from: smoke, lab, paper-llama3-8b or paper-mistral-7b."""
    config: RemixConfig


def remix_plan(config: RemixConfig, recipe: RemixConfig | None = None) -> Plan:
    """What a chain of stages would do.

    A set whose size only its files know is taken to be as large as it is asked for.
    """
    sections: list[Section] = [
        base_section(config, f", before stage {config.edit_before}"),
        *(_stage_section(config, place) for place in range(len(config.stages))),
        _showing_section(config),
        _optimizer_section(config),
        ("evaluation", tuple(_evaluation(config))),
    ]
    return Plan("continual memorization", with_changes(sections, config, recipe))


def _stage_section(config: RemixConfig, place: int) -> Section:
    stage = config.stages[place]
    if place == 0 and config.from_stage_a is not None:
        return f"stage {stage.name}", (("taken from", str(config.from_stage_a)),)
    mixed = 0 if stage.mix is None else _share(stage.items, stage.mix_ratio, "the mix ratio")
    again = _again(config, place)
    after = f", after the first {stage.offset:,}" * bool(stage.offset)
    lines = [
        ("learns", f"{stage.items:,} items of {stage.data}{after}"),
        ("mix", _mix(config, stage, mixed)),
        ("shown again", f"{again:,} earlier items, {stage.replay}" if again else "nothing"),
        ("updates", _updates(config, stage, mixed, again)),
        ("ends", _ends(config, stage)),
        ("learning rate", f"{stage.learning_rate:g} at its peak, optimizer {stage.optimizer}"),
    ]
    return f"stage {stage.name}", tuple(lines)


def _share(items: int, ratio: float, what: str) -> int:
    from training.data.items import share_of

    return share_of(items, ratio, what)


def _again(config: RemixConfig, place: int) -> int:
    """Earlier items that a stage shows again."""
    if config.stages[place].replay is Replay.NONE:
        return 0
    earlier = sum(stage.items for stage in config.stages[:place])
    return _share(earlier, config.replay_ratio, "the replay ratio")


def _mix(config: RemixConfig, stage: StageConfig, mixed: int) -> str:
    if stage.mix is None:
        return "none"
    left_out = ", left out by the control" * (stage.control is not None)
    return f"{mixed:,} items of {stage.mix}, {config.mix_words} words, by {config.mixing}{left_out}"


def _updates(config: RemixConfig, stage: StageConfig, mixed: int, again: int) -> str:
    if stage.control is NoMixControl.TOKENS:
        return "as many trained tokens as with the mix"
    examples = stage.items + mixed + again
    steps = -(-examples * stage.epochs // config.batch_size)
    if stage.control is NoMixControl.STEPS:
        return f"{steps:,}, as with the mix"
    epochs = "1 epoch" if stage.epochs == 1 else f"{stage.epochs} epochs"
    return f"{steps:,}: {epochs} of {examples:,} examples in batches of {config.batch_size}"


def _ends(config: RemixConfig, stage: StageConfig) -> str:
    loss = f"loss of its own items below {config.loss_threshold:g} nats"
    match = f"exact match of {config.exact_match:g} of them"
    if stage.control is not None or stage.stop is StopWhen.EPOCHS:
        return "after its last update"
    if stage.stop is StopWhen.RELEASED:
        return "when ten losses were below 1e-4, or after its last update"
    what = {
        StopWhen.LOSS: loss,
        StopWhen.EXACT_MATCH: match,
        StopWhen.LOSS_AND_EXACT_MATCH: f"{loss} and {match}",
    }[stage.stop]
    times = "" if config.patience == 1 else f", {config.patience} times in a row"
    return f"at {what}{times}, or after its last update"


def _showing_section(config: RemixConfig) -> Section:
    return "items are shown", (
        ("template", str(config.template)),
        ("rows", f"{config.packing}, at most {config.max_length:,} tokens"),
        ("loss", f"mean over {config.loss_normalisation}s"),
        ("as", "the released trainer" if config.compat else "defined"),
    )


def _optimizer_section(config: RemixConfig) -> Section:
    name, lines = training_section(config, None, config.max_length)
    return name, tuple(line for line in lines if line[0] != "tokens")


def _evaluation(config: RemixConfig) -> list[tuple[str, str]]:
    found = [
        ("recall", f"of the items of every stage, {_when(config.recall_every)}"),
        ("others", f"{evaluated_on(config)}, {_when(config.evaluate_every)}"),
    ]
    if config.gradient_every is not None:
        of = f"of {config.gradient_items} items of each"
        found.append(("gradients", f"{of}, {_when(config.gradient_every)}"))
    if config.relearning_steps is not None:
        few = f"{config.relearning_items} items of stage A, on a copy"
        found.append(("relearning", f"{config.relearning_steps} steps of {few}"))
    return found


def _when(every: int | None) -> str:
    between = "" if every is None else f"every {'epoch' if every == 1 else f'{every} epochs'}, "
    return f"{between}at the beginning and the end of a stage"


def _run(config: RemixConfig, out: Path, **how: Any) -> None:
    from training.remix.run import run_remix

    run_remix(config, out, **how)


def _attempt(config: RemixConfig, recipe: RemixConfig, out: Path | None) -> tuple[str, ...]:
    from training.remix.run import try_remix

    config, lines = fitted(config, recipe)
    try_remix(config, out)
    return lines


def _untried(config: RemixConfig) -> str | None:
    from training.start_models import why_not_here

    return why_not_here(config.model)


COMMAND = TrainingCommand(
    program="training.remix",
    arguments=RemixArguments,
    recipes=REMIX_RECIPES,
    plan=remix_plan,
    run=_run,
    attempt=_attempt,
    untried=_untried,
)
main = COMMAND.main
