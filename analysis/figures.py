"""Figure kit: a tidy frame in, a plotly figure out, with layout, colours and hover in one place.

A trace is drawn for each group of rows. The first column of `by` chooses its colour, a second one
its dash and marker; layers run over a scale of their own. A hover names columns in braces, with
d3's formats, and all text is escaped: models and arms may be called anything. Colours are of middle
lightness, so that one figure reads on white and on black. nbconvert does not draw plotly's own
JSON: a `NotebookFigure` puts out HTML beside it.
"""

import html
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import count, product
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio
from plotly.colors import sample_colorscale, unlabel_rgb
from plotly.offline import get_plotlyjs, get_plotlyjs_version

from analysis.numbers import label

SERIES_COLOURS = ("#3d6fb4", "#c8603c", "#3d9278", "#8d66b0", "#b08a2e", "#687b8c")
DEPTH_SCALE = ((0.0, "#4a63b5"), (0.35, "#3d9aa0"), (0.7, "#cfa03f"), (1.0, "#c2503d"))
"""From the first layer to the last; no end of it vanishes on white or on black."""
SEQUENTIAL_SCALE = "Viridis"
SIGNED_SCALE = "RdBu"
REFERENCE_COLOUR = "#8a8f98"  # maxima and other lines that are not data

FONT = "Inter, 'Helvetica Neue', Helvetica, Arial, sans-serif"


def template() -> go.layout.Template:
    """The look of every figure: no frame, a light grid, the legend above, no background."""
    axis = {
        "gridcolor": "rgba(138,143,152,0.22)",
        "zeroline": False,
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": "rgba(138,143,152,0.5)",
        "title": {"standoff": 10, "font": {"size": 13}},
        "automargin": True,
    }
    return go.layout.Template(
        layout={
            "font": {"family": FONT, "size": 12.5, "color": "#6b7079"},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "colorway": list(SERIES_COLOURS),
            "margin": {"l": 52, "r": 22, "t": 44, "b": 52},
            "xaxis": axis,
            "yaxis": axis,
            "legend": {"orientation": "h", "yref": "container", "y": 1, "yanchor": "top", "x": 0},
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "#8a8f98", "activecolor": "#8a8f98"},
            "hoverlabel": {
                "bgcolor": "#23272e",
                "bordercolor": "#23272e",
                "font": {"family": FONT, "color": "#f4f4f2", "size": 12.5},
                "align": "left",
            },
        }
    )


_DRAWN_BY_JUPYTER = "plotly_mimetype"
"""Plotly's renderer in a notebook, unless another was chosen or the place needs another."""
_numbers = count()
_brought: list[tuple[Any, Any]] = []  # the cell that brought plotly.js along, and its run

_HTML = Path(__file__).with_name("templates") / "notebook_figure.html"


class NotebookFigure(go.Figure):
    """A plotly figure that shows itself in Jupyter, in VS Code and in HTML made by nbconvert."""

    def _ipython_display_(self) -> None:
        self.show()

    def show(self, *args: Any, **settings: Any) -> None:
        if args or settings or pio.renderers.default != _DRAWN_BY_JUPYTER:
            pio.show(self, *args, **settings)
            return
        from IPython.display import display

        display(self._repr_mimebundle_(), raw=True)

    def _repr_mimebundle_(self, *_args: Any, **_settings: Any) -> dict[str, Any]:
        drawn = json.loads(self.to_json())
        return {"application/vnd.plotly.v1+json": drawn, "text/html": self._repr_html_()}

    def _repr_html_(self) -> str:
        return Template(_HTML.read_text(encoding="utf-8")).substitute(
            name=f"mnemoscope-figure-{next(_numbers)}-{id(self)}",
            height=self.layout.height or 450,
            library=get_plotlyjs() if _brings_library() else "",
            # No text in it may end the script element.
            figure=self.to_json().replace("<", "\\u003c"),
            version=get_plotlyjs_version(),
        )


