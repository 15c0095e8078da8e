"""What `training.pretrain` does: texts, a tokenizer learnt from them, a new model, and the loop.

Everything is made again when a run goes on, from the same seeds; the manifest holds hashes of it
all, so that a run never goes on with something else.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import probes
from probes.assets import AssetKind, asset_names, fetch
from probes.corpus.sources import Corpus
from probes.hooked_model import HookedModel
from probes.models import as_device
from probes.prompts import set_bos_habit
from training.commands.observers import Looks
from training.data.fact_world import ClozeItem, FactWorld, cloze_items, generate_world, mixed
from training.data.packed_rows import CorpusSource, packed_corpus
from training.loop import TrainingResult, train
from training.model_shapes import new_model, train_byte_pairs
from training.observers import Cadence
from training.pretrain.config import OWN_TOKENIZER, PretrainConfig
from training.pretrain.plan import print_beginning, print_pretraining
from training.processes import joined_processes
from training.runs.directory import (
    RunDirectory,
    is_finished,
    opened_directory,
    refuse_taken,
    run_manifest,
    tokenizer_hash,
)
from training.trial import Misfits, tried


@dataclass(frozen=True)
class Prepared:
    """Everything that a run starts from.

    Attributes:
        model: the untrained model.
        source: its batches.
        looks: what is looked at.
        inputs: hashes and counts of all of it.
    """

    model: HookedModel
    source: CorpusSource
    looks: Looks
    inputs: dict[str, Any]


def run_pretraining(
    config: PretrainConfig,
    out: Path,
    *,
    recipe: str = "tiny",
    resume: bool = False,
    seconds: float | None = None,
) -> None:
    """Pretrain, and print what came of it."""
    with joined_processes() as here:
        if here.is_first:
            refuse_taken(out, resume=resume)
        # What can be told at once: settings. Then everything is made again, and compared.
        is_finished(out, config, resume=resume)
        prepared = prepare(config)
        manifest = run_manifest("training.pretrain", recipe, config, prepared.inputs)
        directory = opened_directory(out, manifest, resume=resume)
        result = None
        if not directory.is_done:
            if here.is_first:
                print_beginning(config, prepared.model, prepared.source)
            result = _train(config, prepared, directory, resume, seconds)
        if here.is_first:
            print_pretraining(out, config, result)


def prepare(config: PretrainConfig) -> Prepared:
    """Read the texts, and make the tokenizer, the model and the observers."""
    world = generate_world(config.fact_people, config.fact_places, config.fact_seed)
    corpus = _texts(config, world)
    tokenizer = set_bos_habit(tokenizer_for(config, corpus), config.prepend_bos)
    misfits, source, looks = Misfits(), None, Looks()
    with misfits.noted():
        source = _source(config, corpus, tokenizer)
    items = cloze_items(world, facts=config.facts_asked) if config.fact_documents else ()
    with misfits.noted():
        looks = _looks(config, tokenizer, items)
    misfits.refuse()
    assert source is not None
    model = new_model(config.model_shape(len(tokenizer)), tokenizer, seed=config.seed)
    model.hf_model.to(as_device(config.device))
    inputs = {
        "start_sha256": model.content_hash(),
        "tokenizer_sha256": tokenizer_hash(tokenizer),
        "texts": source.describe(),
        **looks.inputs,
    }
    return Prepared(model, source, looks, inputs)


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


def try_pretraining(config: PretrainConfig, out: Path | None) -> None:
    """Try all that a run needs, up to a checkpoint, without training."""
    with joined_processes():
        prepared = prepare(config)
        observers = prepared.looks.observers
        tried(prepared.model, prepared.source, config.settings(), out, observers=observers)


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


def _looks(config: PretrainConfig, tokenizer: Any, items: tuple[ClozeItem, ...]) -> Looks:
    cadence = Cadence(at=config.checkpoint_steps(), last=config.steps)
    looks = Looks()
    misfits = Misfits()
    with misfits.noted():
        looks.at_text(
            config.held_out,
            tokenizer,
            cadence,
            tokens=config.held_out_tokens,
            entropy_tokens=config.entropy_tokens,
            row_length=config.row_length,
        )
    looks.at_facts(items, cadence)
    with misfits.noted():
        looks.at_tasks(config.tasks, config.task_limit, cadence)
    misfits.refuse()
    return looks


def _train(
    config: PretrainConfig,
    prepared: Prepared,
    directory: RunDirectory,
    resume: bool,
    seconds: float | None,
) -> TrainingResult:
    return train(
        prepared.model,
        prepared.source,
        config.settings(),
        directory,
        observers=prepared.looks.observers,
        resume=resume,
        time_limit=seconds,
    )
