"""The rest of a GGUF file: what transformers' reader passes over, used here or refused.

The reader takes the tensors that it has names for, and of the rotary positions the base alone. Two
things change the numbers and are left out without a word: `rope_freqs.weight`, by which llama.cpp
divides the frequencies of Llama 3.1 to 3.3, and a rope scaling among the settings. Both have a form
in the configuration; where the form does not give the same frequencies, the file is refused.

Source: llama.cpp, which writes the factors that `llama3` rope scaling amounts to.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from probes.checkpoint_files import RefusedCheckpoint

ROPE_FACTORS = "rope_freqs.weight"
_HIGH_OVER_LOW = 4.0
"""In Llama 3.1 to 3.3 wavelengths within a factor of four are scaled in part."""
_ROUNDING = 1e-5
"""Of frequencies that were written as float32 factors."""
_INSTEAD = "the numbers would be wrong, so give the model as a Hugging Face folder"


def use_the_rest(source: Path, hf_model: Any) -> None:
    """Put into a model's configuration what its GGUF file says beyond what was read.

    Args:
        source: the file.
        hf_model: what transformers has read from it; its configuration is changed.

    Raises:
        ValueError: tensors or settings of the file are not used; says which.
    """
    from gguf import GGUFReader

    reader = GGUFReader(source)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    _refuse_unread(reader, tensors.keys() - {ROPE_FACTORS}, hf_model)
    kind, factor = _scaling(reader)
    if ROPE_FACTORS in tensors:
        _take_factors(hf_model.config, np.asarray(tensors[ROPE_FACTORS].data, np.float64).ravel())
    elif factor != 1.0 and kind == "linear":
        rope = hf_model.config.rope_parameters
        rope.get("full_attention", rope).update(rope_type="linear", factor=factor)
    elif factor != 1.0:
        raise RefusedCheckpoint(
            f"rope scaling {kind!r} by {factor:g} is asked for and cannot be used; {_INSTEAD}"
        )


def _refuse_unread(reader: Any, names: Iterable[str], hf_model: Any) -> None:
    from transformers.integrations.gguf.utils import is_gguf_arch_supported
    from transformers.modeling_gguf_pytorch_utils import (
        TENSOR_PROCESSORS,
        TensorProcessor,
        get_gguf_hf_weights_map,
    )

    family = _setting(reader, "general.architecture")
    if is_gguf_arch_supported(family):
        return  # read by name, so that those left over were reported already
    processor = TENSOR_PROCESSORS.get(family, TensorProcessor)(config=hf_model.config.to_dict())
    read = get_gguf_hf_weights_map(hf_model, processor)
    # Experts' tensors are taken apart, and go by other names.
    unread = sorted(name for name in names if name not in read and "_exps." not in name)
    if unread:
        raise RefusedCheckpoint(
            f"{len(unread)} tensors would not be used ({', '.join(unread[:3])}); {_INSTEAD}"
        )


def _scaling(reader: Any) -> tuple[str, float]:
    """Which rope scaling the settings ask for, and by what; 1 where none is."""
    family = _setting(reader, "general.architecture")
    kind = _setting(reader, f"{family}.rope.scaling.type") or "linear"
    asked = _setting(reader, f"{family}.rope.scaling.factor")
    old = _setting(reader, f"{family}.rope.scale_linear")
    return kind, 1.0 if kind == "none" else float(asked or old or 1.0)


def _setting(reader: Any, key: str) -> Any:
    field = reader.get_field(key)
    return None if field is None else field.contents()


def _take_factors(config: Any, factors: np.ndarray) -> None:
    """Write the factors as `llama3` rope scaling, if that gives the same frequencies."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    if np.all(factors == 1.0):
        return
    theta = config.rope_parameters.get("rope_theta")
    length = None if theta is None else _original_length(theta, factors)
    if length is not None:
        config.rope_parameters = {
            "rope_type": "llama3",
            "rope_theta": theta,
            "factor": float(factors.max()),
            "low_freq_factor": 1.0,
            "high_freq_factor": _HIGH_OVER_LOW,
            "original_max_position_embeddings": length,
        }
        found = ROPE_INIT_FUNCTIONS["llama3"](config)[0].numpy()
        expected = 1 / (theta ** (np.arange(len(factors)) / len(factors)) * factors)
        if found.shape == expected.shape and np.allclose(found, expected, rtol=_ROUNDING, atol=0):
            return
    raise RefusedCheckpoint(
        f"{ROPE_FACTORS} is no rope scaling of the kind of Llama 3, and cannot be used; {_INSTEAD}"
    )


def _original_length(theta: float, factors: np.ndarray) -> int | None:
    """The length that the scaling starts from, from the wavelengths that are scaled in part."""
    wavelengths = 2 * np.pi * theta ** (np.arange(len(factors)) / len(factors))
    share_kept = (1 / factors - 1 / factors.max()) / (1 - 1 / factors.max())
    partly = (share_kept > 0) & (share_kept < 1)
    if not partly.any():
        return None
    lengths = wavelengths * (share_kept * (_HIGH_OVER_LOW - 1) + 1)
    return round(float(np.median(lengths[partly])))
