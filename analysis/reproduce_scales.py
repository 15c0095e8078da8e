"""Scales: how large a reproduction is, on which machine, from which models.

| scale   | trajectories                      | facts in stages    | machine                    |
|---------|-----------------------------------|--------------------|----------------------------|
| `smoke` | 0.6M parameters, trained here     | the same models    | two CPU cores, half an hour |
| `desk`  | SmolLM2-135M, as it is            | the same model     | two CPU cores, two nights  |
| `lab`   | 31M parameters, trained here      | SmolLM2-135M       | one H100-class GPU         |
| `paper` | OLMo-1B, revisions on the hub     | Llama-3-8B         | a node of eight            |

Every claim that a scale has the runs for is tested; all scales have three seeds or more, and all
but `desk`, which is about edits of a real model, eight checkpoints or more. At `smoke` each seed
has a pretraining run of its own, so that what is found holds over these, too. It has no downstream
tasks, at which so small a model only guesses, and no facts that the base knew: claims about these
are not tested there. Stages have as many epochs of as many items in all arms and no rule that ends
them earlier: as many updates, but for those that a mix or replay adds.

`paper` is for a cluster: it names models, revisions and data of the hub, none of which was ever
loaded from here (`python -m training.data check` tries them), and leaves the published passages to
be given (`with_data`, which also takes other texts and another trajectory). Read it with
`--dry-run` and `--list` before anything is started.

Example:
    >>> SCALES["smoke"]().seeds
    3
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from analysis.ckl_study import Changes
from analysis.claims.choices import Experiment
from analysis.remix_study import FAMILIAR_MIXES
from analysis.reproduce_parts import Knowledge, Memorization, ReproductionScale, Trajectory
from probes.assets.table import HUB_MODELS
from training.choices import Parallel, StopWhen
from training.ckl_config import CKL_RECIPES
from training.pretrain_config import PRETRAIN_RECIPES
from training.remix import REMIX_RECIPES
from training.remix_config import NO_MIX


def smoke() -> ReproductionScale:
    """Half an hour on two CPU cores."""
    return ReproductionScale(
        name="smoke",
        machine="two CPU cores",
        experiments=tuple(one for one in Experiment if one is not Experiment.FAMILIAR_FACTS),
        trajectory=_small_trajectory(),
        knowledge=_small_knowledge(),
        memorization=_small_memorization(),
        corpora=("general-heldout", "biomedical-heldout"),
        entropy_tokens=4096,
        rate=3.2e10,
        overhead=2.0,
        at_once=2,
    )


def _small_trajectory() -> Trajectory:
    model = replace(
        PRETRAIN_RECIPES["tiny"](),
        d_model=96,
        n_layers=3,
        n_heads=4,
        d_mlp=384,
        d_vocab=2048,
        fact_documents=1500,
        row_length=256,
        steps=240,
        batch_size=6,
        log_checkpoints=False,
        checkpoint_every=30,
        entropy_tokens=None,
    )
    smaller = replace(model, d_model=48, n_layers=2, d_mlp=192)
    return Trajectory(recipe="tiny", config=model, smaller=smaller)


def _small_knowledge() -> Knowledge:
    taught = replace(
        CKL_RECIPES["smoke"](),
        batch_size=8,
        steps=24,
        learning_rate=2e-3,
        paraphrase=3,
        duplication=3,
        once=4,
        held_out=2,
        injection_interval=4,
        injection_rounds=4,
        probe_every=4,
        evaluate_every=None,
        lags=(0,),
        tasks=(),
        task_limit=None,
        evaluation_corpora=("general-heldout",),
        evaluation_tokens=2048,
        entropy_tokens=2048,
        coefficient_tokens=4096,
    )
    return Knowledge(
        recipe="smoke",
        config=taught,
        curves={"probe_every": 1, "generate_every": 16},
        familiar_corpus="general-train",
        intervals=(2, 4, 8),
        batch_sizes=(8, 16, 32),
        learning_rates=(5e-4, 2e-3, 8e-3),
    )


def _small_memorization() -> Memorization:
    stages = replace(
        REMIX_RECIPES["smoke"](),
        items=(64, 16),
        epochs=(60,),
        stop=(StopWhen.EPOCHS,),
        learning_rate=3e-3,
        stage_learning_rates=(3e-3, 5e-4),
        recall_every=4,
        generation=False,
        drift=False,
        gradient_every=None,
        relearning_steps=None,
        row_length=256,
        evaluation_tokens=2048,
        entropy_tokens=None,
    )
    return Memorization(
        recipe="smoke",
        config=stages,
        own_start=True,
        other_tasks={"data": ("kvr", "gsm8k")},
        mix_sizes=(0.25, 0.5, 1.0),
        mix_lengths=(4, 6, 8),
    )


def desk() -> ReproductionScale:
    """A real model, edited in every way, on one machine without a GPU in two nights."""
    return ReproductionScale(
        name="desk",
        machine="two CPU cores",
        checkpoints=1,
        experiments=(
            *(Experiment.UNEDITED, Experiment.CONTROLS, Experiment.DOSES),
            *(Experiment.MIXES, Experiment.FAMILIAR_FACTS),
        ),
        trajectory=Trajectory(model=_SMOL, parameters=_SMOL_PARAMETERS, tokens=_SMOL_TOKENS),
        knowledge=_desk_knowledge(),
        memorization=_desk_memorization(),
        corpora=("general-heldout", "biomedical-heldout"),
        entropy_tokens=16_384,
        rate=1.2e11,
        overhead=400.0,
        at_once=2,
    )


def _desk_knowledge() -> Knowledge:
    taught = replace(
        CKL_RECIPES["lab"](),
        corpus="biomedical-train",
        row_length=288,
        batch_size=7,
        micro_batch_size=7,
        epochs=1,
        steps=60,
        passage_words=140,
        paraphrase=4,
        duplication=2,
        once=10,
        held_out=4,
        injection_interval=5,
        probe_every=15,
        evaluate_every=None,
        lags=(0,),
        task_limit=40,
        evaluation_tokens=8192,
        entropy_tokens=8192,
        coefficient_tokens=16_384,
        resume_every=10,
    )
    factors = tuple(f"-up-{factor:g}" for factor in (2, 0.5, 1, 3))
    return Knowledge(
        recipe="lab",
        config=taught,
        curves={"probe_every": 5},
        familiar_corpus="general-train",
        intervals=(),
        batch_sizes=(),
        learning_rates=(),
        arms=("", *factors, "-preserving", "-row-learning-rates", "-random-rows", "-temperature-2"),
    )


def _desk_memorization() -> Memorization:
    stages = replace(
        REMIX_RECIPES["lab"](),
        items=(64,),
        batch_size=16,
        mix_words=25,
        mix_ratio=(1.0,),
        epochs=(30,),
        stop=(StopWhen.EPOCHS,),
        recall_every=4,
        generation=False,
        drift=False,
        gradient_every=None,
        relearning_steps=None,
        row_length=256,
        evaluation_tokens=8192,
        entropy_tokens=None,
        resume_every=40,
    )
    return Memorization(
        recipe="lab",
        config=stages,
        own_start=False,
        parameters=_SMOL_PARAMETERS,
        familiar={"data": ("triviaqa", "kvr"), "familiarity_items": 600},
        familiar_mixes=_BUILT_IN_MIXES,
        located=16,
        arms=("no-mixing", "both", "familiar-facts-no-mixing", "familiar-facts-generic-later"),
    )


def lab() -> ReproductionScale:
    """One H100-class GPU, for hours that can be cut into pieces."""
    pretrained = replace(PRETRAIN_RECIPES["lab"](), log_checkpoints=False)
    return ReproductionScale(
        name="lab",
        machine="one H100-class GPU",
        # Its new text is short: runs go through it several times, those with larger batches more.
        experiments=tuple(one for one in Experiment if one not in _OF_LONG_TEXT),
        checkpoints=10,  # eight of them are older than 3 tokens a parameter
        trajectory=Trajectory(
            recipe="lab",
            config=pretrained,
            smaller=replace(pretrained, d_model=192, n_layers=6, n_heads=6, d_mlp=768),
        ),
        knowledge=Knowledge(
            recipe="lab",
            config=CKL_RECIPES["lab"](),
            curves={"probe_every": 1, "generate_every": 100},
            familiar_corpus="general",
            intervals=(12, 18, 36),
            batch_sizes=(32, 64, 128),
            learning_rates=(1e-4, 4e-4, 1e-3),
        ),
        memorization=Memorization(
            recipe="lab",
            # As many as the built-in text has passages of twice a hundred words for.
            config=replace(
                REMIX_RECIPES["lab"](),
                items=(400, 200),
                epochs=(20,),
                stop=(StopWhen.EPOCHS,),
            ),
            own_start=False,
            parameters=_SMOL_PARAMETERS,
            other_tasks={"data": ("kvr", "gsm8k")},
            familiar={"data": ("triviaqa", "kvr"), "familiarity_items": 4000},
            familiar_mixes=_BUILT_IN_MIXES,
        ),
        corpora=("general-heldout", "biomedical-heldout"),
        entropy_tokens=65_536,
        update_batches=32,
        rate=6e13,
        overhead=15.0,
    )


def paper() -> ReproductionScale:
    """The papers' own models and data, on a node of eight GPUs."""
    return ReproductionScale(
        name="paper",
        machine="a node of eight H100-class GPUs",
        experiments=tuple(one for one in Experiment if one is not Experiment.SIZES),
        trajectory=Trajectory(
            model=_OLMO.model,
            revisions=_OLMO.revisions,
            parameters=1_176_764_416,
            tokens=_OLMO_TOKENS,
        ),
        knowledge=Knowledge(
            recipe="paper-1b",
            # Learning rates of rows, a control, need whole parameters.
            config=replace(CKL_RECIPES["paper-1b"](), corpus="pubmed", parallel=Parallel.DDP),
            curves={"probe_every": 10, "generate_every": 160},
            familiar_corpus="c4",
            intervals=(40, 80, 160),
            batch_sizes=(256, 512, 2048),
            learning_rates=(1e-4, 4e-4, 1e-3),
        ),
        memorization=Memorization(
            recipe="paper-llama3-8b",
            config=replace(REMIX_RECIPES["paper-llama3-8b"](), mix=("none",)),
            own_start=False,
            parameters=8_030_261_248,
            other_tasks={"data": ("kvr", "gsm8k-train")},
            familiar={"data": ("popqa", "lama"), "familiarity_items": 4000},
            familiar_mixes={f"{mix}-later": _later(mix) for mix in FAMILIAR_MIXES},
            generic="knowledge-pile",
            other_text={"mix": ("none", "fineweb")},
        ),
        # As many rows as a batch of the pretraining has. Dolma, whose rows the paper has, is on the
        # hub as a loading script, which no library runs: give rows of it by `--entropy-corpora`.
        corpora=("c4", "pubmed"),
        entropy_tokens=2048 * 2048,
        entropy_row_length=2048,
        update_batches=64,
        rate=8 * 4e14,
        overhead=300.0,
        processes_per_run=8,
    )


def _later(mix: str, **given: str) -> Changes:
    """Settings of a mix at the second stage."""
    return {"mix": (NO_MIX, mix), **given}


_OF_LONG_TEXT = (Experiment.BATCHES, Experiment.EPOCHS)
_BUILT_IN_MIXES = {
    "random-later": _later("random"),
    "generic-later": _later("generic"),
    "biomedical-later": _later("generic", mix_corpus="biomedical-train"),
}
"""In place of the paper's `FAMILIAR_MIXES`, whose texts are on the hub."""
_SMOL, _SMOL_PARAMETERS = "smollm2-135m-instruct-q4", 134_515_008
_SMOL_TOKENS = 2 * 10**12
"""Of its pretraining, by its model card."""

_OLMO = HUB_MODELS["olmo-1b"]
_OLMO_TOKENS = 3_094 * 10**9
"""Of its last revision, as that is called."""

SCALES: Mapping[str, Callable[[], ReproductionScale]] = {
    "smoke": smoke,
    "desk": desk,
    "lab": lab,
    "paper": paper,
}
