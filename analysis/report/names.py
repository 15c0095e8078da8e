"""Names: what arms are called on the page, from the settings in tables of measurements.

They are those of the reports of runs, so that figures made of tables and of runs have the same.

Example:
    >>> row = {"site": "up", "ratio": 0.5, "factor": 2.0, "control": NONE, "temperature": NONE}
    >>> edit_name(row)
    'up, ratio 0.5, factor 2'
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.arms import PLAIN_NAME, UNEDITED_NAME, edit_label
from analysis.measurements import NONE
from analysis.numbers import shown_value
from training.choices import Replay

SETTINGS = (
    "trajectory",
    "step",
    "novelty",
    "batch_size",
    "learning_rate",
    "interval",
)
"""Settings of a run of continual knowledge learning, but for its edit and its seed; the trajectory
tells the size of the model."""
EDITS = ("site", "ratio", "factor", "control", "temperature")
MIXES = ("mix_first", "mix_later", "mix_ratio", "mix_words", "replay", "replay_ratio", "equal")
_LATER = {2: "at B"}
"""Where later stages are, by how many stages there are."""
_CALLED = {"interval": "injection interval", "novelty": "text"}


def without_seed(name: object, seed: int) -> str:
    """What a model is called, whatever the seed of its own pretraining."""
    return str(name).removesuffix(f"-seed-{seed}")


def control_strengths(rows: pd.DataFrame) -> list[str]:
    """Ratio and factor, where controls differ in them; the names of controls do not say them."""
    controls = rows[rows["control"] != NONE]
    return [name for name in ("ratio", "factor") if controls[name].nunique() > 1]


def edit_name(row: Mapping[str, Any], told: Sequence[str] = ()) -> str:
    """How a start was edited."""
    strengths = [name for name in ("ratio", "factor") if name in told and row["control"] != NONE]
    known = {name: None if row[name] == NONE else row[name] for name in EDITS}
    label = edit_label(
        {
            "resuscitation_ratio": known["ratio"],
            "resuscitation_factor": known["factor"],
            "resuscitation_site": known["site"],
            "control": known["control"],
            "attention_temperature": known["temperature"],
            "temperature_schedule": "constant",
        }
    )
    return ", ".join([label, *(f"{name} {row[name]:g}" for name in strengths)])


def run_name(row: Mapping[str, Any], told: Sequence[str]) -> str:
    """What tells runs of continual knowledge learning apart."""
    parts = []
    start = [f"step {row['step']:,}"] if "step" in told and row["step"] != NONE else []
    if "trajectory" in told:
        parts.append(" at ".join([str(row["trajectory"]), *start]))
    else:
        parts += start
    for name in dict.fromkeys(told):
        if name not in ("trajectory", "step") and row[name] != NONE:
            parts.append(f"{_CALLED.get(name, name).replace('_', ' ')} {shown_value(row[name])}")
    return ", ".join(parts) or "all runs"


def memory_name(row: Mapping[str, Any], told: Sequence[str]) -> str:
    """What is done beside plain training of one stage after the other."""
    later = _LATER.get(row["stages"], "later")
    places = {"mix_first": "at A", "mix_later": later}
    parts = [f"{row[name]} {where}" for name, where in places.items() if row[name] != NONE]
    if row["equal"] != NONE:
        parts = [f"{PLAIN_NAME}, as many {row['equal']} as with a mix"]
    if row["replay"] != NONE:
        kind = "self-generated replay" if row["replay"] == Replay.SELF else "replay"
        parts.append(f"{kind} of {100 * row['replay_ratio']:g} %")
    if (edit := edit_name(row, told)) != UNEDITED_NAME:
        parts.append(f"{edit} before A")
    parts = parts or [PLAIN_NAME]
    amounts = {"mix_ratio": "\N{MULTIPLICATION SIGN}{:g}", "mix_words": "{:g} words"}
    parts += [
        form.format(row[name])
        for name, form in amounts.items()
        if name in told and row[name] != NONE
    ]
    return ", ".join(parts)


def with_names(rows: pd.DataFrame, column: str, names: Sequence[str]) -> pd.DataFrame:
    """Rows with names in a column of their own."""
    return rows.assign(**{column: pd.Series(list(names), index=rows.index, dtype=object)})
