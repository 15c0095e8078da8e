"""Theme: the colours that every figure and page shares, and what a figure looks like.

Colours are of middle lightness, so that one figure reads on white and on black; a page restyles
text and grid through CSS (`analysis/templates/page.css`), and elsewhere the template's grey serves.
"""

import plotly.graph_objects as go

SERIES_COLOURS = ("#3d6fb4", "#c8603c", "#3d9278", "#8d66b0", "#b08a2e", "#687b8c")
DEPTH_SCALE = ((0.0, "#4a63b5"), (0.35, "#3d9aa0"), (0.7, "#cfa03f"), (1.0, "#c2503d"))
"""From the first layer to the last; no end of it vanishes on white or on black."""
SEQUENTIAL_SCALE = "Viridis"
SIGNED_SCALE = "RdBu"
REFERENCE_COLOUR = "#8a8f98"
"""Of maxima and other lines that are not data."""

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
