"""One run of a training command: prepared, made or tried, and shown; and whether it is over.

Everything is prepared again when a run goes on, from the same seeds; the manifest holds hashes of
it all. What an edited model scored before it was edited is kept in `baseline.jsonl`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import probes
from probes.corpus.sources import ContentHash
from probes.corpus.token_batch import TokenBatch
from probes.hooked_model import HookedModel
from training.batches import BatchSource
from training.choices import Tracker
from training.data.fact_world import ClozeItem, read_cloze
from training.edit_settings import RunEdits, coefficient_text, write_baseline
from training.loop import train
from training.observers import (
    Cadence,
    ClozeObserver,
    EntropyObserver,
    HeldOutObserver,
    Observer,
    TaskObserver,
)
from training.options import EvaluationFields
from training.processes import joined_processes
from training.runs.checkpoints import checkpoint_folders
from training.runs.directory import (
    CHECKPOINTS_FOLDER,
    is_finished,
    opened_directory,
    read_manifest,
    refuse_taken,
    run_manifest,
)
from training.settings import LoopSettings, Misfits
from training.start_or_resume import Start, find_start, tried
from training.tasks import load_task


@dataclass
class ObserverSet:
    """Observers and, as plain values for the manifest, what they observe."""

    observers: list[Observer] = field(default_factory=list)
    inputs: dict[str, Any] = field(default_factory=dict)

    def add_evaluation(
        self,
        config: EvaluationFields,
        tokenizer: Any,
        start: Start,
        cadence: Cadence,
        *,
        row_length: int,
    ) -> None:
        """Add the text, entropies, earlier facts and tasks of a configuration."""
        tokens, entropy_tokens = config.evaluation_tokens, config.entropy_tokens
        corpora = config.evaluation_corpora
        cloze = None if config.cloze is None else Path(config.cloze)
        path = start.cloze if config.cloze == "auto" else cloze
        Misfits().check(
            lambda: self.add_text(corpora, tokenizer, cadence, tokens, entropy_tokens, row_length),
            lambda: self.add_facts(() if path is None else read_cloze(path), cadence),
            lambda: self.add_tasks(config.tasks, config.task_limit, cadence),
        )

    def add_text(
        self,
        corpora: Sequence[str],
        tokenizer: Any,
        cadence: Cadence,
        tokens: int,
        entropy_tokens: int | None,
        row_length: int,
    ) -> None:
        """Add the loss on corpora, and the entropies on the first of them."""
        misfits = Misfits()
        for name in corpora:
            with misfits.noted():
                corpus, batches = _held_out_text(name, tokenizer, tokens, row_length)
                self.observers.append(HeldOutObserver(corpus, batches, cadence))
                self.inputs.setdefault("held_out", {})[corpus] = _identity_of(batches)
        misfits.refuse()
        if entropy_tokens is not None:
            corpus, batches = _held_out_text(corpora[0], tokenizer, entropy_tokens, row_length)
            self.observers.append(EntropyObserver(batches, cadence))
            self.inputs["entropies"] = {"corpus": corpus, **_identity_of(batches)}

    def add_tasks(self, names: Iterable[str], limit: int | None, cadence: Cadence) -> None:
        misfits = Misfits()
        for name in names:
            with misfits.noted():
                task = load_task(name, limit)
                self.observers.append(TaskObserver(task, cadence))
                self.inputs.setdefault("tasks", {})[name] = task.configuration
        misfits.refuse()

    def add_facts(self, items: Sequence[ClozeItem], cadence: Cadence) -> None:
        if items:
            content = ContentHash()
            for item in items:
                content.add_text(repr(item))
            self.observers.append(ClozeObserver(items, cadence))
            self.inputs["cloze"] = {"items": len(items), "sha256": content.value}


def _held_out_text(
    name: str, tokenizer: Any, tokens: int, row_length: int
) -> tuple[str, list[TokenBatch]]:
    """A corpus's name, and its first tokens, packed into rows."""
    corpus = probes.load_corpus(name)
    how = {"sequence_length": row_length, "batch_size": 8, "max_tokens": tokens}
    if not (batches := list(probes.token_batches(corpus, tokenizer, **how))):
        raise ValueError(f"{corpus.name} has no tokens to evaluate; give another corpus")
    return corpus.name, batches


def _identity_of(batches: Iterable[TokenBatch]) -> dict[str, Any]:
    """How many tokens batches have, and their hash."""
    content, tokens = ContentHash(), 0
    for batch in batches:
        for ids, mask in zip(batch.input_ids, batch.attention_mask.bool(), strict=True):
            content.add_row(ids[mask].numpy())
            tokens += int(mask.sum())
    return {"tokens": tokens, "sha256": content.value}


@dataclass(frozen=True, kw_only=True)
class PreparedRun:
    """Everything that a run begins with; its model is not edited yet."""

    model: HookedModel
    source: BatchSource
    settings: LoopSettings
    observed: ObserverSet
    inputs: dict[str, Any]
    sentences: Sequence[str]
    edits: RunEdits = field(default_factory=RunEdits)


