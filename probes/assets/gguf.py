"""How a GGUF file becomes an ordinary Hugging Face folder.

GGUF holds weights in quantised blocks. The conversion unpacks every block to float32 and writes
safetensors with the tokenizer beside them: a plain dense model that loads, trains and saves like
any other. The weights keep the rounding of the quantisation; nothing is gained back.

    >>> from probes.assets.gguf import cached_gguf
    >>> folder = cached_gguf("SmolLM2-135M-Instruct.Q4_1.gguf")        # doctest: +SKIP
    >>> model = AutoModelForCausalLM.from_pretrained(folder)           # doctest: +SKIP

Source: the GGUF loader of transformers. Loaded as it is by default, a model stays marked as
quantised and refuses to save; `GgufConfig(dequantize=True)` gives it without the mark.
"""

import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path

from probes.assets.gguf_rest import ROPE_FACTORS, use_the_rest
from probes.assets.store import AssetError, build_once, cache_home, file_sha256
from probes.checkpoint_files import RefusedCheckpoint, is_pointer
from probes.whole_weights import load_whole

GGUF_MAGIC = b"GGUF"
CONVERSION = 2
"""Raised when a file is converted otherwise than before, so that old results are not reused."""
MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json")


def convert_gguf(gguf_path: str | Path, folder: str | Path) -> Path:
    """Convert a GGUF file to a float32 Hugging Face folder with its tokenizer, atomically.

    Args:
        gguf_path: the file to read.
        folder: the folder to make; returned unchanged where it already holds a model.

    Raises:
        ValueError: the file is not there, is not GGUF, lacks weights, or holds an architecture
            that transformers cannot read.
    """
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

    with _quiet_transformers():
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


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Silence the bars and remarks of transformers, and restore them afterwards.

    One of its bars obeys no switch, so the error stream is held back as well.
    """
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with redirect_stderr(StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
