"""Lens explorer: the part of a lens page that draws any item by layer and position.

A switch for what the colours stand for, a list of items with a search field, and the data that
`explorer.js` draws from; `lens_page.css` gives it its look.

Example:
    >>> explorer([result], k=10)[:15]                                           # doctest: +SKIP
    '<p>Each cell shows'
"""

import json
from collections.abc import Sequence
from pathlib import Path

from analysis.logit_lens.page_data import page_data
from analysis.logit_lens.result import LensResult
from analysis.page import Html, element, joined, paragraph
from analysis.theme import SEQUENTIAL_SCALE

SWITCHES = {"rank": "Rank", "probability": "Probability", "entropy": "Entropy", "kl": "KL"}
"""What a heatmap's colours can stand for, and what the buttons say."""


def explorer(results: Sequence[LensResult], k: int) -> Html:
    """Heatmaps of any item, with everything that they need.

    Args:
        results: one, or several of the same items, side by side.
        k: a target is found where it is among the top `k`.
    """
    has_list = len(results[0].items) > 1
    body = element(
        "div",
        _item_list() if has_list else Html(),
        element(
            "div",
            element("p", class_="lens-prompt", data_part="prompt"),
            element("div", data_part="grids"),
        ),
        class_="lens-body has-list" if has_list else "lens-body",
    )
    return joined(
        [
            paragraph(
                "Each cell shows the token that a layer would predict after the token below; its "
                "colour tells of the target above. Point at a cell, or move through cells with the "
                "arrow keys, for the most likely tokens. Frames mark cells where the target is on "
                "top."
            ),
            element(
                "div",
                element("div", _switch(), _scale(), class_="lens-bar"),
                body,
                element("div", data_part="card", role="status", hidden=""),
                id="lens",
            ),
            _data(results, k),
            element("style", Html(_beside("explorer.css"))),
            element("script", Html(_beside("explorer.js"))),
        ]
    )


def _switch() -> Html:
    buttons = (
        element("button", text, type="button", data_measure=name, aria_pressed="false")
        for name, text in SWITCHES.items()
    )
    return element("div", *buttons, class_="switch", role="group", aria_label="colours show")


def _scale() -> Html:
    parts = [
        element("p", data_part="unit"),
        *(element("div", data_part=p) for p in ("bar", "ticks")),
    ]
    return element("div", *parts, class_="scale")


def _item_list() -> Html:
    field = element(
        "input", type="search", data_part="search", id="lens-search", autocomplete="off"
    )
    # An input has no end tag.
    field = Html(field.removesuffix("</input>"))
    return element(
        "div",
        element("label", "Search the items", for_="lens-search"),
        field,
        element("p", data_part="count", role="status"),
        element("ul", data_part="items"),
        class_="lens-list",
    )


def _data(results: Sequence[LensResult], k: int) -> Html:
    from plotly.colors import sample_colorscale

    places = [i / 15 for i in range(16)]
    rgb = sample_colorscale(SEQUENTIAL_SCALE, places, colortype="tuple")
    colours = ["#" + "".join(f"{round(255 * part):02x}" for part in colour) for colour in rgb]
    text = json.dumps({**page_data(results, k), "colours": colours}, ensure_ascii=False)
    # "<" as an escape, so that no token can end the script element.
    return element(
        "script", Html(text.replace("<", "\\u003c")), id="lens-data", type="application/json"
    )


def _beside(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
