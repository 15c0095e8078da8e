"""Every module that takes tensors refuses one of the wrong rank while tests run.

The checks come from jaxtyping and beartype, which pytest installs on import. One call per module
shows that they are in force there; a second test shows that no module was forgotten.
"""

import ast
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parent.parent
WRONG = torch.zeros(1, 1, 1, 1, 1, 1, 1)


def call(module: str, function: str, *arguments, **keywords):
    import importlib

    owner = importlib.import_module(module)
    for name in function.split("."):
        owner = getattr(owner, name)
    return owner(*arguments, **keywords)


def attention_call(**changes):
    import probes.attention_interface as interface

    q = torch.zeros(1, 1, 2, 4)
    fields = {"query": q, "key": q, "value": q, "allowed": None} | changes
    return interface.AttentionCall(**fields, scale=1.0, softcap=None, dropout=0.0)


def tiny():
    from tests.models import tiny_model

    return tiny_model("llama")


def choice(name):
    from probes.target_reduction import TargetReduction
    from training.datasets.downstream_sources import TaskMetric

    return {"token_mean": TargetReduction.TOKEN_MEAN, "acc": TaskMetric.ACC}[name]


def layer_with_a_wrong_down_projection():
    import dataclasses

    down = SimpleNamespace(weight=WRONG)
    return dataclasses.replace(tiny().anatomy.layers[0], down=down)


def meter():
    from probes.meters import AttentionMeter
    from probes.resampling import Resampling

    return AttentionMeter(tiny(), Resampling())


def backend_returning_a_wrong_shape(backend):
    import probes
    from tests.models import tiny_hf_model, tokens

    model = probes.load_model(tiny_hf_model("llama"), backend=backend)
    with model.hooks([("hook_unembed", lambda logits, _point: logits[0])]):
        model.engine.logits({"input_ids": tokens(1, 5)})


def lens_result_with_a_wrong_shape():
    import analysis

    found = analysis.lens(tiny(), [[3, 4]], [[5]])
    found.per_token.readout.__dict__["rank"] = WRONG.long()[0].expand(3, 1, 1, 1, 1, 1)
    return found


def feed(reducer):
    import probes

    batch = {"input_ids": torch.ones(1, 2, dtype=torch.long)}
    model = tiny()
    model.trunk = lambda batch: WRONG
    return probes.stream(model, [batch], {"hook_embed": reducer})


def rising():
    from analysis.statistics.choices import Direction

    return Direction.RISES


