"""What fits of lenses share: where one stands, kept in a file, and the text that it learns from.

A fit that was stopped goes on from the file to the same bits as one that never was: it reads its
text again up to the batch where it stood, and refuses another text, model or setting.
"""

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from probes.checking import refusing_failures
from probes.corpus.token_batch import Batches, TokenBatch
from probes.hooked_model import HookedModel
from training.runs.durable_files import one_line_for_disk_errors, sync_folder

STATE_FILE = "fit.pt"
EVERY_SECONDS = 30.0
"""How often where a fit stands is kept."""


@runtime_checkable
class Fit(Protocol):
    """What can be kept and gone on with."""

    def state_dict(self) -> dict[str, Any]:
        """All that it has learnt so far, as tensors and plain values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""


def remaining(
    fit: Fit,
    batches: Iterable[TokenBatch],
    *,
    kept_in: Path | None,
    belongs_to: Mapping[str, Any],
    content_hash: Callable[[], str | None],
    most: int | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> Iterator[tuple[int, TokenBatch]]:
    """Numbers, from 1, and batches that a fit has still to learn from; it is kept between them."""
    wanted = json.dumps(belongs_to, default=str)
    state = _read(kept_in, json.loads(wanted))
    if state is not None:
        fit.load_state_dict(state["fit"])
    done = 0 if state is None else state["done"]
    written = time.monotonic()
    for number, batch in enumerate(batches, start=1):
        if number > done:
            yield number, batch
        elif number == done and state is not None and state["text"] != content_hash():
            raise ValueError(f"{kept_in} has learnt from other text; begin again with --overwrite")
        if on_batch is not None:
            on_batch(1)
        if kept_in and number > done and time.monotonic() - written >= EVERY_SECONDS:
            now = {"fit": fit.state_dict(), "done": number, "text": content_hash()}
            _write(kept_in, {**now, "belongs_to": wanted})
            written = time.monotonic()
        if number == most:
            return


def _read(path: Path | None, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
    if path is None or not path.is_file():
        return None
    with refusing_failures(f"{path} cannot be read; begin again with --overwrite"):
        state = torch.load(path, map_location="cpu", weights_only=True)
        before = json.loads(state["belongs_to"])
    for name in {**wanted, **before}:
        if before.get(name) != wanted.get(name):
            raise ValueError(
                f"{path} holds a fit with {name} {before.get(name)}, not {wanted.get(name)}; give "
                "the same settings, or begin again with --overwrite"
            )
    return state


def _write(path: Path, state: dict[str, Any]) -> None:
    with one_line_for_disk_errors(f"writing {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync_folder(path.parent)


def model_of_fit(model: HookedModel) -> dict[str, Any]:
    """What a kept fit belongs to."""
    hardware = {"dtype": model.dtype, "device": model.device.type, "torch": torch.__version__}
    return {"weights_sha256": model.content_hash(), **hardware}


def text_origin(batches: Batches, whole: str | None = None) -> dict[str, Any]:
    """What tells text from others: its name, its hash, and how it was put into rows."""
    corpus = getattr(batches, "corpus", None)
    return {
        "corpus": getattr(corpus, "name", None),
        "corpus_licence": getattr(corpus, "licence", None),
        "corpus_sha256": whole or getattr(batches, "content_hash", None),
        "batching": getattr(batches, "configuration", None),
    }
