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
    "AttentionTemperature": "interventions.attention_temperature",
    "Clock": "interventions.edit_forms",
    "Edit": "interventions.edit_forms",
    "Identity": "interventions.controls",
    "MatchedNoise": "interventions.controls",
    "MostActiveRows": "interventions.controls",
    "PatchReport": "interventions.edits",
    "RandomRows": "interventions.controls",
    "ReDo": "interventions.controls",
    "Resuscitation": "interventions.resuscitation",
    "ResuscitationSite": "interventions.choices",
    "RowLearningRates": "interventions.learning_rates",
    "Schedule": "interventions.choices",
    "Selection": "interventions.choices",
    "WeightChange": "interventions.edit_forms",
    "applied": "interventions.edits",
    "load_edits": "interventions.checkpoint",
    "nnsight_edited": "interventions.nnsight_edits",
    "patch_weights": "interventions.edits",
    "resuscitate": "interventions.resuscitation",
    "save_patched": "interventions.checkpoint",
}

__getattr__, __dir__ = lazily(__name__, _EXPORTS)
