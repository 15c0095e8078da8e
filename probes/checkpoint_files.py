"""Checkpoint files: what is wrong with the files of a folder that does not load?

Example:
    >>> from pathlib import Path
    >>> what_is_wrong(Path("/nowhere")) is None
    True
"""

import json
import logging
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

WHOLE = "model.safetensors"
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
    return next(_faults(folder), None)


def _faults(folder: Path) -> Iterator[str]:
    from safetensors import SafetensorError, safe_open

    if (folder / _ADAPTER).is_file():
        base = (_read(folder / _ADAPTER) or {}).get("base_model_name_or_path", "its base model")
        yield (
            f"it holds an adapter ({_ADAPTER}), no model by itself; load {base} with peft, "
            "merge_and_unload() it and save that"
        )
    weights = sorted(path for path in folder.glob("*.safetensors") if path.is_file())
    for path in [*weights, *sorted(folder.glob("*.json")), *folder.glob("*.model")]:
        if is_pointer(path):
            yield (
                f"{path.name} is a pointer of git-lfs, not the file itself; run git lfs pull in "
                "it, or download the folder from the hub"
            )
    for name in ("config.json", INDEX):
        if (folder / name).is_file() and _read(folder / name) is None:
            yield f"{name} is no JSON object; restore it"
    if not (folder / WHOLE).is_file():
        yield from _missing_shards(folder)
    for path in weights:
        try:
            with safe_open(path, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            yield f"{path.name} is damaged or cut short ({error}); fetch or save it again"
    if not weights and folder.is_dir():
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
        found = f"it has {pickles[0]}, but " if pickles else ""
        yield (
            f"{found}it has no safetensors weights; only those are loaded, since other formats can "
            "run code: save the model again with save_pretrained"
        )


def _missing_shards(folder: Path) -> Iterator[str]:
    if (folder / INDEX).is_file():
        named = sorted(set(_weight_map(folder).values()))
        if gone := [name for name in named if not (folder / name).is_file()]:
            yield (
                f"{len(gone)} of {len(named)} shards that {INDEX} names are not there ({gone[0]} "
                "first)"
            )
    elif shards := sorted(folder.glob("model-*-of-*.safetensors")):
        yield f"it holds {len(shards)} shards but no {INDEX}, which names their tensors"


def _weight_map(folder: Path) -> dict[str, str]:
    return (_read(folder / INDEX) or {}).get("weight_map", {})


def _read(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file, or None."""
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def refuse_two_sets(folder: Path) -> None:
    """Refuse a folder with a whole file beside shards: saved twice, and only one is loaded."""
    shards = _weight_map(folder)
    if shards and WHOLE not in shards.values() and (folder / WHOLE).is_file():
        raise RefusedCheckpoint(
            f"{str(folder)!r} holds two sets of weights, {WHOLE} and the shards of {INDEX}, and "
            "only the first would be loaded; remove the one that is not meant"
        )


def is_pointer(path: Path) -> bool:
    """Whether git-lfs has left a pointer in the place of a file."""
    with path.open("rb") as stream:
        return stream.read(len(_POINTER)) == _POINTER


def has_tokenizer(folder: Path) -> bool:
    """Whether there are files of a tokenizer."""
    return any((folder / name).is_file() for name in _TOKENIZERS)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' loading bars and notes off the terminal; our own progress is enough."""
    with warnings.catch_warnings():
        # In a notebook tqdm asks for widgets, which are not needed.
        warnings.filterwarnings("ignore", message="IProgress not found")
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


_SHOWN = 3
# Causal masks that GPT-2, GPT-J, GPT-Neo and CodeGen once saved, and fairseq's number of a format.
_NOT_LEARNED = re.compile(r"(^|\.)attn(\.attention)?\.(bias|masked_bias|causal_mask)$|\.version$")
_LAYER = re.compile(r"\.(\d+)\.")
_HEADS = ("lm_head.weight", "embed_out.weight", "output.weight")
_PACKED = ("qweight", "qzeros", "scales", "absmax", "weight_scale", "weight_scale_inv", "W_q")
_REWRITTEN = ("weight_orig", "weight_mask", "weight_g", "weight_v")


def load_whole(
    model_class: Any, where: Any, *, name: str, left_out: str | None = None, **options: Any
) -> Any:
    """Load a model with `from_pretrained`, and refuse weights that do not fit it exactly."""
    hf_model, found = model_class.from_pretrained(
        where, output_loading_info=True, ignore_mismatched_sizes=True, **options
    )
    extra = {key for key in found["unexpected_keys"] if not _NOT_LEARNED.search(key)}
    if left_out is not None:
        extra = {key for key in extra if not re.match(left_out, key)}
    missing, shapes = set(found["missing_keys"]), found["mismatched_keys"]
    if missing or extra or shapes:
        wrong = {
            "missing": _in_order(missing),
            "left over": _in_order(extra),
            "of another shape": [
                f"{key} {list(in_file)} in the file, {list(in_model)} in the model"
                for key, in_file, in_model in sorted(shapes)
            ],
        }
        said = ", ".join(
            f"{len(k)} {what} ({', '.join(k[:_SHOWN])}{', ...' * (len(k) > _SHOWN)})"
            for what, k in wrong.items()
            if k
        )
        cause = _likely_cause(hf_model, missing, extra, bool(shapes))
        raise RefusedCheckpoint(f"{name} does not hold the weights of its model: {said}; {cause}")
    return hf_model


def _in_order(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: re.sub(r"\d+", lambda number: number[0].zfill(6), name))


def _likely_cause(hf_model: Any, missing: set[str], extra: set[str], shapes: bool) -> str:
    endings = {part for key in extra for part in key.split(".")}
    n_layers = getattr(hf_model.config, "num_hidden_layers", None)
    if prefix := _wrapper(set(hf_model.state_dict()), missing, extra):
        return (
            f"its names carry {prefix!r}, as a compiled or wrapped model's do: save the model "
            "that is inside with save_pretrained"
        )
    if any("lora_" in part or part == "base_layer" for part in endings):
        return "it was saved with adapters in it: merge them (merge_and_unload) and save it again"
    if endings & {*_REWRITTEN, "parametrizations"}:
        return "it was saved with pruning or weight norm in it: make that permanent and save again"
    if endings & set(_PACKED):
        return "its weights are quantised: load the model that is not"
    if missing and missing <= set(_HEADS) and not extra:
        return (
            "it has no unembedding of its own, and its configuration ties none "
            "(tie_word_embeddings): it was saved from a trunk, or from a model tied by hand"
        )
    if shapes or (missing and extra):
        return "config.json and the weights belong to different models: take both from one source"
    if missing:
        # Whether those that are missing are the last layers, whole.
        there = min(map(_layer_of, missing))
        if there >= 0 and missing == {k for k in hf_model.state_dict() if _layer_of(k) >= there}:
            return f"config.json says {n_layers} layers and the file has {there}: mend config.json"
        return "the file is incomplete: fetch or save it again"
    above = sorted(map(_layer_of, extra))
    if n_layers is not None and above[0] >= n_layers:
        there = above[-1] + 1
        return f"config.json says {n_layers} layers and the file has {there}: mend config.json"
    return "it has parts that this architecture does not use: load it as what it was saved from"


def _layer_of(key: str) -> int:
    """The layer that a weight belongs to; -1 for none."""
    return int(found[1]) if (found := _LAYER.search(key)) else -1


def _wrapper(own: set[str], missing: set[str], extra: set[str]) -> str | None:
    """What stands before, or in, names that would fit without it."""
    for word in ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."):
        if any(word in key for key in extra):
            return word
    heads = {key.split(".")[0] + "." for key in extra}
    if missing and len(heads) == 1:
        (head,) = heads
        if any(key.removeprefix(head) in own for key in extra):
            return head
    return None


_DTYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_PROJECTION = re.compile(r"Linear(4bit|8bitLt|_\w+)?$")


def refuse_unreadable(hf_model: Any) -> None:
    """Make sure that a model in memory has plain weights, and answers with named outputs."""
    name = type(hf_model).__name__
    refuse_quantised(hf_model.config, name)
    for key, weight in hf_model.named_parameters():
        if weight.device.type == "meta":
            raise ValueError(
                f"the weights of {name} are not in memory ({key} is on the meta device: offloaded, "
                "on disk or not loaded yet); load it whole, on one device"
            )
        if type(weight) not in (nn.Parameter, Tensor, DTensor) or weight.dtype not in _DTYPES:
            kind = type(weight).__name__
            raise _quantised(name, f"{key} is a {kind} of {weight.dtype}")
    for key, module in hf_model.named_modules():
        weight = getattr(module, "weight", None)
        is_matrix = isinstance(weight, Tensor) and weight.dtype in _DTYPES
        if _PROJECTION.search(type(module).__name__) and not is_matrix:
            raise _quantised(name, f"{key} is a {type(module).__name__} without a weight matrix")
    if not hf_model.config.return_dict:
        raise ValueError(
            f"{name} answers with tuples (config.return_dict is False); set "
            "config.return_dict = True before wrapping it"
        )


def refuse_quantised(config: Any, name: str) -> None:
    """Make sure that a configuration announces no quantised weights."""
    for part in (config, getattr(config, "text_config", None)):
        settings = getattr(part, "quantization_config", None)
        if settings is None:
            continue
        values = settings if isinstance(settings, dict) else vars(settings)
        method = values.get("quant_method", "an unnamed method")
        raise _quantised(name, f"quantization_config says {getattr(method, 'value', method)}")


def _quantised(name: str, found: str) -> RefusedCheckpoint:
    return RefusedCheckpoint(
        f"{name} is quantised ({found}), and packed weights can be neither read nor edited; load "
        "the model that is not, or dequantise it (model.dequantize()) and save that"
    )
