"""The plan of a pretraining run.

Example:
    >>> from training.pretrain.config import tiny
    >>> pretrain_plan(tiny()).value("training", "tokens")
    '921,600 in 400 steps of 6 rows of 384'
"""

from pathlib import Path
from typing import Any

from rich.console import Console

from probes.hooked_model import HookedModel
from training.commands.plan import (
    Plan,
    Section,
    shown_bytes,
    shown_steps,
    shown_task,
    training_section,
    with_changes,
)
from training.loop import TrainingResult
from training.pretrain.config import OWN_TOKENIZER, PretrainConfig
from training.runs.checkpoints import checkpoint_folders
from training.runs.directory import CHECKPOINTS_FOLDER
from training.runs.tables import observed_in, shown_table

_FLOAT_BYTES = 4


def pretrain_plan(config: PretrainConfig, recipe: PretrainConfig | None = None) -> Plan:
    """What a pretraining run would do."""
    parameters = config.model_shape(config.d_vocab).parameters()
    own = config.tokenizer == OWN_TOKENIZER
    sections: list[Section] = [
        (
            "model",
            (
                ("shape", f"{config.shape}, {_sizes(config)}"),
                ("parameters", f"{parameters:,}" if own else "as many as the vocabulary asks for"),
                ("tokenizer", _tokenizer(config)),
            ),
        ),
        (
            "texts",
            (
                ("corpora", ", ".join(config.corpus) or "none"),
                ("generated", _facts(config)),
                ("held out", ", ".join(config.held_out) or "none"),
            ),
        ),
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
    looks = [f"loss on {config.held_out_tokens:,} tokens of {name}" for name in config.held_out]
    if config.fact_documents:
        asked = "the" if config.facts_asked is None else f"{config.facts_asked:,} of the"
        looks.append(f"cloze items of {asked} facts")
    if config.entropy_tokens is not None:
        looks.append(f"three entropies on {config.entropy_tokens:,} tokens")
    looks += [shown_task(name, config.task_limit) for name in config.tasks]
    return (
        "checkpoints",
        (
            ("number", f"{len(steps)}, at steps {shown_steps(steps)}"),
            ("on the disk", f"{shown_bytes(len(steps) * parameters * _FLOAT_BYTES)} or more"),
            ("looked at", "; ".join(looks) or "nothing"),
        ),
    )


_COLUMNS = 5


def print_beginning(config: PretrainConfig, model: HookedModel, source: Any) -> None:
    """Say what is about to be trained."""
    about = source.describe()
    parameters = sum(parameter.numel() for parameter in model.hf_model.parameters())
    print(f"model: {config.shape}, {parameters:,} parameters, on {model.device}")
    often = f", gone through up to {about['epochs']} times" if about["epochs"] > 1 else ""
    print(
        f"texts: {about['documents']:,} documents in {about['rows']:,} rows of "
        f"{about['row_length']} tokens{often}"
    )


def print_pretraining(
    folder: Path, config: PretrainConfig, result: TrainingResult | None, console: Any = None
) -> None:
    """Print what was seen at a few of the checkpoints, and where they are."""
    console = console or Console()
    rows = observed_in(folder)
    seen = sorted({step for row in rows for step in row.values})
    steps = _spread(seen)
    if rows:
        columns = {step: "untrained" if step == 0 else f"step {step:,}" for step in steps}
        console.print(shown_table(rows, columns, f"{folder}, in nats"))
    if result is not None and not result.finished:
        print(f"stopped after {result.steps_done:,} of {config.steps:,} steps; go on with --resume")
    elif result is None:
        print("this run was over already; nothing was done")
    kept = checkpoint_folders(folder / CHECKPOINTS_FOLDER)
    print(f"checkpoints: {len(kept)} in {folder / CHECKPOINTS_FOLDER}")
    if result is None or result.finished:
        corpus = config.held_out[0] if config.held_out else "general-heldout"
        print("what can follow:")
        print(f"  python -m training.ckl --model {folder} --out runs/ckl")
        print(f"  python -m analysis.entropy --model {folder} --corpus {corpus} --out runs/sweep")


def _spread(steps: list[int]) -> list[int]:
    """A few of the steps, the first and the last among them."""
    if len(steps) <= _COLUMNS:
        return steps
    last = len(steps) - 1
    return [steps[round(place * last / (_COLUMNS - 1))] for place in range(_COLUMNS)]
