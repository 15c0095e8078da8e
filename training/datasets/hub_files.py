r"""Files of data sets in the Hugging Face hub: had once, kept in its local cache, pinned.

A `HubSet` says which files of which data set are read, and at which revision. Data sets that come
with a loading script are not run: the files themselves are read, or the Parquet copies that the hub
makes of them on its branch `refs/convert/parquet`. Without a network the local cache answers.

The revision is a commit wherever one is known; a branch may move, so what was read is named by the
commit that it stood for (`HubRows.commit`). `unverified` marks a set whose address, files and
columns are written down from descriptions of it and have not been tried against the hub.

Example:
    >>> gsm8k = HubSet("openai/gsm8k", "main", ("main/train-*.parquet",), "MIT")
    >>> place, row = next(iter(gsm8k.read().rows))                      # doctest: +SKIP
    >>> sorted(row)                                                     # doctest: +SKIP
    ['answer', 'question']
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import chain, islice
from pathlib import Path

from training.datasets.row_files import Row, read_rows

_SHARD = re.compile(r"(?P<stem>.*)-\d{5}-of-(?P<count>\d{5})(?P<rest>\..*)?")


@dataclass(frozen=True)
class HubRows:
    """What was found.

    Attributes:
        commit: the commit that was read.
        rows: the rows in order, each with its place; read as they are asked for, once.
    """

    commit: str
    rows: Iterator[tuple[str, Row]]


@dataclass(frozen=True)
class HubSet:
    """Files of one data set.

    Attributes:
        dataset: its id in the hub, "namespace/name".
        revision: commit, branch or tag.
        files: patterns of the paths of its files; each must be met. Rows come in the order of the
            patterns, then of the paths.
        licence: of the data, as far as known.
        max_rows: only so many rows of its start; None for all.
        unverified: nobody could try it against the hub.
    """

    dataset: str
    revision: str
    files: tuple[str, ...]
    licence: str
    max_rows: int | None = None
    unverified: bool = True

    def read(self, revision: str | None = None) -> HubRows:
        """The rows, from the hub or its local cache.

        Args:
            revision: another revision than the pinned one.

        Raises:
            ValueError: the files cannot be had, or some of them are missing.
        """
        asked = revision or self.revision
        folder = hub_snapshot(self.dataset, asked, self.files)
        paths = _wanted_files(folder, self.files, f"{self.dataset!r}, revision {asked!r}")
        rows = chain.from_iterable(map(read_rows, paths))
        return HubRows(folder.name, islice(rows, self.max_rows))


def hub_snapshot(name: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """The folder with files of a data set, from the hub or its local cache.

    Args:
        name: id of the data set, "namespace/name".
        revision: branch, tag or commit; None for the newest.
        patterns: of the paths of the files that are wanted.

    Raises:
        ValueError: it cannot be had.
    """
    import huggingface_hub

    try:
        return Path(
            huggingface_hub.snapshot_download(
                name, repo_type="dataset", revision=revision, allow_patterns=list(patterns)
            )
        )
    except (OSError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".:")
        asked = f"{name!r}, revision {revision!r}" if revision else repr(name)
        raise ValueError(
            f"cannot open data set {asked}: {reason}: check the name and the network, or give a "
            "file"
        ) from error


def _wanted_files(folder: Path, patterns: Sequence[str], asked: str) -> list[Path]:
    """The files that the patterns name; the cache may hold only some of a data set."""
    there = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    wanted: dict[str, None] = {}
    for pattern in patterns:
        met = [name for name in there if fnmatch(name, pattern)]
        if not met:
            found = ", ".join(there[:5]) or "nothing"
            raise ValueError(
                f"data set {asked} has no file {pattern!r}, found {found}: check the revision, or "
                "download the file you want and give its path"
            )
        wanted |= dict.fromkeys(met)
    _refuse_missing_shards(list(wanted), asked)
    return [folder / name for name in wanted]


def _refuse_missing_shards(names: Sequence[str], asked: str) -> None:
    """Refuse files of which only some parts are there."""
    shards = [found for name in names if (found := _SHARD.fullmatch(name))]
    for shard in shards:
        same = [other for other in shards if other.group(1, 2, 3) == shard.group(1, 2, 3)]
        if len(same) != int(shard["count"]):
            raise ValueError(
                f"data set {asked} has {len(same)} of {int(shard['count'])} parts of "
                f"{shard['stem']!r}: fetch it again with a network"
            )
