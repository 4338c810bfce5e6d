// The heatmap: a table for each model, a cell for each layer; a click or an arrow key opens one.

/** The colour of a score: from chance (the middle) to perfect. */
function colourOf(curve, metric, at) {
  const value = curve.scores[metric]?.[at];
  if (value === null || value === undefined) return null;
  const chance = chanceOf(curve, metric);
  const level = (value - chance) / (1 - chance);
  const ramp = isDark() ? data.ramps.dark : data.ramps.light;
  const index = Math.round(((Math.max(-1, Math.min(1, level)) + 1) / 2) * (ramp.length - 1));
  return ramp[index];
}

const MOST_NUMBERED = 12;

/** Black or white, whichever reads better on a colour. */
function inkOn(colour) {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  return 0.3 * red + 0.59 * green + 0.11 * blue < 140 ? "#fff" : "#000";
}

function bestPlace(curve, metric) {
  if (metric === data.metric && curve.peak !== null) return peakPlace(curve);
  const values = (curve.scores[metric] ?? []).map((value) => value ?? -Infinity);
  return values.indexOf(Math.max(...values));
}

function ordered(rows) {
  const keys = {
    given: null,
    depth: (curve) => curve.summary?.half_rise_depth ?? 2,
    peak: (curve) => curve.depths[peakPlace(curve)] ?? 2,
    score: (curve) => -(curve.scores[state.metric]?.[bestPlace(curve, state.metric)] ?? -2),
  };
  const key = keys[state.order];
  return key ? [...rows].sort((a, b) => key(a) - key(b)) : rows;
}

function drawHeatmap() {
  const tables = data.models.map((model, index) => {
    const rows = ordered(curves.filter((curve) => curve.model === index));
    return rows.length ? heatmapTable(model, rows) : null;
  });
  fill("heatmap", ...tables);
  drawScale();
  markCell();
}

function heatmapTable(model, rows) {
  const layers = rows.reduce((most, curve) => (curve.layers.length > most.length ? curve.layers : most), []);
  const names = rows.find((curve) => curve.names.length)?.names;
  const every = [1, 2, 5, 10, 20, 50].find((step) => layers.length / step <= 12) ?? 100;
  const last = layers.length - 1;
  const head = layers.map((layer, at) => {
    const shown = names || at === last || (layer % every === 0 && last - at > every / 2);
    return element("th", { scope: "col", class: names ? "slanted" : "" },
      element("span", {}, shown ? (names ? short(names[at], 18) : String(layer)) : ""));
  });
  const body = rows.map((curve) => {
    const best = bestPlace(curve, state.metric);
    const value = curve.scores[state.metric]?.[best];
    const dataset = data.datasets[curve.dataset].name;
    const cells = layers.map((layer) => cell(curve, curve.layers.indexOf(layer), best));
    return element("tr", {},
      element("th", { scope: "row", title: dataset }, element("bdi", {}, short(dataset, 24))),
      ...cells,
      element("td", { class: "best" },
        value === null || value === undefined ? "–" : `${number(value)} (${curve.layers[best]})`));
  });
  return element("div", { class: "scroll", role: "region", tabindex: "-1", "aria-label": `Heatmap of ${model.name}` },
    element("table", { class: "heatmap", role: "grid", style: `--layers: ${layers.length}` },
      element("caption", {}, element("bdi", {}, model.name)),
      element("thead", {}, element("tr", {},
        element("th", { scope: "col" }, "dataset"), ...head,
        element("th", { scope: "col", class: "best" }, "best (layer)"))),
      element("tbody", {}, ...body)));
}

function cell(curve, at, best) {
  const colour = at < 0 ? null : colourOf(curve, state.metric, at);
  if (colour === null) return element("td", { class: "unscored", "aria-label": "not scored" });
  const value = curve.scores[state.metric][at], numbered = curve.layers.length <= MOST_NUMBERED;
  const said = `${data.models[curve.model].name}, ${data.datasets[curve.dataset].name}, ` +
    `${layerTitle(curve, at)}: ${METRICS[state.metric].name} ${number(value)}`;
  const open = () => change({ model: curve.model, dataset: curve.dataset, at });
  const made = element("td", {
    role: "gridcell", tabindex: "-1", "aria-label": said, title: said, style: `background: ${colour}`,
    onclick: open, onkeydown: moveInGrid, class: numbered ? (at === best ? "numbered best-cell" : "numbered") : at === best ? "peak" : null,
  }, numbered ? element("span", { style: `color: ${inkOn(colour)}` }, number(value)) : null);
  made.opens = open;
  made.curve = curve;
  made.at = at;
  return made;
}

function cells() {
  return [...place("heatmap").querySelectorAll("[role=gridcell]")];
}

function markCell() {
  for (const other of cells()) {
    const selected = other.curve === current() && other.at === state.at;
    other.setAttribute("aria-selected", selected);
    other.tabIndex = selected ? 0 : -1;
  }
}

function moveInGrid(event) {
  const here = event.currentTarget;
  const row = [...here.parentElement.children];
  const rows = [...place("heatmap").querySelectorAll("tbody tr")];
  const column = row.indexOf(here), line = rows.indexOf(here.parentElement);
  const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
  let there = null;
  if (step) {
    const cellsThere = [...(rows[line + step[0]]?.children ?? [])];
    // Of a model with fewer layers, the place at the same depth.
    const share = (column - 1) / Math.max(1, row.length - 3);
    const target = step[0] && cellsThere.length !== row.length
      ? 1 + Math.round(share * (cellsThere.length - 3)) : column + step[1];
    there = cellsThere[target];
  } else if (event.key === "Home") there = row.find((other) => other.opens);
  else if (event.key === "End") there = row.findLast((other) => other.opens);
  else if (event.key === "Enter" || event.key === " ") there = here;
  else return;
  event.preventDefault();
  if (there?.opens) {
    there.opens();
    there.focus();
  }
}

function drawScale() {
  const ramp = isDark() ? data.ramps.dark : data.ramps.light;
  const lowest = Math.min(-0.2, ...curves.flatMap((curve) => (curve.scores[state.metric] ?? [])
    .filter((value) => value !== null)
    .map((value) => (value - chanceOf(curve, state.metric)) / (1 - chanceOf(curve, state.metric)))));
  const from = Math.max(-1, lowest);
  const shown = ramp.slice(Math.floor(((from + 1) / 2) * (ramp.length - 1)));
  const chances = curves.map((curve) => chanceOf(curve, state.metric));
  const low = Math.min(...chances), high = Math.max(...chances);
  const zero = state.metric === "selectivity" || state.metric === "r2";
  const anchor = zero ? "0" : low === high ? `chance ${number(low)}` : `chance (${number(low)} to ${number(high)})`;
  const left = (-from / (1 - from)) * 100;
  fill("scale",
    element("span", { class: "bar", style: `background: linear-gradient(to right, ${shown.join(", ")})` },
      element("i", { style: `left: ${left}%` })),
    element("span", { class: "marks" },
      element("b", { style: `left: ${left}%` }, anchor), element("b", { style: "left: 100%" }, "1")),
    element("span", { class: "soft" }, METRICS[state.metric].name));
}

part(["metric", "order", "theme"], drawHeatmap);
part(["model", "dataset", "at"], markCell);
