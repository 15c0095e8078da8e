"""Memorization cells: published shares of facts kept against runs of ours.

A cell stands for runs with the same data at both stages; a mean over sets for runs with any later
set of its kind, matched set by set between arms. Mixes are taken in the amount that most runs have.

Example:
    >>> measure_kept(published_named("chen-table-2-KVR-both-LAMA-accuracy"), None, rows)
    ... # doctest: +SKIP
"""

from collections.abc import Mapping

import pandas as pd

from analysis.claims.measurements import NONE, Table
from analysis.claims.memorization_settings import (
    FACTOID,
    NO_REPLAY,
    NON_FACTOID,
    RIGHT,
    mixed,
    replayed,
)
from analysis.claims.selection import UNEDITED, Arm, Setting, Settings, rows_with
from analysis.published.acquisition_cells import PERCENT
from analysis.published.catalogue import PUBLISHED
from analysis.published.comparing import Measured
from analysis.published.continual_memorization import (
    FACTOID_COLUMNS,
    FAMILIAR,
    IN_DOMAIN,
    MEANS,
    MIXING,
    OTHER_COLUMNS,
    TWO_STAGES,
)
from analysis.published.records import Published
from analysis.published.result_names import MIX_CORPUS, SETS
from analysis.published.result_rows import ResultRows, Said, measured_arm, usual
from analysis.statistics.tests import ScaleError

_GENERIC, _RANDOM = "generic", "random"
_MIXES: Mapping[str, Arm] = {
    "none": mixed(None, None),
    "random at A": mixed(_RANDOM, None),
    "generic at A": mixed(_GENERIC, None),
    "random later": mixed(None, _RANDOM),
    "generic later": mixed(None, _GENERIC),
    "both": mixed(_RANDOM, _GENERIC),
    "random": mixed(None, _RANDOM),
    "knowledge pile": mixed(None, _GENERIC),
    "arxiv": mixed(None, _GENERIC),
    "fineweb": mixed(None, _GENERIC),
}
"""Of the tables, by what stands in their rows."""
_CORPORA = ("knowledge pile", "arxiv", "fineweb")
"""Generic text; the first is what the paper means by it where it says no more."""
_NO_AMOUNT: Settings = {"mix_ratio": None, "mix_words": None}
_KINDS: Mapping[str, Settings] = {MEANS[0]: FACTOID, MEANS[1]: NON_FACTOID, TWO_STAGES: FACTOID}


def measure_kept(published: Published, base: Published | None, rows: ResultRows) -> Measured:
    """What results say of a share of facts kept."""
    frame = _runs(published, rows)
    arm = _arm(published, frame)
    across = base is not None and base.conditions["later"] != published.conditions["later"]
    return measured_arm(
        frame,
        Table.MEMORIZATION,
        arm,
        lambda: _arm(base, frame) if base else _told_base(published),
        factor=PERCENT,
        averaged=("later",) if across else (),
        conditions=_conditions(published, arm, frame, rows),
        rows=f"{arm.name}; {', '.join(sorted(_later(frame, arm)))} later",
    )


def _runs(published: Published, rows: ResultRows) -> pd.DataFrame:
    """Runs with the data of a cell."""
    wanted = published.conditions
    first, later = wanted["first"], wanted["later"]
    familiar = wanted.get("facts") == FAMILIAR
    stages: Settings = {"stages": 3, "moment": "after C"} if later == TWO_STAGES else {}
    where = {**RIGHT, **UNEDITED, "equal": None, "first": SETS[first], "familiar": familiar}
    words = f"{'familiar ' if familiar else ''}{first} at stage A, {'three' if stages else 'two'}"
    frame = rows.having(Table.MEMORIZATION, {**where, **stages}, f"{words} stages")
    if later in _KINDS:
        return frame
    names = SETS[first if later == IN_DOMAIN else later]
    found = rows_with(frame, {"later": names})
    if found.empty:
        raise ScaleError(f"no results of {words} stages with {later} later")
    return found


