"""What training commands evaluate during a run: text, entropies, tasks and earlier facts.

Example:
    >>> found = ObserverSet()
    >>> found.observers, found.inputs
    ([], {})
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import probes
from probes.corpus.sources import ContentHash
from probes.corpus.token_batch import TokenBatch
from training.commands.fields import EvaluationFields
from training.data.downstream import load_task
from training.data.fact_world import ClozeItem, read_cloze
from training.misfits import Misfits
from training.observers import (
    Cadence,
    ClozeObserver,
    EntropyObserver,
    HeldOutObserver,
    Observer,
    TaskObserver,
    held_out_batches,
)
from training.start_models import Start

_ROWS_AT_ONCE = 8
_AUTO = "auto"


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
        misfits = Misfits()
        with misfits.noted():
            self.add_text(
                config.evaluation_corpora,
                tokenizer,
                cadence,
                tokens=config.evaluation_tokens,
                entropy_tokens=config.entropy_tokens,
                row_length=row_length,
            )
        with misfits.noted():
            self.add_facts(_earlier_facts(config.cloze, start), cadence)
        with misfits.noted():
            self.add_tasks(config.tasks, config.task_limit, cadence)
        misfits.refuse()

    def add_text(
        self,
        corpora: Sequence[str],
        tokenizer: Any,
        cadence: Cadence,
        *,
        tokens: int,
        entropy_tokens: int | None,
        row_length: int,
    ) -> None:
        """Add the loss on corpora, and the entropies on the first of them."""
        misfits = Misfits()
        for name in corpora:
            with misfits.noted():
                corpus, batches = held_out_text(name, tokenizer, tokens, row_length)
                self.observers.append(HeldOutObserver(corpus, batches, cadence))
                self.inputs.setdefault("held_out", {})[corpus] = identity_of(batches)
        misfits.refuse()
        if entropy_tokens is not None:
            corpus, batches = held_out_text(corpora[0], tokenizer, entropy_tokens, row_length)
            self.observers.append(EntropyObserver(batches, cadence))
            self.inputs["entropies"] = {"corpus": corpus, **identity_of(batches)}

    def add_tasks(self, names: Iterable[str], limit: int | None, cadence: Cadence) -> None:
        """Add downstream tasks."""
        misfits = Misfits()
        for name in names:
            with misfits.noted():
                task = load_task(name, limit)
                self.observers.append(TaskObserver(task, cadence))
                self.inputs.setdefault("tasks", {})[name] = task.configuration
        misfits.refuse()

    def add_facts(self, items: Sequence[ClozeItem], cadence: Cadence) -> None:
        """Add cloze items, if there are any."""
        if not items:
            return
        content = ContentHash()
        for item in items:
            content.add_text(repr(item))
        self.observers.append(ClozeObserver(items, cadence))
        self.inputs["cloze"] = {"items": len(items), "sha256": content.value}


def _earlier_facts(cloze: str | None, start: Start) -> tuple[ClozeItem, ...]:
    path = start.cloze if cloze == _AUTO else None if cloze is None else Path(cloze)
    return () if path is None else read_cloze(path)


def held_out_text(
    name: str, tokenizer: Any, tokens: int, row_length: int
) -> tuple[str, list[TokenBatch]]:
    """A corpus's name, and its first tokens."""
    corpus = probes.load_corpus(name)
    return corpus.name, held_out_batches(
        corpus, tokenizer, tokens, row_length=row_length, batch_size=_ROWS_AT_ONCE
    )


def identity_of(batches: Iterable[TokenBatch]) -> dict[str, Any]:
    """How many tokens batches have, and their hash."""
    content, tokens = ContentHash(), 0
    for batch in batches:
        for ids, mask in zip(batch.input_ids, batch.attention_mask.bool(), strict=True):
            content.add_row(ids[mask].numpy())
            tokens += int(mask.sum())
    return {"tokens": tokens, "sha256": content.value}
