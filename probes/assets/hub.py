"""Corpora and models of the Hugging Face hub that have a name here, as data.

`load_corpus` takes the names of the corpora. What is known of each, and where it was looked up, is
in `hub.toml`; `python -m training.data check` tries all of them.

    >>> HUB_CORPORA["c4"].dataset, HUB_CORPORA["c4"].config
    ('allenai/c4', 'en')
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path

MAIN = "main"


@dataclass(frozen=True)
class HubCorpus:
    """A data set of the hub whose rows are documents."""

    dataset: str
    column: str  # of the text
    licence: str  # as far as known; what the data set itself states wins
    found: str  # where all of this was looked up
    revision: str = MAIN  # commit, branch or tag
    config: str | None = None


@dataclass(frozen=True)
class HubModel:
    """A model of the hub."""

    model: str
    licence: str
    found: str
    revisions: tuple[str, ...] = ()  # those that the project names, in the order of pretraining


_TABLE = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
HUB_CORPORA = {name: HubCorpus(**row) for name, row in _TABLE["corpora"].items()}
HUB_MODELS = {
    name: HubModel(**{**row, "revisions": tuple(row.get("revisions", ()))})
    for name, row in _TABLE["models"].items()
}
