// Draws the heatmap of any item, switches what its colours stand for, and searches the items.
"use strict";
(() => {
  const root = document.getElementById("lens");
  const data = JSON.parse(document.getElementById("lens-data").textContent);
  const MOST_SHOWN = 200;

  const make = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value !== null && value !== undefined) made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  };
  const part = (name) => root.querySelector(`[data-part="${name}"]`);
  const whole = (number) => number.toLocaleString("en");
  const percent = (p) => {
    if (p < 1e-6) return "<0.0001%";
    const digits = p >= 0.1 ? 1 : p >= 0.001 ? 2 : 4;
    return `${(100 * p).toFixed(digits)}%`;
  };

  const unpack = async ({ type, data: text }) => {
    const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    const response = new Response(stream);
    if (type === "JSON") return response.json();
    const planes = new Uint8Array(await response.arrayBuffer());
    const size = globalThis[type].BYTES_PER_ELEMENT;
    const length = planes.length / size;
    const raw = new Uint8Array(planes.length);
    for (let plane = 0; plane < size; plane += 1) {
      for (let i = 0; i < length; i += 1) raw[i * size + plane] = planes[plane * length + i];
    }
    return new globalThis[type](raw.buffer);
  };
  const unpackSeries = async (series) => {
    const packed = Object.entries(series).filter(([, value]) => value?.type && value.data !== undefined);
    await Promise.all(packed.map(async ([name, value]) => (series[name] = await unpack(value))));
    series.nRows = series.position.length;
  };

  // Where on the scale of colours a place of a layer lies, from 0 to 1, and the ends of the scale.
  const largestVocabulary = Math.max(...data.series.map((series) => series.dVocab));
  const mostNats = Math.log(largestVocabulary);
  const rankPlace = (rank) => 1 - Math.log1p(rank) / Math.log1p(largestVocabulary);
  const klPlace = (kl) => Math.log1p(kl) / (Math.log1p(data.highestKl) || 1);
  const evenly = (most, show) => [0, 0.25, 0.5, 0.75, 1].map((t) => [t, show(t * most)]);
  const inNats = (value) => value.toFixed(1);
  const measures = {
    rank: {
      place: (series, at) => rankPlace(series.rank[at]),
      ticks: [0, 1, 10, 100, 1e3, 1e4, 1e5, 1e6]
        .filter((rank) => rank < largestVocabulary)
        .map((rank) => [rankPlace(rank), whole(rank)]),
      unit: "rank of the target, 0 is the top",
    },
    probability: {
      place: (series, at) => Math.exp(series.logProb[at]),
      ticks: evenly(1, (p) => `${100 * p}%`),
      unit: "probability of the target",
    },
    entropy: {
      place: (series, at) => series.entropy[at] / mostNats,
      ticks: evenly(mostNats, inNats),
      unit: "entropy of the readout, nats",
    },
    kl: {
      // Near the input divergences can be ten times what they are anywhere else.
      place: (series, at) => klPlace(series.kl[at]),
      ticks: [0, 1, 3, 10, 30, 100, 300].filter((nats) => nats <= data.highestKl).map((nats) => [klPlace(nats), nats]),
      unit: "KL divergence of the last layer's distribution from the readout, nats",
    },
  };

  const channels = data.colours.map((hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)));
  const colourAt = (place) => {
    const t = Math.min(1, Math.max(0, place)) * (channels.length - 1);
    const low = Math.min(Math.floor(t), channels.length - 2);
    return channels[low].map((c, i) => Math.round(c + (t - low) * (channels[low + 1][i] - c)));
  };
  const isBright = ([r, g, b]) => 0.299 * r + 0.587 * g + 0.114 * b > 140;

  let item = 0;
  let measure = "rank";

  const paint = () => {
    for (const cell of root.querySelectorAll("td.cell")) {
      const series = data.series[cell.dataset.series];
      const colour = colourAt(measures[measure].place(series, Number(cell.dataset.at)));
      cell.style.backgroundColor = `rgb(${colour})`;
      cell.classList.toggle("bright", isBright(colour));
    }
    const { ticks, unit } = measures[measure];
    const marks = ticks.map(([place, text]) => {
      const mark = make("span", {}, text);
      mark.style.left = `${100 * place}%`;
      return mark;
    });
    part("ticks").replaceChildren(...marks);
    part("unit").textContent = unit;
    for (const button of root.querySelectorAll("[data-measure]")) {
      button.setAttribute("aria-pressed", String(button.dataset.measure === measure));
    }
  };

  const cellOf = (series, number, layer, row, column) => {
    const at = layer * series.nRows + row;
    const best = series.tokens[series.topIds[at * series.topK]];
    const place = `layer ${series.layers[layer]}, ${series.tokens[series.input[row]]}: ${best}`;
    return make(
      "td",
      {
        class: series.rank[at] === 0 ? "cell top" : "cell",
        tabindex: "-1",
        "aria-label": place,
        "data-series": number,
        "data-at": at,
        "data-layer": layer,
        "data-row": row,
        "data-column": column,
      },
      best,
    );
  };

  // Beside a single position there is room for the tokens that come next.
  const MOST_BESIDE = 5;
  const besideOf = (series, layer, row) => {
    const at = (layer * series.nRows + row) * series.topK;
    const cells = [];
    for (let i = 1; i < Math.min(series.topK, MOST_BESIDE); i += 1) {
      const isTarget = series.topIds[at + i] === series.target[row];
      const text = series.tokens[series.topIds[at + i]];
      cells.push(make("td", { class: isTarget ? "beside is-target" : "beside", title: text }, text));
    }
    return cells;
  };

  const gridOf = (series, number) => {
    const rows = [];
    for (let row = series.starts[item]; row < series.starts[item + 1]; row += 1) rows.push(row);
    const body = make("tbody");
    for (let layer = series.layers.length - 1; layer >= 0; layer -= 1) {
      const cells = rows.map((row, column) => cellOf(series, number, layer, row, column));
      const beside = rows.length === 1 ? besideOf(series, layer, rows[0]) : [];
      const name = make("th", { scope: "row" }, series.layers[layer]);
      body.append(make("tr", {}, name, ...cells, ...beside));
    }
    const names = (show, isTarget) =>
      rows.map((row) => {
        const isRead = series.place[row] >= 0;
        const text = isTarget && !isRead ? "" : show(row);
        return make("th", { scope: "col", title: text || null, class: isRead ? "readout" : null }, text);
      });
    const targets = names((row) => series.tokens[series.target[row]], true);
    const inputs = names((row) => series.tokens[series.input[row]], false);
    const head = make("thead", {}, make("tr", {}, make("th", { scope: "row" }, "target"), ...targets));
    const foot = make("tfoot", {}, make("tr", {}, make("th", { scope: "row" }, "token"), ...inputs));
    const table = make("table", {}, head, body, foot);
    const label = `${series.name}: layers by positions`;
    const scroll = make("div", { class: "grid-scroll", role: "group", "aria-label": label }, table);
    const heading = data.series.length > 1 ? [make("h3", {}, series.name)] : [];
    const grid = make("div", { class: "grid" }, ...heading, scroll);
    // The end of the prompt, where the target is read, is what a reader wants to see first.
    return [grid, () => (scroll.scrollLeft = scroll.scrollWidth)];
  };

  const show = (index) => {
    item = index;
    hideCard();
    const grids = data.series.map(gridOf);
    part("grids").replaceChildren(...grids.map(([grid]) => grid));
    for (const [, toTheEnd] of grids) toTheEnd();
    for (const body of root.querySelectorAll("tbody")) {
      body.firstChild?.lastChild?.setAttribute("tabindex", "0");
    }
    const { prompt, target } = data.series[0].items[item];
    part("prompt").replaceChildren(prompt, make("mark", {}, target));
    for (const button of part("items")?.querySelectorAll("button") ?? []) {
      button.setAttribute("aria-current", String(Number(button.dataset.item) === item));
    }
    paint();
    root.dataset.item = String(item);
  };

  const card = part("card");
  const cardContent = (cell) => {
    const series = data.series[cell.dataset.series];
    const at = Number(cell.dataset.at);
    const row = Number(cell.dataset.row);
    const target = series.tokens[series.target[row]];
    const heading = make("p", { class: "card-place" });
    heading.append(`layer ${series.layers[cell.dataset.layer]} · position ${series.position[row]}, after `);
    heading.append(make("code", {}, series.tokens[series.input[row]]));
    const facts = make("p", {}, make("code", {}, target), ` rank ${whole(series.rank[at])}, `);
    facts.append(`${percent(Math.exp(series.logProb[at]))}, ${series.logProb[at].toFixed(2)} nats`);
    const spread = `entropy ${series.entropy[at].toFixed(2)}, KL ${series.kl[at].toFixed(2)} nats`;
    const body = make("tbody");
    for (let i = 0; i < series.topK; i += 1) {
      const token = series.topIds[at * series.topK + i];
      const chance = Math.exp(-series.topSteps[at * series.topK + i] * data.step);
      const bar = make("i");
      bar.style.width = `${3.4 * chance}rem`;
      body.append(
        make(
          "tr",
          { class: token === series.target[row] ? "is-target" : null },
          make("td", {}, String(i)),
          make("th", { scope: "row" }, make("code", {}, series.tokens[token])),
          make("td", {}, bar, percent(chance)),
        ),
      );
    }
    return [heading, facts, make("p", {}, spread), make("table", {}, body)];
  };

  let pointed = null;
  const showCard = (cell) => {
    pointed = cell;
    card.replaceChildren(...cardContent(cell));
    card.hidden = false;
    placeCard();
  };
  const placeCard = () => {
    const cell = pointed;
    const around = cell.getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height } = card;
    const page = document.documentElement;
    const beside = around.right + 10 + width < page.clientWidth ? around.right + 10 : around.left - width - 10;
    const left = Math.max(8, Math.min(beside, page.clientWidth - width - 8));
    // In a narrow window there is no room beside a cell, and over it the card would hide it.
    const isOver = left < around.right && left + width > around.left;
    const below = around.bottom + 8 + height < innerHeight ? around.bottom + 8 : around.top - height - 8;
    const top = isOver ? below : around.top - height / 3;
    card.style.left = `${left}px`;
    card.style.top = `${Math.max(8, Math.min(top, innerHeight - height - 8))}px`;
  };
  const hideCard = () => (card.hidden = true);

  const grids = part("grids");
  grids.addEventListener("pointerover", (event) => {
    const cell = event.target.closest("td.cell");
    if (cell) showCard(cell);
    else hideCard();
  });
  grids.addEventListener("pointerleave", hideCard);
  grids.addEventListener("focusin", (event) => {
    const cell = event.target.closest("td.cell");
    if (!cell) return;
    for (const other of cell.closest("tbody").querySelectorAll('[tabindex="0"]')) {
      other.setAttribute("tabindex", "-1");
    }
    cell.setAttribute("tabindex", "0");
    cell.scrollIntoView({ block: "nearest", inline: "nearest" });
    showCard(cell);
  });
  grids.addEventListener("focusout", hideCard);
  // To have the focus a cell may have been scrolled to: the card goes along.
  const follow = () => card.hidden || placeCard();
  addEventListener("scroll", follow, { passive: true, capture: true });

  const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  grids.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hideCard();
    const step = STEPS[event.key];
    const cell = event.target.closest("td.cell");
    if (!step || !cell) return;
    event.preventDefault();
    const line = cell.parentElement;
    const next = line.parentElement.rows[line.sectionRowIndex + step[0]];
    next?.cells[cell.cellIndex + step[1]]?.closest("td.cell")?.focus();
  });

  root.querySelector(".switch").addEventListener("click", (event) => {
    const button = event.target.closest("[data-measure]");
    if (!button) return;
    measure = button.dataset.measure;
    paint();
  });

  const readableFrom = ({ rank, first, settles }) => {
    const from = first === null ? `never in the top ${data.k}` : `first ${first}`;
    const stays = settles === null ? "" : ` · stays ${settles}`;
    return `${from}${stays} · last rank ${whole(rank)}`;
  };
  const entry = (one, index) => {
    const text = make("span", { class: "entry-text" }, one.prompt, make("mark", {}, one.target));
    const where = data.series.map((series) => make("small", {}, readableFrom(series.items[index])));
    const button = make("button", { type: "button", "data-item": index }, text, ...where);
    button.setAttribute("aria-current", String(index === item));
    return make("li", {}, button);
  };
  const search = part("search");
  const list = () => {
    const items = data.series[0].items;
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = [];
    items.forEach((one, index) => {
      const text = `${one.prompt} ${one.target}`.toLowerCase();
      if (words.every((word) => text.includes(word))) found.push(index);
    });
    const shown = found.slice(0, MOST_SHOWN);
    part("items").replaceChildren(...shown.map((index) => entry(items[index], index)));
    const rest = found.length > shown.length ? `; the first ${MOST_SHOWN} are shown` : "";
    part("count").textContent = `${whole(found.length)} of ${whole(items.length)} items${rest}`;
  };
  if (search) {
    search.addEventListener("input", list);
    part("items").addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) show(Number(button.dataset.item));
    });
  }

  part("bar").style.backgroundImage = `linear-gradient(90deg, ${data.colours.join(", ")})`;
  Promise.all(data.series.map(unpackSeries)).then(() => {
    if (search) list();
    show(0);
  });
})();