def make_run(
    program: str,
    prepare: Callable[[Any], PreparedRun],
    show: Callable[[Path, Any], None],
    config: Any,
    out: Path,
    *,
    recipe: str,
    resume: bool = False,
    seconds: float | None = None,
    track: Tracker | None = None,
) -> None:
    """Make a run, or go on with it, and show what came of it."""
    with joined_processes() as here:
        if here.is_first:
            refuse_taken(out, resume=resume)
        # Other settings are refused at once; all else is prepared again, and compared.
        is_finished(out, config, resume=resume)
        prepared = prepare(config)
        edits, observers = prepared.edits, prepared.observed.observers
        manifest = run_manifest(program, recipe, config, prepared.inputs)
        directory = opened_directory(out, manifest, resume=resume)
        result = None
        if not directory.is_done:
            if here.is_first:
                print("\n".join(prepared.sentences))
            if edits.all:
                write_baseline(prepared.model, observers, directory)
            edits.write(prepared.model)
            result = train(
                prepared.model,
                prepared.source,
                prepared.settings,
                directory,
                edits=edits.hooks,
                observers=observers,
                optimizer_edits=edits.optimizer,
                resume=resume,
                time_limit=seconds,
                track=track,
            )
        if here.is_first:
            show(out, config)
            if result is None:
                print("this run was over already; nothing was done")
            elif not result.finished:
                done, steps = result.steps_done, prepared.settings.steps
                print(f"stopped after {done:,} of {steps:,} steps; go on with --resume")
            print(f"run: {out}")


def try_run(prepare: Callable[[Any], PreparedRun], config: Any, out: Path | None) -> None:
    """Try all that a run needs, up to a checkpoint, without training."""
    with joined_processes():
        prepared = prepare(config)
        prepared.edits.write(prepared.model)
        tried(
            prepared.model,
            prepared.source,
            prepared.settings,
            out,
            edits=prepared.edits.hooks,
            optimizer_edits=prepared.edits.optimizer,
            observers=prepared.observed.observers,
        )


def is_over(folder: Path, configuration: Any) -> bool:
    """Whether a folder holds a finished run of this configuration; another one is refused.

    Weights and texts are compared where they are folders and files here. What is gone cannot
    differ, built-in ones are pinned, and the hub is not asked again. The training commands
    themselves compare everything that went into a run.
    """
    if not is_finished(folder, configuration, resume=True):
        return False
    inputs = read_manifest(folder)["inputs"]
    start = _start(configuration)
    if start is not None and "start_sha256" in inputs:
        _refuse_changed(folder, f"weights in {start}", inputs["start_sha256"], weights_hash(start))
    text, host = getattr(configuration, "corpus", None), inputs.get("data", {}).get("host")
    if host is not None and isinstance(text, str) and _is_here(text):
        found = _text(text, configuration.column, host["documents"])
        _refuse_changed(folder, f"text in {text}", host["content_hash"], found)
    # A chain has evaluated texts in its stages.
    for stage in (folder, *sorted(folder.glob("stage-*"))):
        if folders := checkpoint_folders(stage / CHECKPOINTS_FOLDER):
            _refuse_other_texts(stage, configuration, str(folders[-1]))
    return True


def _refuse_other_texts(folder: Path, configuration: Any, tokenizer: str) -> None:
    """Refuse other texts that a run was evaluated on, or its edits measured on."""
    inputs, length = read_manifest(folder)["inputs"], configuration.row_length
    if hasattr(configuration, "evaluation_corpora"):
        names, tokens = configuration.evaluation_corpora, configuration.evaluation_tokens
    else:
        names, tokens = configuration.held_out, configuration.held_out_tokens
    for name in filter(_is_here, names):
        corpus, now = _held_out(name, tokenizer, tokens, length)
        before = inputs.get("held_out", {}).get(corpus, {}).get("sha256", now)
        _refuse_changed(folder, f"text in {name}", before, now)
    measured = inputs.get("edits", {}).get("coefficients") or {}
    if "corpus_sha256" in measured and _is_here(configuration.coefficient_corpus):
        kept = coefficient_text(configuration, _tokenizer(tokenizer), length)
        what = f"text in {configuration.coefficient_corpus}"
        _refuse_changed(folder, what, measured["corpus_sha256"], kept.content_hash)


def _start(configuration: Any) -> str | None:
    """The folder that a run begins from, where it is one that is there."""
    model = getattr(configuration, "model", None)
    if model is None or not _is_here(model):
        return None
    try:
        start = find_start(model, configuration.revision).model
    except ValueError:
        # Checkpoints that nothing needed any more have been removed.
        return None
    path = Path(start).expanduser()
    return start if path.is_file() or (path / "config.json").is_file() else None


def _is_here(name: str) -> bool:
    return Path(name).expanduser().exists()


@cache
def weights_hash(start: str) -> str:
    """The hash of the weights in a folder."""
    return probes.load_model(start, device="cpu", dtype="float32").content_hash()


@cache
def _tokenizer(checkpoint: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(checkpoint)


@cache
def _held_out(name: str, tokenizer: str, tokens: int, row_length: int) -> tuple[str, str]:
    corpus, batches = _held_out_text(name, _tokenizer(tokenizer), tokens, row_length)
    return corpus, _identity_of(batches)["sha256"]


@cache
def _text(name: str, column: str | None, documents: int) -> str:
    return probes.load_corpus(name, column=column, max_documents=documents).content_hash


def _refuse_changed(folder: Path, what: str, before: str, now: str) -> None:
    if before != now:
        raise ValueError(
            f"{folder} holds a finished run of other {what}: hash {before[:12]} there, {now[:12]} "
            "now; put back what it was, or give another folder"
        )
