r"""Teach a trained model new knowledge, and see what it forgets: `python -m training.ckl`.

Continual knowledge learning: the model goes on training on a corpus, into whose batches passages
about things that do not exist are injected at planned steps. Meanwhile probes ask for what the
passages say (acquisition), and tasks, familiar text and earlier facts show what is lost
(forgetting). The model can be edited first: inactive neurons resuscitated, or a control of that,
and attention made flatter. Writes into `--out`:

- `records.jsonl`: losses, injections, scores of every probe, tasks, text and facts, by step
- `items/`: the probes, questions and facts that scores refer to
- `baseline.jsonl`: what an edited model scored before it was edited
- `checkpoints/`: ordinary Hugging Face folders
- `manifest.json`, `timing.jsonl`, `done.json`: what it is, how long it took, how it ended

Recipes are in `training.ckl.recipes`, the papers' among them; every setting of theirs is an option.
A run that was stopped or killed goes on with `--resume`, to the same bits. Scores are
log-probabilities in nats.

Example:
    $ python -m training.ckl --recipe smoke --model runs/tiny --out runs/ckl
    $ python -m training.ckl --recipe smoke --model runs/tiny --resuscitation-ratio 0.5 \
          --resuscitation-factor 2 --out runs/resuscitated
    $ python -m training.ckl --recipe paper-1b --corpus pubmed.jsonl \
          --knowledge paraphrase70.json once60.json --dry-run
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.ckl.config import CklConfig
from training.ckl.recipes import CKL_RECIPES
from training.commands.command import RunFields, TrainingCommand


@dataclass(frozen=True, kw_only=True)
class _Named:
    recipe: str
    """Where the defaults below are from: smoke, lab, paper-1b, batch-2048, lr-1e-3, lr-1e-4,
    three-epochs or fka-every-step."""


@dataclass(frozen=True, kw_only=True)
class CklArguments(CklConfig, RunFields, _Named):
    """Train a model further, injecting new knowledge, and score what it learns and forgets."""

    def __post_init__(self) -> None:
        """Settings are checked together when they are made a configuration."""


def _plan(config: CklConfig, recipe: CklConfig) -> list[str]:
    from training.ckl.plan import ckl_plan

    return ckl_plan(config, recipe).lines()


def _run(config: CklConfig, out: Path, **how: Any) -> None:
    from training.ckl.run import run_ckl

    run_ckl(config, out, **how)


def _attempt(config: CklConfig, recipe: CklConfig, out: Path | None) -> tuple[str, ...]:
    from training.ckl.run import try_ckl

    del recipe
    try_ckl(config, out)
    return ()


def _untried(config: CklConfig) -> str | None:
    from training.start_models import why_not_here

    return "something is to be given" if config.missing() else why_not_here(config.model)


COMMAND = TrainingCommand(
    program="training.ckl",
    arguments=CklArguments,
    configuration=CklConfig,
    recipes=CKL_RECIPES,
    plan=_plan,
    run=_run,
    attempt=_attempt,
    untried=_untried,
)
main = COMMAND.main
