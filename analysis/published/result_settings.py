"""Result settings: conditions of published numbers that manifests of results hold.

Where results of a kind do not agree in something, it is said of none of them.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.claim_tables.folders import Results
from analysis.claim_tables.settings import series_of
from analysis.claims.measurements import Table
from analysis.published.knowledge_entropy import PADDED_METRIC, TASK_METRIC
from analysis.published.result_names import (
    MIX_CORPUS,
    novelty_of,
    published_corpus,
    published_mix,
    published_model,
)
from analysis.published.result_rows import Said
from training.ckl.config import ProbeReduction
from training.ckl.recipes import SIX_TASKS
from training.data.mixes import MixName
from training.runs.directory import read_manifest

_GENERATED = "generated"
_UNMIXED = ("none", MixName.RANDOM)


def settings_of_results(results: Results) -> dict[Table, Said]:
    """What is known of results beside the columns of their tables."""
    configurations = {
        kind: [read_manifest(path)["configuration"] for path in paths]
        for kind, paths in (
            (Table.ACQUISITION, results.ckl_runs),
            (Table.MEMORIZATION, results.remix_runs),
        )
    }
    return {
        Table.PRETRAINING: _agreed(map(_of_sweep, results.entropy_sweeps)),
        Table.ACQUISITION: _agreed(map(_of_acquisition, configurations[Table.ACQUISITION])),
        Table.MEMORIZATION: _agreed(map(_of_memorization, configurations[Table.MEMORIZATION])),
    }


def _agreed(found: Iterable[Said]) -> Said:
    """What all say that say anything, alike."""
    values: dict[str, set[str]] = {}
    for said in found:
        for name, value in said.items():
            values.setdefault(name, set()).add(value)
    return {name: next(iter(each)) for name, each in values.items() if len(each) == 1}


def _of_sweep(folder: Path) -> Said:
    from analysis.entropy.sweep import MANIFEST

    told = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    return {"model": published_model(series_of(told["model"]).name)}


def _of_acquisition(configuration: Mapping[str, Any]) -> Said:
    """A run's text, passages and scores; its model is a column."""
    rows = configuration["steps"] * configuration["batch_size"] // configuration["epochs"]
    corpus = configuration["corpus"]
    said = {
        f"{novelty_of(corpus)} corpus": published_corpus(corpus),
        "corpus rows": f"{rows} of {configuration['row_length']}",
        "epochs": str(configuration["epochs"]),
        "knowledge": _knowledge(configuration),
        "metric of tasks": _tasks(configuration["tasks"], configuration["task_limit"]),
    }
    reduction = configuration["probe_reduction"]
    padded = reduction == ProbeReduction.PADDED_MEAN
    return {**said, "metric of knowledge": PADDED_METRIC if padded else reduction}


def _knowledge(configuration: Mapping[str, Any]) -> str:
    is_generated = _GENERATED in configuration["knowledge"]
    groups = [("paraphrased", "paraphrase"), ("duplicated", "duplication"), ("once", "once")]
    counts = " and ".join(
        f"{configuration[name]} {words}" for words, name in groups if configuration[name]
    )
    return f"{'generated' if is_generated else 'fictional'} knowledge, {counts}"


def _tasks(tasks: Sequence[str], limit: int | None) -> str:
    if limit is None and sorted(tasks) == sorted(SIX_TASKS):
        return TASK_METRIC
    return f"{len(tasks)} tasks, {'all' if limit is None else limit} questions each"


def _of_memorization(configuration: Mapping[str, Any]) -> Said:
    said = {
        "model": published_model(series_of(configuration["model"]).name),
        "metric": "exact match",
    }
    said["items"] = " and ".join(sorted({str(count) for count in configuration["items"]}))
    generic = {mix for mix in configuration["mix"] if mix not in _UNMIXED}
    if len(generic) == 1:
        mix = generic.pop()
        corpus = configuration["mix_corpus"]
        said[MIX_CORPUS] = published_mix(corpus if mix == MixName.GENERIC and corpus else mix)
    return said
