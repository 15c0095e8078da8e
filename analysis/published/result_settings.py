"""Result settings: what results were made with, in the names of the papers.

Models, corpora and data sets have other names in results. Conditions of published numbers are read
from manifests; where results of a kind do not agree in something, it is said of none of them.

Example:
    >>> published_model("allenai/OLMo-1B-hf"), published_model("runs/tiny")
    ('OLMo-1B', 'tiny')
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from analysis.measurements import Table
from analysis.published.result_rows import Conditions
from analysis.result_folders import Results
from analysis.run_settings import series_of
from training.ckl_config import SIX_TASKS, ProbeReduction
from training.data.mixes import MixName
from training.runs.directory import read_manifest

NEW, FAMILIAR = "new", "familiar"
MIX_CORPUS = "mix corpus"
"""The condition that says which generic text was mixed in."""
SETS: Mapping[str, tuple[str, ...]] = {
    "KVR": ("kvr",),
    "PopQA": ("popqa",),
    "TriviaQA": ("triviaqa", "triviaqa-train"),
    "LAMA": ("lama",),
    "EQ": ("entityquestions",),
    "WQ": ("webquestions",),
    "GSM8K": ("gsm8k", "gsm8k-train"),
    "MATH": ("math", "math-train"),
    "EC": ("evolcode",),
    "APPS": ("apps",),
    "UC": ("ultrachat",),
}
"""What results call a data set, by its published name."""
_MODELS: Mapping[str, tuple[str, ...]] = {
    "OLMo-1B": ("olmo-1b-hf", "olmo-1b"),
    "OLMo-7B": ("olmo-7b-hf", "olmo-7b"),
    "Llama-3-8B": ("meta-llama-3-8b", "llama-3-8b"),
    "Mistral-7B-v0.3": ("mistral-7b-v0.3",),
}
_CORPORA = {"pubmed": "PubMed", "c4": "C4", "dolma": "Dolma"}
_MIXES = {"knowledge-pile": "knowledge pile", "arxiv-pile": "arxiv", "fineweb": "fineweb"}
_NEW_CORPORA = ("biomedical", "pubmed")
"""Beginnings of the names of corpora that pretraining has not seen; others are familiar."""
_PADDED_METRIC = "padded mean, batches of 16 over 4 processes"
_TASK_METRIC = "sciq, winogrande, piqa, openbookqa, hellaswag, arc-easy, zero-shot"
_UNMIXED = ("none", MixName.RANDOM)


def published_corpus(name: str) -> str:
    """What a paper calls a corpus or a file of it; of another, the last part of its name."""
    path = PurePosixPath(name)
    return _CORPORA.get(path.stem.casefold(), path.name)


def published_model(name: str) -> str:
    """What a paper calls a model or a folder of it; of another, the last part of its name."""
    last = PurePosixPath(name).name
    known = (published for published, names in _MODELS.items() if last.casefold() in names)
    return next(known, last)


def novelty_of(corpus: str) -> str:
    """Whether a corpus is "new" to a model pretrained on general text, or "familiar"."""
    return NEW if PurePosixPath(corpus).name.casefold().startswith(_NEW_CORPORA) else FAMILIAR


def settings_of_results(results: Results) -> dict[Table, Conditions]:
    """What is known of results beside the columns of their tables."""
    acquired, kept = (
        [read_manifest(path)["configuration"] for path in paths]
        for paths in (results.ckl_runs, results.remix_runs)
    )
    return {
        Table.PRETRAINING: _agreed(map(_sweep_conditions, results.entropy_sweeps)),
        Table.ACQUISITION: _agreed(map(_acquisition_conditions, acquired)),
        Table.MEMORIZATION: _agreed(map(_memorization_conditions, kept)),
    }


def _agreed(found: Iterable[Conditions]) -> Conditions:
    """What all that say something of a condition say alike."""
    values: dict[str, set[str]] = {}
    for conditions in found:
        for name, value in conditions.items():
            values.setdefault(name, set()).add(value)
    return {name: next(iter(each)) for name, each in values.items() if len(each) == 1}


def _sweep_conditions(folder: Path) -> Conditions:
    from analysis.checkpoints import MANIFEST

    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    return {"model": published_model(series_of(manifest["model"]).name)}


def _acquisition_conditions(configuration: Mapping[str, Any]) -> Conditions:
    """A run's text, passages and scores; its model is a column."""
    rows = configuration["steps"] * configuration["batch_size"] // configuration["epochs"]
    corpus, reduction = configuration["corpus"], configuration["probe_reduction"]
    return {
        f"{novelty_of(corpus)} corpus": published_corpus(corpus),
        "corpus rows": f"{rows} of {configuration['row_length']}",
        "epochs": str(configuration["epochs"]),
        "knowledge": _knowledge(configuration),
        "metric of tasks": _tasks(configuration["tasks"], configuration["task_limit"]),
        "metric of knowledge": _PADDED_METRIC
        if reduction == ProbeReduction.PADDED_MEAN
        else reduction,
    }


def _knowledge(configuration: Mapping[str, Any]) -> str:
    is_generated = "generated" in configuration["knowledge"]
    groups = [("paraphrased", "paraphrase"), ("duplicated", "duplication"), ("once", "once")]
    counts = " and ".join(
        f"{configuration[name]} {words}" for words, name in groups if configuration[name]
    )
    return f"{'generated' if is_generated else 'fictional'} knowledge, {counts}"


def _tasks(tasks: Sequence[str], limit: int | None) -> str:
    if limit is None and sorted(tasks) == sorted(SIX_TASKS):
        return _TASK_METRIC
    return f"{len(tasks)} tasks, {'all' if limit is None else limit} questions each"


def _memorization_conditions(configuration: Mapping[str, Any]) -> Conditions:
    conditions = {
        "model": published_model(series_of(configuration["model"]).name),
        "metric": "exact match",
        "items": " and ".join(sorted({str(count) for count in configuration["items"]})),
    }
    generic = {mix for mix in configuration["mix"] if mix not in _UNMIXED}
    if len(generic) == 1:
        mix, corpus = generic.pop(), configuration["mix_corpus"]
        name = corpus if mix == MixName.GENERIC and corpus else mix
        conditions[MIX_CORPUS] = _MIXES.get(name, name)
    return conditions
