"""Change a model: by a hook that comes off again, or by a weight patch. May import probes.

Names are exported lazily, so that `import interventions` costs nothing.

Example:
    >>> import torch, interventions
    >>> means = torch.tensor([[1.0, 2.0, 3.0, 6.0]])
    >>> interventions.Resuscitation(means, ratio=0.5, factor=1.0).multipliers().tolist()
    [[3.0, 1.5, 1.0, 1.0]]
"""

from probes.lazy_exports import lazily

_EXPORTS = {
    "AblateHeads": "interventions.component_edits",
    "AttentionTemperature": "interventions.attention_temperature",
    "Clock": "interventions.edit_forms",
    "Edit": "interventions.edit_forms",
    "Effects": "interventions.patch_run",
    "Identity": "interventions.controls",
    "MatchedNoise": "interventions.controls",
    "MemoryEdit": "interventions.component_edits",
    "MostActiveRows": "interventions.controls",
    "NotInWeightsError": "interventions.edit_forms",
    "PatchReport": "interventions.edits",
    "RandomRows": "interventions.controls",
    "RankOneWrite": "interventions.rank_one",
    "ReDo": "interventions.controls",
    "Resuscitation": "interventions.resuscitation",
    "ResuscitationSite": "interventions.choices",
    "RowLearningRates": "interventions.learning_rates",
    "Schedule": "interventions.choices",
    "Selection": "interventions.choices",
    "Steer": "interventions.component_edits",
    "ValueSearch": "interventions.rank_one",
    "WeightChange": "interventions.edit_forms",
    "applied": "interventions.edits",
    "key_covariance": "interventions.rank_one",
    "load_edits": "interventions.checkpoint",
    "mean_head_outputs": "interventions.component_edits",
    "measure_effects": "interventions.patch_run",
    "nnsight_edited": "interventions.edits",
    "patch_weights": "interventions.edits",
    "rank_one_write": "interventions.rank_one",
    "resuscitate": "interventions.resuscitation",
    "save_patched": "interventions.checkpoint",
}

__getattr__, __dir__ = lazily(__name__, _EXPORTS)
