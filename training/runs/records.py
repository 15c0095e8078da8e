"""Records: what a run says about itself, one line of JSON each, in `records.jsonl`; durable files.

Every record has a `step`: the number of updates done when it was made. Records are a pure function
of the run, to the bit: times and memory are not among them (`timing.jsonl` has those). Losses and
log-probabilities are in nats.

A file that is written under a temporary name, brought to the disk (fsync) and renamed is never seen
half-written, even after a power cut. Lines that are only ever appended can be cut back to a length
that was once noted down.
"""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from probes.refusals import meant, shown
from probes.shown import json_text

RECORDS_FILE = "records.jsonl"
BASELINE_FILE = "baseline.jsonl"  # records of the initial model before it was edited
ITEMS_FOLDER = "items"


KINDS: dict[str, type["Record"]] = {}  # what records are called, and their classes


@dataclass(frozen=True)
class Record:
    """Something that was so after `step` updates; `record` is what the line calls itself.

    A record of one's own is a frozen dataclass that inherits from it, with a `record` of its own
    and fields that JSON takes; where its class is known, `read_records` gives it back.

    Example:
        >>> @dataclass(frozen=True)
        ... class NormRecord(Record):
        ...     record: ClassVar[str] = "norm"
        ...     norm: float
        >>> from_line(as_line(NormRecord(3, 1.5))).norm
        1.5
    """

    record: ClassVar[str]
    step: int

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if not isinstance(name := vars(cls).get("record"), str):
            raise ValueError(
                f"{cls.__name__} does not say what its lines are called; give it a record: "
                'ClassVar[str] = "..."'
            )
        other = KINDS.setdefault(name, cls)
        # A cell of a notebook that is run again makes the same class again.
        if (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(
                f"{other.__name__} calls its lines {name!r} already; give {cls.__name__} another"
            )
        KINDS[name] = cls


@dataclass(frozen=True)
class StepRecord(Record):
    """One update, and the batch that it was made from."""

    record: ClassVar[str] = "step"
    loss: float  # of a trained token before the update, by weights where the data give any
    learning_rate: float
    gradient_norm: float  # of all parameters together, before clipping
    trained_tokens: int
    loss_by_source: dict[str, float] = field(default_factory=dict)  # where the data have several


@dataclass(frozen=True)
class ScoresRecord(Record):
    """A score for every item of a list: entry i scores line i of `items/<items>.jsonl`."""

    record: ClassVar[str] = "scores"
    items: str
    log_probs: list[float]


@dataclass(frozen=True)
class TaskRecord(Record):
    """The score of a downstream task, whose questions are the list `items`."""

    record: ClassVar[str] = "task"
    task: str
    metric: str
    score: float
    items: str
    # Choices whose tokens were split apart from those of their context; a line leaves out 0.
    split_apart: int = 0


@dataclass(frozen=True)
class RecallRecord(Record):
    """Which items of a list are answered right: 1 where one is, 0 where it is not."""

    record: ClassVar[str] = "recall"
    items: str
    correct: list[int]
    log_probs: list[float] | None = None  # of the whole right answer with its end, if measured
    match: str = "tokens"  # what counts as right: a `training.recall.Match`


@dataclass(frozen=True)
class PerplexityRecord(Record):
    """How well a corpus is predicted."""

    record: ClassVar[str] = "perplexity"
    corpus: str
    mean_loss: float  # mean cross-entropy of a token
    bits_per_byte: float | None  # None where the bytes of the text are not known
    tokens: int


@dataclass(frozen=True)
class EntropyRecord(Record):
    """An entropy, in nats; per layer where it has layers."""

    record: ClassVar[str] = "entropy"
    kind: str  # knowledge, attention, next_token or contribution
    total: float
    per_layer: list[float]
    interval: list[float] | None  # lower and upper end, of the total


@dataclass(frozen=True)
class NeuronRecord(Record):
    """The share of each layer's neurons whose mean |c| is at most `threshold` of the layer's."""

    record: ClassVar[str] = "neurons"
    dormant_share: list[float]
    threshold: float


@dataclass(frozen=True)
class GradientAlignmentRecord(Record):
    """How the gradients of some samples lie to each other, now and at the start.

    A vector is called by its sample's name, with `@start` after it for the gradient at the start;
    `moved` is the weights now less those at the start.
    """

    record: ClassVar[str] = "gradient_alignment"
    samples: list[str]
    losses: list[float]  # mean cross-entropy of a trained token, for each sample
    start_losses: list[float]
    tokens: list[int]  # trained ones of each sample
    blocks: list[int]  # how many blocks each sample's errors are from
    parts: list[str]  # of the model, such as 3.mlp_out
    pairs: list[list[str]]  # two vectors each
    products: list[list[float]]  # inner product of each pair, by part; their sum is the whole's
    errors: list[float | None]  # standard error over items of it; None where one is not of now


@dataclass(frozen=True)
class WeightDriftRecord(Record):
    """How far the weights are from those at the start, by part: Frobenius norms, and an angle."""

    record: ClassVar[str] = "weight_drift"
    parts: list[str]  # such as 3.mlp_out
    distance: list[float]  # norm of the difference
    relative: list[float | None]  # distance over the norm at the start; None where that is 0
    angle: list[float | None]  # in radians; None where one norm is 0
    start_norm: list[float]
    norm: list[float]


@dataclass(frozen=True)
class InjectionRecord(Record):
    """Passages that were put into a batch; its step is that batch's, so of the updates before."""

    record: ClassVar[str] = "injection"
    passages: list[int]
    displaced_tokens: int  # of the corpus, whose place they took


@dataclass(frozen=True)
class StopRecord(Record):
    """A run that ended before its last step, and why."""

    record: ClassVar[str] = "stop"
    reason: str


Kind = TypeVar("Kind", bound=Record)


def as_line(record: Record) -> str:
    """A record as one line of JSON, without its end; floats keep every bit."""
    fields = {"record": record.record, **asdict(record)}
    if not fields.get("split_apart", True):
        del fields["split_apart"]
    return json_text(fields, f"a record of step {record.step}")


def from_line(line: str) -> Record | dict[str, Any]:
    """The record of a line; one of a kind that is not known here stays a dictionary."""
    fields = json.loads(line)
    kind = KINDS.get(fields["record"])
    if kind is None:
        return fields
    return kind(**{name: value for name, value in fields.items() if name != "record"})


def read_records(
    directory: str | Path, kind: str | type[Record] | None = None
) -> Iterator[Record | dict[str, Any]]:
    """The records of a run, in order.

    A last line that a killed process has left half-written is passed over: the run goes on from
    before it.

    Args:
        directory: the run.
        kind: only these, `"scores"` or `ScoresRecord` say; None for all.

    Yields:
        Records; dictionaries where the kind is not known here.

    Raises:
        ValueError: there is no such run, or a line is no record.
    """
    path = Path(directory) / RECORDS_FILE
    if not path.is_file():
        raise ValueError(f"{directory} holds no {RECORDS_FILE}; give the directory of a run")
    wanted = kind if kind is None or isinstance(kind, str) else kind.record
    if isinstance(kind, str) and kind not in KINDS:
        raise ValueError(f"no records are called {kind!r}; {meant(kind, KINDS)}")
    # Only the kinds asked for are parsed whole: scores of every step make long files.
    mark = "" if wanted is None else f'{{"record": "{wanted}"'
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith("\n") or not line.startswith(mark):
                continue
            try:
                record = from_line(line)
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise ValueError(
                    f"line {number} of {path} is no record ({type(error).__name__}: {error}); a "
                    "newer version may have written it"
                ) from error
            yield record


def records_of(directory: str | Path, kind: type[Kind]) -> list[Kind]:
    """All records of one kind; see `read_records`.

    Raises:
        ValueError: there is no such run, or the kind is no class of records.
    """
    if not isinstance(kind, type):
        raise ValueError(
            f"records_of: kind is {shown(kind)}; give a class, training.StepRecord say, or ask "
            "training.read_records"
        )
    return [found for found in read_records(directory, kind) if isinstance(found, kind)]


def read_items(directory: str | Path, name: str) -> list[dict[str, Any]]:
    """The list of items that scores of a run refer to.

    Raises:
        ValueError: the run has no such list.
    """
    folder = Path(directory) / ITEMS_FOLDER
    path = folder / f"{name}.jsonl"
    if not path.is_file():
        there = ", ".join(sorted(found.stem for found in folder.glob("*.jsonl"))) or "none"
        raise ValueError(f"{directory} has no items {name!r}, only {there}")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_json(path: Path, content: Any, *, indent: int | None = 2) -> None:
    """Write a JSON file whole; an error of the disk is one line."""
    with one_line_for_disk_errors(f"writing {path}"):
        write_whole(path, json_text(content, f"{path}", indent=indent) + "\n")


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that it is there whole or not at all; an earlier one is replaced."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
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
