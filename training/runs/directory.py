"""Run directories: what a run writes, and how it survives being killed.

    manifest.json                 configuration, inputs and versions; written before anything else
    records.jsonl                 one record a line, appended; the same bits in every run
    timing.jsonl                  seconds and memory, which are not
    items/<name>.jsonl            lists that records refer to, written once
    checkpoints/step-000160/      a Hugging Face folder, and what training needs to go on from it
    done.json                     a summary; there when the run has come to its end

What is not a line appended is written under a temporary name, brought to the disk and renamed. A
checkpoint holds the length of the records when it was made, and a run that goes on from it cuts
them back to there: killed at any moment and started again, it leaves what an unbroken one leaves.
Of several processes the first one writes; the others call the same methods.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from probes.shown import json_text
from training.choices import RateCount
from training.processes import this_process
from training.recipes import NOT_DECISIVE, as_json
from training.runs.checkpoints import (
    CheckpointFound,
    checkpoint_folders,
    checkpoint_name,
    prune,
    read_checkpoint,
    remove_partial,
    seal,
)
from training.runs.records import (
    ITEMS_FOLDER,
    RECORDS_FILE,
    AppendedLines,
    Record,
    as_line,
    one_line_for_disk_errors,
    write_json,
    write_whole,
)

MANIFEST_FILE = "manifest.json"
TIMING_FILE = "timing.jsonl"
DONE_FILE = "done.json"
CHECKPOINTS_FOLDER = "checkpoints"
DECISIVE = {"configuration": "the settings", "inputs": "the weights and texts"}
"""What in a manifest decides the bits of a run, as a user reads it."""
_OF_LORA: dict[str, Any] = {"lora_rank": None, "lora_alpha": None}
_ADDED: dict[str, Any] = {
    "schedule_count": str(RateCount.FROM_ONE),
    "prepend_bos": None,
    "edit": [],
    **_OF_LORA,
}
"""Settings that earlier versions had not, and what their runs did."""
_OF_EDITED = ("edit", *_OF_LORA)  # settings of runs alone that begin from a model


class RunDirectory:
    """The folder that a run writes to; made by `create` or `reopen`.

    Attributes:
        path: the directory.
        manifest: what the run is.
    """

    def __init__(self, path: Path, manifest: Mapping[str, Any]) -> None:
        self.path = path
        self.manifest = manifest
        self._here = this_process()
        self._lines: dict[str, AppendedLines] = {}
        if self._here.is_first:
            for folder in (CHECKPOINTS_FOLDER, ITEMS_FOLDER):
                (path / folder).mkdir(exist_ok=True)
            for name in (RECORDS_FILE, TIMING_FILE):
                self._lines[name] = AppendedLines(path / name)

    @classmethod
    def create(cls, path: str | Path, manifest: Mapping[str, Any]) -> "RunDirectory":
        """Begin a run in a new or empty directory.

        Args:
            path: the directory.
            manifest: what the run is, as JSON takes it: everything that decides its bits under
                "configuration" and "inputs", whatever else is worth keeping beside them.

        Raises:
            ValueError: there is something in the directory, or it cannot be written to.
        """
        if this_process().is_first:
            begin_folder(Path(path), manifest)
        return cls(Path(path), _plain(manifest))

    @classmethod
    def reopen(cls, path: str | Path, manifest: Mapping[str, Any]) -> "RunDirectory":
        """Go on with a run.

        Args:
            path: its directory.
            manifest: as for `create`; "configuration" and "inputs" must be those of the run.

        Raises:
            ValueError: there is no run, or it is another one (names what differs).
        """
        if this_process().is_first:
            refuse_other_inputs(Path(path), manifest)
        return cls(Path(path), _plain(manifest))

    @property
    def is_done(self) -> bool:
        """Whether the run has come to its end."""
        return (self.path / DONE_FILE).is_file()

    @property
    def has_begun(self) -> bool:
        """Whether there are records, or checkpoints."""
        records = self.path / RECORDS_FILE
        recorded = records.is_file() and records.stat().st_size > 0
        return recorded or bool(checkpoint_folders(self.checkpoints))

    @property
    def checkpoints(self) -> Path:
        """The folder of all checkpoints."""
        return self.path / CHECKPOINTS_FOLDER

    def append(self, record: Record) -> None:
        """Add a record."""
        if self._here.is_first:
            self._lines[RECORDS_FILE].append(as_line(record))

    def append_timing(self, **fields: Any) -> None:
        """Add a line about time or memory."""
        if self._here.is_first:
            self._lines[TIMING_FILE].append(json_text(fields, TIMING_FILE))

    def write_items(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write a list that records refer to; the same list again is fine.

        Raises:
            ValueError: there is another list of that name.
        """
        if not self._here.is_first:
            return
        path = self.path / ITEMS_FOLDER / f"{name}.jsonl"
        text = "".join(json_text(row, f"{path}") + "\n" for row in rows)
        if not path.is_file():
            with one_line_for_disk_errors(f"writing {path}"):
                write_whole(path, text)
        elif path.read_text(encoding="utf-8") != text:
            raise ValueError(
                f"{path} holds other items than those called {name!r} now; give them another name"
            )

    def commit_checkpoint(
        self, step: int, write: Callable[[Path], Mapping[str, Any]], *, planned: bool = True
    ) -> Path:
        """Write a checkpoint, whole or not at all. All processes call this together.

        Args:
            step: updates done.
            write: called in every process; writes its files into a folder and returns the state
                that goes beside them.
            planned: whether it stays; otherwise it only serves resuming, until a newer one.

        Returns:
            Where it is.

        Raises:
            ValueError: it could not be written, for want of space say; earlier ones are there.
        """
        final = self.checkpoints / checkpoint_name(step)
        partial = self.checkpoints / f".{final.name}.partial"
        try:
            with one_line_for_disk_errors(f"writing the checkpoint {final}"):
                if self._here.is_first:
                    shutil.rmtree(partial, ignore_errors=True)
                    partial.mkdir()
                self._here.wait_for_all()
                state = write(partial)
                self._here.wait_for_all()
                if self._here.is_first:
                    for lines in self._lines.values():
                        lines.sync()
                    seal(
                        partial,
                        final,
                        run=self._fingerprint(),
                        records_bytes=self._lines[RECORDS_FILE].length,
                        planned=planned,
                        state=state,
                    )
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        self._here.wait_for_all()
        return final

    def latest(self) -> CheckpointFound | None:
        """The newest checkpoint; None where there is none yet.

        Raises:
            ValueError: it is not whole, or another run's.
        """
        folders = checkpoint_folders(self.checkpoints)
        return read_checkpoint(folders[-1], run=self._fingerprint()) if folders else None

    def cut_back(self, checkpoint: CheckpointFound | None) -> None:
        """Cut the records back to a checkpoint; to nothing where there is none."""
        if self._here.is_first:
            remove_partial(self.checkpoints)
            self._lines[RECORDS_FILE].cut_to(checkpoint.records_bytes if checkpoint else 0)

    def prune(self, keep_states: int) -> None:
        """Take the training state from all but the newest checkpoints."""
        if self._here.is_first:
            prune(self.checkpoints, keep_states)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Say that the run has come to its end."""
        if self._here.is_first:
            for lines in self._lines.values():
                lines.sync()
            write_json(self.path / DONE_FILE, summary)

    def _fingerprint(self) -> str:
        decisive = {name: self.manifest[name] for name in DECISIVE}
        decisive["configuration"] = _as_at_first(decisive["configuration"])
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def read_manifest(path: str | Path) -> dict[str, Any]:
    """What a run is.

    Raises:
        ValueError: there is no run.
    """
    try:
        manifest = json.loads((Path(path) / MANIFEST_FILE).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} holds no run ({type(error).__name__} at {MANIFEST_FILE}); to begin one there, "
            "leave out --resume"
        ) from error
    # What this version has a setting for and an earlier one had not: nested, or flat.
    configuration = manifest.get("configuration", {})
    if isinstance(configuration.get("schedule"), dict):
        configuration["schedule"].setdefault("count", _ADDED["schedule_count"])
        added = _OF_LORA if "micro_batch_size" in configuration else {}
        manifest["configuration"] = {**added, **configuration}
    elif "warmup_start" in configuration:
        edited = "edit_form" in configuration
        added = {k: v for k, v in _ADDED.items() if edited or k not in _OF_EDITED}
        manifest["configuration"] = {**added, **configuration}
    return manifest


def _as_at_first(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Without what `read_manifest` adds, so that the run is known by the same fingerprint."""
    kept = {k: v for k, v in configuration.items() if k not in _ADDED or v != _ADDED[k]}
    schedule = configuration.get("schedule")
    if isinstance(schedule, dict) and schedule.get("count") == _ADDED["schedule_count"]:
        kept["schedule"] = {name: value for name, value in schedule.items() if name != "count"}
        return kept
    told = _form_as_at_first(configuration)
    return {k: v for k, v in told.items() if k not in _ADDED or v != _ADDED[k]}


