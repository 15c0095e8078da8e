"""Checkpoint files: what is wrong with the files of a folder that does not load?

Example:
    >>> from pathlib import Path
    >>> what_is_wrong(Path("/nowhere")) is None
    True
"""

import json
from pathlib import Path
from typing import Any

INDEX = "model.safetensors.index.json"
_ADAPTER = "adapter_config.json"
_POINTER = b"version https://git-lfs.github.com/spec/"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_TOKENIZERS = (
    *("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt"),
    *("sentencepiece.bpe.model", "merges.txt"),
)


class RefusedCheckpoint(ValueError):
    """A checkpoint that cannot serve, in a line that needs nothing added to it."""


def what_is_wrong(folder: Path) -> str | None:
    """Why a folder cannot be loaded, and what to do; None where its files show nothing."""
    return (
        _adapter(folder)
        or _pointer(folder)
        or _bad_json(folder)
        or _missing_shards(folder)
        or _cut_short(folder)
        or _no_weights(folder)
    )


def is_pointer(path: Path) -> bool:
    """Whether git-lfs has left a pointer in the place of a file."""
    with path.open("rb") as stream:
        return stream.read(len(_POINTER)) == _POINTER


def has_tokenizer(folder: Path) -> bool:
    """Whether there are files of a tokenizer."""
    return any((folder / name).is_file() for name in _TOKENIZERS)


def _adapter(folder: Path) -> str | None:
    if not (folder / _ADAPTER).is_file():
        return None
    base = _read(folder / _ADAPTER).get("base_model_name_or_path", "its base model")
    return (
        f"it holds an adapter ({_ADAPTER}), no model by itself; load {base} with peft, "
        "merge_and_unload() it and save that"
    )


def _pointer(folder: Path) -> str | None:
    for path in [*_weights(folder), *sorted(folder.glob("*.json")), *folder.glob("*.model")]:
        if is_pointer(path):
            return (
                f"{path.name} is a pointer of git-lfs, not the file itself; run git lfs pull in "
                "it, or download the folder from the hub"
            )
    return None


def _bad_json(folder: Path) -> str | None:
    for name in ("config.json", INDEX):
        try:
            whole = isinstance(json.loads((folder / name).read_bytes()), dict)
        except FileNotFoundError:
            continue
        except ValueError:
            whole = False
        if not whole:
            return f"{name} is no JSON object; restore it"
    return None


def _missing_shards(folder: Path) -> str | None:
    if (folder / "model.safetensors").is_file():
        return None
    if not (folder / INDEX).is_file():
        if shards := sorted(folder.glob("model-*-of-*.safetensors")):
            return f"it holds {len(shards)} shards but no {INDEX}, which names their tensors"
        return None
    named = sorted(set(_read(folder / INDEX).get("weight_map", {}).values()))
    gone = [name for name in named if not (folder / name).exists()]
    if not gone:
        return None
    return f"{len(gone)} of {len(named)} shards that {INDEX} names are not there ({gone[0]} first)"


def _cut_short(folder: Path) -> str | None:
    from safetensors import SafetensorError, safe_open

    for path in _weights(folder):
        try:
            with safe_open(path, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            return f"{path.name} is damaged or cut short ({error}); fetch or save it again"
    return None


def _no_weights(folder: Path) -> str | None:
    if _weights(folder) or not folder.is_dir():
        return None
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
    found = f"it has {pickles[0]}, but " if pickles else ""
    return (
        f"{found}it has no safetensors weights; only those are loaded, since other formats can run "
        "code: save the model again with save_pretrained"
    )


def _weights(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
