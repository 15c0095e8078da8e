"""Checkpoint files: what is wrong with the files of a folder that does not load?

Example:
    >>> from pathlib import Path
    >>> what_is_wrong(Path("/nowhere")) is None
    True
"""

import json
import logging
import re
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
    return (
        _adapter(folder)
        or _pointer(folder)
        or _bad_json(folder)
        or _missing_shards(folder)
        or _cut_short(folder)
        or _no_weights(folder)
    )


def refuse_two_sets(folder: Path) -> None:
    """Refuse a folder with a whole file beside shards: saved twice, and only one is loaded."""
    shards = _read(folder / INDEX).get("weight_map", {}) if (folder / INDEX).is_file() else {}
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
    if (folder / WHOLE).is_file():
        return None
    if not (folder / INDEX).is_file():
        if shards := sorted(folder.glob("model-*-of-*.safetensors")):
            return f"it holds {len(shards)} shards but no {INDEX}, which names their tensors"
        return None
    named = sorted(set(_read(folder / INDEX).get("weight_map", {}).values()))
    gone = [name for name in named if not (folder / name).is_file()]
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
    return sorted(path for path in folder.glob("*.safetensors") if path.is_file())


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


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
            "of another shape": [_shapes(*mismatch) for mismatch in sorted(shapes)],
        }
        said = ", ".join(f"{len(k)} {what} ({_first(k)})" for what, k in wrong.items() if k)
        cause = _likely_cause(hf_model, missing, extra, bool(shapes))
        raise RefusedCheckpoint(f"{name} does not hold the weights of its model: {said}; {cause}")
    return hf_model


def _first(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _in_order(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: re.sub(r"\d+", lambda number: number[0].zfill(6), name))


def _shapes(key: str, in_file: Iterable[int], in_model: Iterable[int]) -> str:
    return f"{key} {list(in_file)} in the file, {list(in_model)} in the model"


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
        if (there := _layers_there(hf_model, missing)) is not None:
            return f"config.json says {n_layers} layers and the file has {there}: mend config.json"
        return "the file is incomplete: fetch or save it again"
    above = [int(found[1]) for key in extra if (found := _LAYER.search(key))]
    if len(above) == len(extra) and n_layers is not None and min(above) >= n_layers:
        there = max(above) + 1
        return f"config.json says {n_layers} layers and the file has {there}: mend config.json"
    return "it has parts that this architecture does not use: load it as what it was saved from"


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


def _layers_there(hf_model: Any, missing: set[str]) -> int | None:
    """How many layers there are, if those missing are the last ones, whole."""
    layers = [int(found[1]) for key in missing if (found := _LAYER.search(key))]
    if len(layers) < len(missing):
        return None
    last = {
        key
        for key in hf_model.state_dict()
        if (found := _LAYER.search(key)) and int(found[1]) >= min(layers)
    }
    return min(layers) if last == missing else None


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
        if _PROJECTION.search(type(module).__name__) and not _has_matrix(module):
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


def _has_matrix(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.dtype in _DTYPES


def _quantised(name: str, found: str) -> RefusedCheckpoint:
    return RefusedCheckpoint(
        f"{name} is quantised ({found}), and packed weights can be neither read nor edited; load "
        "the model that is not, or dequantise it (model.dequantize()) and save that"
    )