def _brings_library() -> bool:
    """Whether this is the first figure, or a new run of the cell that the first one was in."""
    python = sys.modules.get("IPython")
    shell = None if python is None else python.get_ipython()
    parent = getattr(shell, "parent_header", None) or {}
    cell = parent.get("metadata", {}).get("cellId")
    run = getattr(shell, "execution_count", None)
    if _brought and (cell is None or cell != _brought[0][0] or run == _brought[0][1]):
        return False
    _brought[:] = [(cell, run)]
    return True


HEIGHT = 340  # pixels of a figure
MOST_NAMED = 8
"""With more traces a legend would be larger than the figure; names are shown where one points."""
DASHES = ("solid", "dot", "dash", "dashdot", "longdash", "longdashdot")
SYMBOLS = ("circle", "circle-open", "square-open", "diamond", "triangle-up-open", "x")
_ROW = 24  # pixels of a name that has a row of its own
_MOST_TICKS = 16
_TITLE = 36  # pixels of a title


def empty(x_title: str, y_title: str, height: int = HEIGHT) -> go.Figure:
    """A figure without traces."""
    axes = {"xaxis": {"title": {"text": x_title}}, "yaxis": {"title": {"text": y_title}}}
    looks = {"template": template(), "height": height, "hovermode": "closest"}
    return NotebookFigure(layout={**looks, **axes, "showlegend": False})


def titled(figure: go.Figure, title: str) -> go.Figure:
    """The figure under a title, for where no page has one."""
    text = {"text": f"<b>{label(title, 110)}</b>", "font": {"size": 15}, "x": 0, "xref": "paper"}
    place = {"y": 1, "yref": "container", "yanchor": "top", "pad": {"t": 10}}
    height = (figure.layout.height or HEIGHT) + _TITLE
    figure.update_layout(title={**text, **place}, height=height, legend_y=1 - _TITLE / height)
    return figure.update_layout(margin_t=figure.layout.template.layout.margin.t + _TITLE)


def colours_of(names: Iterable[object]) -> dict[str, str]:
    """A colour for every name; of more than six, colours run over a scale in their order."""
    known = list(dict.fromkeys(map(str, names)))
    scale = SERIES_COLOURS if len(known) <= len(SERIES_COLOURS) else _along_scale(len(known))
    return dict(zip(known, scale, strict=False))


def lines(
    rows: pd.DataFrame,  # one row a point, in the order of the line
    x: str,  # the column drawn to the right
    y: str,  # the column drawn upwards
    *,
    # columns whose values make a line each; a line is named by those that are not empty
    by: str | Sequence[str] = (),
    hover: str = "",  # what is shown where one points; empty for nothing
    titles: tuple[str, str] = ("", ""),  # the two axes
    height: int = HEIGHT,  # pixels
    # colours by the values of the first column of `by`; None for colours in their order
    colours: Mapping[str, str] | None = None,
    ends: tuple[str, str] | None = None,  # columns with the ends of intervals, drawn as bars
    ends_on: str = "y",  # the axis that intervals lie along
    band: bool = False,  # whether intervals are a shade instead of bars
    mode: str = "lines",  # plotly's: "lines", "lines+markers", "markers"
    width: float | int = 1.8,  # pixels of lines
    size: float | int = 6,  # pixels of markers
    # whether traces say what they stand for, so that a page can switch and link them
    keys: bool = False,
    onto: go.Figure | None = None,  # the figure to draw on; a new one otherwise
    **trace: Any,  # anything else that a plotly scatter takes; `text` names a column
) -> go.Figure:
    """Numbers along an axis, a line for each group of rows."""
    figure = empty(*titles, height) if onto is None else onto
    names = [by] if isinstance(by, str) else list(by)
    kinds = [list(rows[name].unique()) for name in names]
    if names == ["layer"]:
        n_layers = int(rows["layer"].max()) + 1
        colours = dict(zip(map(str, range(n_layers)), _along_scale(n_layers), strict=True))
        _add_depth_bar(figure, n_layers)
    colours = colours or colours_of(kinds[0] if kinds else [""])
    words, columns = _hover(hover, {x: "x", y: "y"}, named=bool(names))
    groups: Any = rows.groupby(names, sort=False, dropna=False) if names else [((), rows)]
    for values, part in groups:
        colour = colours[str(values[0]) if values else ""]
        style = kinds[1].index(values[1]) if len(values) > 1 else 0
        name = trace.get("name") or label(", ".join(filter(None, map(str, dict.fromkeys(values)))))
        looks = {
            "mode": mode,
            "line": {"color": colour, "width": width, "dash": DASHES[style % len(DASHES)]},
            "marker": {"color": colour, "size": size, "symbol": SYMBOLS[style % len(SYMBOLS)]},
            "name": name,
            "legendgroup": name,
            "showlegend": bool(name) and all(one.legendgroup != name for one in figure.data),
            "customdata": _shown(part[columns]) if columns else None,
            "hovertemplate": words or None,
            "hoverinfo": None if words else "skip",
        }
        if names == ["layer"]:
            looks |= {"meta": {"layer": int(values[0])}, "showlegend": False}
        elif keys:
            looks["meta"] = {"keys": list(map(str, values))}
        if "text" in trace:
            looks["text"] = _shown(part[[trace["text"]]])[:, 0]
        if ends is not None and part[list(ends)].notna().all(axis=1).any():
            value, along = (part[y], part[x]) if ends_on == "y" else (part[x], part[y])
            low, high = (part[end] for end in ends)
            if not band:
                looks[f"error_{ends_on}"] = _bars(value, low, high, colour)
            elif (high > low).any():
                figure.add_scatter(**_band(along, low, high, ends_on, colour))
        others = {name: one for name, one in trace.items() if name != "text"}
        figure.add_scatter(x=part[x].to_numpy(), y=part[y].to_numpy(), **{**looks, **others})
    shown = sum(one.showlegend is True for one in figure.data)
    return figure.update_layout(showlegend=1 < shown <= MOST_NAMED)


