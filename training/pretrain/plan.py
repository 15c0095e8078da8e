"""The plan of a pretraining run.

Example:
    >>> from training.pretrain.recipes import tiny
    >>> pretrain_plan(tiny()).value("training", "tokens")
    '921,600 in 400 steps of 6 rows of 384'
"""

from training.commands.plan import (
    Plan,
    Section,
    shown_bytes,
    shown_steps,
    shown_task,
    training_section,
    with_changes,
)
from training.pretrain.config import OWN_TOKENIZER, PretrainConfig

_FLOAT_BYTES = 4


def pretrain_plan(config: PretrainConfig, recipe: PretrainConfig | None = None) -> Plan:
    """What a pretraining run would do.

    Args:
        config: its configuration.
        recipe: what it is a change of; differences are listed.
    """
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
