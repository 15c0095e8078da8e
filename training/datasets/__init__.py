"""What models are trained and probed on, as items rather than token rows.

`factoids` loads question and answer pairs by name or from a file; `factoid_prompts` says what a
factoid is and how it becomes the prompt and the target of a lens or a probe; `key_values` makes
up pairs that no model can know; `factoid_files` and `factoid_sources` read them.

Example:
    >>> from training.datasets import load_factoids
    >>> load_factoids("kvr", limit=1)[0].question
    'The value of key dc6486c4 is?'
"""

from probes.lazy_exports import lazily

_EXPORTS = {
    "Charset": "training.datasets.key_values",
    "Factoid": "training.datasets.factoid_prompts",
    "FactoidSet": "training.datasets.factoids",
    "KeyValues": "training.datasets.key_values",
    "PromptTemplate": "training.datasets.factoid_prompts",
    "factoid_names": "training.datasets.factoids",
    "load_factoids": "training.datasets.factoids",
    "prompt_and_target": "training.datasets.factoid_prompts",
    "subject_span": "training.datasets.factoid_prompts",
}

__all__ = sorted(_EXPORTS)
__getattr__, __dir__ = lazily(__name__, _EXPORTS)