def _arm(published: Published, frame: pd.DataFrame) -> Arm:
    wanted = published.conditions
    kind = _KINDS.get(wanted["later"], {})
    if "replay ratio" in wanted:
        ratio = float(wanted["replay ratio"])
        plain = _MIXES["none"].settings
        arm = replayed(ratio) if ratio else Arm("no replay", {**plain, **NO_REPLAY})
        return Arm(arm.name, {**arm.settings, **_NO_AMOUNT, **kind})
    mix = _MIXES[wanted.get("mix", wanted.get("mix later", "none"))]
    settings = {**mix.settings, **NO_REPLAY, **kind}
    found = rows_with(frame, settings)
    if found.empty:
        raise ScaleError(f"no rows of: {mix.name}")
    amount = usual(found, "mix_ratio", "mix_words").iloc[0]
    kept = {name: None if amount[name] == NONE else amount[name] for name in _NO_AMOUNT}
    return Arm(mix.name, {**settings, **kept})


def _told_base(published: Published) -> Arm | None:
    """No mix and no replay, where the text compares with that."""
    if published.told is None:
        return None
    kind = _KINDS.get(published.conditions["later"], {})
    return Arm("no mix", {**_MIXES["none"].settings, **NO_REPLAY, **_NO_AMOUNT, **kind})


def _conditions(
    published: Published, arm: Arm, frame: pd.DataFrame, rows: ResultRows
) -> dict[str, str]:
    """What is known of the runs; what they were chosen by is met."""
    wanted, said = published.conditions, rows.conditions(Table.MEMORIZATION)
    chosen = ("first", "facts", "mix", "replay ratio", "mix later")
    met = {name: wanted[name] for name in chosen if name in wanted}
    if _GENERIC in (arm.settings["mix_first"], arm.settings["mix_later"]):
        met |= _generic_text(published, said)
    later = _later(frame, arm)
    full = wanted["later"] not in _KINDS or later == _expected(published)
    met["later"] = wanted["later"] if full else " and ".join(sorted(later))
    met["mixing"] = _mixing(arm)
    return {**met, **said}


def _generic_text(published: Published, said: Said) -> dict[str, str]:
    """A mix of generic text is a published one where the text is the same."""
    name = "mix" if "mix" in published.conditions else "mix later"
    wanted = published.conditions[name]
    text = said.get(MIX_CORPUS, "not said")
    same = text == (wanted if wanted in _CORPORA else _CORPORA[0])
    return {name: wanted if same else f"{_GENERIC} text: {text}"}


def _mixing(arm: Arm) -> str:
    """How much is mixed in, as the papers have it for runs with no mix."""
    ratio, words = (arm.settings[name] for name in _NO_AMOUNT)
    if ratio is None:
        return MIXING
    return f"{_plain(ratio)} items of {_plain(words)} words"


def _plain(number: Setting) -> str:
    return f"{number:g}" if isinstance(number, int | float) else str(number)


def _expected(published: Published) -> set[str]:
    """The later sets that a mean is over; those of three stages are not said."""
    later, first = published.conditions["later"], published.conditions["first"]
    if later == TWO_STAGES:
        return {TWO_STAGES}
    if later == MEANS[1]:
        return set(OTHER_COLUMNS)
    in_domain = published.identifier.replace(MEANS[0].replace(" ", "-"), IN_DOMAIN)
    has_own = in_domain != published.identifier and in_domain in PUBLISHED
    return {*FACTOID_COLUMNS, first} if has_own else set(FACTOID_COLUMNS)


def _later(frame: pd.DataFrame, arm: Arm) -> set[str]:
    """Later sets of an arm, by their published names where they have one."""
    published = {name: known for known, names in SETS.items() for name in names}
    return {published.get(str(name), str(name)) for name in rows_with(frame, arm.settings)["later"]}
