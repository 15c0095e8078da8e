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

from training.commands.command import RunFields, TrainingCommand
from training.remix.config import RemixConfig
from training.remix.recipes import REMIX_RECIPES


@dataclass(frozen=True, kw_only=True)
class _Named:
    recipe: str
    """Where the defaults below are from: smoke, lab, paper-llama3-8b or paper-mistral-7b."""


@dataclass(frozen=True, kw_only=True)
class RemixArguments(RemixConfig, RunFields, _Named):
    """Train a model on one set of items after another, and score what it keeps."""

    def __post_init__(self) -> None:
        """Settings are checked together when they are made a configuration."""


def _plan(config: RemixConfig, recipe: RemixConfig) -> list[str]:
    from training.remix.plan import remix_plan

    return remix_plan(config, recipe).lines()


def _run(config: RemixConfig, out: Path, **how: Any) -> None:
    from training.remix.run import run_remix

    run_remix(config, out, **how)


def _attempt(config: RemixConfig, recipe: RemixConfig, out: Path | None) -> tuple[str, ...]:
    from training.remix.fitting import fitted
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
    configuration=RemixConfig,
    recipes=REMIX_RECIPES,
    plan=_plan,
    run=_run,
    attempt=_attempt,
    untried=_untried,
)
main = COMMAND.main
