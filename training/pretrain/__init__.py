r"""Pretrain a small model, and keep its checkpoints: `python -m training.pretrain`.

Makes an OLMo-, Llama- or Pythia-shaped model and a tokenizer, trains it on the built-in texts (or
any others) with facts about made-up people and places mixed in, and writes into `--out`:

- `checkpoints/step-000032/`, ...: ordinary Hugging Face folders, from the untrained model on, at
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
from training.commands.plan import (
    Plan,
    Section,
    entropies,
    losses,
    shown_bytes,
    shown_steps,
    task_names,
    training_section,
    with_changes,
)
from training.pretrain.config import OWN_TOKENIZER, PRETRAIN_RECIPES, PretrainConfig

__all__ = ["COMMAND", "PretrainArguments", "main", "pretrain_plan"]

_FLOAT_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class PretrainArguments(RunFields):
    """Train a small model from scratch, keeping checkpoints from the first step on."""

    recipe: str
    """tiny, small or lab: where the defaults below are from."""
    config: PretrainConfig


def pretrain_plan(config: PretrainConfig, recipe: PretrainConfig | None = None) -> Plan:
    """What a pretraining run would do."""
    parameters = config.model_shape(config.d_vocab).parameters()
    own = config.tokenizer == OWN_TOKENIZER
    model = (
        ("shape", f"{config.shape}, {_sizes(config)}"),
        ("parameters", f"{parameters:,}" if own else "as many as the vocabulary asks for"),
        ("tokenizer", _tokenizer(config)),
    )
    texts = (
        ("corpora", ", ".join(config.corpus) or "none"),
        ("generated", _facts(config)),
        ("held out", ", ".join(config.held_out) or "none"),
    )
    sections: list[Section] = [
        ("model", model),
        ("texts", texts),
        training_section(config, config.steps, config.row_length, parameters if own else None),
        _kept(config, parameters),
    ]
    return Plan("pretraining", with_changes(sections, config, recipe))


def _sizes(config: PretrainConfig) -> str:
    return (
        f"{config.n_layers} layers, d_model {config.d_model}, {config.n_heads} heads, "
        f"d_mlp {config.d_mlp}"
    )


def _tokenizer(config: PretrainConfig) -> str:
    if config.tokenizer == OWN_TOKENIZER:
        return f"byte pairs learnt from the texts, {config.d_vocab:,} entries"
    return config.tokenizer


def _facts(config: PretrainConfig) -> str:
    if not config.fact_documents:
        return "none"
    return (
        f"{config.fact_documents:,} documents about {config.fact_people:,} made-up people and "
        f"{config.fact_places:,} places"
    )


def _kept(config: PretrainConfig, parameters: int) -> Section:
    steps = config.checkpoint_steps()
    evaluated = losses(config.held_out, config.held_out_tokens)
    if config.fact_documents:
        asked = "the" if config.facts_asked is None else f"{config.facts_asked:,} of the"
        evaluated.append(f"cloze items of {asked} facts")
    evaluated += entropies(config.entropy_tokens)
    evaluated += task_names(config.tasks, config.task_limit)
    return (
        "checkpoints",
        (
            ("number", f"{len(steps)}, at steps {shown_steps(steps)}"),
            ("on the disk", f"{shown_bytes(len(steps) * parameters * _FLOAT_BYTES)} or more"),
            ("evaluation", "; ".join(evaluated) or "none"),
        ),
    )


def _run(config: PretrainConfig, out: Path, **how: Any) -> None:
    from training.pretrain.run import run_pretraining

    run_pretraining(config, out, **how)


def _attempt(config: PretrainConfig, _recipe: PretrainConfig, out: Path | None) -> tuple[str, ...]:
    from training.pretrain.run import try_pretraining

    try_pretraining(config, out)
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
