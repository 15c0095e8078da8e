"""Measurements: the tables that reports, claims and the page read, and what is in their columns.

There are four, one for each kind of run. All have a row for each value, with `measure`, `value`
and `seed`; `cluster` names the passage, question or fact that a value belongs to, and is missing
for what is a number of a whole run. The other columns are settings: an effect is a difference
between rows that agree in all of them but the ones that a claim varies. A setting that does not
apply is missing. Rows without a number (forgetting that is not tested, say) are left out.

| table          | a row is                                         | made by                      |
|----------------|--------------------------------------------------|------------------------------|
| `PRETRAINING`  | an entropy of a checkpoint                       | `analysis.entropy_measures`  |
| `UPDATES`      | a correlation over the memory vectors of a layer | `analysis.entropy_measures`  |
| `ACQUISITION`  | a score of a run of continual knowledge learning | `analysis.ckl_rows`          |
| `MEMORIZATION` | a score of a run of continual memorization       | `analysis.remix_rows`        |

`COLUMNS` says what each column means, `MEASURES` what each table can have values of, and in which
unit. A moment is a `Moment` of `analysis.runs`, or "after A", "after B"; measures of `PRETRAINING`
are those of `trajectory.csv`.

Example:
    >>> sorted(COLUMNS[Table.PRETRAINING])
    ['corpus', 'layer', 'measure', 'seed', 'step', 'value']
"""

from collections.abc import Mapping
from enum import StrEnum

import numpy as np
import pandas as pd

NONE = "(none)"
"""What a missing setting is called in tables that were `checked`."""
SOURCE = "source"
"""The column, in tables that are being made, that says which result a row is from."""


class Table(StrEnum):
    """Kinds of measurements."""

    PRETRAINING = "pretraining"
    ACQUISITION = "acquisition"
    MEMORIZATION = "memorization"
    UPDATES = "updates"


_EVERY = {
    "seed": "number of the run, the same in runs that are compared",
    "measure": "what the value is of",
    "value": "finite; its unit is that of the measure",
}
_EDIT = {
    "site": "of a resuscitation: up, down, preserving, gate",
    "ratio": "share of neurons resuscitated",
    "factor": "of a resuscitation",
    "control": "what was done instead of a resuscitation (a `Control`)",
    "temperature": "of attention",
}
COLUMNS: Mapping[Table, Mapping[str, str]] = {
    Table.PRETRAINING: {
        **_EVERY,
        "seed": "of the pretraining run",
        "step": "updates of pretraining",
        "corpus": "measured on",
        "layer": "from 0; missing for what is a number of the model",
    },
    Table.ACQUISITION: {
        **_EVERY,
        **_EDIT,
        "trajectory": "name of the pretraining run that the start is from",
        "step": "updates of pretraining of the start",
        "parameters": "of the model",
        "novelty": "of the text trained on: new, familiar",
        "batch_size": "rows of an update",
        "learning_rate": "the largest",
        "interval": "updates from an encounter to the next",
        "spacing": "whether that is within or beyond the learnability threshold",
        "exposure": "met, paraphrase, duplication, once, held_out",
        "kind": "of probe, or all",
        "moment": "a `Moment`",
        "against": "the start that a change is from: start, unedited start",
        "cluster": "passage, question or fact",
    },
    Table.MEMORIZATION: {
        **_EVERY,
        **_EDIT,
        "first": "data of stage A",
        "later": "data of later stages",
        "later_kind": "factoid, non-factoid",
        "stages": "how many",
        "familiar": "whether the start knew the facts asked for",
        "mix_first": "mixed in at stage A: random, generic",
        "mix_later": "mixed in at later stages: random, generic",
        "mix_ratio": "items mixed in, over the stage's own",
        "mix_words": "words of an item mixed in",
        "replay": "items, self; missing for none",
        "replay_ratio": "share of earlier items shown again",
        "equal": "what a control without a mix has as much of as a run with it: steps, tokens",
        "moment": "after A, after B, ...",
        "cluster": "fact",
    },
    Table.UPDATES: {
        **_EVERY,
        "step": "updates of pretraining",
        "layer": "from 0",
    },
}
"""By table and column, what is in it."""
MEASURES: Mapping[Table, Mapping[str, str]] = {
    Table.PRETRAINING: {
        "|c|": "knowledge entropy, nats",
        "max(c, 0)": "knowledge entropy of positive coefficients, nats",
        "|max(gate, 0) · up|": "knowledge entropy with a ReLU for the gate, nats",
        "|c| · ‖v‖": "contribution entropy, nats",
        "attention": "attention entropy, nats",
        "next-token": "next-token entropy, nats",
    },
    Table.ACQUISITION: {
        "K": "log-probability of probes, nats, by passage",
        "P": "accuracy of downstream tasks, by question, each weighted by the size of its task",
        "A": "acquisition, share, of a run",
        "F": "forgetting, share, of a run",
        "effectivity": "gain of an encounter at its local maximum, nats, by passage",
        "rise": "change of the log-probability over the update of an encounter, nats, by passage",
        "fall": "change from a local maximum to the next encounter, nats, by passage",
        "slope": "of the forgetting curve, share a decade of steps, of a run",
        "AIC over power": "of a power less that of a line in log steps, of a run",
        "AIC over exponential": "of an exponential less that of a line in log steps, of a run",
        "net gain": "left of all encounters one interval after the last, nats, by passage",
        "knowledge entropy": "of the start before any edit, nats, of a run",
        "gain of log-probability": "since the start, nats, of a run",
        "gain of generated": "rise of the share generated since the start, of a run",
    },
    Table.MEMORIZATION: {
        "share right": "of the facts of stage A, 1 or 0 by fact",
        "first layer": "where a fact of stage A is readable, layers, by fact",
        "effective layers": "over which first layers spread, layers, of a run",
    },
    Table.UPDATES: {
        "gradients": "rank correlation of gradient norms with mean coefficients",
        "updates": "rank correlation of update norms under Adam with mean coefficients",
    },
}
"""By table and measure, what it is."""
BY_ITEM = (
    *("K", "P", "effectivity", "rise", "fall", "net gain"),
    *("share right", "first layer"),
)
"""Measures that have a value for each passage, question or fact."""