CALLS = {
    "analysis.ckl_report.curves": lambda: call(
        "analysis.ckl_report.curves", "_Encounters", *[np.zeros(1)] * 4
    ),
    "analysis.claim_tables.passage_means": lambda: call(
        "analysis.claim_tables.passage_means", "PassageMeans", (), np.zeros(1)
    ),
    "analysis.ckl_report.scores": lambda: call(
        "analysis.ckl_report.scores",
        "_Scores",
        "met",
        "all",
        {},
        np.zeros((1, 1)),
        *[np.zeros(1)] * 2,
        1,
    ),
    "analysis.run_observations": lambda: call(
        "analysis.run_observations", "ItemScores", None, np.zeros((1, 1), int), np.zeros(1)
    ),
    "analysis.cluster_bootstrap": lambda: call(
        "analysis.cluster_bootstrap", "DEFAULT_BOOTSTRAP.mean_interval", np.ones((2, 2))
    ),
    "analysis.decay_models": lambda: call(
        "analysis.decay_models", "fit_decay_models", np.ones((3, 2)), np.ones(3)
    ),
    "analysis.encounter_gains": lambda: call(
        "analysis.encounter_gains", "effectivity", torch.ones(()), [0]
    ),
    "analysis.forgetting_curve": lambda: call(
        "analysis.forgetting_curve", "fit_forgetting_curve", WRONG, torch.ones(3)
    ),
    "analysis.item_tables": lambda: call("analysis.item_tables", "array_items", np.ones(())),
    "analysis.learnability": lambda: call(
        "analysis.learnability", "learnability_threshold", WRONG, torch.ones(3)
    ),
    "analysis.outliers": lambda: call("analysis.outliers", "mean_without_outliers", torch.ones(())),
    "analysis.probe_clusters": lambda: call("analysis.probe_clusters", "cluster_sums", np.ones(())),
    "analysis.logit_lens.result": lambda: lens_result_with_a_wrong_shape().rank,
    "analysis.bootstrap": lambda: call(
        "analysis.bootstrap", "bootstrap_interval", np.mean, np.float64(1), np.random.default_rng(0)
    ),
    "analysis.checkpoint_depth": lambda: call(
        "analysis.checkpoint_depth", "depth_table", {"start": WRONG.long()}, k=1, d_vocab=2
    ),
    "analysis.fact_depth": lambda: call(
        "analysis.fact_depth", "depth_change", *[WRONG.long()] * 2, k=1, d_vocab=2, seed=0
    ),
    "analysis.layer_spread": lambda: call(
        "analysis.layer_spread",
        "compare_spread",
        *[np.zeros((2, 2), int)] * 2,
        3,
        np.random.default_rng(0),
    ),
    "training.gradient_alignment": lambda: call(
        "training.gradient_alignment",
        "GradientAlignmentObserver._record",
        *(None, tiny(), 0, [], {}, WRONG.double()),
    ),
    "training.sample_gradients": lambda: call(
        "training.sample_gradients", "_summed_loss", WRONG, WRONG.long()
    ),
    "training.weight_products": lambda: call(
        "training.weight_products", "_products", [WRONG], [WRONG]
    ),
    "training.datasets.mixed_batches": lambda: call(
        "training.datasets.mixed_batches",
        "MixedSource.examples_at",
        SimpleNamespace(
            steps_available=1,
            _batch_size=1,
            _order=SimpleNamespace(stream=lambda *_: np.zeros((1, 1), int)),
        ),
        0,
    ),
    "training.datasets.mixed_order": lambda: call(
        "training.datasets.mixed_order", "_interleaved", np.zeros((1, 1), int), np.zeros(1, int)
    ),
    "training.datasets.official_batches": lambda: call(
        "training.datasets.official_batches", "OfficialSource._weights", None, WRONG.long()
    ),
    "probes.cached_steps": lambda: call(
        "probes.cached_steps", "next_inputs", {}, WRONG.long(), WRONG.long()
    ),
    "probes.exact_match": lambda: call(
        "probes.exact_match", "TargetReadings", WRONG.double(), WRONG.bool(), WRONG.long()
    ),
    "probes.generation": lambda: call("probes.generation", "_Choice", 1.0, WRONG.double()),
    "training.relearning": lambda: call(
        "training.relearning", "RelearningCurve", (), (), WRONG.bool(), WRONG.double(), {}
    ),
    "analysis.claims.evidence": lambda: call(
        "analysis.claims.evidence", "of_units", np.ones((3, 1)), np.ones(0), rising()
    ),
    "analysis.report.probe_curves": lambda: call(
        "analysis.report.probe_curves", "_table", "arm", "met", np.zeros((1, 1), int), np.zeros(1)
    ),
    "analysis.retention": lambda: call("analysis.retention", "share_interval", np.zeros((1, 1)), 1),
    "analysis.memory_updates.measurement": lambda: call(
        "analysis.memory_updates.measurement", "rank_correlations", WRONG, WRONG
    ),
    "analysis.remix_report.depths": lambda: call("analysis.remix_report.depths", "_Read", WRONG, 3),
    "analysis.statistics.checking": lambda: call(
        "analysis.statistics.checking", "check_varied", np.ones((2, 2)), "x", "a test"
    ),
    "analysis.statistics.checkpoint_series": lambda: call(
        "analysis.statistics.checkpoint_series", "checkpoint_correlation", *[np.ones((3, 8))] * 3
    ),
    "analysis.statistics.clusters": lambda: call(
        "analysis.statistics.clusters", "block_jackknife", np.mean, np.float64(1), []
    ),
    "analysis.statistics.correlations": lambda: call(
        "analysis.statistics.correlations", "correlation", np.ones((4, 1)), np.ones(4)
    ),
    "analysis.statistics.drifting_series": lambda: call(
        "analysis.statistics.drifting_series", "first_differences", np.ones(4), np.ones(5)
    ),
    "analysis.statistics.equivalence": lambda: call(
        "analysis.statistics.equivalence", "equivalent_pairs", np.ones(4), np.ones(5), 1.0
    ),
    "analysis.statistics.paired": lambda: call(
        "analysis.statistics.paired", "mcnemar", np.zeros((2, 2), bool), np.zeros((2, 2), bool)
    ),
    "analysis.statistics.peaks": lambda: call(
        "analysis.statistics.peaks", "peak_test", np.ones(4), 1
    ),
    "analysis.statistics.seeds": lambda: call(
        "analysis.statistics.seeds", "mean_over_seeds", np.ones((2, 2))
    ),
    "analysis.statistics.trends": lambda: call(
        "analysis.statistics.trends", "trend_over_seeds", np.ones(4), "rises"
    ),
    "interventions.edit_forms": lambda: call(
        "interventions.edit_forms", "WeightChange", "", 0, WRONG.long(), lambda old: old
    ),
    "interventions.learning_rates": lambda: call(
        "interventions.learning_rates", "_Rates", "", 0, WRONG.long(), WRONG
    ),
    "interventions.attention_temperature": lambda: call(
        "interventions.attention_temperature", "AttentionTemperature", None
    ),
    "interventions.mlp_rows": lambda: call(
        "interventions.mlp_rows", "Rows.weight", None, WRONG.long()
    ),
    "interventions.matched_noise": lambda: call(
        "interventions.matched_noise", "MatchedNoise._noise", None, None, WRONG, WRONG
    ),
    "interventions.measured_resuscitation": lambda: call(
        "interventions.measured_resuscitation", "_layer_by_layer", tiny(), None, lambda: WRONG
    ),
    "interventions.model_identity": lambda: call(
        "interventions.model_identity", "measured_means", WRONG
    ),
    "interventions.module_hooks": lambda: call(
        "interventions.module_hooks", "with_rows_added", None, WRONG.long(), WRONG, None
    ),
    "interventions.query_weights": lambda: call(
        "interventions.query_weights", "query_changes", tiny(), 0, WRONG
    ),
    "interventions.redo": lambda: call("interventions.redo", "_dormant", WRONG.bool()),
    "interventions.resuscitation": lambda: call(
        "interventions.resuscitation", "Resuscitation", WRONG
    ),
    "interventions.row_scaling": lambda: call(
        "interventions.row_scaling", "rows_scaled", tiny(), WRONG, None
    ),
    "interventions.selection": lambda: call(
        "interventions.selection", "inactive", WRONG, 0.5, None
    ),
    "interventions.self_check": lambda: call(
        "interventions.self_check", "_Seen", WRONG, WRONG, wrote=True
    ),
    "interventions.weight_writes": lambda: call(
        "interventions.weight_writes", "_Kept", 0, WRONG.long(), WRONG, 0.0
    ),
    "probes.anatomy": lambda: layer_with_a_wrong_down_projection().memory_vectors,
    "probes.attention_interface": lambda: attention_call(query=WRONG),
    "probes.attention_probe": lambda: call(
        "probes.attention_probe", "_entropy_from", WRONG, WRONG, WRONG, 1.0
    ),
    "probes.backends.engine": lambda: call("probes.backends.engine", "Engine.trunk", None, WRONG),
    "probes.backends.native": lambda: backend_returning_a_wrong_shape("native"),
    "probes.backends.nnsight": lambda: backend_returning_a_wrong_shape("nnsight"),
    "probes.backends.transformer_lens": lambda: backend_returning_a_wrong_shape("transformer_lens"),
    "probes.causal_result": lambda: call(
        "probes.causal_result", "recovery_of", WRONG, WRONG, WRONG, least_drop=0.1
    ),
    "probes.causal_runs": lambda: call("probes.causal_runs", "_adding", WRONG, (0,)),
    "probes.choice_scoring": lambda: call(
        "probes.choice_scoring", "ChoiceScores", (WRONG.double(),), 0
    ),
    "probes.corpus.readers": lambda: call("probes.corpus.readers", "limit_rows", [np.ones(3)], 1),
    "probes.corpus.rows": lambda: call(
        "probes.corpus.rows", "document_row", np.ones((2, 2), int), 0
    ),
    "probes.corpus.sources": lambda: call(
        "probes.corpus.sources", "ContentHash.add_row", SimpleNamespace(), np.ones((2, 2), int)
    ),
    "probes.corpus.token_batch": lambda: call(
        "probes.corpus.token_batch", "TokenBatch", WRONG.long(), WRONG.long(), WRONG.long()
    ),
    "probes.entropy": lambda: call("probes.entropy", "knowledge_entropy", WRONG),
    "probes.hooks": lambda: feed(SimpleNamespace(update=print, merge=print, result=print)),
    "probes.lens_controls": lambda: call("probes.lens_controls", "_check_ids", WRONG.long(), 7),
    "probes.lens_pass": lambda: call("probes.lens_pass", "LensReadouts", *[WRONG.long()] * 4, None),
    "probes.lens_readout": lambda: call(
        "probes.lens_readout", "read_streams", tiny().anatomy, WRONG, WRONG.long(), top_k=1
    ),
    "probes.lens_rows": lambda: call("probes.lens_rows", "Rows", [], WRONG),
    "probes.localization": lambda: call("probes.localization", "first_layer", WRONG.long(), 1),
    "probes.memory_scaling": lambda: call(
        "probes.memory_scaling", "check_multipliers", 0, WRONG, 1
    ),
    "probes.meters": lambda: meter().after_trunk(tiny(), WRONG),
    "probes.hooked_model": lambda: tiny().run_with_cache(WRONG.long()),
    "probes.model_inputs": lambda: call(
        "probes.model_inputs", "_check_ids", WRONG.long(), 101, None, ""
    ),
    "probes.perplexity": lambda: call("probes.perplexity", "_losses", tiny(), WRONG, WRONG.long()),
    "probes.readout": lambda: call("probes.readout", "unembed", tiny().anatomy, torch.ones(())),
    "probes.resampling": lambda: call("probes.resampling", "_placed", WRONG.long(), [0], 2),
    "probes.results": lambda: call(
        "probes.results", "KnowledgeEntropy", WRONG, WRONG, interval=None
    ),
    "probes.streaming": lambda: call("probes.streaming", "BatchWeights", WRONG, WRONG.long(), None),
    "probes.temperature": lambda: call(
        "probes.temperature", "as_callable", WRONG, layer=0, n_heads=1
    ),
    "probes.translators": lambda: call(
        "probes.translators", "Translators", WRONG, WRONG, model="", weights_sha256=""
    ),
    "training.batches": lambda: call("training.batches", "as_training_batch", WRONG.long()),
    "training.datasets.packed_rows": lambda: call(
        "training.datasets.packed_rows",
        "PackedRows",
        np.ones(3, int),
        np.ones(3, int),
        *"abc",
        0,
        0,
    ),
    "training.engine": lambda: call(
        "training.engine", "summed_cross_entropy", WRONG[0], WRONG[0, 0].long()
    ),
    "training.evaluation": lambda: call(
        "training.evaluation", "_ranked", WRONG.double(), [], choice("acc")
    ),
    "training.forward_inputs": lambda: call(
        "training.forward_inputs", "positions_within", WRONG.long()
    ),
    "training.injection": lambda: call(
        "training.injection", "InjectedSource._row", None, WRONG.long(), None, 0
    ),
    "training.novelty.measure": lambda: call(
        "training.novelty.measure",
        "_mentions",
        call("training.novelty.measure", "_Encoded", 0, "", (), ()),
        np.ones((2, 2)),
        frozenset(),
    ),
    "training.novelty.result": lambda: call(
        "training.novelty.result", "CorpusNovelty", np.ones((2, 2), int), None, None, (), {}, None
    ),
    "training.tuned_lens.evaluation": lambda: call(
        "training.tuned_lens.evaluation", "LensComparison", (), WRONG, WRONG, WRONG, 1
    ),
    "training.tuned_lens.fit": lambda: call(
        "training.tuned_lens.fit", "kl_and_slope", tiny().anatomy, WRONG, WRONG
    ),
    "training.tuned_lens.training": lambda: call(
        "training.tuned_lens.training", "TranslatorHistory", WRONG, 1, 0, {}
    ),
    "probes.target_pass": lambda: call("probes.target_pass", "_Asked", *[WRONG.long()] * 3),
    "probes.target_scoring": lambda: call(
        "probes.target_scoring", "reduced_sums", WRONG.double(), [], choice("token_mean")
    ),
    "probes.target_sharing": lambda: call("probes.target_sharing", "_mask", tiny(), WRONG.bool()),
    "probes.vocabulary_blocks": lambda: call(
        "probes.vocabulary_blocks", "block_sums", WRONG, 0, WRONG, 1
    ),
    "probes.weighting": lambda: call("probes.weighting", "spread", WRONG, WRONG.long()),
}


# Their shapes are those of items of iterators, which cannot be checked without taking them.
ONLY_ITERATORS = {"probes.corpus.batching"}
# Theirs are those of results, and of what a hook is called with.
ONLY_INSIDE = {
    "interventions.controls",
    "interventions.effects",
    "probes.corpus.holding_out",
    "probes.target_trees",
}


def test_no_module_with_shapes_is_forgotten():
    found = set()
    for package in ("probes", "interventions", "training", "analysis"):
        for path in (ROOT / package).rglob("*.py"):
            imports = [
                n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom)
            ]
            if any(node.module == "jaxtyping" for node in imports):
                found.add(".".join(path.relative_to(ROOT).with_suffix("").parts))
    assert found == set(CALLS) | ONLY_ITERATORS | ONLY_INSIDE


@pytest.mark.parametrize("module", CALLS)
def test_a_tensor_of_the_wrong_rank_is_refused(module):
    from jaxtyping import TypeCheckError

    with pytest.raises(TypeCheckError):
        CALLS[module]()
