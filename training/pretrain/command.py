r"""Pretrain a small model, and keep its checkpoints: `python -m training.pretrain`.

Makes an OLMo-, Llama- or Pythia-shaped model and a tokenizer, trains it on the built-in texts (or
any others) with facts about made-up people and places mixed in, and writes into `--out`:

- `checkpoints/step-000032/`, ...: ordinary Hugging Face folders, from the untrained start on, at
  steps that double at first and are evenly spaced later
- `records.jsonl`: losses, and at every checkpoint entropies, held-out loss and scores of the facts
- `items/cloze.jsonl`: the facts as prompts and targets, which `training.ckl` asks for again
- `manifest.json`, `timing.jsonl`, `done.json`: what it is, how long it took, how it ended

The folder is a series of checkpoints for every command that takes one, as for
`python -m analysis.entropy --model RUN`. Recipes are in `training.pretrain.recipes`; every setting
of theirs is an option. A run that was stopped or killed goes on with `--resume`, to the same bits.

Example:
    $ python -m training.pretrain --recipe tiny --out runs/tiny
    $ python -m training.pretrain --recipe small --shape pythia --steps 300 --dry-run
    $ torchrun --nproc-per-node 2 -m training.pretrain --recipe small --parallel ddp --out runs/two
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from probes.cli import complain, run_command
from training.commands.fields import RunFields, resolved
from training.commands.recipes import plain_fields
from training.pretrain.config import PretrainConfig
from training.pretrain.recipes import PRETRAIN_RECIPES

PROGRAM = "training.pretrain"


@dataclass(frozen=True, kw_only=True)
class _Named:
    recipe: str
    """tiny, small or lab: where the defaults below are from."""


@dataclass(frozen=True, kw_only=True)
class PretrainArguments(PretrainConfig, RunFields, _Named):
    """Train a small model from scratch, keeping checkpoints from the first step on."""

    def __post_init__(self) -> None:
        """Settings are checked together when they are made a configuration."""

    def configuration(self) -> PretrainConfig:
        """The run that is asked for.

        Raises:
            ValueError: settings do not go together.
        """
        names = {*PretrainConfig.__dataclass_fields__}
        return PretrainConfig(**{k: v for k, v in plain_fields(self).items() if k in names})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: arguments; None for the process's own.

    Returns:
        Exit code.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    try:
        arguments = resolved(
            PretrainArguments, PretrainConfig, PRETRAIN_RECIPES, given, command=PROGRAM
        )
    except ValueError as error:
        return complain(PROGRAM, error)
    return run_command(arguments, _run, given, program=PROGRAM)


def _run(arguments: PretrainArguments) -> None:
    config = arguments.configuration()
    if arguments.dry_run:
        from training.pretrain.plan import pretrain_plan

        plan = pretrain_plan(config, PRETRAIN_RECIPES[arguments.recipe]())
        print("\n".join(plan.lines()))
        return
    from training.pretrain.run import run_pretraining

    run_pretraining(
        config,
        arguments.folder,
        recipe=arguments.recipe,
        resume=arguments.resume,
        seconds=arguments.seconds,
    )
