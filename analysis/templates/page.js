// Draws every plot of the page, keeps the choice of light or dark, links plots by layer and by the
// series of their section, and lets readers switch series off, filter rows and unfold them.
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

  // A trace that has keys stands for what they name: an arm, a seed. The first one is its series.
  const keysOf = (trace) => trace?.meta?.keys ?? [];
  const beside = (plot) => {
    const section = plot.closest("section");
    return section ? [...section.querySelectorAll(".plot")].filter((other) => other.data) : [];
  };
  const lightSeries = (plot, series) => {
    for (const other of beside(plot)) {
      other.querySelectorAll(".scatterlayer .trace").forEach((line) => {
        const its = keysOf(line.__data__?.[0]?.trace)[0];
        line.classList.toggle("faded", series !== null && its !== undefined && its !== series);
      });
    }
  };

  // Panels of a section with the same axis show the same place of the trace that is most alike.
  const alike = (plot, wanted, x) => {
    let best = null;
    plot.data.forEach((trace, curveNumber) => {
      const keys = keysOf(trace);
      // Numbers may be packed in the data; plotly's own copy has them unpacked.
      const places = plot._fullData[curveNumber].x;
      if (!keys.length || trace.visible === false || !places?.indexOf) return;
      const pointNumber = places.indexOf(x);
      const shared = keys.filter((key) => wanted.includes(key)).length;
      if (pointNumber >= 0 && shared > (best?.shared ?? 0)) best = { shared, curveNumber, pointNumber };
    });
    return best;
  };
  const follow = (plot, point) => {
    const axis = plot.layout.meta?.axis;
    if (!axis) return;
    for (const other of beside(plot)) {
      if (other === plot || other.layout.meta?.axis !== axis) continue;
      const { curveNumber, pointNumber } = alike(other, keysOf(point.data), point.x) ?? {};
      if (curveNumber === undefined) Plotly.Fx.unhover(other);
      else Plotly.Fx.hover(other, [{ curveNumber, pointNumber }]);
    }
  };
  const unfollow = (plot) => {
    if (!plot.layout.meta?.axis) return;
    beside(plot).forEach((other) => other !== plot && Plotly.Fx.unhover(other));
  };

  const draw = async (plot) => {
    const { data, layout } = JSON.parse(plot.nextElementSibling.textContent);
    if (isTouch) layout.dragmode = false;
    await Plotly.newPlot(plot, data, layout, config);
    plot.on("plotly_hover", (event) => {
      const point = event.points[0];
      const series = keysOf(point.data)[0];
      if (series === undefined) return light(layerOf(point));
      lightSeries(plot, series);
      follow(plot, point);
    });
    plot.on("plotly_unhover", () => {
      light(null);
      lightSeries(plot, null);
      unfollow(plot);
    });
  };

  // Switches act on all figures of their section: a trace is drawn while none of its keys is off.
  const isOn = (button) => button.getAttribute("aria-pressed") === "true";
  const press = (button, on) => button.setAttribute("aria-pressed", String(on));
  const showSeries = (section, buttons) => {
    const off = new Set(buttons.filter((button) => !isOn(button)).map((b) => b.dataset.key));
    for (const plot of section.querySelectorAll(".plot")) {
      const places = [...plot.data.keys()].filter((place) => keysOf(plot.data[place]).length);
      const visible = places.map((place) => !keysOf(plot.data[place]).some((key) => off.has(key)));
      if (places.length) Plotly.restyle(plot, { visible }, places);
    }
  };
  const startSwitches = (section) => {
    const buttons = [...section.querySelectorAll("button[data-key]")];
    const show = () => showSeries(section, buttons);
    for (const button of buttons) {
      button.addEventListener("click", () => {
        press(button, !isOn(button));
        show();
      });
    }
    for (const all of section.querySelectorAll("button[data-all]")) {
      const group = [...all.closest(".switches").querySelectorAll("button[data-key]")];
      all.addEventListener("click", () => {
        const on = !group.every(isOn);
        group.forEach((button) => press(button, on));
        show();
      });
    }
    if (!buttons.every(isOn)) show();
  };

  for (const button of document.querySelectorAll("button[data-filter]")) {
    button.addEventListener("click", () => {
      const section = button.closest("section");
      const wanted = isOn(button) ? "" : button.dataset.filter;
      section.querySelectorAll("button[data-filter]").forEach((other) => {
        press(other, wanted !== "" && other.dataset.filter === wanted);
      });
      section.querySelectorAll("[data-row]").forEach((row) => {
        row.hidden = wanted !== "" && row.dataset.row !== wanted;
      });
    });
  }
  for (const button of document.querySelectorAll("button[aria-controls]")) {
    button.addEventListener("click", () => {
      const open = button.getAttribute("aria-expanded") !== "true";
      button.setAttribute("aria-expanded", String(open));
      document.getElementById(button.getAttribute("aria-controls")).hidden = !open;
    });
  }

  Promise.all(plots.map(draw)).then(() => {
    document.querySelectorAll("section").forEach(startSwitches);
    root.dataset.drawn = String(plots.length);
  });
  addEventListener("beforeprint", () => plots.forEach((plot) => Plotly.Plots.resize(plot)));
})();
