"""What `training.pretrain` does: texts, a tokenizer learnt from them, a new model, and the loop."""

from pathlib import Path
from typing import Any

import probes
from probes.assets import AssetKind, asset_names, fetch
from probes.checking import as_device
from probes.corpus.sources import Corpus
from probes.shown import print_tables
from training.data.fact_world import cloze_items, generate_world, mixed
from training.data.packed_rows import CorpusSource, packed_corpus
from training.model_shapes import new_model, set_bos_habit, train_byte_pairs
from training.observers import Cadence
from training.pretrain_config import OWN_TOKENIZER, PretrainConfig
from training.runs.checkpoints import checkpoint_folders
from training.runs.directory import CHECKPOINTS_FOLDER, DONE_FILE, tokenizer_hash
from training.runs.tables import observed_in, rows_table
from training.settings import Misfits
from training.single_run import ObserverSet, PreparedRun

_COLUMNS = 5  # checkpoints that the table shows


def prepare(config: PretrainConfig) -> PreparedRun:
    """Read the texts, and make the tokenizer, the model and the observers."""
    world = generate_world(config.fact_people, config.fact_places, config.fact_seed)
    corpora = [
        probes.load_corpus(name, column=config.column, max_documents=config.max_documents)
        for name in config.corpus
    ]
    corpus = mixed(corpora, world, config.fact_documents, config.fact_seed)
    tokenizer = set_bos_habit(_tokenizer(config, corpus), config.prepend_bos)
    misfits, source, observed = Misfits(), None, ObserverSet()
    with misfits.noted():
        packed = packed_corpus(corpus, tokenizer, config.row_length, positions=config.positions)
        # As often through the texts as the steps need.
        epochs = -(-config.steps // max(len(packed.ids) // config.batch_size, 1))
        source = CorpusSource(packed, config.batch_size, epochs=epochs, shuffle_seed=config.seed)
    items = cloze_items(world, facts=config.facts_asked) if config.fact_documents else ()
    cadence = Cadence(at=config.checkpoint_steps(), last=config.steps)
    how = (config.held_out_tokens, config.entropy_tokens, config.row_length)
    misfits.check(
        lambda: observed.add_text(config.held_out, tokenizer, cadence, *how),
        lambda: observed.add_facts(items, cadence),
        lambda: observed.add_tasks(config.tasks, config.task_limit, cadence),
    )
    assert source is not None
    model = new_model(config.model_shape(len(tokenizer)), tokenizer, seed=config.seed)
    model.hf_model.to(as_device(config.device))
    texts = source.describe()
    parameters = sum(parameter.numel() for parameter in model.hf_model.parameters())
    often = f", gone through up to {texts['epochs']} times" if texts["epochs"] > 1 else ""
    return PreparedRun(
        model=model,
        source=source,
        settings=config.settings(),
        observed=observed,
        inputs={
            "start_sha256": model.content_hash(),
            "tokenizer_sha256": tokenizer_hash(tokenizer),
            "texts": texts,
            **observed.inputs,
        },
        sentences=(
            f"model: {config.shape}, {parameters:,} parameters, on {model.device}",
            f"texts: {texts['documents']:,} documents in {texts['rows']:,} rows of "
            f"{texts['row_length']} tokens{often}",
        ),
    )


def _tokenizer(config: PretrainConfig, corpus: Corpus) -> Any:
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


def print_pretraining(folder: Path, config: PretrainConfig) -> None:
    """Print what was seen at a few of the checkpoints, and what can be done with them."""
    if rows := observed_in(folder):
        steps = sorted({step for row in rows for step in row.values})
        if len(steps) > _COLUMNS:
            last = len(steps) - 1
            steps = [steps[round(place * last / (_COLUMNS - 1))] for place in range(_COLUMNS)]
        columns = {step: "untrained" if step == 0 else f"step {step:,}" for step in steps}
        print_tables([rows_table(rows, columns, f"{folder}, in nats")])
    kept = checkpoint_folders(folder / CHECKPOINTS_FOLDER)
    print(f"checkpoints: {len(kept)} in {folder / CHECKPOINTS_FOLDER}")
    if (folder / DONE_FILE).is_file():
        corpus = config.held_out[0] if config.held_out else "general-heldout"
        print("what can follow:")
        print(f"  python -m training.ckl --model {folder} --out runs/ckl")
        print(f"  python -m analysis.entropy --model {folder} --corpus {corpus} --out runs/sweep")
