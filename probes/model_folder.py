"""Model folder: an ordinary Hugging Face folder of a model, read back before it counts as written.

Configuration, safetensors, generation configuration and tokenizer, as plain transformers loads
them. What is written is what the model computes with (`probes.ordinary_weights`). Then the files
are opened again, and every tensor in them is compared with the model's, bit by bit.

Example:
    >>> import probes
    >>> model = probes.load_model("smollm2-135m-instruct-q4")               # doctest: +SKIP
    >>> write_model(model.hf_model, model.tokenizer, Path("copy"))          # doctest: +SKIP
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from probes.loading import quiet_transformers
from probes.ordinary_weights import ordinary_model, ordinary_weights, tied_names

_GENERATION_FILE = "generation_config.json"


def write_model(
    hf_model: Any,
    tokenizer: Any | None,
    folder: Path,
    *,
    weights: Mapping[str, Tensor] | None = None,
    max_shard_size: int | str = "5GB",
) -> None:
    """Write a model into a folder that exists, and read it back.

    Args:
        hf_model: the Hugging Face model; it is left alone.
        tokenizer: its tokenizer, or None.
        folder: where to.
        weights: the weights by their ordinary names, where they are gathered already.
        max_shard_size: how large a weights file may be: bytes, or a string such as `"5GB"`.

    Raises:
        ValueError: the model cannot be written so that plain transformers loads the same again.
    """
    from transformers.core_model_loading import revert_weight_conversion

    given = ordinary_weights(hf_model) if weights is None else weights
    ordinary, kept = _as_reloaded(hf_model, given)
    try:
        with quiet_transformers():
            in_files = revert_weight_conversion(ordinary, kept)
            ordinary.save_pretrained(
                folder,
                state_dict=dict(in_files),
                max_shard_size=max_shard_size,
                save_original_format=False,
            )
            _write_generation(hf_model, folder)
    except (ValueError, TypeError, NotImplementedError, RuntimeError) as error:
        raise ValueError(
            f"this {type(hf_model).__name__} cannot be saved: {' '.join(str(error).split())}"
        ) from error
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    _compare(in_files, folder)


def _as_reloaded(hf_model: Any, weights: Mapping[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
    """A model without weights that says how a reload hangs together, and what it has to find."""
    from transformers import GenerationConfig

    ordinary = ordinary_model(hf_model)
    tied = tied_names(ordinary)
    if any(not _same(weights[name], weights[first]) for name, first in tied.items()):
        # Otherwise whoever loads the folder ties them.
        ordinary.config.tie_word_embeddings, tied = False, {}
    kept = {name: tensor for name, tensor in weights.items() if name not in tied}
    for name in {name for name in tied_names(hf_model) if name in kept}:
        # Tied by hand: two tensors to whoever loads them, and safetensors keeps no tensor twice.
        kept[name] = kept[name].clone()
    _refuse_mixed(hf_model, kept)
    ordinary._weight_conversions = getattr(hf_model, "_weight_conversions", None)
    ordinary.generation_config = GenerationConfig()
    return ordinary.to(hf_model.dtype), kept


def _same(one: Tensor, other: Tensor) -> bool:
    return one.data_ptr() == other.data_ptr() or torch.equal(one, other)


def _refuse_mixed(hf_model: Any, weights: Mapping[str, Tensor]) -> None:
    """A reload has all weights in one type, but for those that the class keeps in float32."""
    own = hf_model.dtype
    apart = {*hf_model._keep_in_fp32_modules, *hf_model._keep_in_fp32_modules_strict}
    for name, tensor in weights.items():
        mixed = tensor.is_floating_point() and tensor.dtype != own
        if mixed and not any(part in name for part in apart):
            raise ValueError(
                f"{name} is {tensor.dtype} in a model of {own}, and a reload has one type for all; "
                "cast the model to one (hf_model.to(...)) before it is saved"
            )


def _write_generation(hf_model: Any, folder: Path) -> None:
    """As the model has it: saving it in transformers' way refuses some that it loads itself."""
    from transformers import GenerationConfig

    if hf_model.can_generate() and hf_model.generation_config is not None:
        hf_model.generation_config.to_json_file(folder / _GENERATION_FILE)
        GenerationConfig.from_pretrained(folder)


def _compare(expected: Mapping[str, Tensor], folder: Path) -> None:
    """Make sure that the files hold these tensors and no others."""
    found: set[str] = set()
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                found.add(name)
                if name not in expected or not _same_bits(file.get_tensor(name), expected[name]):
                    raise ValueError(_not_written(folder, f"{name} in {path.name} is another"))
    if missing := expected.keys() - found:
        raise ValueError(_not_written(folder, f"{min(missing)} is missing"))


def _same_bits(one: Tensor, other: Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(_bytes(one), _bytes(other))


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def _not_written(folder: Path, what: str) -> str:
    return (
        f"{folder} does not hold what was written to it: {what}; look at the disk, and write it "
        "again"
    )
