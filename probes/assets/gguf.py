"""How a GGUF file becomes an ordinary Hugging Face folder.

GGUF holds weights in quantised blocks. The conversion unpacks every block to float32 and writes
safetensors with the tokenizer beside them: a plain dense model that loads, trains and saves like
any other. The weights keep the rounding of the quantisation.

Source: the GGUF loader of transformers. Loaded as it is by default, a model stays marked as
quantised and refuses to save; `GgufConfig(dequantize=True)` gives it without the mark.
"""

import re
import struct
from collections.abc import Iterable
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from probes.assets.store import AssetError, build_once, cache_home, file_sha256

ROPE_FACTORS = "rope_freqs.weight"
_HIGH_OVER_LOW = 4.0
"""In Llama 3.1 to 3.3 wavelengths within a factor of four are scaled in part."""
_ROUNDING = 1e-5
"""Of frequencies that were written as float32 factors."""
_INSTEAD = "the numbers would be wrong, so give the model as a Hugging Face folder"


def _refuse(why: str) -> NoReturn:
    # Imported here, since it brings in torch and `probes.assets` is asked for by light commands.
    from probes.checkpoint_files import RefusedCheckpoint

    raise RefusedCheckpoint(why)


def use_the_rest(source: Path, hf_model: Any) -> None:
    """Put into a model's configuration what its GGUF file says beyond what was read."""
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
        _refuse(f"rope scaling {kind!r} by {factor:g} is asked for and cannot be used; {_INSTEAD}")


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
        _refuse(f"{len(unread)} tensors would not be used ({', '.join(unread[:3])}); {_INSTEAD}")


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
    _refuse(
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


GGUF_MAGIC = b"GGUF"
CONVERSION = 2
"""Raised when a file is converted otherwise than before, so that old results are not reused."""
MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json")


def convert_gguf(gguf_path: str | Path, folder: str | Path) -> Path:
    """Convert a GGUF file to a float32 Hugging Face folder with its tokenizer, atomically."""
    source = Path(gguf_path).absolute()
    _check_gguf(source)
    return build_once(Path(folder), lambda partial: write_model(source, partial), MODEL_FILES)


def cached_gguf(gguf_path: str | Path) -> Path:
    """The converted folder of a GGUF file, kept in the cache under its SHA-256."""
    source = Path(gguf_path).absolute()
    _check_gguf(source)
    return convert_gguf(source, cache_home() / "gguf" / f"{file_sha256(source)}-{CONVERSION}")


def _check_gguf(path: Path) -> None:
    """Refuse a path that does not start like a GGUF file."""
    from probes.checkpoint_files import is_pointer

    if not path.is_file():
        raise AssetError(f"no GGUF file at {path}: give the path of a .gguf file")
    if is_pointer(path):
        raise AssetError(f"{path} is a pointer of git-lfs, not the file itself: run git lfs pull")
    with path.open("rb") as stream:
        magic = stream.read(len(GGUF_MAGIC))
    if magic != GGUF_MAGIC:
        raise AssetError(f"{path} is not a GGUF file (it starts with {magic!r}): convert it first")


def write_model(source: Path, folder: Path) -> None:
    """Unpack the weights of `source` to float32 and save them with the tokenizer in `folder`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    from probes.checkpoint_files import RefusedCheckpoint, load_whole, quiet_transformers

    with quiet_transformers(), redirect_stderr(StringIO()):
        try:
            model = load_whole(
                AutoModelForCausalLM,
                source.parent,
                name="the file",
                left_out=f"{re.escape(ROPE_FACTORS)}$",
                gguf_file=source.name,
                dtype=torch.float32,
                quantization_config=GgufConfig(dequantize=True),
            )
            use_the_rest(source, model)
            tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
        except RefusedCheckpoint as error:
            raise AssetError(f"{source.name}: {error}{_if_split(source)}") from error
        except (ValueError, LookupError, NotImplementedError, struct.error) as error:
            raise AssetError(
                f"transformers cannot read {source.name} ({error}): fetch the file again if it was "
                f"cut short, or give the model as a Hugging Face folder"
            ) from error
        # The title inside the file is no name that anything could be loaded by.
        vars(model.config).pop("_model_name_or_path", None)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _if_split(source: Path) -> str:
    if re.search(r"-\d+-of-\d+$", source.stem) is None:
        return ""
    return "; it is one part of a split file: merge the parts first"
