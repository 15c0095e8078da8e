"""Recipes of `training.ckl`.

| recipe           | is                                                                          |
|------------------|-----------------------------------------------------------------------------|
| `smoke`          | the model of `training.pretrain --recipe tiny`; two minutes on two CPU cores |
| `lab`            | SmolLM2-135M on biomedical text; minutes on one GPU                          |
| `paper-1b`       | OLMo-1B as the released configuration has it                                 |
| `batch-2048`     | the same with batches of 2,048 rows                                          |
| `lr-1e-3`        | the same at a peak learning rate of 1e-3                                     |
| `lr-1e-4`        | the same at 1e-4                                                             |
| `three-epochs`   | the same through the text three times, injections repeated in each           |
| `fka-every-step` | factual acquisition: injections every 100 steps, scores after every step     |

The papers' recipes leave two things to be given: the text, whose rows were not released, and the
passages, which were (`--knowledge` takes their files). Released runs were on several GPUs under
FSDP: start them with torchrun, or give `--parallel none`.

`fka-every-step` differs from the released runs in one thing that cannot be had: the optimizer's
state at the checkpoint. Its learning rate is the constant that the released schedule has there.

Learning rates are counted from one in all of them, as in OLMo's trainer, which the released code of
both papers keeps: it counts the step up before it asks for the rate.

Source: configurations and code released with Kim et al., ICLR 2025, and Chang et al., NeurIPS 2024.

Example:
    >>> CKL_RECIPES["batch-2048"]().steps
    100
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from training.choices import OncePlacement, Parallel, Precision, ScheduleKind
from training.ckl.config import CklConfig
from training.commands.fields import TINY_RUN

SIX_TASKS = ("piqa", "hellaswag", "winogrande", "openbook_qa", "sciq", "arc_easy")
_TWO_CORPORA = ("general-heldout", "biomedical-heldout")

# The released schedule falls in a straight line from 3e-4 at step 5,000 to a tenth of it at step
# 476,837; the checkpoint is of step 113,000.
_FKA_RATE = 3e-4 * (1 - 0.9 * (113_000 - 5_000) / (476_837 - 5_000))


def smoke() -> CklConfig:
    """The tiny model, in two minutes on two CPU cores."""
    return CklConfig(
        model=TINY_RUN,
        corpus="biomedical-train",
        row_length=384,
        batch_size=12,
        steps=100,
        learning_rate=1e-3,
        knowledge=("generated",),
        passage_words=140,
        paraphrase=6,
        duplication=2,
        once=10,
        held_out=4,
        injection_interval=8,
        probe_every=4,
        evaluate_every=40,
        lags=(0, 20),
        tasks=SIX_TASKS,
        task_limit=16,
        evaluation_corpora=_TWO_CORPORA,
        evaluation_tokens=4096,
        entropy_tokens=4096,
        coefficient_tokens=8192,
    )


def lab() -> CklConfig:
    """SmolLM2-135M on biomedical text, in minutes on one GPU."""
    return CklConfig(
        model="smollm2-135m-instruct-q4",
        corpus="biomedical",
        row_length=512,
        batch_size=32,
        micro_batch_size=16,
        epochs=6,
        steps=400,
        learning_rate=4e-4,
        precision=Precision.BF16,
        knowledge=("generated",),
        passage_words=200,
        paraphrase=16,
        duplication=4,
        once=20,
        held_out=5,
        injection_interval=36,
        probe_every=1,
        evaluate_every=100,
        lags=(0, 20, 40),
        tasks=SIX_TASKS,
        evaluation_corpora=_TWO_CORPORA,
        evaluation_tokens=65_536,
        entropy_tokens=16_384,
        resume_every=50,
    )


def paper_1b() -> CklConfig:
    """OLMo-1B as the released configuration of the Knowledge Entropy paper has it."""
    return CklConfig(
        model="allenai/OLMo-1B-hf",
        corpus=None,
        row_length=1024,
        batch_size=128,
        micro_batch_size=16,
        steps=1600,
        shuffle=False,
        learning_rate=4e-4,
        precision=Precision.BF16,
        parallel=Parallel.FSDP,
        seed=6198,
        knowledge=(),
        passage_words=360,
        paraphrase=70,
        duplication=0,
        once=60,
        held_out=0,
        injection_interval=160,
        probe_every=160,
        evaluate_every=160,
        tasks=SIX_TASKS,
        checkpoint_every=160,
    )


def batch_2048() -> CklConfig:
    """As `paper-1b`, with batches of 2,048 rows."""
    return replace(
        paper_1b(),
        batch_size=2048,
        steps=100,
        injection_interval=10,
        probe_every=10,
        evaluate_every=10,
        checkpoint_every=10,
    )


def lr_1e_3() -> CklConfig:
    """As `paper-1b`, at a peak learning rate of 1e-3."""
    return replace(paper_1b(), learning_rate=1e-3)


def lr_1e_4() -> CklConfig:
    """As `paper-1b`, at a peak learning rate of 1e-4."""
    return replace(paper_1b(), learning_rate=1e-4)


def three_epochs() -> CklConfig:
    """As `paper-1b`, through the text three times."""
    return replace(paper_1b(), epochs=3, steps=4800, injection_cycles=3)


def fka_every_step() -> CklConfig:
    """Factual acquisition on OLMo-7B: scores after every one of 2,000 steps."""
    return replace(
        paper_1b(),
        model="allenai/OLMo-7B-hf",
        row_length=2048,
        batch_size=2048,
        micro_batch_size=2,
        steps=2000,
        learning_rate=_FKA_RATE,
        schedule=ScheduleKind.CONSTANT,
        warmup_fraction=0.0,
        paraphrase=40,
        duplication=40,
        once=40,
        held_out=10,
        once_placement=OncePlacement.FIRST,
        injection_interval=100,
        injection_first=0,
        probe_every=1,
        evaluate_every=None,
        lags=(0,),
        checkpoint_every=500,
        resume_every=50,
    )


CKL_RECIPES: Mapping[str, Callable[[], CklConfig]] = {
    "smoke": smoke,
    "lab": lab,
    "paper-1b": paper_1b,
    "batch-2048": batch_2048,
    "lr-1e-3": lr_1e_3,
    "lr-1e-4": lr_1e_4,
    "three-epochs": three_epochs,
    "fka-every-step": fka_every_step,
}
