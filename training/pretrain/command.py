r"""Pretrain a small model, and keep its checkpoints: `python -m training.pretrain`.

Makes an OLMo-, Llama- or Pythia-shaped model and a tokenizer, trains it on the built-in texts (or
any others) with facts about made-up people and places mixed in, and writes into `--out`:

- `checkpoints/step-000032/`, ...: ordinary Hugging Face folders, from the untrained start on, at
  steps that double at first and are evenly spaced later
- `records.jsonl`: losses, and at every checkpoint entropies, held-out loss and scores of the facts
- `items/cloze.jsonl`: the facts as prompts and targets, which `training.ckl` asks for again
- `manifest.json`, `timing.jsonl`, `done.json`: what it is, how long it took, how it ended

The folder is a series of checkpoints for every command that takes one, as for
`python -m analysis.entropy --model RUN`. Recipes are in `training.pretrain.config`; every setting
of theirs is an option. A run that was stopped or killed goes on with `--resume`, to the same bits.

Example:
    $ python -m training.pretrain --recipe tiny --out runs/tiny
    $ python -m training.pretrain --recipe small --shape pythia --steps 300 --dry-run
    $ torchrun --nproc-per-node 2 -m training.pretrain --recipe small --parallel ddp --out runs/two
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.commands.command import RunFields, TrainingCommand
from training.pretrain.config import PRETRAIN_RECIPES, PretrainConfig


@dataclass(frozen=True, kw_only=True)
class _Named:
    recipe: str
    """tiny, small or lab: where the defaults below are from."""


@dataclass(frozen=True, kw_only=True)
class PretrainArguments(PretrainConfig, RunFields, _Named):
    """Train a small model from scratch, keeping checkpoints from the first step on."""

    def __post_init__(self) -> None:
        """Settings are checked together when they are made a configuration."""


def _plan(config: PretrainConfig, recipe: PretrainConfig) -> list[str]:
    from training.pretrain.plan import pretrain_plan

    return pretrain_plan(config, recipe).lines()


def _run(config: PretrainConfig, out: Path, **how: Any) -> None:
    from training.pretrain.run import run_pretraining

    run_pretraining(config, out, **how)


def _attempt(config: PretrainConfig, recipe: PretrainConfig, out: Path | None) -> tuple[str, ...]:
    from training.pretrain.run import try_pretraining

    del recipe
    try_pretraining(config, out)
    return ()


def _untried(config: PretrainConfig) -> str | None:
    del config
    return None


COMMAND = TrainingCommand(
    program="training.pretrain",
    arguments=PretrainArguments,
    configuration=PretrainConfig,
    recipes=PRETRAIN_RECIPES,
    plan=_plan,
    run=_run,
    attempt=_attempt,
    untried=_untried,
)
main = COMMAND.main
