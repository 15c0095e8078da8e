"""Memorization selectors: which runs stand for a share of facts kept of Chen et al.

A cell stands for runs with the same data at both stages; a mean over sets for runs with any later
set of its kind, matched set by set between arms. Mixes are taken in the amount that most runs have.
"""

from collections.abc import Mapping

import pandas as pd

from analysis.claims.measurements import NONE, Table
from analysis.claims.selection import (
    FACTOID,
    NO_REPLAY,
    NON_FACTOID,
    RIGHT,
    UNEDITED,
    Arm,
    Setting,
    Settings,
    mixed,
    replayed,
    rows_with,
)
from analysis.published.comparing import Measured
from analysis.published.published_numbers import PUBLISHED, Published
from analysis.published.result_rows import PERCENT, Conditions, ResultRows, measured_arm, usual
from analysis.published.result_settings import FAMILIAR, MIX_CORPUS, SETS
from analysis.statistics.tests import ScaleError

_FACTOID_MEAN, _OTHER_MEAN, _TWO_STAGES, _IN_DOMAIN = (
    "factoid mean",
    "other mean",
    "two stages",
    "ID",
)
_FACTOID_SETS, _OTHER_SETS = ("LAMA", "EQ", "WQ"), ("GSM8K", "MATH", "EC", "APPS", "UC")
_KINDS: Mapping[str, Settings] = {
    _FACTOID_MEAN: FACTOID,
    _OTHER_MEAN: NON_FACTOID,
    _TWO_STAGES: FACTOID,
}
_GENERIC, _RANDOM = "generic", "random"
_CORPORA = ("knowledge pile", "arxiv", "fineweb")
"""Generic text; the first is what the paper means by it where it says no more."""
_MIXES: Mapping[str, Arm] = {
    "none": mixed(None, None),
    "random at A": mixed(_RANDOM, None),
    "generic at A": mixed(_GENERIC, None),
    "random later": mixed(None, _RANDOM),
    "generic later": mixed(None, _GENERIC),
    "both": mixed(_RANDOM, _GENERIC),
    "random": mixed(None, _RANDOM),
    **dict.fromkeys(_CORPORA, mixed(None, _GENERIC)),
}
"""Mixes by their names in the tables."""
_NO_AMOUNT: Settings = {"mix_ratio": None, "mix_words": None}
_USUAL_AMOUNT = "2 items of 50 words"
"""What is mixed in for each item of a stage, wherever something is."""


def memorization_measured(
    published: Published, base: Published | None, rows: ResultRows
) -> Measured:
    """What results say of a share of facts kept."""
    frame = _memorized(published, rows)
    arm = _mix_or_replay(published, frame)
    across = base is not None and base.conditions["later"] != published.conditions["later"]
    return measured_arm(
        frame,
        Table.MEMORIZATION,
        arm,
        lambda: _mix_or_replay(base, frame) if base else _told_base(published),
        factor=PERCENT,
        averaged=("later",) if across else (),
        conditions=_kept_conditions(published, arm, frame, rows),
        rows=f"{arm.name}; {', '.join(sorted(_later(frame, arm)))} later",
    )


def _memorized(published: Published, rows: ResultRows) -> pd.DataFrame:
    """Runs with the data of a cell."""
    wanted = published.conditions
    first, later = wanted["first"], wanted["later"]
    familiar = wanted.get("facts") == FAMILIAR
    stages: Settings = {"stages": 3, "moment": "after C"} if later == _TWO_STAGES else {}
    where = {**RIGHT, **UNEDITED, "equal": None, "first": SETS[first], "familiar": familiar}
    words = f"{'familiar ' if familiar else ''}{first} at stage A, {'three' if stages else 'two'}"
    frame = rows.having(Table.MEMORIZATION, {**where, **stages}, f"{words} stages")
    if later in _KINDS:
        return frame
    found = rows_with(frame, {"later": SETS[first if later == _IN_DOMAIN else later]})
    if found.empty:
        raise ScaleError(f"no results of {words} stages with {later} later")
    return found


def _mix_or_replay(published: Published, frame: pd.DataFrame) -> Arm:
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
    amounts = {name: None if amount[name] == NONE else amount[name] for name in _NO_AMOUNT}
    return Arm(mix.name, {**settings, **amounts})


def _told_base(published: Published) -> Arm | None:
    """No mix and no replay, where the text compares with that."""
    if published.told is None:
        return None
    kind = _KINDS.get(published.conditions["later"], {})
    return Arm("no mix", {**_MIXES["none"].settings, **NO_REPLAY, **_NO_AMOUNT, **kind})


def _kept_conditions(
    published: Published, arm: Arm, frame: pd.DataFrame, rows: ResultRows
) -> dict[str, str]:
    """What is known of the runs; what they were chosen by is met."""
    wanted, known = published.conditions, rows.conditions(Table.MEMORIZATION)
    chosen = ("first", "facts", "mix", "replay ratio", "mix later")
    met = {name: wanted[name] for name in chosen if name in wanted}
    if _GENERIC in (arm.settings["mix_first"], arm.settings["mix_later"]):
        met |= _generic_text(wanted, known)
    later = _later(frame, arm)
    full = wanted["later"] not in _KINDS or later == _mean_sets(published)
    met["later"] = wanted["later"] if full else " and ".join(sorted(later))
    ratio, words = (_plain(arm.settings[name]) for name in _NO_AMOUNT)
    has_amount = arm.settings["mix_ratio"] is not None
    met["mixing"] = f"{ratio} items of {words} words" if has_amount else _USUAL_AMOUNT
    return {**met, **known}


def _generic_text(wanted: Conditions, known: Conditions) -> dict[str, str]:
    """A mix of generic text is a published one where the text is the same."""
    name = "mix" if "mix" in wanted else "mix later"
    text, published = known.get(MIX_CORPUS, "not said"), wanted[name]
    same = text == (published if published in _CORPORA else _CORPORA[0])
    return {name: published if same else f"{_GENERIC} text: {text}"}


def _plain(number: Setting) -> str:
    return f"{number:g}" if isinstance(number, int | float) else str(number)


def _mean_sets(published: Published) -> set[str]:
    """The later sets that a mean is over; those of three stages are not said."""
    later, first = published.conditions["later"], published.conditions["first"]
    if later == _TWO_STAGES:
        return {_TWO_STAGES}
    if later == _OTHER_MEAN:
        return set(_OTHER_SETS)
    in_domain = published.identifier.replace(_FACTOID_MEAN.replace(" ", "-"), _IN_DOMAIN)
    has_own = in_domain != published.identifier and in_domain in PUBLISHED
    return {*_FACTOID_SETS, first} if has_own else set(_FACTOID_SETS)


def _later(frame: pd.DataFrame, arm: Arm) -> set[str]:
    """Later sets of an arm, by their published names where they have one."""
    published = {name: known for known, names in SETS.items() for name in names}
    return {published.get(str(name), str(name)) for name in rows_with(frame, arm.settings)["later"]}
