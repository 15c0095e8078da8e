"""What models are trained and probed on, as items rather than token rows.

Question and answer pairs (`factoids`), instructions (`instruction_sets`) and both by one name
(`primary_sets`); fictional knowledge (`fictional_*`, `passages`); a made-up world of facts
(`fact_world`, `fact_corpus`); downstream tasks (`downstream`); mixes, replay and how all of it
becomes rows of tokens.

Example:
    >>> from training.datasets import load_factoids
    >>> load_factoids("kvr", limit=1)[0].question
    'The value of key dc6486c4 is?'
"""

from probes.lazy_exports import lazily

_EXPORTS = {
    "Charset": "training.datasets.key_values",
    "Conversation": "training.datasets.conversations",
    "Factoid": "training.datasets.factoid_prompts",
    "FactoidSet": "training.datasets.factoids",
    "InstructionSet": "training.datasets.instruction_sets",
    "KeyValues": "training.datasets.key_values",
    "LossNormalisation": "training.datasets.row_choices",
    "MixSet": "training.datasets.mixing",
    "MixedSource": "training.datasets.mixed_batches",
    "Mixing": "training.datasets.row_choices",
    "OfficialSource": "training.datasets.official_batches",
    "Packing": "training.datasets.row_choices",
    "PrimaryKind": "training.datasets.primary_sets",
    "PrimarySet": "training.datasets.primary_sets",
    "PromptTemplate": "training.datasets.factoid_prompts",
    "Rendered": "training.datasets.rendering",
    "RenderedSet": "training.datasets.rendering",
    "Template": "training.datasets.row_choices",
    "Turn": "training.datasets.conversations",
    "Writing": "training.datasets.self_replay",
    "factoid_conversations": "training.datasets.conversations",
    "factoid_names": "training.datasets.factoids",
    "instruction_names": "training.datasets.instruction_sets",
    "load_factoids": "training.datasets.factoids",
    "load_instructions": "training.datasets.instruction_sets",
    "load_mix": "training.datasets.mixing",
    "load_primary": "training.datasets.primary_sets",
    "loss_shares": "training.datasets.mixed_batches",
    "mix_names": "training.datasets.mixing",
    "mix_size": "training.datasets.mixing",
    "overlap": "training.datasets.mix_overlap",
    "primary_names": "training.datasets.primary_sets",
    "prompt_and_target": "training.datasets.factoid_prompts",
    "render": "training.datasets.rendering",
    "render_all": "training.datasets.rendering",
    "render_prompt": "training.datasets.rendering",
    "replay_size": "training.datasets.replay",
    "replayed": "training.datasets.replay",
    "self_generated": "training.datasets.self_replay",
    "subject_span": "training.datasets.factoid_prompts",
}

__all__ = sorted(_EXPORTS)
__getattr__, __dir__ = lazily(__name__, _EXPORTS)
