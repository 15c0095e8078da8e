"""Result names: what models, corpora and data sets of the papers are called in results.

Example:
    >>> published_model("allenai/OLMo-1B-hf"), published_model("runs/tiny")
    ('OLMo-1B', 'tiny')
"""

from collections.abc import Mapping
from pathlib import PurePosixPath

NEW, FAMILIAR = "new", "familiar"
_MODELS: Mapping[str, tuple[str, ...]] = {
    "OLMo-1B": ("olmo-1b-hf", "olmo-1b"),
    "OLMo-7B": ("olmo-7b-hf", "olmo-7b"),
    "Llama-3-8B": ("meta-llama-3-8b", "llama-3-8b"),
    "Mistral-7B-v0.3": ("mistral-7b-v0.3",),
}
SETS: Mapping[str, tuple[str, ...]] = {
    "KVR": ("kvr",),
    "PopQA": ("popqa",),
    "TriviaQA": ("triviaqa", "triviaqa-train"),
    "LAMA": ("lama",),
    "EQ": ("entityquestions",),
    "WQ": ("webquestions",),
    "GSM8K": ("gsm8k", "gsm8k-train"),
    "MATH": ("math", "math-train"),
    "EC": ("evolcode",),
    "APPS": ("apps",),
    "UC": ("ultrachat",),
}
"""By the published name of a data set, what results call it."""
_NEW_CORPORA = ("biomedical", "pubmed")
"""Beginnings of the names of corpora that pretraining has not seen; others are familiar."""


MIX_CORPUS = "mix corpus"
"""What the condition is called that says which generic text was mixed in."""
_CORPORA: Mapping[str, str] = {"pubmed": "PubMed", "c4": "C4", "dolma": "Dolma"}
_MIXES: Mapping[str, str] = {
    "knowledge-pile": "knowledge pile",
    "arxiv-pile": "arxiv",
    "fineweb": "fineweb",
}


def published_corpus(name: str) -> str:
    """What a paper calls a corpus; of another one, the last part of its name."""
    path = PurePosixPath(name)
    return _CORPORA.get(path.stem.casefold(), path.name)


def published_mix(name: str) -> str:
    """What a paper calls text that is mixed in; of other text, its own name."""
    return _MIXES.get(name, name)


def published_model(name: str) -> str:
    """What a paper calls a model; of another model, the last part of its name."""
    last = PurePosixPath(name).name
    for published, names in _MODELS.items():
        if last.casefold() in names:
            return published
    return last


def novelty_of(corpus: str) -> str:
    """Whether a corpus is "new" to a model pretrained on general text, or "familiar"."""
    return NEW if PurePosixPath(corpus).name.casefold().startswith(_NEW_CORPORA) else FAMILIAR
