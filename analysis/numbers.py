"""Texts of a report: numbers, paths and settings as its tables and sentences show them.

Paths are shown without the folders of the machine that something was made on.

Example:
    >>> with_interval({"value": -0.0512, "low": -0.0703, "high": 0.0104}, share)
    '−5.1% [−7.0%, 1.0%]'
    >>> shorten("runs/2026/checkpoints/step-000160/corpus.jsonl", 21), shown_path("/home/me/tiny")
    ('runs/2026/…rpus.jsonl', 'tiny')
"""

import html
import re
import shlex
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from string import Formatter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

MINUS = "\N{MINUS SIGN}"
NOT_TESTED = "not tested"
POINTS = " points"  # percentage points, after a difference of shares
LABEL_LENGTH = 32


def is_missing(value: Any) -> bool:
    """Whether there is no number."""
    import pandas as pd

    return bool(pd.isna(value))


def with_interval(row: Any, show: Callable[[float], str]) -> str:
    """A number with its interval, where it has one."""
    shown = show(row["value"])
    if is_missing(row["low"]):
        return shown
    ends = (show(row[name]).removesuffix(POINTS) for name in ("low", "high"))
    return f"{shown} [{', '.join(ends)}]"


def signed(value: float, show: Callable[[float], str]) -> str:
    """A difference with its sign."""
    text = show(abs(value))
    # What rounds to nothing has no sign.
    if not any(digit in text for digit in "123456789"):
        return text
    return f"{MINUS if value < 0 else '+'}{text}"


def signed_nats(value: float) -> str:
    """A difference in nats, or in bits."""
    return signed(value, nats)


def nats(value: float, digits: int = 3) -> str:
    """A number of nats, or of bits."""
    return f"{round(value, digits) + 0.0:,.{digits}f}".replace("-", MINUS)


def share(value: float) -> str:
    """A share as a percentage."""
    return f"{100 * (round(value, 4) + 0.0):.1f}%".replace("-", MINUS)


def count(value: float | int) -> str:
    """A number of things, rounded to whole ones, with separators between thousands."""
    return f"{value:,.0f}"


def p_text(value: float) -> str:
    """A p-value; empty where there is none."""
    if is_missing(value):
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def steps_text(value: float) -> str:
    """A number of steps, which may be beyond all numbers."""
    if value == float("inf"):
        return "none"
    return count(value) if value < 1e6 else f"{value:.0e}"


def capital(text: str) -> str:
    """A text as a sentence begins."""
    return text[:1].upper() + text[1:]


def value_range(what: str, values: Mapping[str, float], show: Callable[[float], str]) -> str:
    """A sentence about the least and the most of several numbers."""
    low, high = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
    if show(values[low]) == show(values[high]):
        return f"{what} is {show(values[low])} in all {len(values)} arms."
    return (
        f"{what} runs from {show(values[low])} ({low}) to {show(values[high])} ({high}), over "
        f"{len(values)} arms."
    )


def course(values: Sequence[float], places: Sequence[str], show: Callable[[float], str]) -> str:
    """How numbers went from the first to the last, and where they turned, if beyond both."""
    ends = sorted((values[0], values[-1]))
    shown = [show(value) for value in values]
    verb = "rises" if values[-1] > values[0] else "falls"
    verb = "is the same in the end" if shown[0] == shown[-1] else verb
    told = f"{verb}, from {shown[0]} {places[0]} to {shown[-1]} {places[-1]}"
    low, high = (find(range(len(values)), key=values.__getitem__) for find in (min, max))
    beyond = {"lowest": (ends[0] - values[low], low), "highest": (values[high] - ends[1], high)}
    turns = [
        f"{which}, {shown[at]}, {places[at]}"
        for which, (distance, at) in beyond.items()
        if distance > 0 and shown[at] not in (shown[0], shown[-1])
    ]
    return f"{told}, but not steadily: it is {' and '.join(turns)}" if turns else told


def one_seed(seeds: Iterable[int]) -> str:
    """What has to be said of comparisons that are not over seeds."""
    alone = [number < 2 for number in seeds]
    if not any(alone):
        return ""
    which = "one training seed" if all(alone) else "one training seed for some"
    return f"; {which}, which says nothing about others"


def guessed(chance: float | None) -> str:
    """What a share of facts recalled has to be compared with; empty where it is not known."""
    return "" if chance is None else f"guessing among the values offered recalls {share(chance)}"


