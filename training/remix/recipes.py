"""Recipes of `training.remix`.

| recipe            | is                                                                         |
|-------------------|----------------------------------------------------------------------------|
| `smoke`           | the model of `training.pretrain --recipe tiny`, short keys; 2 CPU cores    |
| `lab`             | SmolLM2-135M on key-value pairs; minutes on one GPU                        |
| `paper-llama3-8b` | Llama-3-8B as the released configuration has it; never executed            |
| `paper-mistral-7b`| the same with Mistral-7B-v0.3; never executed                              |

The defaults learn key-value pairs and then others, without a mix. An arm of a study is a change of
that: `--mix random generic` is REMIX with random words at A and passages at B.

The papers' recipes are the main table's cell of KVR and LAMA with its best mix; another cell is
another `--data`, whose length follows `--stop` as said there: 20 epochs in both stages after KVR,
else the released rule of the loss. What was not known before is in the released runs filtered by
files that were not released (`--familiarity-items` does the same here). Released runs were on
several GPUs under FSDP: start them with torchrun, or give `--parallel none`. They kept weights and
moments in bfloat16, where these keep them in float32. Their learning rate is transformers'
`get_scheduler`, stepped after each update, so it is counted from zero: the first update has rate 0.

Source: Chen et al., "Continual Memorization of Factoids in Large Language Models", 2024: B.4, and
the released configuration.

Example:
    >>> REMIX_RECIPES["paper-mistral-7b"]().learning_rate
    1e-05
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from training.choices import Parallel, Precision, RateCount, StopWhen, Template
from training.data.factoids import Charset
from training.remix.config import RemixConfig

TINY_RUN = "runs/tiny"


def smoke() -> RemixConfig:
    """The tiny model, in minutes on two CPU cores."""
    return RemixConfig(
        model=TINY_RUN,
        data=("kvr", "kvr"),
        items=(128,),
        charset=Charset.ALPHANUMERIC,
        key_length=2,
        template=Template.PLAIN,
        mix_ratio=(1.0,),
        mix_words=8,
        batch_size=16,
        epochs=(60,),
        stop=(StopWhen.EXACT_MATCH,),
        learning_rate=1e-3,
        weight_decay=0.0,
        recall_every=5,
        gradient_every=20,
        relearning_steps=8,
        relearning_never_taught=64,
        row_length=384,
        evaluation_corpora=("general-heldout",),
        evaluation_tokens=8192,
        entropy_tokens=4096,
    )


def lab() -> RemixConfig:
    """SmolLM2-135M on key-value pairs, in minutes on one GPU."""
    return RemixConfig(
        model="smollm2-135m-instruct-q4",
        data=("kvr", "kvr"),
        items=(2000,),
        mix_words=50,
        batch_size=32,
        epochs=(40,),
        stop=(StopWhen.EXACT_MATCH,),
        learning_rate=3e-4,
        eps=1e-8,
        weight_decay=0.0,
        final_fraction=0.0,
        precision=Precision.BF16,
        recall_every=2,
        gradient_every=10,
        relearning_steps=16,
        evaluation_corpora=("general-heldout",),
        evaluation_tokens=65_536,
        entropy_tokens=16_384,
        resume_every=200,
    )


def paper_llama3_8b() -> RemixConfig:
    """Llama-3-8B as the released configuration has it; never executed."""
    return RemixConfig(
        model="meta-llama/Meta-Llama-3-8B",
        data=("kvr", "lama"),
        items=(2000,),
        charset=Charset.ALPHANUMERIC,
        key_length=8,
        mix=("random", "knowledge-pile"),
        mix_ratio=(2.0,),
        mix_words=50,
        max_length=2048,
        batch_size=32,
        micro_batch_size=8,
        epochs=(20,),
        stop=(StopWhen.EPOCHS,),
        learning_rate=5e-5,
        warmup_start=0.0,
        final_fraction=0.0,
        schedule_count=RateCount.FROM_ZERO,
        betas=(0.9, 0.95),
        eps=1e-8,
        weight_decay=0.0,
        clip_norm=1.0,
        precision=Precision.BF16,
        parallel=Parallel.FSDP,
        gradient_checkpointing=True,
        seed=0,
        recall_every=None,
        drift=False,
    )


def paper_mistral_7b() -> RemixConfig:
    """As `paper-llama3-8b`, with Mistral-7B-v0.3 and its learning rate; never executed."""
    return replace(paper_llama3_8b(), model="mistralai/Mistral-7B-v0.3", learning_rate=1e-5)


REMIX_RECIPES: Mapping[str, Callable[[], RemixConfig]] = {
    "smoke": smoke,
    "lab": lab,
    "paper-llama3-8b": paper_llama3_8b,
    "paper-mistral-7b": paper_mistral_7b,
}
