"""Notebook figure: a plotly figure that also shows where no plotly extension draws it.

In a notebook plotly puts out its own kind of JSON alone, which Jupyter and VS Code draw, and which
HTML made by nbconvert has nothing to draw with: it stays blank. This figure puts out HTML beside
it. The first one of a session brings plotly.js along (4 MB); the others find it on the page, or
where it is gone, fetch it from its usual address.
"""

import json
import sys
from itertools import count
from string import Template
from typing import Any

import plotly.graph_objects as go
import plotly.io as pio
from plotly.offline import get_plotlyjs, get_plotlyjs_version

_DRAWN_BY_JUPYTER = "plotly_mimetype"
"""Plotly's renderer in a notebook, unless another was chosen or the place needs another."""
_numbers = count()
_brought: list[tuple[Any, Any]] = []
"""The cell that brought plotly.js along, and its run."""

_HTML = Template("""<div id="$name" style="width:100%;height:${height}px"></div>
<script>$library</script>
<script>(() => {
  const figure = $figure;
  const place = document.getElementById("$name");
  // On a narrow page the bar of buttons would lie on the title, and the title run over.
  const width = place.clientWidth, bar = width > 600 && "hover", title = figure.layout.title;
  if (!bar && title && title.text && figure.layout.margin) {
    const line = new RegExp(`(.{1,$${Math.max(16, Math.floor(width / 9))}})( |$$)`, "g");
    title.text = `<b>$${title.text.replace(/<\\/?b>/g, "").replace(line, "$$1<br>")}</b>`;
    title.xref = "container";
    const more = 20 * (title.text.split("<br>").length - 2), height = figure.layout.height;
    figure.layout.height = height + more;
    place.style.height = `$${height + more}px`;
    figure.layout.margin.t += more;
    if (figure.layout.legend) figure.layout.legend.y -= more / height;
  }
  const how = {responsive: true, displaylogo: false, displayModeBar: bar};
  const draw = () => Plotly.newPlot(place, figure.data, figure.layout, how);
  if (window.Plotly) { draw(); return; }
  const script = document.createElement("script");
  script.src = "https://cdn.plot.ly/plotly-$version.min.js";
  script.onload = draw;
  document.head.append(script);
})();</script>""")


class NotebookFigure(go.Figure):
    """A plotly figure that shows itself in Jupyter, in VS Code and in HTML made by nbconvert."""

    def _ipython_display_(self) -> None:
        self.show()

    def show(self, *args: Any, **settings: Any) -> None:
        """Show it, as plotly does."""
        if args or settings or pio.renderers.default != _DRAWN_BY_JUPYTER:
            pio.show(self, *args, **settings)
            return
        from IPython.display import display

        display(self._repr_mimebundle_(), raw=True)

    def _repr_mimebundle_(self, *_args: Any, **_settings: Any) -> dict[str, Any]:
        drawn = json.loads(self.to_json())
        return {"application/vnd.plotly.v1+json": drawn, "text/html": self._repr_html_()}

    def _repr_html_(self) -> str:
        return _HTML.substitute(
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
