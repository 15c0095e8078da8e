"""Keys of traces: what they stand for, so that switches can take them out of all figures.

A trace says in `meta["keys"]` what it stands for, its series first: an arm, a corpus, a seed. The
script of the page draws it while none of its keys is switched off (`analysis.document.Switches`).
"""

from collections.abc import Iterable, Mapping
from typing import Any

import plotly.graph_objects as go

from analysis.theme import label

MEAN = "mean over seeds"


def seed_key(seed: object) -> str:
    """What a seed is called."""
    return f"seed {seed}"


def keyed(figure: go.Figure, names: Iterable[str]) -> go.Figure:
    """A figure of arms whose traces say which arm they are of."""
    by_label = {label(name): name for name in names}
    found = go.Figure(layout=figure.layout)
    key = None
    for trace in figure.data:
        if trace.name is None and trace.customdata is not None:
            found.add_traces(list(_by_arm(trace, by_label)))
            continue
        key = key if trace.name is None else by_label.get(trace.name)
        found.add_trace(trace.update(meta={"keys": [key]}) if key else trace)
    return found.update_layout(showlegend=False)


def _by_arm(trace: Any, by_label: Mapping[str, str]) -> Iterable[Any]:
    """Points of several arms as a trace for each."""
    arms = [row[0] for row in trace.customdata]
    for arm in dict.fromkeys(arms):
        of = [place for place, other in enumerate(arms) if other == arm]
        part = type(trace)(trace)
        values = {name: [trace[name][place] for place in of] for name in ("x", "y", "customdata")}
        if isinstance(trace.marker.color, list | tuple):
            part.marker.color = [trace.marker.color[place] for place in of]
        yield part.update(**values, meta={"keys": [by_label[arm]]} if arm in by_label else None)