def _form_as_at_first(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Unedited runs of earlier versions said hooks, the default then, and it means nothing."""
    edits = [settings.get(name, False) for name in ("resuscitation_ratio", "attention_temperature")]
    own = settings.get("edit", [])
    form = {"edit_form": "hooks"} if edits == [None, None] and not own else {}
    return {**settings, **form}


def begin_folder(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest of a run into a new or empty folder."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give a folder, which need not exist")
    if (folder / MANIFEST_FILE).is_file():
        raise ValueError(f"{folder} holds a run; go on with --resume, or give another folder")
    # What begins with a dot may be left of a run that was killed while it began.
    if folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise ValueError(f"{folder} is not empty, and holds no run; give another folder")
    with one_line_for_disk_errors(f"making {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / MANIFEST_FILE, _plain(manifest))


def refuse_other_inputs(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse a folder whose run has other settings, weights or texts."""
    both = read_manifest(folder), _plain(manifest)
    for part, to_give in DECISIVE.items():
        there, asked = (_form_as_at_first(one[part]) for one in both)
        for difference in _differences(there, asked, part):
            raise ValueError(
                f"{folder} holds a run with another {difference}; give {to_give} that it was begun "
                "with, or another folder"
            )


def _differences(stored: Any, asked: Any, name: str) -> Iterator[str]:
    if isinstance(stored, dict) and isinstance(asked, dict):
        for key in sorted(stored.keys() | asked.keys()):
            yield from _differences(stored.get(key), asked.get(key), f"{name}.{key}")
    elif stored != asked:
        yield f"{name}: {json.dumps(stored)} there, {json.dumps(asked)} asked for"


def _plain(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """As it comes back from the file: tuples as lists, for one."""
    assert manifest.keys() >= DECISIVE.keys(), f"a manifest needs {' and '.join(DECISIVE)}"
    return json.loads(json.dumps(manifest))


def run_manifest(
    command: str, recipe: str, configuration: Any, inputs: Mapping[str, Any]
) -> dict[str, Any]:
    """What a run is."""
    fields = as_json(configuration)
    return {
        "command": command,
        "recipe": recipe,
        "configuration": {k: v for k, v in fields.items() if k not in NOT_DECISIVE},
        "inputs": dict(inputs),
        "execution": {name: fields[name] for name in NOT_DECISIVE},
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of what decides the bits of a run, beside its manifest's settings."""
    return {name: version(name) for name in ("mnemoscope", "torch", "transformers", "tokenizers")}


def opened_directory(folder: Path, manifest: Mapping[str, Any], *, resume: bool) -> RunDirectory:
    """The run's folder, begun or gone on with."""
    if resume and (folder / MANIFEST_FILE).is_file():
        return RunDirectory.reopen(folder, manifest)
    return RunDirectory.create(folder, manifest)


def is_finished(folder: Path, configuration: Any, *, resume: bool) -> bool:
    """Whether there is nothing left to do of a run that is to be gone on with."""
    if not resume or not (folder / DONE_FILE).is_file():
        return False
    stored = read_manifest(folder)
    asked = run_manifest(stored["command"], stored["recipe"], configuration, stored["inputs"])
    refuse_other_inputs(folder, asked)
    return True


def refuse_taken(folder: Path, *, resume: bool) -> None:
    """Refuse a folder that holds a run already, before any work is done."""
    if resume or not (folder / MANIFEST_FILE).is_file():
        return
    if (folder / DONE_FILE).is_file():
        raise ValueError(f"--out {folder} holds a finished run; give another folder")
    raise ValueError(f"--out {folder} holds a run; go on with --resume, or give another folder")


def tokenizer_hash(tokenizer: Any) -> str | None:
    """SHA-256 of a fast tokenizer's definition; None where there is no tokenizer."""
    if tokenizer is None:
        return None
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
