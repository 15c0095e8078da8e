"""Train and record: the loop, data sets, injection, and what is looked at on the way.

May import probes and interventions. Names are exported lazily, so that the `--help` of a command
answers at once.
"""

from importlib import import_module
from typing import Any

_EXPORTS = {
    "BatchSource": "training.batches",
    "Cadence": "training.observers",
    "ClozeObserver": "training.observers",
    "DecayGroup": "training.choices",
    "Encounter": "training.injection_schedule",
    "EntropyObserver": "training.observers_corpus",
    "Exposure": "training.choices",
    "Factoid": "training.datasets.factoid_prompts",
    "FactoidSet": "training.datasets.factoids",
    "HeldOutObserver": "training.observers_corpus",
    "InjectedSource": "training.injection",
    "InjectionMode": "training.choices",
    "InjectionSchedule": "training.injection_schedule",
    "KnowledgeProbe": "training.datasets.passages",
    "KnowledgeSet": "training.datasets.passages",
    "LoopSettings": "training.settings",
    "ModelFamily": "training.model_shapes",
    "ModelShape": "training.model_shapes",
    "Observer": "training.observing",
    "OptimizerSettings": "training.settings",
    "Parallel": "training.choices",
    "Passage": "training.datasets.passages",
    "Precision": "training.choices",
    "ProbeKind": "training.choices",
    "ProbeObserver": "training.observers",
    "RowSource": "training.batches",
    "RunDirectory": "training.run_directory",
    "ScheduleKind": "training.choices",
    "ScheduleSettings": "training.settings",
    "StopRule": "training.observing",
    "Task": "training.datasets.downstream",
    "TaskObserver": "training.observers",
    "TrainingBatch": "training.batches",
    "TrainingResult": "training.loop",
    "TranslatorOptimizer": "training.choices",
    "assign_exposures": "training.datasets.fictional_exposures",
    "corpus_novelty": "training.novelty",
    "corpus_source": "training.datasets.packed_rows",
    "downstream_score": "training.evaluation",
    "encode_passages": "training.injection",
    "evaluate_task": "training.evaluation",
    "generate_knowledge": "training.datasets.fictional_generator",
    "learning_rate": "training.schedule",
    "load_factoids": "training.datasets.factoids",
    "load_knowledge": "training.datasets.fictional_knowledge",
    "load_task": "training.datasets.downstream",
    "log_spaced_steps": "training.settings",
    "new_model": "training.model_shapes",
    "official_exposures": "training.datasets.fictional_exposures",
    "read_items": "training.records",
    "read_manifest": "training.run_directory",
    "read_records": "training.records",
    "records_of": "training.records",
    "task_names": "training.datasets.downstream",
    "train": "training.loop",
    "train_byte_pairs": "training.byte_pairs",
    "train_translators": "training.tuned_lens_training",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return __all__
