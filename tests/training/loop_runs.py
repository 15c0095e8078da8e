"""Short runs of tiny models, for the tests of training; sizes are prime where they can be."""

from dataclasses import asdict

import torch

import probes
from tests.models import tiny_hf_model, tiny_tokenizer, tokens
from training.batches import RowSource
from training.loop import train
from training.runs.directory import RunDirectory
from training.runs.records import StepRecord, records_of
from training.settings import LoopSettings, OptimizerSettings

ROWS, LENGTH = 35, 13


def settings_of(**given):
    """A quick run of 11 steps, 4 rows a step."""
    fields = {"steps": 11, "batch_size": 4, "optimizer": OptimizerSettings(learning_rate=1e-2)}
    return LoopSettings(**{**fields, **given})


def rows_of(batch_size=4, length=LENGTH, **given):
    """Random rows, shuffled, for more than one epoch."""
    rows = tokens(ROWS, length).numpy()
    return RowSource(rows, batch_size, **{"epochs": 3, "shuffle_seed": 5, **given})


def model_of(family="llama", dtype=torch.float32, dropout=0.0):
    """A fresh tiny hooked model; the same bits for the same arguments."""
    hf_model = tiny_hf_model(family, dtype)
    hf_model.config.attention_dropout = dropout
    for layer in getattr(getattr(hf_model, "model", None), "layers", []):
        layer.self_attn.attention_dropout = dropout
    return probes.load_model(hf_model, tokenizer=tiny_tokenizer())


def directory_of(path, settings, source, *, resume=False, **more):
    """The run's directory, new or reopened."""
    manifest = {"configuration": asdict(settings), "inputs": source.describe() | more}
    open_it = RunDirectory.reopen if resume else RunDirectory.create
    return open_it(path, manifest)


def run(path, model=None, source=None, settings=None, *, resume=False, **given):
    """Train a tiny model in a directory; returns the model and the result."""
    model = model or model_of()
    settings = settings or settings_of()
    source = source or rows_of(settings.batch_size)
    directory = directory_of(path, settings, source, resume=resume)
    result = train(
        model, source, settings, directory, resume=resume, **{"progress": False, **given}
    )
    return model, result


def step_records(path):
    """The records of all updates."""
    return records_of(path, StepRecord)


def losses_of(path):
    """The loss of every update."""
    return [record.loss for record in step_records(path)]


def weights_of(model):
    """Copies of all parameters, by name."""
    return {name: p.detach().clone() for name, p in model.hf_model.named_parameters()}


def same_bits(one, other):
    """Whether two sets of tensors agree in every bit."""
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
