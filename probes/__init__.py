"""Measure a model: load it, name its hook points, stream over a corpus, reduce, read out.

The package knows nothing of training runs or of plots. Names are exported lazily, so that
`import probes` costs nothing and `python -m probes.assets --help` answers at once.

Example:
    >>> import torch, probes
    >>> round(float(probes.knowledge_entropy(torch.ones(1, 8)).exp()), 6)
    8.0
"""

from probes.lazy_exports import lazily

_EXPORTS = {
    "AttentionEntropy": "probes.results",
    "Backend": "probes.choices",
    "Captured": "probes.captured",
    "CausalResult": "probes.causal",
    "ChoiceScores": "probes.scoring",
    "Coefficient": "probes.choices",
    "Compat": "probes.choices",
    "Corpus": "probes.corpus.sources",
    "EntropyKind": "probes.choices",
    "EntropyResult": "probes.results",
    "HookPoint": "probes.sites",
    "HookedModel": "probes.hooked_model",
    "IntervalMethod": "probes.choices",
    "KnowledgeEntropy": "probes.results",
    "LensPositions": "probes.choices",
    "LogitAttribution": "probes.attribution",
    "Localization": "probes.localization",
    "NextTokenEntropy": "probes.results",
    "PaddedMean": "probes.scoring",
    "RestoredPositions": "probes.causal",
    "RowLayout": "probes.choices",
    "RunningMean": "probes.corpus_means",
    "RunningMoments": "probes.corpus_means",
    "Site": "probes.sites",
    "TargetReduction": "probes.scoring",
    "TargetSpan": "probes.choices",
    "TokenBatch": "probes.corpus.token_batch",
    "Translators": "probes.translators",
    "Weighting": "probes.choices",
    "capture": "probes.hooks",
    "causal_recovery": "probes.causal",
    "choice_scores": "probes.scoring",
    "exact_matches": "probes.scoring",
    "fetch": "probes.assets",
    "generate": "probes.generation",
    "knowledge_entropy": "probes.entropy",
    "load_corpus": "probes.corpus.sources",
    "load_model": "probes.models",
    "load_result": "probes.results",
    "load_translators": "probes.translators",
    "localize": "probes.localization",
    "logit_attribution": "probes.attribution",
    "measure_entropy": "probes.measure",
    "measure_perplexity": "probes.perplexity",
    "memory": "probes.memory",
    "stream": "probes.hooks",
    "target_log_probs": "probes.scoring",
    "target_ranks": "probes.lens",
    "target_readings": "probes.scoring",
    "token_batches": "probes.corpus.batching",
}

__getattr__, __dir__ = lazily(__name__, _EXPORTS)
