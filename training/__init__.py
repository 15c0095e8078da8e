"""Train and record: the loop, data sets, injection, and what is evaluated on the way.

May import probes and interventions. Names are exported lazily, so that the `--help` of a command
answers at once.
"""

from probes.lazy_exports import lazily

_MODULES = {
    "batches": ("BatchSource", "ExampleSource", "FunctionSource", "RowSource", "TrainingBatch"),
    "choices": (
        *("DecayGroup", "Exposure", "InjectionMode", "OptimizerStart", "Parallel", "Precision"),
        *("ProbeKind", "ScheduleKind", "StageStatus", "StopWhen", "Tracker", "TranslatorOptimizer"),
    ),
    "data.factoids": (
        *("Factoid", "FactoidSet", "KeyValues", "PromptTemplate", "load_factoids"),
        *("prompt_and_target", "subject_span"),
    ),
    "data.fictional_generator": ("generate_knowledge",),
    "data.mixed_batches": ("MixedSource", "OfficialSource"),
    "data.mixes": ("load_mix", "overlap", "replayed", "self_generated"),
    "data.packed_rows": ("corpus_source",),
    "data.passages": (
        *("KnowledgeProbe", "KnowledgeSet", "Passage", "assign_exposures", "load_knowledge"),
    ),
    "data.primary_sets": ("load_instructions", "load_primary"),
    "data.rendering": (
        *("Conversation", "Rendered", "Turn", "factoid_conversations", "render", "render_all"),
        *("render_prompt",),
    ),
    "engine": ("learning_rate",),
    "forgetting_terms": ("alignment", "change_of_loss", "delta_1", "delta_2"),
    "gradients": ("GradientAlignmentObserver", "gradient_sample"),
    "injection": ("Encounter", "InjectedSource", "InjectionSchedule", "encode_passages"),
    "jacobian_lens_fit": ("fit_jacobian_lens",),
    "loop": ("TrainingResult", "train"),
    "model_shapes": ("ModelFamily", "ModelShape", "new_model", "train_byte_pairs"),
    "novelty": ("corpus_novelty",),
    "observers": (
        *("Cadence", "ClozeObserver", "EntropyObserver", "HeldOutObserver", "Observer"),
        *("NotingObserver", "ProbeObserver", "StopRule", "TaskObserver"),
    ),
    "recall": (
        *("Match", "RecallItem", "RecallObserver", "accepted_answers", "is_right"),
        *("written_answers",),
    ),
    "relearning": ("relearn",),
    "runs.directory": ("RunDirectory", "read_manifest"),
    "runs.records": ("Record", "StepRecord", "read_items", "read_records", "records_of"),
    "settings": ("LoopSettings", "OptimizerSettings", "ScheduleSettings", "log_spaced_steps"),
    "stages": ("ReadyStage", "Stage", "run_stages"),
    "stop_rules": ("AllOf", "ExactMatchReached", "LossBelow"),
    "tasks": ("Task", "downstream_score", "evaluate_task", "load_task", "task_names"),
    "tuned_lens_fit": ("train_translators",),
    "weight_drift": ("WeightDriftObserver", "drift_since", "drift_table", "start_weights"),
}
_EXPORTS = {name: f"{__name__}.{module}" for module, names in _MODULES.items() for name in names}

__getattr__, __dir__ = lazily(__name__, _EXPORTS)