def dots(rows: pd.DataFrame, x: str, y: str, **settings: Any) -> go.Figure:
    """A dot for every row; takes what `lines` takes."""
    return lines(rows, x, y, **{"mode": "markers", "size": 8, **settings})


def dots_by_name(
    means: pd.DataFrame,  # columns `value`, `low`, `high` and the name
    colours: Mapping[str, str],  # colours by name
    x_title: str,  # what the numbers are
    *,
    name: str = "arm",  # the column with names
    seeds: pd.DataFrame | None = None,  # single values, drawn faintly
    controls: pd.DataFrame | None = None,  # values to compare with, drawn as open dots
    control_name: str = "held-out passages",  # what these are of
    form: str = "",  # d3's format of the numbers
) -> go.Figure:
    """A number of every arm in a row of its own, with its interval; the first arm at the top."""
    given = [rows for rows in (means, seeds, controls) if rows is not None]
    order = list(dict.fromkeys(str(one) for rows in given for one in rows[name]))
    figure = empty(x_title, "", 110 + _ROW * len(order))

    def draw(rows: pd.DataFrame | None, what: str, **looks: Any) -> None:
        if rows is not None and len(rows):
            placed = rows.assign(place=[order.index(str(one)) for one in rows[name]])
            looks |= {"by": name, "colours": colours, "keys": True, "onto": figure}
            dots(placed, "value", "place", hover=f"{what}<b>{{value:{form}}}</b>", **looks)

    draw(seeds, "a seed: ", size=5, opacity=0.4)
    draw(controls, f"{html.escape(control_name)}: ", marker_symbol="circle-open")
    draw(means, "", size=9, ends=("low", "high"), ends_on="x")
    mark(figure, x=0).update_layout(showlegend=False).update_xaxes(tickformat=form or None)
    ticks = {"tickvals": list(range(len(order))), "ticktext": list(map(label, order))}
    return figure.update_yaxes(range=[len(order) - 0.4, -0.6], **ticks)


