"""What a page shows, read back from its parts."""

import base64
import json
import re

import numpy as np


def plots(pieces):
    """The plots of some pieces, as plotly's JSON, in order."""
    panels = [panel for piece in pieces for panel in getattr(piece, "panels", ())]
    return [json.loads(panel.plot.to_json(), object_hook=_unpacked) for panel in panels]


def plots_in(page):
    """The plots of a whole page, from its markup."""
    found = re.findall(r'<script type="application/json">(.*?)</script>', page)
    return [json.loads(text, object_hook=_unpacked) for text in found]


def _unpacked(value):
    """Numbers that plotly has packed, as a list."""
    if "bdata" not in value:
        return value
    numbers = np.frombuffer(base64.b64decode(value["bdata"]), dtype=value["dtype"])
    shape = [int(size) for size in value.get("shape", "-1").split(",")]
    return numbers.reshape(shape).tolist()


def traces(plot, key=None):
    """The traces of a plot that have data; with a key, those that stand for it."""
    there = [trace for trace in plot["data"] if trace.get("x")]
    if key is None:
        return there
    return [trace for trace in there if key in trace.get("meta", {}).get("keys", ())]
