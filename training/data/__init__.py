"""What models are trained and probed on, as items rather than token rows.

Question and answer pairs (`factoids`), instructions (`instruction_sets`) and both by one name
(`primary_sets`); fictional knowledge (`fictional_*`, `passages`); a made-up world of facts
(`fact_world`, `fact_corpus`); downstream tasks (`downstream`); mixes, replay and how all of it
becomes rows of tokens.

Example:
    >>> from training.data import load_factoids
    >>> load_factoids("kvr", limit=1)[0].question
    'The value of key dc6486c4 is?'
"""

from probes.lazy_exports import lazily

_EXPORTS = {
    "Charset": "training.data.factoids",
    "Conversation": "training.data.conversations",
    "Factoid": "training.data.factoids",
    "FactoidSet": "training.data.factoids",
    "InstructionSet": "training.data.instructions",
    "KeyValues": "training.data.factoids",
    "LossNormalisation": "training.choices",
    "MixSet": "training.data.mixes",
    "MixedSource": "training.data.mixed_batches",
    "Mixing": "training.choices",
    "OfficialSource": "training.data.official_batches",
    "Packing": "training.choices",
    "PrimaryKind": "training.data.primary_sets",
    "PrimarySet": "training.data.primary_sets",
    "PromptTemplate": "training.data.factoids",
    "Rendered": "training.data.rendering",
    "RenderedSet": "training.data.rendering",
    "Template": "training.choices",
    "Turn": "training.data.conversations",
    "Writing": "training.data.replay",
    "factoid_conversations": "training.data.conversations",
    "factoid_names": "training.data.factoid_sources",
    "instruction_names": "training.data.instructions",
    "load_factoids": "training.data.factoid_sources",
    "load_instructions": "training.data.instructions",
    "load_mix": "training.data.mixes",
    "load_primary": "training.data.primary_sets",
    "loss_shares": "training.data.mixed_batches",
    "mix_names": "training.data.mixes",
    "mix_size": "training.data.mixes",
    "overlap": "training.data.mixes",
    "primary_names": "training.data.primary_sets",
    "prompt_and_target": "training.data.factoids",
    "render": "training.data.rendering",
    "render_all": "training.data.rendering",
    "render_prompt": "training.data.rendering",
    "replay_size": "training.data.replay",
    "replayed": "training.data.replay",
    "self_generated": "training.data.replay",
    "subject_span": "training.data.factoids",
}

__all__ = sorted(_EXPORTS)
__getattr__, __dir__ = lazily(__name__, _EXPORTS)