def heatmap(
    rows: pd.DataFrame,  # one row a cell
    x: str,  # the column whose values stand side by side; text in the order in which it comes
    y: str,  # the column whose values stand above one another, the first at the bottom
    z: str,  # the numbers
    *,
    unit: str,  # the unit that stands above the colour bar
    hover: str,  # what is shown where one points, as in `lines`
    titles: tuple[str, str],  # the two axes
    height: int | None = None,  # pixels; None for one that fits
    signed: bool = False,  # whether colours are of the sign, red below zero and blue above
    limits: tuple[float | int, float | int] | None = None,  # numbers at the two ends of the colours
    bar: Mapping[str, Any] | None = None,  # further settings of the colour bar
    text: str | None = None,  # the column that is written into the cells
    **trace: Any,  # anything else that a plotly heatmap takes
) -> go.Figure:
    """Numbers as colours, a cell for every row of the table."""
    across, places, ticks = _axis(rows[x])
    upwards, heights, y_ticks = _axis(rows[y])
    cells = rows.set_index([y, x], drop=False).reindex(product(upwards, across))
    shape = (len(upwards), len(across))
    numbers = cells[z].to_numpy(float).reshape(shape)
    words, columns = _hover(hover, {z: "z"}, named=False)
    low, high = limits or (float(np.nanmin(numbers)), float(np.nanmax(numbers)))
    reach = max(abs(low), abs(high)) or 1.0
    ends = {"zmin": -reach, "zmid": 0.0, "zmax": reach} if signed else {"zmin": low, "zmax": high}
    figure = empty(*titles, height or int(np.clip(160 + 14 * len(upwards), 260, 760)))
    figure.add_heatmap(
        x=places,
        y=heights,
        z=numbers,
        customdata=_shown(cells[columns]).reshape(*shape, -1),
        text=None if text is None else _shown(cells[[text]]).reshape(shape),
        texttemplate=None if text is None else "%{text}",
        hovertemplate=words,
        colorscale=SIGNED_SCALE if signed else SEQUENTIAL_SCALE,
        # The number at the top of the bar needs room below the title.
        colorbar={**colour_bar(f"{unit}<br>\u00a0"), **(bar or {})},
        **{"xgap": 1, "ygap": 1, **ends, **trace},
    )
    figure.update_xaxes(showgrid=False, **ticks)
    return figure.update_yaxes(showgrid=False, **y_ticks)


def histogram(rows: pd.DataFrame, layer: str, labels: Sequence[str], *, by: str) -> go.Figure:
    """The share of each kind's rows at every layer; rows without a layer count as rows, nowhere."""
    kinds = rows.groupby(by, sort=False)
    figure = empty("share of items", "layer").update_layout(bargap=0.15, showlegend=len(kinds) > 1)
    for (kind, found), colour in zip(kinds, colours_of(kinds.groups).values(), strict=False):
        counts = found[layer].value_counts().reindex(labels, fill_value=0)
        figure.add_bar(
            x=(counts / len(found)).to_numpy(),
            y=list(range(len(labels))),
            orientation="h",
            name=label(str(kind)),
            marker={"color": colour},
            customdata=_shown(counts.rename_axis("at").reset_index()),
            hovertemplate="%{fullData.name}<br>layer %{customdata[0]}: <b>%{x:.1%}</b>, "
            f"%{{customdata[1]}} of {len(found):,}<extra></extra>",
        )
    figure.update_xaxes(tickformat=".0%", rangemode="tozero")
    return layer_axis(figure, labels)


def layer_axis(figure: go.Figure, labels: int | Sequence[str]) -> go.Figure:
    """The layers upwards from the bottom: so many, or by these labels."""
    names = map(str, range(labels)) if isinstance(labels, int) else labels
    _, places, ticks = _axis(pd.Series(list(names), dtype=object))
    figure.update_layout(height=int(np.clip(190 + 14 * len(places), 320, 760)))
    return figure.update_yaxes(title="layer", range=[-0.7, len(places) - 0.3], **ticks)


