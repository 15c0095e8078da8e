"""Injection: passages put into the batches of a corpus at planned steps.

The passages of a step take the first rows of the global batch, in the order of the schedule. Where
there are more of them than rows, neighbours can share a row, as evenly as they go, as in the
released trainers with batches of 64 rows or fewer.

Without a document mask, which is what the papers do, the tokens that follow a passage attend to it,
and the first of them is predicted from its end token. With one, attention stays inside documents,
and that first token is not trained on.

Source: Kim et al., "Knowledge Entropy Decay during Language Model Pretraining Hinders New Knowledge
Acquisition", ICLR 2025: 4.1; Chang et al., "How Do Large Language Models Acquire Factual Knowledge
During Pretraining?", NeurIPS 2024; the released trainers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from typing import Any, NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor

from probes.choices import as_choice
from probes.corpus.sources import ContentHash
from probes.corpus.token_batch import PAD_SEGMENT
from probes.prompts import Prompts
from probes.shown import Shown
from training.batches import IGNORED, BatchSource, TrainingBatch, joined
from training.choices import Exposure, InjectionMode, OncePlacement
from training.data.passages import Exposures, KnowledgeSet
from training.runs.records import InjectionRecord
from training.settings import Refusals


class Encounter(NamedTuple):
    """One passage in one of its wordings."""

    passage: int
    version: int


@dataclass(frozen=True)
class InjectionSchedule(Shown):
    """What is injected, by step: an encounter at step t is in the batch of update t + 1.

    The model after t updates has not seen it, and the model after t + 1 has. `encounters` maps a
    step to those of its batch, in the order of their rows.
    """

    encounters: Mapping[int, tuple[Encounter, ...]]
    interval: int | None = None  # steps between rounds; None where there is no regular one

    def __post_init__(self) -> None:
        if not any(self.encounters.values()):
            raise ValueError("the injection schedule is empty: give passages that are to be shown")
        if min(self.encounters) < 0:
            raise ValueError(f"the first injection is at step {min(self.encounters)}: give 0 or on")
        ordered = {step: tuple(met) for step, met in sorted(self.encounters.items()) if met}
        object.__setattr__(self, "encounters", ordered)

    @classmethod
    def regular(
        cls,
        exposures: Exposures,
        *,
        interval: int,
        rounds: int = 10,
        first: int = 0,
        once: OncePlacement | str = OncePlacement.SPREAD,
        cycles: int = 1,
    ) -> "InjectionSchedule":
        """Rounds of encounters at equal distances.

        In round r, `PARAPHRASE` passages are met as version r, `DUPLICATION` as the text, `ONCE` as
        the text in one round of all.

        Args:
            exposures: how each passage is met; passages keep this order in a batch.
            interval: steps between rounds.
            rounds: how many there are.
            first: step of the first.
            once: when passages that are shown once are shown.
            cycles: how often all of it repeats, as it does when a corpus is gone through again.

        Raises:
            ValueError: a number is too small, or `once` is no choice.
        """
        for name, value in (("interval", interval), ("rounds", rounds), ("cycles", cycles)):
            if value < 1:
                raise ValueError(f"{name} is {value}: give 1 or more")
        by_round = _rounds(exposures, rounds, as_choice(OncePlacement, once, "once"))
        encounters = {
            first + number * interval: by_round[number % rounds]
            for number in range(rounds * cycles)
        }
        return cls(encounters, interval)

    @property
    def last_step(self) -> int:
        """The step of the last encounter of all."""
        return max(self.encounters)

    def evaluation_steps(self, lags: Sequence[int], steps: int | None = None) -> tuple[int, ...]:
        """When to evaluate, in updates done: so many updates after the one with the last encounter.

        A lag of 0 is right after that update, as the papers' final score is. A lag below 0 or
        beyond the end of a run of so many steps is refused.
        """
        if lags and min(lags) < 0:
            raise ValueError(
                f"a lag is {min(lags)}: give updates after the last encounter, 0 or on"
            )
        found = sorted({self.last_step + 1 + lag for lag in lags})
        if steps is not None and found and found[-1] > steps:
            raise ValueError(
                f"an evaluation {max(lags)} steps after the last encounter would be after "
                f"{found[-1]} steps, but the run has {steps}: give lags of at most "
                f"{max(steps - self.last_step - 1, 0)}, or {found[-1]} steps or more"
            )
        return tuple(found)

    def _facts(self) -> Mapping[str, Any]:
        met = sum(map(len, self.encounters.values()))
        steps = f"{min(self.encounters)} to {self.last_step}"
        return {"encounters": met, "steps": steps, "interval": self.interval}

    def check(
        self,
        *,
        steps: int | None,
        rows: int | None,
        row_length: int,
        lengths: Mapping[Encounter, int],
    ) -> None:
        """Refuse a schedule that a run of so many updates cannot carry out (None where that is not
        known), whose batches have so many rows for passages (None for any number) of so many
        tokens, with wordings of these lengths, end token included.
        """
        found: list[str] = []
        last = self.last_step
        if steps is not None and steps < 1:
            found.append(f"the run has {steps} steps: give 1 or more")
        elif steps is not None and self.interval is not None and self.interval > steps:
            found.append(
                f"passages are injected every {self.interval} steps, but the run has {steps}: give "
                "a shorter interval or a longer run"
            )
        elif steps is not None and last >= steps:
            found.append(
                f"the last injection is at step {last}, but the run has {steps} steps, 0 to "
                f"{steps - 1}: give {last + 1} steps or more, a shorter interval or fewer rounds"
            )
        fullest = max(self.encounters, key=lambda step: len(self.encounters[step]))
        most = len(self.encounters[fullest])
        if rows is not None and most > rows:
            found.append(
                f"{most} passages are to be injected at step {fullest}, but a batch has {rows} "
                f"rows: give batches of {most} or more, fewer passages, or mode joined or extra_row"
            )
        planned = list(chain.from_iterable(self.encounters.values()))
        if missing := [encounter for encounter in planned if encounter not in lengths]:
            passage, version = max(missing, key=lambda encounter: encounter.version)
            there = sum(other.passage == passage for other in lengths)
            more = len({encounter.passage for encounter in missing}) - 1
            others = f", as do {more} more passages" * bool(more)
            found.append(
                f"passage {passage} has {there} wordings, but wording {version + 1} is to be "
                f"injected{others}: give {version} paraphrases of each, or at most {there} rounds"
            )
        longer = {e: lengths[e] for e in planned if lengths.get(e, 0) > row_length}
        if longer:
            longest = max(longer, key=longer.__getitem__)
            length = longer[longest]
            others = f" (and {len(longer) - 1} more do not fit)" * (len(longer) > 1)
            found.append(
                f"passage {longest.passage}, version {longest.version}, has {length} tokens with "
                f"its end token, but a row has {row_length}{others}: give rows of {length} or "
                "more, or shorter passages"
            )
        if found:
            raise Refusals(found)

    def describe(self) -> dict[str, Any]:
        """The whole schedule, as JSON takes it."""
        return {
            "interval": self.interval,
            "encounters": {
                str(step): [list(encounter) for encounter in met]
                for step, met in self.encounters.items()
            },
        }


def _rounds(exposures: Exposures, rounds: int, once: OncePlacement) -> list[tuple[Encounter, ...]]:
    """What is met in each round, in the order of the passages."""
    shown_once = [passage for passage, how in exposures.items() if how is Exposure.ONCE]
    share = {
        passage: 0 if once is OncePlacement.FIRST else place * rounds // len(shown_once)
        for place, passage in enumerate(shown_once)
    }
    return [
        tuple(
            Encounter(passage, number if how is Exposure.PARAPHRASE else 0)
            for passage, how in exposures.items()
            if how is not Exposure.HELD_OUT and share.get(passage, number) == number
        )
        for number in range(rounds)
    ]


_BEFORE_A_ROW = (InjectionMode.PREPEND_TRUNCATE, InjectionMode.JOINED)
_ROW_EACH = (InjectionMode.PREPEND_TRUNCATE, InjectionMode.REPLACE)
"""Modes that need a row of the corpus for each passage."""
EncodedPassages = Mapping[Encounter, Int64[Tensor, " pos"]]


def encode_passages(
    knowledge: KnowledgeSet, tokenizer: Any, *, prepend_bos: bool | None = None
) -> dict[Encounter, Int64[Tensor, " pos"]]:
    """Every wording of every passage as token ids, each with the end token after it.

    They begin with a BOS as documents of a corpus do: by `prepend_bos`, or as the tokenizer likes.

    Raises:
        ValueError: there is no tokenizer, or it has no end token.
    """
    if tokenizer is None or tokenizer.eos_token_id is None:
        raise ValueError(
            "passages are encoded and ended by a tokenizer, and "
            f"{'there is none' if tokenizer is None else 'this one has no end token'}: give a "
            "tokenizer with an eos_token"
        )
    texts = {
        Encounter(passage.index, number): passage.version(number)
        for passage in knowledge.passages
        for number in range(passage.versions)
    }
    prompts, end = Prompts(tokenizer, prepend_bos=prepend_bos), tokenizer.eos_token_id
    return {
        encounter: torch.tensor([*prompts.begun(ids), end])
        for encounter, ids in zip(texts, prompts.plain(texts.values()), strict=True)
    }


class InjectedSource:
    """Batches of a corpus with passages put into some of them.

    Args:
        host: the corpus.
        schedule: what is injected when.
        passages: the wordings as token ids, from `encode_passages`.
        mode: where they go.
        document_mask: keep passages and corpus apart.
        steps: updates of the run; by default as many as the corpus has batches.

    Raises:
        ValueError: the schedule cannot be carried out (`InjectionSchedule.check`), or the corpus
            has document numbers and `document_mask` is not set.
    """

    def __init__(
        self,
        host: BatchSource,
        schedule: InjectionSchedule,
        passages: EncodedPassages,
        mode: InjectionMode | str = InjectionMode.PREPEND_TRUNCATE,
        *,
        document_mask: bool = False,
        steps: int | None = None,
    ) -> None:
        self._mode, self._document_mask = as_choice(InjectionMode, mode, "mode"), document_mask
        first = host.batch(0)
        self._rows = first.n_rows
        if first.segment_ids is not None and not document_mask:
            raise ValueError(
                "the corpus keeps its documents apart, but the injected passages would not be: set "
                "document_mask for both or for neither"
            )
        self._host, self._schedule, self._passages = host, schedule, passages
        self.steps_available = host.steps_available
        self._given: set[int] = set()
        schedule.check(
            steps=host.steps_available if steps is None else steps,
            rows=first.n_rows if self._mode in _ROW_EACH else None,
            row_length=first.input_ids.shape[1],
            lengths={encounter: len(ids) for encounter, ids in passages.items()},
        )
        self._refuse_overfull(first.input_ids.shape[1])

    def batch(self, step: int) -> TrainingBatch:
        """What update `step + 1` is made from."""
        host = self._host.batch(step)
        self._given.add(step)
        met = self._schedule.encounters.get(step, ())
        if not met:
            return host
        corpus = _with_segments(host)
        groups = self._groups(met)
        # There may be more rows of their own than rows of the corpus.
        at = range(len(groups)) if self._mode in _BEFORE_A_ROW else [0] * len(groups)
        rows = [
            self._row(group, corpus.rows(slice(place, place + 1)))
            for place, group in zip(at, groups, strict=True)
        ]
        if self._mode is InjectionMode.EXTRA_ROW:
            found = joined([corpus, *rows])
        else:
            found = joined([*rows, corpus.rows(slice(len(rows), None))])
        return found if self._document_mask else replace(found, segment_ids=None)

    def displaced_tokens(self, step: int) -> int:
        """Tokens of the corpus that the passages of `batch(step)` take the place of."""
        met = self._schedule.encounters.get(step, ())
        if not met or self._mode is InjectionMode.EXTRA_ROW:
            return 0
        mask = self._host.batch(step).attention_mask
        if self._mode is InjectionMode.REPLACE:
            return int(mask[: len(met)].sum())
        lengths = [sum(map(len, group)) for group in self._groups(met)]
        return sum(
            int(mask[row, mask.shape[1] - length :].sum()) for row, length in enumerate(lengths)
        )

    def injections_at(self, step: int) -> InjectionRecord | None:
        """What was put into `batch(step)`; None where nothing was."""
        met = self._schedule.encounters.get(step)
        if met is None:
            return None
        passages = [encounter.passage for encounter in met]
        return InjectionRecord(step, passages, self.displaced_tokens(step))

    def assert_complete(self, steps_done: int) -> None:
        """Assert that after so many steps every planned encounter has happened.

        Steps before the first batch that this object gave are a run's that it goes on from.
        """
        started = min(self._given, default=steps_done)
        missed = [
            step
            for step in self._schedule.encounters
            if step >= steps_done or (step >= started and step not in self._given)
        ]
        if missed:
            raise AssertionError(
                f"{len(missed)} planned injections did not happen in {steps_done} steps, the first "
                f"at step {missed[0]}"
            )

    def describe(self) -> dict[str, Any]:
        """The corpus, the schedule and the passages: everything that decides the batches."""
        content = ContentHash()
        for encounter in sorted(self._passages):
            content.add_row(self._passages[encounter].numpy())
        return {
            "kind": "injected",
            "host": self._host.describe(),
            "mode": str(self._mode),
            "document_mask": self._document_mask,
            "passages_sha256": content.value,
            "schedule": self._schedule.describe(),
        }

    def _groups(self, met: Sequence[Encounter]) -> list[list[Int64[Tensor, "_"]]]:
        """The passages of a step, by the rows that they go into."""
        ids = [self._passages[encounter] for encounter in met]
        count = len(ids) if self._mode is not InjectionMode.JOINED else min(len(ids), self._rows)
        ends = [number * len(ids) // count for number in range(count + 1)]
        return [ids[start:end] for start, end in pairwise(ends)]

    def _refuse_overfull(self, row_length: int) -> None:
        for step, met in self._schedule.encounters.items():
            for number, group in enumerate(self._groups(met)):
                if (tokens := sum(map(len, group))) > row_length:
                    raise ValueError(
                        f"{len(group)} passages joined in row {number} of step {step} have "
                        f"{tokens} tokens, but a row has {row_length}: give longer rows, larger "
                        "batches or fewer passages"
                    )

    def _row(self, group: Sequence[Int64[Tensor, "_"]], corpus: TrainingBatch) -> TrainingBatch:
        """A row with passages at its beginning, then a row of the corpus or pads."""
        ids = torch.cat(list(group))
        if self._mode in _BEFORE_A_ROW:
            assert corpus.segment_ids is not None
            real, labels = corpus.attention_mask.bool(), corpus.labels
            if self._document_mask:
                labels = labels.clone()
                labels[0, 0] = IGNORED
            # Numbers up to this one are the passages'.
            segments = torch.where(real, corpus.segment_ids + len(group), PAD_SEGMENT)
            rest = (corpus.input_ids, labels, corpus.attention_mask, segments)
        else:
            blank = torch.ones_like(corpus.input_ids)
            rest = (blank * ids[-1], blank * IGNORED, blank * 0, blank * PAD_SEGMENT)
        own = ids[None]
        numbers = torch.cat([torch.full_like(one, n) for n, one in enumerate(group)])[None]
        targets = own
        if self._document_mask:
            # The first token of a passage is not predicted from the end of the one before it.
            begins = torch.cat([torch.zeros_like(own[:, :1]), numbers.diff(dim=1)], dim=1)
            targets = own.masked_fill(begins.bool(), IGNORED)
        passage = (own, targets, torch.ones_like(own), numbers)
        width = corpus.input_ids.shape[1]
        ids, labels, mask, segments = (
            torch.cat(pair, dim=1)[:, :width] for pair in zip(passage, rest, strict=True)
        )
        return TrainingBatch(ids, labels, mask, segments)


def _with_segments(batch: TrainingBatch) -> TrainingBatch:
    """A batch with document numbers; where it has none, a row is one document."""
    segments = batch.segment_ids
    if segments is None:
        real = batch.attention_mask.bool()
        segments = torch.where(real, torch.zeros_like(batch.input_ids), PAD_SEGMENT)
    return TrainingBatch(batch.input_ids, batch.labels, batch.attention_mask, segments)
