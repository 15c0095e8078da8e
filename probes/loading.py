"""Loading: turn what a user names into a Hugging Face model and its tokenizer.

A name is, in this order: a built-in asset, a `.gguf` file, a folder, a hub id. Weights are read
from safetensors only (a pickle can run code), and `trust_remote_code` is off unless asked for.
"""

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from probes.assets import AssetKind, asset_names, cached_gguf, fetch
from probes.checkpoint_files import (
    RefusedCheckpoint,
    has_tokenizer,
    load_whole,
    refuse_quantised,
    what_is_wrong,
)

_WRAPPERS = ("gemma3", "mistral3", "qwen2_vl", "qwen2_5_vl")


@dataclass(frozen=True)
class TextTower:
    """How to read the language model out of a wrapper's weights."""

    config: Any
    """Of the language model alone."""
    renamed: dict[str, str]
    """Patterns of names in the file, and what they are in the language model."""
    left_out: str
    """Pattern of the names that belong to the other parts."""


def text_tower(config: Any) -> TextTower | None:
    """The language model of a wrapper, from its configuration; None for what is no wrapper."""
    if config.model_type not in _WRAPPERS:
        return None
    text = config.get_text_config()
    own = _as_qwen2(text) if config.model_type.startswith("qwen2") else text
    # The wrapper's settings hold for the language model in it.
    own.tie_word_embeddings = config.tie_word_embeddings
    own.dtype = config.dtype
    return TextTower(
        config=own,
        renamed={
            r"^(model\.)?language_model\.lm_head\.": "lm_head.",
            r"^(model\.)?language_model\.(model\.)?": "model.",
        },
        left_out=r"(model\.)?(visual|vision_tower|multi_modal_projector)\.",
    )


def _as_qwen2(text: Any) -> Any:
    from transformers import Qwen2Config

    known = Qwen2Config().to_dict().keys() - {"model_type", "transformers_version"}
    values = {name: value for name, value in text.to_dict().items() if name in known}
    rope = values["rope_parameters"]
    values["rope_parameters"] = {k: v for k, v in rope.items() if k != "mrope_section"}
    return Qwen2Config(**values)


def load_pretrained(
    name: str,
    *,
    revision: str | None,
    dtype: str | torch.dtype | None,
    trust_remote_code: bool,
    with_tokenizer: bool = True,
) -> tuple[Any, Any | None]:
    """Load a causal language model and its tokenizer by name, on the CPU."""
    where, is_local = _resolve(name)
    if is_local and revision is not None:
        raise ValueError(
            f"{name!r} is local and has no revisions, found revision={revision!r}; leave it out"
        )
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    with quiet_transformers(), _in_one_line(name, where, is_local, revision):
        _refuse_adapter(where, options)
        hf_model = _model(name, where, as_dtype(dtype) or "auto", options)
        return hf_model, _tokenizer(where, options) if with_tokenizer else None


def _model(name: str, where: str, dtype: Any, options: dict[str, Any]) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(where, **options)
    refuse_quantised(config, repr(name))
    more: dict[str, Any] = {"config": config}
    if (tower := text_tower(config)) is not None:
        more = {
            "config": tower.config,
            "key_mapping": tower.renamed,
            "left_out": tower.left_out,
        }
        family, inside = config.model_type, tower.config.model_type
        print(f"{name} is a {family}: its language model ({inside}) is loaded", file=sys.stderr)
    hf_model = load_whole(
        AutoModelForCausalLM,
        where,
        name=repr(name),
        dtype=dtype,
        use_safetensors=True,
        **options,
        **more,
    )
    hf_model.config.return_dict = True  # everything here reads outputs by their names
    return hf_model.eval()


def as_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """A torch dtype from its name; `"bfloat16"` and `torch.bfloat16` are the same."""
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    known = ("float32", "bfloat16", "float16", "float64")
    if dtype not in known:
        raise ValueError(f"dtype must be one of {', '.join(known)}, found {dtype!r}")
    return getattr(torch, dtype)


def as_device(device: str | torch.device | None) -> torch.device:
    """A device from its name; None picks CUDA where there is one, otherwise the CPU."""
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
    if path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise ValueError(f"there is no file {name!r}; check the path of the .gguf model")
        return str(cached_gguf(path)), True
    if path.is_dir():
        if not (path / "config.json").is_file():
            adapter = (path / "adapter_config.json").is_file()
            found = what_is_wrong(path) if adapter else "pass a folder that save_pretrained wrote"
            raise ValueError(f"folder {name!r} holds no config.json; {found}")
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
    except Exception as error:  # of the library in Rust, bare
        folder = _folder(where, options["revision"])
        if folder is None or not has_tokenizer(folder):
            return None
        raise ValueError(
            f"its tokenizer cannot be read ({' '.join(str(error).split())[:150]}); restore its "
            "files, or pass tokenizer="
        ) from error
    return tokenizer if tokenizer.vocab_size else None


def _refuse_adapter(where: str, options: dict[str, Any]) -> None:
    # With peft transformers would load the base model and the adapter, and without it the base.
    from transformers.utils.peft_utils import find_adapter_config_file

    if find_adapter_config_file(where, revision=options["revision"]) is not None:
        raise ValueError("an adapter is no model by itself")


def _folder(where: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    if Path(where).is_dir():
        return Path(where)
    for member in ("config.json", "adapter_config.json"):
        found = try_to_load_from_cache(where, member, revision=revision)
        if isinstance(found, str):
            return Path(found).parent
    return None


@contextmanager
def _in_one_line(name: str, where: str, is_local: bool, revision: str | None) -> Iterator[None]:
    """Turn whatever loading raises into a line that says why."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    try:
        yield
    except RefusedCheckpoint:
        raise
    except (OSError, ValueError, RuntimeError, TypeError, LookupError, AttributeError) as error:
        raise ValueError(_why_not(name, where, is_local, revision, error)) from error
    except (ImportError, SafetensorError, StrictDataclassError) as error:
        raise ValueError(_why_not(name, where, is_local, revision, error)) from error


def _why_not(name: str, where: str, is_local: bool, revision: str | None, error: Exception) -> str:
    text = " ".join(str(error).split())
    folder = _folder(where, revision)
    wrong = None if folder is None else what_is_wrong(folder)
    from_hub = not is_local and isinstance(error, OSError)
    if wrong is not None and not from_hub:
        made = is_local and Path(where) != Path(name).expanduser()
        again = f"; what was made of it lies in {where}: remove that" if made else ""
        return f"{name!r} could not be loaded: {wrong}{again}"
    if not is_local and revision is not None and _is_about_revision(text):
        return f"{name!r} has no revision {revision!r}; {_known_revisions(name)}"
    if from_hub:
        # What lies in the cache may be incomplete because the hub cannot be reached.
        found = "" if wrong is None else f" ({wrong})"
        return (
            f"{name!r} could not be loaded from the hub or its local cache{found}; check the id "
            f"and the network, or pass a folder or a built-in model ({_built_in()})"
        )
    if isinstance(error, LookupError):
        text = f"config.json names {text}, which transformers does not know"
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
