// Draws every plot of the page, keeps the choice of light or dark, and links plots by layer.
"use strict";
(() => {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const systemIsDark = matchMedia("(prefers-color-scheme: dark)");

  // A browser may refuse storage to a page opened from a file; the choice then lasts as the page.
  const stored = (...value) => {
    try {
      return value.length ? localStorage.setItem("theme", value[0]) : localStorage.getItem("theme");
    } catch {
      return null;
    }
  };

  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : systemIsDark.matches);
  const nameButton = () => {
    button.textContent = isDark() ? "Light" : "Dark";
    button.setAttribute("aria-label", isDark() ? "light colours" : "dark colours");
  };
  if (stored() === "dark" || stored() === "light") root.dataset.theme = stored();
  nameButton();
  systemIsDark.addEventListener("change", nameButton);
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    stored(root.dataset.theme);
    nameButton();
  });

  const config = {
    responsive: true,
    displaylogo: false,
    modeBarButtons: [["toImage", "resetScale2d"]],
    toImageButtonOptions: { format: "svg" },
  };
  const plots = [...document.querySelectorAll(".plot")];

  // Drawn with fingers, a zoom box would keep the page from scrolling.
  const isTouch = matchMedia("(pointer: coarse)").matches;

  const layerOf = (point) => point.data.meta?.layer ?? point.y;
  const light = (layer) => {
    for (const plot of plots) {
      if (!plot.data.some((trace) => trace.meta?.layer !== undefined)) continue;
      plot.querySelectorAll(".scatterlayer .trace").forEach((line) => {
        const its = line.__data__?.[0]?.trace?.meta?.layer;
        line.classList.toggle("faded", layer !== null && its !== undefined && its !== layer);
        line.classList.toggle("lit", layer !== null && its === layer);
      });
    }
  };

  const draw = async (plot) => {
    const { data, layout } = JSON.parse(plot.nextElementSibling.textContent);
    if (isTouch) layout.dragmode = false;
    await Plotly.newPlot(plot, data, layout, config);
    plot.on("plotly_hover", (event) => light(layerOf(event.points[0])));
    plot.on("plotly_unhover", () => light(null));
  };
  Promise.all(plots.map(draw)).then(() => {
    root.dataset.drawn = String(plots.length);
  });
  addEventListener("beforeprint", () => plots.forEach((plot) => Plotly.Plots.resize(plot)));
})();
