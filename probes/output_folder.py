"""Output folders: results appear all at once, and never on top of what somebody else wrote.

Example:
    >>> from pathlib import Path
    >>> refuse_existing(Path("runs/new"), overwrite=False, known=("entropy.json",))
    >>> with output_folder(Path("runs/new")) as folder:                     # doctest: +SKIP
    ...     (folder / "entropy.json").write_text("{}")
"""

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path


def refuse_existing(out: Path, *, overwrite: bool, known: Collection[str]) -> None:
    """Make sure that a command may write its results to a folder, before it does any work.

    Args:
        out: where the results are to be.
        overwrite: whether earlier results may be replaced.
        known: names of the files that results consist of, there or one folder further down.

    Raises:
        ValueError: there is something already, and it may not or should not be replaced; or
            nothing can be written there.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; give a folder, which need not exist")
    _refuse_unwritable(out)
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not overwrite:
        raise ValueError(f"--out {out} is not empty; give another folder, or --overwrite")
    # Replacing deletes: whatever is not a result is not ours to delete.
    foreign = next((path for path in out.rglob("*") if not _is_result(path, known)), None)
    if foreign is not None:
        raise ValueError(
            f"--overwrite replaces earlier results only, but --out {out} also holds "
            f"{foreign.relative_to(out)}; give another folder"
        )


def _is_result(path: Path, known: Collection[str]) -> bool:
    if path.is_symlink():
        return False
    if path.is_dir():
        return all(inner.is_file() for inner in path.iterdir())
    return path.name in known


def _refuse_unwritable(out: Path) -> None:
    existing = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise ValueError(f"--out {out} lies beneath {existing}, which is a file")
    if not os.access(existing, os.W_OK):
        raise ValueError(f"--out {out} cannot be made: {existing} is not writable")


@contextmanager
def output_folder(out: Path) -> Iterator[Path]:
    """A folder to write results into, which becomes `out` at the end.

    After an exception it is removed and `out` is as it was before. An earlier `out` is
    replaced; `refuse_existing` says whether it may be.
    """
    target = out.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    earlier = target.with_name(f".{target.name}.earlier-{os.getpid()}")
    partial.mkdir()
    try:
        yield partial
        if target.exists():
            target.rename(earlier)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if earlier.exists() and not target.exists():
            earlier.rename(target)
        shutil.rmtree(earlier, ignore_errors=True)
