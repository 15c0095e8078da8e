"""Checkpoint results: correlations of one checkpoint, measured once and kept.

Each finished checkpoint is a folder that appears at once, so that a series that was stopped repeats
none of them.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from analysis.checkpoints import Checkpoint
from analysis.memory_updates.measurement import measure_updates, rank_correlations
from analysis.memory_updates.report import MEASURES
from analysis.origin import origin_in, refuse_another
from probes.cli import output_folder
from probes.corpus.batching import TokenBatches
from probes.corpus.token_batch import TokenBatch
from probes.hooked_model import HookedModel
from probes.json_text import json_text
from probes.results import Provenance, provenance_of
from training.settings import OptimizerSettings

RESULT = "checkpoint.json"


def measured_once(
    folder: Path, origin: Mapping[str, str | None], measure: Callable[[], Mapping[str, Any]]
) -> dict[str, Any]:
    """What a folder holds, or what is measured now and written there."""
    if not (folder / RESULT).is_file():
        found = json_text(measure(), f"{folder / RESULT}", indent=2)
        with output_folder(folder) as partial:
            (partial / RESULT).write_text(found + "\n", encoding="utf-8")
    kept = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    refuse_another(folder, origin_in(Provenance(**kept["provenance"])), origin)
    return kept


def first_batches(tokens: TokenBatches, steps: int) -> list[TokenBatch]:
    """The batches that gradients are taken of; `tokens` then knows the hash of their texts."""
    batches = list(islice(tokens, steps))
    if len(batches) < steps:
        raise ValueError(
            f"corpus {tokens.corpus.name} gave {len(batches)} batches, but --batches asks for "
            f"{steps}; give fewer, smaller ones, or a larger corpus"
        )
    return batches


def checkpoint_result(
    checkpoint: Checkpoint,
    model: HookedModel,
    tokens: TokenBatches,
    batches: Sequence[TokenBatch],
    settings: OptimizerSettings,
    *,
    on_batch: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Correlations of one checkpoint, as plain values."""
    found = measure_updates(model, batches, settings, on_batch=on_batch)
    norms = dict(zip(MEASURES, (found.gradient_norms, found.update_norms), strict=True))
    layers = {name: rank_correlations(found.mean_coefficients, of) for name, of in norms.items()}
    return {
        "checkpoint": checkpoint.label,
        "step": checkpoint.step,
        "revision": checkpoint.revision,
        "loss": found.loss,
        "layers": [
            {"layer": layer, **{name: values[layer] for name, values in layers.items()}}
            for layer in range(model.n_layers)
        ],
        "provenance": _provenance(model, tokens, batches, settings),
    }


def _provenance(
    model: HookedModel,
    tokens: TokenBatches,
    batches: Sequence[TokenBatch],
    settings: OptimizerSettings,
) -> dict[str, Any]:
    used = {"betas": list(settings.betas), "eps": settings.eps, "batches": len(batches)}
    found = provenance_of(
        model,
        {**tokens.configuration, **used},
        documents=1 + max(int(batch.segment_ids.max()) for batch in batches),
        rows=sum(len(batch.input_ids) for batch in batches),
        tokens=sum(int(batch.attention_mask.sum()) for batch in batches),
        corpus=tokens.corpus.name,
        corpus_licence=tokens.corpus.licence,
        corpus_sha256=tokens.content_hash,
    )
    return asdict(found)