def settings_of(table: Table) -> tuple[str, ...]:
    """The columns of a table that describe a row, `seed` and `cluster` among them."""
    return tuple(name for name in COLUMNS[table] if name not in ("measure", "value"))


def checked(table: Table, frame: pd.DataFrame, *, finite: bool = True) -> pd.DataFrame:
    """A table that claims can be tested on, with missing settings made `NONE`."""
    wanted = COLUMNS[table]
    missing = [name for name in wanted if name not in frame.columns]
    unknown = [str(name) for name in frame.columns if name not in wanted]
    if missing or unknown:
        raise ValueError(
            f"the table {table.value!r} lacks the columns {', '.join(missing) or 'none'} and has "
            f"the unknown ones {', '.join(unknown) or 'none'}; give {', '.join(wanted)}"
        )
    others = sorted(set(frame["measure"].astype(str)) - set(MEASURES[table]))
    if others:
        raise ValueError(
            f"the table {table.value!r} has an unknown measure {others[0]!r}; choose from "
            f"{', '.join(MEASURES[table])}"
        )
    values = frame["value"].to_numpy(dtype=float)
    wrong = int((~np.isfinite(values)).sum()) if finite else 0
    if wrong or frame["seed"].isna().any():
        raise ValueError(
            f"the table {table.value!r} has {wrong} values that are not finite and "
            f"{int(frame['seed'].isna().sum())} rows without a seed; leave these out"
        )
    named = frame.reset_index(drop=True).astype({"value": float})
    for column in settings_of(table):
        kept = named[column].astype(object)
        named[column] = kept.where(named[column].notna(), NONE)
    return named


def of_one_source_each(table: Table, frame: pd.DataFrame) -> pd.DataFrame:
    """A table without its `SOURCE`, if it has every value once."""
    keys = [*settings_of(table), "measure"]
    repeated = frame[frame.duplicated(keys, keep=False)]
    if len(repeated):
        first = repeated.iloc[0]
        groups = repeated.groupby(keys, sort=False, dropna=False)[SOURCE]
        one, other, *_ = next(sources for _, sources in groups)
        raise ValueError(
            f"{one} and {other} both have {first['measure']!r} of seed {first['seed']} with the "
            f"same settings of the table {table.value!r}; give one of them"
        )
    return frame.drop(columns=SOURCE).reset_index(drop=True)