def points(value: float) -> str:
    """A difference of shares, in percentage points."""
    return f"{100 * value:,.1f}{POINTS}"


def shown_path(text: str) -> str:
    """A name or a path; of an absolute path, or of one in the home folder, its end."""
    return PurePosixPath(text).name if re.match(r"/|~|[A-Za-z]:[\\/]", text) else text


def model_name(model: str, revision: str | None) -> str:
    """A model, with its revision where it has one."""
    return f"{model} at {revision}" if revision else model


def numbered(names: Sequence[str]) -> list[str]:
    """The names; a later one that is there already gets a number."""
    repeats = [names[:place].count(name) for place, name in enumerate(names)]
    return [f"{name} ({n + 1})" if n else name for name, n in zip(names, repeats, strict=True)]


def command_line(program: str, words: Sequence[str]) -> str:
    """A command as a document shows it."""
    return shlex.join(["python", "-m", program, *map(shown_path, words)])


def runs_in_words(what: str, *, arms: int, runs: int, seeds: Collection[int]) -> str:
    """How many runs, arms and seeds there are."""
    each = f"{' or '.join(map(str, sorted(seeds)))} seed{'' if set(seeds) == {1} else 's'}"
    return (
        f"{runs} {'run' if runs == 1 else 'runs'} {what}: {arms} "
        f"{'arm' if arms == 1 else 'arms'}, {each} each"
    )


def shown_value(value: Any) -> str:
    """A setting as text."""
    if isinstance(value, str):
        return shown_path(value)
    if isinstance(value, Sequence):
        return " ".join(shown_value(inner) for inner in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def shorten(text: str, length: int) -> str:
    """Text of at most `length` characters; what is left out of the middle becomes an ellipsis."""
    if len(text) <= length:
        return text
    tail = length // 2
    return f"{text[: length - tail - 1]}…{text[-tail:]}"


def label(text: object, length: int = LABEL_LENGTH) -> str:
    """A name for a legend or an axis: short, and with nothing that plotly would take for markup."""
    # Plotly knows no name for a quotation mark, which does no harm.
    return html.escape(shorten(str(text), length), quote=False)


_SHOWN = {" ": "·", "\n": "↵", "\t": "⇥", "\u00a0": "⍽"}
# Control and format characters, surrogates, and separators of lines and paragraphs.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def visible(text: str) -> str:
    """Text of a token with every character to be seen."""
    return "".join(map(_shown, text)) or "∅"


def _shown(character: str) -> str:
    if character in _SHOWN:
        return _SHOWN[character]
    if unicodedata.category(character) not in _HIDDEN:
        return character
    return f"\\u{ord(character):04x}"


_SHOWS: Mapping[str, Callable[[Any], str]] = {
    **{"nats": nats, "share": share, "points": points, "p": p_text, "count": count},
    **{
        "+nats": signed_nats,
        "+points": lambda value: signed(value, points),
        "steps": steps_text,
        "capital": capital,
    },
    "nats2": lambda value: nats(value, 2),
    "+nats2": lambda value: signed(value, lambda size: nats(size, 2)),
    "words": lambda value: str(value).replace("_", " "),
}
"""How values are shown, by what texts call it."""


class _Sayer(Formatter):
    """Fills texts in from a row; see `say`."""

    def __init__(self, row: Any) -> None:
        self.row = row

    def format_field(self, value: Any, format_spec: str) -> str:
        name, interval, ending = format_spec.partition("~")
        if is_missing(value):
            return ""
        show = _SHOWS.get(name, lambda one: format(one, name))
        if not interval:
            return show(value)
        ends = {end: self.row[f"{end}{ending}"] for end in ("low", "high")}
        return with_interval({"value": value, **ends}, show)


def say(text: str, row: Any) -> str:
    """A text in which names of columns are filled in from a row; what is missing is empty.

    "{slope:+nats}" shows a number as a difference in nats (`_SHOWS`), "{slope:+nats~}" with the
    interval from `low` to `high`, "{rho:nats~_differences}" from `low_differences`.
    """
    return _Sayer(row).vformat(text, (), row)


def texts(table: "pd.DataFrame", text: str) -> list[str]:
    """A text for every row."""
    return [say(text, row) for _, row in table.iterrows()]
