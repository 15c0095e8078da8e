"""Durable files: written whole or not at all, and on the disk when we say that they are.

A file that is written under a temporary name, brought to the disk (fsync) and renamed is never seen
half-written, even after a power cut. Lines that are only ever appended can be cut back to a length
that was once noted down.

Example:
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "records.jsonl"
    >>> lines = AppendedLines(path)
    >>> lines.append("one"); noted = lines.length; lines.append("two")
    >>> lines.cut_to(noted); lines.append("three")
    >>> path.read_text().split()
    ['one', 'three']
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all; an earlier one is replaced."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync_folder(path.parent)


def sync_tree(folder: Path) -> None:
    """Bring everything in a folder to the disk."""
    for path in folder.rglob("*"):
        if path.is_dir():
            sync_folder(path)
        else:
            with path.open("rb") as file:
                os.fsync(file.fileno())
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def one_line_for_disk_errors(what: str) -> Iterator[None]:
    """Turn an error of the file system into one line."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason = "the disk is full; free some space and go on with --resume"
        else:
            reason = f"{error.strerror or error}; see to it and go on with --resume"
        raise ValueError(f"{what} failed: {reason}") from error


class AppendedLines:
    """A text file that grows by whole lines; it is open only while one is added."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()
        self.length = path.stat().st_size

    def append(self, line: str) -> None:
        """Add a line and its end. It outlives this process at once, a power cut after `sync`."""
        data = (line + "\n").encode()
        with (
            one_line_for_disk_errors(f"writing to {self.path}"),
            self.path.open("ab", buffering=0) as file,
        ):
            if file.tell() != self.length:
                raise ValueError(
                    f"{self.path} has changed beneath this run; does another process write to it? "
                    "End that one, and go on with --resume"
                )
            while data:
                written = file.write(data)
                self.length += written
                data = data[written:]

    def sync(self) -> None:
        """Bring what was appended to the disk."""
        with self.path.open("rb") as file:
            os.fsync(file.fileno())

    def cut_to(self, length: int) -> None:
        """Forget what comes after so many bytes."""
        if self.length < length:
            raise ValueError(
                f"{self.path} has {self.length} bytes, but had {length} when the checkpoint was "
                "made; put the file back, or begin again in another directory"
            )
        os.truncate(self.path, length)
        self.length = length
        self.sync()
