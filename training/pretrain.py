"""Pretrain a small model, and keep its checkpoints: `python -m training.pretrain`.

Makes an OLMo-, Llama- or Pythia-shaped model and a tokenizer, trains it on texts with facts about
made-up people and places mixed in, and writes into `--out` a run directory
(`training.runs.directory`) with checkpoints from the untrained model on, at steps that double at
first and are evenly spaced later. `items/cloze.jsonl` has the facts as prompts and targets, which
`training.ckl` asks for again. Recipes are in `training.pretrain_config`.

Example:
    $ python -m training.pretrain --recipe tiny --out runs/tiny
    $ torchrun --nproc-per-node 2 -m training.pretrain --recipe small --parallel ddp --out runs/two
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.commands import (
    Plan,
    RunFields,
    TrainingCommand,
    entropies,
    losses,
    shown_bytes,
    shown_steps,
    task_names,
    training_section,
    with_changes,
)
from training.pretrain_config import OWN_TOKENIZER, PRETRAIN_RECIPES, PretrainConfig

_FLOAT_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class PretrainArguments(RunFields):
    """Train a small model from scratch, keeping checkpoints from the first step on."""

    recipe: str
    """tiny, small or lab: where the defaults below are from."""
    config: PretrainConfig


def pretrain_plan(config: PretrainConfig, recipe: PretrainConfig | None = None) -> Plan:
    """What a pretraining run would do."""
    parameters, steps = config.model_shape(config.d_vocab).parameters(), config.checkpoint_steps()
    own = config.tokenizer == OWN_TOKENIZER
    sizes = (
        f"{config.n_layers} layers, d_model {config.d_model}, {config.n_heads} heads, "
        f"d_mlp {config.d_mlp}"
    )
    learnt = f"byte pairs learnt from the texts, {config.d_vocab:,} entries"
    facts = (
        f"{config.fact_documents:,} documents about {config.fact_people:,} made-up people and "
        f"{config.fact_places:,} places"
    )
    evaluated = losses(config.held_out, config.held_out_tokens)
    if config.fact_documents:
        asked = "the" if config.facts_asked is None else f"{config.facts_asked:,} of the"
        evaluated.append(f"cloze items of {asked} facts")
    evaluated += entropies(config.entropy_tokens)
    evaluated += task_names(config.tasks, config.task_limit)
    sections = (
        (
            "model",
            (
                ("shape", f"{config.shape}, {sizes}"),
                ("parameters", f"{parameters:,}" if own else "as many as the vocabulary asks for"),
                ("tokenizer", learnt if own else config.tokenizer),
            ),
        ),
        (
            "texts",
            (
                ("corpora", ", ".join(config.corpus) or "none"),
                ("generated", facts if config.fact_documents else "none"),
                ("held out", ", ".join(config.held_out) or "none"),
            ),
        ),
        training_section(config, config.steps, config.row_length, parameters if own else None),
        (
            "checkpoints",
            (
                ("number", f"{len(steps)}, at steps {shown_steps(steps)}"),
                ("on the disk", f"{shown_bytes(len(steps) * parameters * _FLOAT_BYTES)} or more"),
                ("evaluation", "; ".join(evaluated) or "none"),
            ),
        ),
    )
    return Plan("pretraining", with_changes(sections, config, recipe))


def _run(config: PretrainConfig, out: Path, **how: Any) -> None:
    from training.pretrain_run import prepare, print_pretraining
    from training.single_run import make_run

    make_run("training.pretrain", prepare, print_pretraining, config, out, **how)


def _attempt(config: PretrainConfig, _recipe: PretrainConfig, out: Path | None) -> tuple[str, ...]:
    from training.pretrain_run import prepare
    from training.single_run import try_run

    try_run(prepare, config, out)
    return ()


COMMAND = TrainingCommand(
    program="training.pretrain",
    arguments=PretrainArguments,
    recipes=PRETRAIN_RECIPES,
    plan=pretrain_plan,
    run=_run,
    attempt=_attempt,
)
main = COMMAND.main


if __name__ == "__main__":
    sys.exit(main())
