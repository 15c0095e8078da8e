"""Recipes of `training.pretrain`.

| recipe  | parameters | tokens | on                                    |
|---------|------------|--------|---------------------------------------|
| `tiny`  | 3.1M       | 0.9M   | two CPU cores, two to four minutes    |
| `small` | 10M        | 4M     | two CPU cores, about half an hour     |
| `lab`   | 31M        | 330M   | one GPU, minutes                      |

The first two read the training half of `general` once or a few times, with facts about made-up
people and places mixed in. `lab` is for what only shows after tens of thousands of steps: it goes
through the same text many times, beside far more facts, unless `--corpus` names a larger one.

Example:
    >>> PRETRAIN_RECIPES["tiny"]().steps
    400
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from training.choices import Precision
from training.model_shapes import ModelFamily
from training.pretrain.config import PretrainConfig


def tiny() -> PretrainConfig:
    """A 3.1M-parameter model, for a trajectory in minutes on two CPU cores."""
    return PretrainConfig(
        shape=ModelFamily.OLMO,
        d_model=192,
        n_layers=4,
        n_heads=4,
        d_mlp=768,
        d_vocab=4096,
        corpus=("general-train",),
        fact_documents=5000,
        fact_people=24,
        fact_places=8,
        row_length=384,
        steps=400,
        batch_size=6,
        learning_rate=3e-3,
        checkpoint_every=50,
        held_out=("general-heldout",),
    )


def small() -> PretrainConfig:
    """A 10M-parameter model, for half an hour on two CPU cores."""
    return replace(
        tiny(),
        d_model=288,
        n_layers=6,
        n_heads=6,
        d_mlp=1152,
        d_vocab=8192,
        fact_documents=14_400,
        fact_people=96,
        fact_places=32,
        steps=900,
        batch_size=12,
        learning_rate=2e-3,
        checkpoint_every=100,
        resume_every=50,
    )


def lab() -> PretrainConfig:
    """A 31M-parameter model over 20,000 steps, for minutes on one GPU."""
    return replace(
        small(),
        d_model=384,
        n_layers=12,
        d_mlp=1536,
        fact_documents=200_000,
        fact_people=2000,
        fact_places=100,
        facts_asked=1000,
        row_length=512,
        steps=20_000,
        batch_size=32,
        learning_rate=1e-3,
        warmup_fraction=0.02,
        precision=Precision.BF16,
        compile=True,
        checkpoint_every=1000,
        resume_every=500,
        held_out_tokens=65_536,
        entropy_tokens=32_768,
    )


PRETRAIN_RECIPES: Mapping[str, Callable[[], PretrainConfig]] = {
    "tiny": tiny,
    "small": small,
    "lab": lab,
}