def mark(
    figure: go.Figure,
    *,
    x: float | int | None = None,
    y: float | int | None = None,
    text: str = "",
    **line: Any,
) -> go.Figure:
    """A line across the figure for what is not data: zero, a maximum, the unedited model."""
    looks: dict[str, Any] = {"line": {"color": REFERENCE_COLOUR, "width": 1, "dash": "dot", **line}}
    place: dict[str, Any] = {"y": y, "yanchor": "bottom", "xref": "paper", "x": 1}
    if x is not None:
        place = {"x": x, "xanchor": "left", "yref": "paper", "y": 0.5, "textangle": -90}
        figure.add_vline(x=x, **looks)
    else:
        figure.add_hline(y=y, **looks)
    if text:
        figure.add_annotation(text=label(text), showarrow=False, **place)
    return figure


def colour_bar(title: str) -> dict[str, Any]:
    """A thin bar of colours with its title above."""
    text = {"text": title, "side": "top", "font": {"size": 12}}
    return {"title": text, "tickfont": {"size": 11}, "thickness": 10, "outlinewidth": 0}


def _along_scale(n: int) -> list[str]:
    return sample_colorscale([list(stop) for stop in DEPTH_SCALE], np.linspace(0, 1, n))


def _add_depth_bar(figure: go.Figure, n_layers: int) -> None:
    marker = {
        "color": [0, max(1, n_layers - 1)],
        "colorscale": [list(stop) for stop in DEPTH_SCALE],
        "showscale": True,
        "colorbar": {**colour_bar("layer"), "dtick": _step(n_layers)},
    }
    nowhere = {"x": [None, None], "y": [None, None], "hoverinfo": "skip", "showlegend": False}
    figure.add_scatter(**nowhere, mode="markers", marker=marker)


def _hover(words: str, axes: Mapping[str, str], *, named: bool) -> tuple[str, list[str]]:
    """Plotly's template of a hover, and the columns that it needs beside the axes."""
    asked = dict.fromkeys(re.findall(r"{([^{}:]+)", words))
    columns = [name for name in asked if name not in axes]
    known = {**{name: f"customdata[{i}]" for i, name in enumerate(columns)}, **axes}
    filled = re.sub(r"{([^{}:]+)", lambda found: f"%{{{known[found[1]]}", words)
    return f"{'%{fullData.name}<br>' * named}{filled}<extra></extra>" if words else "", columns


def _shown(values: pd.DataFrame) -> np.ndarray:
    """Cells as plotly shows them: no text is taken for markup, line breaks are kept."""
    if all(map(pd.api.types.is_numeric_dtype, values.dtypes)):
        return values.to_numpy()

    def safe(one: Any) -> Any:
        return html.escape(one, quote=False).replace("\n", "<br>") if isinstance(one, str) else one

    return values.astype(object).map(safe).to_numpy()


def _bars(value: pd.Series, low: pd.Series, high: pd.Series, colour: str) -> dict[str, Any]:
    sizes = {"array": (high - value).to_numpy(), "arrayminus": (value - low).to_numpy()}
    looks = {"color": colour, "thickness": 1.2, "width": 3}
    return {"type": "data", "symmetric": False, **sizes, **looks}


def _band(
    along: pd.Series, low: pd.Series, high: pd.Series, on: str, colour: str
) -> dict[str, Any]:
    rgb = bytes.fromhex(colour[1:]) if colour[0] == "#" else unlabel_rgb(colour)
    return {
        on: [*high, *low[::-1]],
        {"x": "y", "y": "x"}[on]: [*along, *along[::-1]],
        "fill": "toself",
        "fillcolor": f"rgba({','.join(str(round(one)) for one in rgb)},0.14)",
        "line": {"width": 0},
        "mode": "lines",
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _axis(values: pd.Series) -> tuple[list[Any], list[Any], dict[str, Any]]:
    """Numbers by their size and names as they come, where they stand, and ticks with room."""
    order = list(values.unique())
    step = _step(len(order))
    if pd.api.types.is_numeric_dtype(values):
        order.sort()
        return order, np.array(order).tolist(), {"dtick": step}
    shown = list(range(0, len(order), step))
    ticks = {"tickvals": shown, "ticktext": [label(order[place]) for place in shown]}
    return order, list(range(len(order))), ticks


def _step(n: int) -> int:
    return next(step for step in (1, 2, 5, 10, 20, 50) if n / step <= _MOST_TICKS or step == 50)
