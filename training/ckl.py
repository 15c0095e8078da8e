r"""Teach a trained model new knowledge, and see what it forgets: `python -m training.ckl`.

Into the batches of a corpus, passages about things that do not exist are injected at planned steps.
Probes ask for what they say (acquisition); tasks, familiar text and earlier facts show what is lost
(forgetting). The model can be edited first. Recipes are in `training.ckl_config`. Writes into
`--out` a run directory (`training.runs.directory`), with `baseline.jsonl`: what an edited model
scored before it was edited. Scores are log-probabilities in nats.

Example:
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


@dataclass(frozen=True, kw_only=True)
class CklArguments(RunFields):
    """Train a model further, injecting new knowledge, and score what it learns and forgets."""

    recipe: str
    """Named settings, the defaults below: smoke, lab, paper-1b, paper-7b, batch-2048, lr-1e-3,
    lr-1e-4, three-epochs or fka-every-step."""
    config: CklConfig


def ckl_plan(config: CklConfig, recipe: CklConfig | None = None) -> Plan:
    """What a run of continual knowledge learning would do."""
    rows, epochs = config.rows_needed(), config.epochs
    corpus = ", ".join(
        [
            config.corpus or "to be given",
            "all of it" if rows is None else f"{rows:,} rows of it",
            "once" if epochs == 1 else f"{epochs} times",
            "shuffled" if config.shuffle else "in order",
        ]
    )
    exposed = {
        "paraphrased": config.paraphrase,
        "duplicated": config.duplication,
        "once": config.once,
        "held out": config.held_out,
    }
    counts = ", ".join(f"{count} {name}" for name, count in exposed.items() if count)
    source = ", ".join(config.knowledge) or "to be given"
    injections = (
        f"{config.injection_rounds * config.injection_cycles} rounds, {config.injection_interval} "
        f"steps apart, in batches {config.first_injection} to {config.last_injection}; "
        f"{config.injection_mode}"
    )
    probes = f"{every(config.probe_every)}, {config.probe_reduction}"
    if config.generate_every is not None:
        probes += f"; targets generated {every(config.generate_every)}"
    between = [] if config.evaluate_every is None else [every(config.evaluate_every)]
    lags = " and ".join(map(str, config.lags))
    after_injections = [f"{lags} steps after the last injection"] if lags else []
    when = ", ".join(["before", *between, "after", *after_injections])
    checkpoints = config.checkpoint_every
    sections = (
        base_section(config),
        (
            "texts",
            (
                ("corpus", corpus),
                ("knowledge", f"{source}: {config.passages} passages ({counts})"),
                ("injections", injections),
            ),
        ),
        training_section(config, config.steps, config.row_length),
        (
            "evaluation",
            (
                ("probes", probes),
                ("others", f"{evaluated_on(config)}; {when}"),
                ("checkpoints", "the last" if checkpoints is None else every(checkpoints)),
            ),
        ),
    )
    changes = with_changes(sections, config, recipe)
    return Plan("continual knowledge learning", changes, tuple(config.missing()))


def _run(config: CklConfig, out: Path, *, recipe: str, **how: Any) -> None:
    from training.ckl_run import prepare, print_ckl
    from training.single_run import make_run

    if missing := config.missing():
        raise ValueError(f"recipe {recipe!r} leaves to be given: {'; '.join(missing)}")
    make_run("training.ckl", prepare, print_ckl, config, out, recipe=recipe, **how)


def _attempt(config: CklConfig, _recipe: CklConfig, out: Path | None) -> tuple[str, ...]:
    from training.ckl_run import prepare
    from training.single_run import try_run

    try_run(prepare, config, out)
    return ()


COMMAND = TrainingCommand(
    program="training.ckl",
    arguments=CklArguments,
    recipes=CKL_RECIPES,
    plan=ckl_plan,
    run=_run,
    attempt=_attempt,
)
main = COMMAND.main


if __name__ == "__main__":
    sys.exit(main())
