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

Recipes are in `training.ckl_config`, the papers' among them; every setting of theirs is an option.
A run that was stopped or killed goes on with `--resume`, to the same bits. Scores are
log-probabilities in nats.

Example:
    $ python -m training.ckl --recipe smoke --model runs/tiny --out runs/ckl
    $ python -m training.ckl --recipe smoke --model runs/tiny --resuscitation-ratio 0.5 \
          --resuscitation-factor 2 --out runs/resuscitated
    $ python -m training.ckl --recipe paper-1b --corpus pubmed.jsonl \
          --knowledge paraphrase70.json once60.json --dry-run
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.ckl_config import CKL_RECIPES, CklConfig
from training.commands import (
    Plan,
    RunFields,
    TrainingCommand,
    base_section,
    evaluated_on,
    every,
    training_section,
    with_changes,
)

__all__ = ["COMMAND", "CklArguments", "ckl_plan", "main"]


@dataclass(frozen=True, kw_only=True)
class CklArguments(RunFields):
    """Train a model further, injecting new knowledge, and score what it learns and forgets."""

    recipe: str
    """Where the defaults below are from: smoke, lab, paper-1b, batch-2048, lr-1e-3, lr-1e-4,
    three-epochs or fka-every-step."""
    config: CklConfig


def ckl_plan(config: CklConfig, recipe: CklConfig | None = None) -> Plan:
    """What a run of continual knowledge learning would do."""
    corpus = f"{config.corpus or 'to be given'}, {_epochs(config)}"
    knowledge, injections = _knowledge(config), _injections(config)
    evaluation = (
        ("probes", _probes(config)),
        ("the rest", _everything_else(config)),
        ("which is", evaluated_on(config)),
        ("checkpoints", _kept(config)),
    )
    sections = (
        base_section(config),
        ("texts", (("corpus", corpus), ("knowledge", knowledge), ("injections", injections))),
        training_section(config, config.steps, config.row_length),
        ("evaluation", evaluation),
    )
    changes = with_changes(sections, config, recipe)
    return Plan("continual knowledge learning", changes, tuple(config.missing()))


def _epochs(config: CklConfig) -> str:
    rows = config.rows_needed()
    times = "once" if config.epochs == 1 else f"{config.epochs} times"
    what = "all of it" if rows is None else f"{rows:,} rows of it"
    return f"{what}, {times}, {'shuffled' if config.shuffle else 'in order'}"


def _knowledge(config: CklConfig) -> str:
    source = ", ".join(config.knowledge) or "to be given"
    counts = [
        f"{count} {name}"
        for name, count in (
            ("paraphrased", config.paraphrase),
            ("duplicated", config.duplication),
            ("once", config.once),
            ("held out", config.held_out),
        )
        if count
    ]
    return f"{source}: {config.passages} passages ({', '.join(counts)})"


def _injections(config: CklConfig) -> str:
    rounds = config.injection_rounds * config.injection_cycles
    return (
        f"{rounds} rounds, {config.injection_interval} steps apart, in batches "
        f"{config.first_injection} to {config.last_injection}; {config.injection_mode}"
    )


def _probes(config: CklConfig) -> str:
    scored = f"{every(config.probe_every)}, {config.probe_reduction}"
    if config.generate_every is None:
        return scored
    return f"{scored}; targets generated {every(config.generate_every)}"


def _everything_else(config: CklConfig) -> str:
    when = ["before", "after"]
    if config.evaluate_every is not None:
        when.insert(1, every(config.evaluate_every))
    if config.lags:
        when.append(f"{' and '.join(map(str, config.lags))} steps after the last injection")
    return ", ".join(when)


def _kept(config: CklConfig) -> str:
    return "the last" if config.checkpoint_every is None else every(config.checkpoint_every)


def _run(config: CklConfig, out: Path, **how: Any) -> None:
    from training.ckl_run import run_ckl

    run_ckl(config, out, **how)


def _attempt(config: CklConfig, _recipe: CklConfig, out: Path | None) -> tuple[str, ...]:
    from training.ckl_run import try_ckl

    try_ckl(config, out)
    return ()


def _untried(config: CklConfig) -> str | None:
    from training.start_models import why_not_here

    return "something is to be given" if config.missing() else why_not_here(config.model)


COMMAND = TrainingCommand(
    program="training.ckl",
    arguments=CklArguments,
    recipes=CKL_RECIPES,
    plan=ckl_plan,
    run=_run,
    attempt=_attempt,
    untried=_untried,
)
main = COMMAND.main


if __name__ == "__main__":
    sys.exit(main())
