"""Whole weights: does a checkpoint hold the weights of its model, all of them and no others?

transformers draws weights that a file lacks at random and drops those that it cannot place. Only
what an architecture itself declares optional or tied may be absent, and only buffers of old
versions, which hold no learned number, may be left over.

Example:
    >>> from transformers import AutoModelForCausalLM
    >>> load_whole(AutoModelForCausalLM, "some/folder", name="a model")      # doctest: +SKIP
"""

import re
from collections.abc import Iterable
from typing import Any

from probes.checkpoint_files import RefusedCheckpoint

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
    """Load a model with `from_pretrained`, and refuse weights that do not fit it exactly.

    Args:
        model_class: has `from_pretrained`.
        where: what to hand to it.
        name: what to call it in a message.
        left_out: pattern of tensors that the file may hold for nothing, such as a vision tower's.
        options: also handed to it.

    Raises:
        ValueError: tensors are missing, left over or of another shape.
    """
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
