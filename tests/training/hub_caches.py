"""A cache of the Hugging Face hub as a download leaves it, for tests that may ask no network."""

import io
from pathlib import Path

import pyarrow
from pyarrow import parquet as writer

BRANCH_COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cached(cache: Path, dataset: str, revision: str, files: dict[str, bytes]) -> Path:
    """Put files of a data set into the cache at a revision; a branch gets a commit of its own.

    Returns:
        The folder of that commit.
    """
    folder = cache / f"datasets--{dataset.replace('/', '--')}"
    is_commit = len(revision) == 40
    commit = revision if is_commit else BRANCH_COMMIT
    if not is_commit:
        branch = folder / "refs" / revision
        branch.parent.mkdir(parents=True, exist_ok=True)
        branch.write_text(commit)
    snapshot = folder / "snapshots" / commit
    for name, data in files.items():
        path = snapshot / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return snapshot


def parquet(rows: list[dict]) -> bytes:
    """The bytes of a Parquet file."""
    stream = io.BytesIO()
    writer.write_table(pyarrow.Table.from_pylist(rows), stream)
    return stream.getvalue()
