"""Finished runs: whether a run that is over is the one that is asked for.

Studies leave finished runs alone. One counts as finished only where its settings, the weights that
it began from and the texts that it was trained, evaluated and edited on are those of now, as far as
these can be told without preparing the run again: a start or a text that is a folder or a file
here. What is gone
cannot differ; built-in models and texts are pinned, and what the hub holds under a name is not
asked for again. The training commands themselves compare everything that went into a run.

Example:
    >>> from pathlib import Path
    >>> is_over(Path("runs/nothing-there"), None)
    False
"""

from functools import cache
from pathlib import Path
from typing import Any

import probes
from training.commands.edit_settings import coefficient_text
from training.commands.observers import held_out_text, identity_of
from training.runs.checkpoints import checkpoint_folders
from training.runs.directory import CHECKPOINTS_FOLDER, is_finished, read_manifest
from training.start_models import find_start


def is_over(folder: Path, configuration: Any) -> bool:
    """Whether a folder holds a run, finished."""
    if not is_finished(folder, configuration, resume=True):
        return False
    inputs = read_manifest(folder)["inputs"]
    start = _start(configuration)
    if start is not None and "start_sha256" in inputs:
        _refuse_changed(folder, f"weights in {start}", inputs["start_sha256"], _weights(start))
    text, host = getattr(configuration, "corpus", None), inputs.get("data", {}).get("host")
    if host is not None and isinstance(text, str) and Path(text).expanduser().exists():
        found = _text(text, configuration.column, host["documents"])
        _refuse_changed(folder, f"text in {text}", host["content_hash"], found)
    # A chain has looked at texts in its stages.
    for stage in (folder, *sorted(folder.glob("stage-*"))):
        if folders := checkpoint_folders(stage / CHECKPOINTS_FOLDER):
            _refuse_changed_looks(stage, configuration, str(folders[-1]))
    return True


def _refuse_changed_looks(folder: Path, configuration: Any, tokenizer: str) -> None:
    """Refuse other texts that a run was evaluated on, or its edits measured on."""
    inputs, length = read_manifest(folder)["inputs"], configuration.row_length
    for name, tokens in _evaluated(configuration):
        if Path(name).expanduser().exists():
            corpus, now = _held_out(name, tokenizer, tokens, length)
            before = inputs.get("held_out", {}).get(corpus, {}).get("sha256", now)
            _refuse_changed(folder, f"text in {name}", before, now)
    measured = inputs.get("edits", {}).get("coefficients") or {}
    if "corpus_sha256" in measured and Path(configuration.coefficient_corpus).expanduser().exists():
        kept = coefficient_text(configuration, _tokenizer(tokenizer), length)
        what = f"text in {configuration.coefficient_corpus}"
        _refuse_changed(folder, what, measured["corpus_sha256"], kept.content_hash)


def _evaluated(configuration: Any) -> list[tuple[str, int]]:
    """The texts that a run is evaluated on, and how many tokens of each."""
    if hasattr(configuration, "evaluation_corpora"):
        return [(n, configuration.evaluation_tokens) for n in configuration.evaluation_corpora]
    return [(name, configuration.held_out_tokens) for name in configuration.held_out]


def _start(configuration: Any) -> str | None:
    """The folder that a run begins from, where it is one that is there."""
    model = getattr(configuration, "model", None)
    if model is None or not Path(model).expanduser().exists():
        return None
    try:
        start = find_start(model, configuration.revision)
    except ValueError:
        # Checkpoints that nothing needed any more have been removed.
        return None
    path = Path(start.model).expanduser()
    return start.model if path.is_file() or (path / "config.json").is_file() else None


@cache
def _weights(start: str) -> str:
    return probes.load_model(start, device="cpu", dtype="float32").content_hash()


@cache
def _tokenizer(checkpoint: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(checkpoint)


@cache
def _held_out(name: str, tokenizer: str, tokens: int, row_length: int) -> tuple[str, str]:
    corpus, batches = held_out_text(name, _tokenizer(tokenizer), tokens, row_length)
    return corpus, identity_of(batches)["sha256"]


@cache
def _text(name: str, column: str | None, documents: int) -> str:
    return probes.load_corpus(name, column=column, max_documents=documents).content_hash


def _refuse_changed(folder: Path, what: str, before: str, now: str) -> None:
    if before != now:
        raise ValueError(
            f"{folder} holds a finished run of other {what}: hash {before[:12]} there, {now[:12]} "
            "now; put back what it was, or give another folder"
        )
