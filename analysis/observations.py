"""Observations: what was seen of a model while it was trained, as tables.

Every kind of observation becomes one table with a `step`, the number of updates done; those of
single items are in the layouts of `analysis.metrics`, so that `analysis.acquisition`,
`analysis.forgetting` and `analysis.knowledge_scores` take them as they are. Losses, entropies and
log-probabilities are in nats.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from analysis.numbers import shorten, shown_path
from probes.shown import Shown
from training.runs.records import (
    EntropyRecord,
    NeuronRecord,
    PerplexityRecord,
    Record,
    ScoresRecord,
    TaskRecord,
    read_items,
)
from training.tasks import TASKS as DOWNSTREAM
from training.tasks import TaskMetric

TEXT, TASKS, FACTS, ENTROPY, NEURONS = "text", "tasks", "facts", "entropy", "neurons"
TRAINING, PROBES = "training", "knowledge probes"  # groups of measures
RECALLED, DORMANT = "facts recalled", "dormant neurons"
ENTROPIES = {
    "knowledge": "knowledge entropy",
    "contribution": "contribution entropy",
    "attention": "attention entropy",
    "next_token": "next-token entropy",
}
"""Kinds of entropy, and what their measures are called."""
WORDING = "facts, log-probability, {} wording"
_TASK_SCORES = "step task metric score chance"
_PERPLEXITIES = "step corpus mean_loss bits_per_byte tokens"
_ENTROPIES = "step kind layer entropy low high"


@dataclass(frozen=True)
class ItemScores(Shown):
    """Scores of the items of one list, at every step at which they were scored."""

    items: pd.DataFrame  # one row per item, as the run wrote it down
    steps: Int[np.ndarray, "step"]
    log_probs: Float[np.ndarray, "step item"]  # in nats

    def at(self, step: int) -> pd.DataFrame:
        """The items with their `log_prob` at a step."""
        (places,) = np.nonzero(self.steps == step)
        if not len(places):
            there = shorten(", ".join(map(str, self.steps)), 60)
            raise ValueError(
                f"items were not scored at step {step}, only at {there}; ask for one of those"
            )
        return self.items.assign(step=step, log_prob=self.log_probs[places[0]])

    def table(self) -> pd.DataFrame:
        """The items with their `log_prob` at every step, one below the other."""
        long = self.items.loc[np.tile(self.items.index, len(self.steps))].reset_index(drop=True)
        return long.assign(
            step=np.repeat(self.steps, len(self.items)), log_prob=self.log_probs.reshape(-1)
        )


@dataclass(frozen=True, kw_only=True)
class Observations(Shown):
    """What was seen of a model, as tables."""

    scores: Mapping[str, ItemScores]  # scores by the name of the list of items
    task_scores: pd.DataFrame
    """`step`, `task`, `metric`, `score`, and `chance`, the score of one who guesses; the recall of
    earlier facts is among them, as `cloze`."""
    perplexities: pd.DataFrame  # `step`, `corpus`, `mean_loss`, `bits_per_byte`, `tokens`
    entropies: pd.DataFrame
    """`step`, `kind`, `layer` (missing for totals), `entropy`, `low`, `high`."""
    neurons: pd.DataFrame  # `step`, `layer`, `dormant_share`

    @property
    def probe_scores(self) -> ItemScores:
        """The knowledge probes; columns `passage`, `probe`, `kind`, `exposure`, and more."""
        found = [s for s in self.scores.values() if {"passage", "probe"} <= {*s.items.columns}]
        if len(found) != 1:
            raise ValueError(
                f"{len(found) or 'no'} lists of knowledge probes were scored, among "
                f"{', '.join(self.scores) or 'no lists'}; take one of `scores` by its name"
            )
        return found[0]

    @property
    def probes(self) -> pd.DataFrame:
        """The knowledge probes at every step, in the layout of `PROBE_TABLE`."""
        return self.probe_scores.table()

    @property
    def fact_scores(self) -> ItemScores | None:
        """Earlier facts that were asked for; None where there were none."""
        return next((s for s in self.scores.values() if "alternatives" in s.items.columns), None)

    @cached_property
    def tasks(self) -> pd.DataFrame:
        """Every question of the downstream tasks, in the layout of `TASK_TABLE`, with `step`."""
        metrics = dict(zip(self.task_scores["task"], self.task_scores["metric"], strict=True))
        tables = [
            _answered(name, scores, TaskMetric(metrics[name]))
            for name, scores in self.scores.items()
            if "choice" in scores.items.columns and name in metrics
        ]
        none = pd.DataFrame(columns=["task", "item", "score", "step"])
        return pd.concat(tables, ignore_index=True) if tables else none


def rows_where(table: pd.DataFrame, **values: Any) -> pd.DataFrame:
    """Rows with these values in their columns; None stands for a missing one, a list for any."""
    for name, value in values.items():
        column = table[name]
        known = column.isin(value) if isinstance(value, list) else column == value
        table = table[column.isna() if value is None else known]
    return table


def observations_of(path: Path, records: Sequence[Any]) -> dict[str, Any]:
    """The fields of `Observations`, from records of a run."""
    scores = _item_scores(path, records)
    tasks = [
        (r.step, r.task, r.metric, r.score, _chance(scores.get(r.items)))
        for r in records_of_kind(records, TaskRecord)
    ]
    entropies = [
        row
        for r in records_of_kind(records, EntropyRecord)
        for row in (
            (r.step, r.kind, None, r.total, *(r.interval or (None, None))),
            *((r.step, r.kind, layer, h, None, None) for layer, h in enumerate(r.per_layer)),
        )
    ]
    neurons = [
        (r.step, layer, share)
        for r in records_of_kind(records, NeuronRecord)
        for layer, share in enumerate(r.dormant_share)
    ]
    bounds = {"layer": "Int64", "low": float, "high": float}
    return {
        "scores": scores,
        "task_scores": pd.DataFrame(tasks, columns=_TASK_SCORES.split()),
        "perplexities": record_table(records, PerplexityRecord, _PERPLEXITIES.split()),
        "entropies": pd.DataFrame(entropies, columns=_ENTROPIES.split()).astype(bounds),
        "neurons": pd.DataFrame(neurons, columns=["step", "layer", "dormant_share"]),
    }


def _item_scores(path: Path, records: Sequence[Any]) -> dict[str, ItemScores]:
    by_list: dict[str, list[ScoresRecord]] = {}
    for record in records_of_kind(records, ScoresRecord):
        by_list.setdefault(record.items, []).append(record)
    found = {}
    for name, scored in by_list.items():
        items = pd.DataFrame(read_items(path, name))
        if wrong := [record for record in scored if len(record.log_probs) != len(items)]:
            raise ValueError(
                f"the run {path} scored {len(wrong[0].log_probs)} items at step {wrong[0].step}, "
                f"but its list {name!r} has {len(items)}; its files are not of one run"
            )
        steps = np.array([record.step for record in scored], dtype=np.int64)
        log_probs = np.array([record.log_probs for record in scored], dtype=np.float64)
        found[name] = ItemScores(items, steps, log_probs)
    return found


def _answered(task: str, scores: ItemScores, metric: TaskMetric) -> pd.DataFrame:
    """Whether each question is answered right at each step, by the task's metric."""
    ranked = scores.log_probs
    if metric is TaskMetric.LEN_NORM:
        ranked = ranked / scores.items["characters"].to_numpy()
    questions, names = pd.factorize(scores.items["question"])
    # The first of several best choices counts.
    best = pd.DataFrame(ranked.T).groupby(questions).idxmax().to_numpy().T
    return pd.DataFrame(
        {
            "task": task,
            "item": np.tile(names, len(scores.steps)),
            "score": scores.items["right"].to_numpy(dtype=float)[best].reshape(-1),
            "step": np.repeat(scores.steps, len(names)),
        }
    )


