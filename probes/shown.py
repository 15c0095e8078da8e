"""Shown: how objects show themselves, in a line and, in a notebook, with a small table.

Tensors are shown by their shapes and long lists by their lengths, so no line runs over.

Example:
    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Reading(Shown):
    ...     ranks: tuple[int, ...]
    ...     mean: float
    >>> Reading(tuple(range(1000)), 1 / 3)
    Reading(ranks 1,000 items, mean 0.3333)
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Set
from dataclasses import fields
from html import escape
from importlib.metadata import entry_points
from itertools import islice
from numbers import Integral, Real
from typing import Any

_LINE, _VALUE, _LISTED, _ROWS = 240, 60, 4, 10
"""Characters of a line and of a value in it; members of a list that are named; rows of a table."""


class Shown:
    """Shows itself in a line, and in a notebook as that line above a small table."""

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        # A dataclass makes one of its own, with every number, where its class has none.
        if "__repr__" not in cls.__dict__:
            cls.__repr__ = Shown.__repr__  # type: ignore[method-assign]

    def _facts(self) -> Mapping[str, Any]:
        """Names and values to show; what it is about stands under the empty name."""
        if type(self).__dict__.get("__dataclass_fields__") is None:
            return {}
        return {f.name: getattr(self, f.name) for f in fields(self) if f.repr}  # type: ignore[arg-type]

    def _preview(self) -> Any:
        """A data frame to show beneath; None for none."""
        return None

    def __repr__(self) -> str:
        about, facts = self._briefly()
        line = ""
        for name, value in facts.items():
            more = f"{', ' if line else ''}{name} {value}"
            if len(line) + len(more) > _LINE - len(about):
                line += ", \N{HORIZONTAL ELLIPSIS}"
                break
            line += more
        return f"{type(self).__name__}({': '.join(filter(None, (about, line)))})"

    def _repr_html_(self) -> str:
        about, facts = self._briefly()
        more = [("\N{HORIZONTAL ELLIPSIS}", f"{len(facts):,} in all")] * (len(facts) > _ROWS)
        rows = (
            f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>"
            for name, text in [*islice(facts.items(), _ROWS), *more]
        )
        table = f"<table>{''.join(rows)}</table>"
        frame = self._preview()
        form = {"max_rows": _ROWS, "max_cols": _ROWS, "border": 0, "float_format": "{:.4g}".format}
        below = "" if frame is None else frame.to_html(**form)
        return f"<div><b>{type(self).__name__}</b> {escape(about)}{table}{below}</div>"

    def _briefly(self) -> tuple[str, dict[str, str]]:
        facts = {name: brief(value) for name, value in self._facts().items() if value is not None}
        return facts.pop("", ""), {name: text for name, text in facts.items() if text}


class Result(Shown, ABC):
    """Something measured, with a table and a picture of it."""

    @abstractmethod
    def to_dataframe(self) -> Any:
        """The numbers as a tidy pandas DataFrame."""

    def plot(self) -> Any:
        """The interactive picture of it, a `plotly` Figure with a title.

        Whoever registers an entry point draws it, as `analysis` does.

        Raises:
            ValueError: it holds nothing to draw, or nothing here draws such results.
        """
        return self._drawn()

    def _drawn(self, **settings: Any) -> Any:
        for registered in entry_points(group="mnemoscope.figures", name="results"):
            try:
                draw = registered.load()
            except (ImportError, AttributeError) as error:
                raise ValueError(
                    f"{registered.value} draws this result and cannot be imported ({error}); run "
                    "where no other package of its name comes first"
                ) from error
            return draw(self, **settings)
        raise ValueError("nothing here draws results; install mnemoscope again")

    def _preview(self) -> Any:
        return self.to_dataframe()


def frame_of(columns: Mapping[str, Any]) -> Any:
    """A pandas DataFrame of columns, which may be tensors."""
    import pandas as pd

    return pd.DataFrame(
        {name: v.tolist() if hasattr(v, "tolist") else v for name, v in columns.items()}
    )


def brief(value: Any) -> str:
    """A value in a few characters; a tensor or a table is its shape."""
    if isinstance(value, bool | str):
        return _cut(str(value))
    if isinstance(value, Integral):
        return f"{int(value):,}"
    if isinstance(value, Real):
        return f"{float(value):.4g}"
    if hasattr(value, "low") and hasattr(value, "high"):
        return f"{value.low:.5g} to {value.high:.5g}"
    shape = getattr(value, "shape", None)
    if shape is not None:
        return brief(value.item()) if shape == () else str(list(shape))
    if isinstance(value, Mapping | Set | tuple | list):
        simple = all(isinstance(one, str | Real) for one in value)
        if len(value) > _LISTED or not simple or isinstance(value, Mapping):
            return f"{len(value):,} items" if len(value) else ""
        return _cut(" ".join(map(brief, value)))
    text = str(value)
    # What says more of itself than there is room for is named by its kind.
    return text if len(text) <= _VALUE and "\n" not in text else type(value).__name__


def _cut(text: str) -> str:
    shown = " ".join(text.split())
    return shown if len(shown) <= _VALUE else f"{shown[: _VALUE - 1]}\N{HORIZONTAL ELLIPSIS}"
