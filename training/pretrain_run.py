"""What `training.pretrain` does: texts, a tokenizer learnt from them, a new model, and the loop."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import probes
from probes.assets import AssetKind, asset_names, fetch
from probes.corpus.sources import Corpus
from probes.hooked_model import HookedModel
from probes.models import as_device
from probes.prompts import set_bos_habit
from probes.tables import print_tables
from training.data.fact_world import ClozeItem, FactWorld, cloze_items, generate_world, mixed
from training.data.packed_rows import CorpusSource, packed_corpus
from training.model_shapes import new_model, train_byte_pairs
from training.observers import Cadence
from training.pretrain import OWN_TOKENIZER, PretrainConfig
from training.runs.checkpoints import checkpoint_folders
from training.runs.directory import CHECKPOINTS_FOLDER, DONE_FILE, tokenizer_hash
from training.runs.tables import observed_in, rows_table
from training.settings import Misfits
from training.single_run import ObserverSet, PreparedRun, make_run, try_run

_COLUMNS = 5
"""Checkpoints that the table shows."""


def run_pretraining(config: PretrainConfig, out: Path, *, recipe: str = "tiny", **how: Any) -> None:
    """Pretrain, and print what came of it."""
    make_run("training.pretrain", prepare, print_pretraining, config, out, recipe=recipe, **how)


def try_pretraining(config: PretrainConfig, out: Path | None) -> None:
    """Try all that a run needs, up to a checkpoint, without training."""
    try_run(prepare, config, out)


def prepare(config: PretrainConfig) -> PreparedRun:
    """Read the texts, and make the tokenizer, the model and the observers."""
    world = generate_world(config.fact_people, config.fact_places, config.fact_seed)
    corpus = _texts(config, world)
    tokenizer = set_bos_habit(tokenizer_for(config, corpus), config.prepend_bos)
    misfits, source, observed = Misfits(), None, ObserverSet()
    with misfits.noted():
        source = _source(config, corpus, tokenizer)
    items = cloze_items(world, facts=config.facts_asked) if config.fact_documents else ()
    with misfits.noted():
        observed = _observed(config, tokenizer, items)
    misfits.refuse()
    assert source is not None
    model = new_model(config.model_shape(len(tokenizer)), tokenizer, seed=config.seed)
    model.hf_model.to(as_device(config.device))
    return PreparedRun(
        model=model,
        source=source,
        settings=config.settings(),
        observed=observed,
        inputs={
            "start_sha256": model.content_hash(),
            "tokenizer_sha256": tokenizer_hash(tokenizer),
            "texts": source.describe(),
            **observed.inputs,
        },
        sentences=_sentences(config, model, source),
    )


def _source(config: PretrainConfig, corpus: Corpus, tokenizer: Any) -> CorpusSource:
    """The batches of a run, through the texts as often as its steps need."""
    packed = packed_corpus(corpus, tokenizer, config.row_length, positions=config.positions)
    batches = max(len(packed.ids) // config.batch_size, 1)
    return CorpusSource(
        packed,
        config.batch_size,
        epochs=-(-config.steps // batches),
        shuffle_seed=config.seed,
    )


def tokenizer_for(config: PretrainConfig, corpus: Corpus) -> Any:
    """The tokenizer of a run: learnt from its texts, or one that there is."""
    if config.tokenizer == OWN_TOKENIZER:
        return train_byte_pairs(corpus.documents(), config.d_vocab)
    from transformers import AutoTokenizer

    built_in = asset_names(AssetKind.TOKENIZER)
    name = config.tokenizer
    try:
        return AutoTokenizer.from_pretrained(fetch(name) if name in built_in else name)
    except Exception as error:  # of the library in Rust, bare
        raise ValueError(
            f"--tokenizer {name!r} could not be loaded ({type(error).__name__}); give "
            f"{OWN_TOKENIZER}, {', '.join(built_in)}, a folder or a hub id"
        ) from error


def _texts(config: PretrainConfig, world: FactWorld) -> Corpus:
    corpora = [
        probes.load_corpus(name, column=config.column, max_documents=config.max_documents)
        for name in config.corpus
    ]
    return mixed(corpora, world, config.fact_documents, config.fact_seed)


def _observed(config: PretrainConfig, tokenizer: Any, items: tuple[ClozeItem, ...]) -> ObserverSet:
    cadence = Cadence(at=config.checkpoint_steps(), last=config.steps)
    found, misfits = ObserverSet(), Misfits()
    with misfits.noted():
        found.add_text(
            config.held_out,
            tokenizer,
            cadence,
            tokens=config.held_out_tokens,
            entropy_tokens=config.entropy_tokens,
            row_length=config.row_length,
        )
    found.add_facts(items, cadence)
    with misfits.noted():
        found.add_tasks(config.tasks, config.task_limit, cadence)
    misfits.refuse()
    return found


def _sentences(config: PretrainConfig, model: HookedModel, source: CorpusSource) -> Sequence[str]:
    """What is about to be trained."""
    about = source.describe()
    parameters = sum(parameter.numel() for parameter in model.hf_model.parameters())
    often = f", gone through up to {about['epochs']} times" if about["epochs"] > 1 else ""
    return (
        f"model: {config.shape}, {parameters:,} parameters, on {model.device}",
        f"texts: {about['documents']:,} documents in {about['rows']:,} rows of "
        f"{about['row_length']} tokens{often}",
    )


def print_pretraining(folder: Path, config: PretrainConfig) -> None:
    """Print what was seen at a few of the checkpoints, and what can be done with them."""
    rows = observed_in(folder)
    if rows:
        steps = _spread(sorted({step for row in rows for step in row.values}))
        columns = {step: "untrained" if step == 0 else f"step {step:,}" for step in steps}
        print_tables([rows_table(rows, columns, f"{folder}, in nats")])
    kept = checkpoint_folders(folder / CHECKPOINTS_FOLDER)
    print(f"checkpoints: {len(kept)} in {folder / CHECKPOINTS_FOLDER}")
    if (folder / DONE_FILE).is_file():
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