def _chance(scores: ItemScores | None) -> float | None:
    """The score of one who guesses; None where the choices are not known."""
    items = pd.DataFrame() if scores is None else scores.items
    if "choice" in items.columns:
        return float((1 / items.groupby("question").size()).mean())
    if "alternatives" in items.columns:
        return float((1 / (1 + items["alternatives"].map(len))).mean())
    return None


def records_of_kind(records: Iterable[Any], kind: type[Any]) -> list[Any]:
    """The records of one kind."""
    return [record for record in records if isinstance(record, kind)]


def record_table(
    records: Iterable[Any], kind: type[Record], columns: Sequence[str]
) -> pd.DataFrame:
    """Records of one kind, a row each; columns are fields."""
    rows = [tuple(getattr(r, name) for name in columns) for r in records_of_kind(records, kind)]
    return pd.DataFrame(rows, columns=list(columns))


def levels_at(
    seen: Observations, step: int, text: str = "{unit}, {corpus}"
) -> Iterator[tuple[str, str, float]]:
    """Group, measure and value of everything that was seen at a step; `text` names texts."""
    for row in rows_where(seen.perplexities, step=step).itertuples():
        known = not pd.isna(row.bits_per_byte)
        unit = "bits per byte" if known else "loss"
        measure = text.format(unit=unit, corpus=shown_path(str(row.corpus)))
        yield TEXT, measure, row.bits_per_byte if known else row.mean_loss
    for row in rows_where(seen.task_scores, step=step).itertuples():
        is_task = row.task in list(DOWNSTREAM)
        yield (TASKS, str(row.task), row.score) if is_task else (FACTS, RECALLED, row.score)
    if (facts := seen.fact_scores) is not None and step in facts.steps:
        for wording, rows in facts.at(step).groupby("wording", sort=False):
            yield FACTS, WORDING.format(wording), rows["log_prob"].mean()
    for row in rows_where(seen.entropies, step=step, layer=None).itertuples():
        yield ENTROPY, ENTROPIES.get(row.kind, row.kind), row.entropy
    dormant = rows_where(seen.neurons, step=step)["dormant_share"]
    if len(dormant):
        yield NEURONS, DORMANT, float(dormant.mean())


def levels_table(seen: Observations) -> pd.DataFrame:
    """Everything that was seen, at every step: `step`, `group`, `measure`, `value`."""
    tables = (seen.task_scores, seen.perplexities, seen.entropies, seen.neurons)
    steps = {int(step) for table in tables for step in table["step"]}
    steps |= {int(step) for scores in seen.scores.values() for step in scores.steps}
    rows = [(step, *level) for step in sorted(steps) for level in levels_at(seen, step)]
    for name, scores in seen.scores.items():
        if {"passage", "probe"} <= {*scores.items.columns}:
            means = zip(scores.steps.tolist(), scores.log_probs.mean(axis=1), strict=True)
            measure = f"{name}, mean log-probability"
            rows += [(step, PROBES, measure, float(value)) for step, value in means]
    return pd.DataFrame(rows, columns=["step", "group", "measure", "value"])


def guessing(tables: Iterable[pd.DataFrame]) -> float | None:
    """The share of facts that one recalls who guesses among the values that an item offers."""
    found = [table.loc[~table["task"].isin(list(DOWNSTREAM)), "chance"] for table in tables]
    known = [float(one.mean()) for chances in found if len(one := chances.dropna().astype(float))]
    return float(np.mean(known)) if known else None
