"""Loading: turn what a user names into a Hugging Face model and its tokenizer.

A name is, in this order: a built-in asset, a `.gguf` file, a folder, a hub id. Weights are read
from safetensors only (a pickle can run code), and `trust_remote_code` is off unless asked for.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from probes.assets import AssetKind, asset_names, cached_gguf, fetch


def load_pretrained(
    name: str,
    *,
    revision: str | None,
    dtype: str | torch.dtype | None,
    trust_remote_code: bool,
) -> tuple[Any, Any | None]:
    """Load a causal language model and its tokenizer by name, on the CPU.

    Args:
        name: asset name, `.gguf` file, folder or hub id.
        revision: branch, tag or commit of a hub id.
        dtype: what to load the weights as; None for the checkpoint's own.
        trust_remote_code: whether a checkpoint may bring its own modelling code.

    Returns:
        Model and tokenizer; the tokenizer is None where the checkpoint has none.

    Raises:
        ValueError: nothing of that name can be loaded; says what is there.
    """
    from transformers import AutoModelForCausalLM

    where, is_local = _resolve(name)
    if is_local and revision is not None:
        raise ValueError(
            f"{name!r} is local and has no revisions, found revision={revision!r}; leave it out"
        )
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    with quiet_transformers():
        try:
            hf_model = AutoModelForCausalLM.from_pretrained(
                where, dtype=as_dtype(dtype) or "auto", use_safetensors=True, **options
            )
        except (OSError, ValueError) as error:
            raise ValueError(_why_not(name, is_local, revision, error)) from error
        return hf_model.eval(), _tokenizer(where, options)


def as_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """A torch dtype from its name; `"bfloat16"` and `torch.bfloat16` are the same."""
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    known = ("float32", "bfloat16", "float16", "float64")
    if dtype not in known:
        raise ValueError(f"dtype must be one of {', '.join(known)}, found {dtype!r}")
    return getattr(torch, dtype)


def as_device(device: str | torch.device | None) -> torch.device:
    """A device from its name; None picks CUDA where there is one, otherwise the CPU.

    Raises:
        ValueError: there is no such device here.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device {str(device)!r} cannot be used here ({str(error).splitlines()[0][:80]}); "
            "pass 'cpu', or 'cuda' on a machine with an NVIDIA GPU"
        ) from error
    return chosen


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' loading bars and notes off the terminal; our own progress is enough."""
    from transformers.utils import logging as hf_logging

    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity(logging.ERROR)
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()


def _resolve(name: str) -> tuple[str, bool]:
    """What to hand to `from_pretrained`, and whether it is on this machine."""
    if name in asset_names(AssetKind.MODEL):
        return str(fetch(name)), True
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ValueError(f"there is no file {name!r}; check the path of the .gguf model")
        return str(cached_gguf(path)), True
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ValueError(
                f"folder {name!r} holds no config.json; pass a folder that "
                "save_pretrained has written"
            )
        return str(path), True
    if path.is_absolute() or name.startswith((".", "~")) or not _is_hub_id(name):
        raise ValueError(
            f"{name!r} is no folder, no .gguf file, no hub id and none of the built-in models "
            f"({_built_in()}); check the spelling"
        )
    return name, False


def _built_in() -> str:
    return ", ".join(asset_names(AssetKind.MODEL))


def _is_hub_id(name: str) -> bool:
    return re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) is not None


def _tokenizer(where: str, options: dict[str, Any]) -> Any | None:
    from transformers import AutoTokenizer

    # A checkpoint of weights alone serves everything that takes token ids. transformers raises for
    # some families without tokenizer files, and makes up an empty tokenizer for others.
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, **options)
    except (OSError, ValueError, KeyError):
        return None
    return tokenizer if tokenizer.vocab_size else None


def _why_not(name: str, is_local: bool, revision: str | None, error: Exception) -> str:
    text = " ".join(str(error).split())
    if ("safetensors" in text and "no file named" in text) or "use_safetensors" in text:
        return (
            f"{name!r} has no safetensors weights; only those are loaded, since other formats can "
            "run code: save the model again with save_pretrained"
        )
    if not is_local and revision is not None and _is_about_revision(text):
        return f"{name!r} has no revision {revision!r}; {_known_revisions(name)}"
    if not is_local and isinstance(error, OSError):
        return (
            f"{name!r} could not be loaded from the hub or its local cache; check the id and the "
            f"network, or pass a folder or a built-in model ({_built_in()})"
        )
    return f"{name!r} could not be loaded: {text[:300]}"


def _is_about_revision(text: str) -> bool:
    return "is not a valid git identifier" in text or "offline" in text or "cached" in text


def _known_revisions(repo_id: str) -> str:
    from huggingface_hub import HfApi, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        refs = HfApi().list_repo_refs(repo_id)
        names = [ref.name for ref in (*refs.branches, *refs.tags)]
        return f"the hub has {', '.join(sorted(names))}"
    except (OSError, ValueError, RuntimeError):
        pass
    try:
        repos = scan_cache_dir().repos
    except CacheNotFound:
        repos = frozenset()
    names = sorted(n for r in repos if r.repo_id == repo_id for n in r.refs)
    return f"the hub cannot be asked; its local cache has {', '.join(names) or 'none'}"
