"""What of the hub can be read as training reads it? Whatever of it has a name is tried.

A set is opened as a stream, each of its files by itself, and its first rows go through the reader
that training uses; a corpus through `load_corpus`, a mix through what cuts its passages. Of a model
the revisions have to be there and the configuration has to be of a family that is understood.
Nothing is kept but what the library of the hub caches of a model's configuration.
"""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from probes.assets.table import HUB_CORPORA, HUB_MODELS, HubCorpus, HubModel, nearest_names
from probes.corpus.files import first_line
from probes.corpus.sources import load_corpus
from training.data.factoids import HUB_FACTOIDS
from training.data.items import HubSet, NamedSet, Rows
from training.data.mixes import MixName, generic_passages
from training.data.passages import HUB_KNOWLEDGE
from training.data.primary_sets import HUB_INSTRUCTIONS

FIRST_ROWS = 100  # rows of each file, or documents of each corpus, that are read
OK = "ok"
_FILE = "hf://datasets/{dataset}@{revision}/{pattern}"
_BUILDERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".parquet": ("parquet", {}),
    ".json": ("json", {}),
    ".jsonl": ("json", {}),
    ".tsv": ("csv", {"sep": "\t"}),
}
_COMMIT = 40  # characters of one in full


@dataclass(frozen=True)
class Entry:
    """Something of the hub, and how it is tried: `attempt` says what was read, or raises."""

    name: str
    address: str
    licence: str
    attempt: Callable[[], str]


@dataclass(frozen=True)
class Found:
    """What came of an entry: what was read, and "ok" or what failed."""

    entry: Entry
    read: str
    outcome: str


def named_entries() -> dict[str, Entry]:
    """Everything of the hub that has a name here, by that name."""
    found = []
    sets: dict[str, NamedSet[Any]] = {**HUB_FACTOIDS, **HUB_INSTRUCTIONS, **HUB_KNOWLEDGE}
    for name, named in sets.items():
        files = named.files
        assert isinstance(files, HubSet)
        address = _address(files.dataset, files.revision)
        found.append(Entry(name, address, files.licence, partial(_try_set, named)))
    for name, corpus in HUB_CORPORA.items():
        address = _address(corpus.dataset, corpus.revision, corpus.config)
        found.append(Entry(name, address, corpus.licence, partial(_try_corpus, name, corpus)))
    for name, model in HUB_MODELS.items():
        found.append(Entry(name, model.model, model.licence, partial(_try_model, model)))
    return {entry.name: entry for entry in found}


def chosen_entries(names: Iterable[str]) -> list[Entry]:
    """The entries of these names; all where none is given."""
    known = named_entries()
    for name in (names := list(names)):
        if name not in known:
            near = nearest_names(name, list(known))
            raise ValueError(f"nothing of the hub is called {name!r}: {near}")
    return [known[name] for name in names or known]


def checked(entries: Iterable[Entry], timeout: float) -> Iterator[Found]:
    """Try one entry after the other, none for longer than so many seconds."""
    for entry in entries:
        answers: queue.Queue[Found] = queue.Queue()
        # A connection that hangs cannot be ended; its thread does not keep the process alive.
        threading.Thread(target=_answer, args=(entry, answers), daemon=True).start()
        try:
            yield answers.get(timeout=timeout)
        except queue.Empty:
            yield Found(entry, "nothing", f"no answer within {timeout:g} seconds")


def _answer(entry: Entry, answers: "queue.Queue[Found]") -> None:
    try:
        answers.put(Found(entry, entry.attempt(), OK))
    except Exception as error:  # whatever fails is what was asked for
        answers.put(Found(entry, "nothing", first_line(error)))


def _address(dataset: str, revision: str, config: str | None = None) -> str:
    short = revision[:7] if len(revision) == _COMMIT else revision
    return f"{dataset}@{short}" + f", {config}" * bool(config)


def _reach(name: str, kind: str, revision: str | None = None) -> None:
    """Ask for a repository once; what opens it would try again and again without a network."""
    import httpx
    from huggingface_hub import HfApi, errors

    try:
        HfApi().repo_info(name, repo_type=kind, revision=revision, timeout=10)
    except errors.RevisionNotFoundError as error:
        raise ValueError(f"has no revision {revision}") from error
    except errors.RepositoryNotFoundError as error:
        raise ValueError("is not there, or not open to this account") from error
    except (httpx.TransportError, OSError) as error:
        raise ValueError(f"the hub cannot be reached: {first_line(error)}") from error


def _try_set(named: NamedSet[Any]) -> str:
    files = named.files
    assert isinstance(files, HubSet)
    _reach(files.dataset, "dataset", files.revision)
    rows = list(chain.from_iterable(_first_rows(files, pattern) for pattern in files.files))
    items, _ = named.read(rows)
    if not items:
        columns = ", ".join(rows[0][1]) if rows else "nothing"
        raise ValueError(f"no item in the first {len(rows)} rows, of {columns}")
    return f"{len(rows)} rows of {_counted(len(files.files), 'file')}: {len(items)} items"


def _first_rows(files: HubSet, pattern: str) -> Rows:
    import datasets

    revision = quote(files.revision, safe="")
    address = _FILE.format(dataset=files.dataset, revision=revision, pattern=pattern)
    builder, options = _BUILDERS[PurePosixPath(pattern).suffix]
    stream = datasets.load_dataset(
        builder, data_files=address, split="train", streaming=True, **options
    )
    for number, row in enumerate(islice(stream, FIRST_ROWS), start=1):
        yield f"{pattern}, row {number}", row


def _try_corpus(name: str, hub: HubCorpus) -> str:
    _reach(hub.dataset, "dataset", hub.revision)
    corpus = load_corpus(name, max_documents=FIRST_ROWS)
    if name in list(MixName):
        generic_passages(corpus, 1, seed=0)
    documents = sum(1 for _ in corpus.documents())
    return f"{documents} documents" + ", passages of a mix" * (name in list(MixName))


def _try_model(hub: HubModel) -> str:
    from huggingface_hub import HfApi
    from transformers import AutoConfig

    from probes.architectures import row_of

    _reach(hub.model, "model")
    if hub.revisions:
        refs = HfApi().list_repo_refs(hub.model)
        there = [ref.name for ref in (*refs.branches, *refs.tags)]
        missing = [name for name in hub.revisions if name not in there]
        if missing:
            raise ValueError(f"no revision {missing[0]}: {nearest_names(missing[0], there)}")
    config = AutoConfig.from_pretrained(hub.model, revision=[*hub.revisions, None][0])
    if row_of(config) is None:
        raise ValueError(f"its family, {config.model_type}, is not understood")
    revisions = _counted(len(hub.revisions), "revision")
    return f"configuration of {config.model_type}, {revisions}"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
