// The heatmap: a table for each model, a cell for each layer; a click or an arrow key opens one.

/** A score as the share of the way from chance (0) to perfect (1). */
function levelOf(curve, metric, value) {
  const chance = curve.chances[metric] ?? 0;
  return (value - chance) / (metrics.get(metric).perfect - chance);
}

function ramp() {
  return data.ramps[isDark() ? "dark" : "light"];
}

function colourOf(curve, metric, at) {
  const value = curve.scores[metric]?.[at] ?? null;
  if (value === null) return null;
  const level = Math.max(-1, Math.min(1, levelOf(curve, metric, value)));
  return ramp()[Math.round(((level + 1) / 2) * (ramp().length - 1))];
}

const MOST_NUMBERED = 12;

/** Black or white, whichever reads better on a colour. */
function inkOn(colour) {
  const [red, green, blue] = [1, 3, 5].map((at) => (parseInt(colour.slice(at, at + 2), 16) / 255) ** 2.2);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.179 ? "#fff" : "#000";
}

function ordered(rows) {
  const best = (curve) => curve.best[state.metric];
  const keys = {
    given: () => 0,
    depth: (curve) => curve.stays_above_half ?? 2,
    peak: (curve) => curve.depths[peakPlace(curve)] ?? 2,
    score: (curve) => -(curve.scores[state.metric]?.[best(curve)] ?? -2),
  };
  const key = keys[state.order];
  return [...rows].sort((a, b) => key(a) - key(b));
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
    const best = curve.best[state.metric] ?? null;
    const dataset = data.datasets[curve.dataset].name;
    const cells = layers.map((layer) => cell(curve, curve.layers.indexOf(layer), best));
    return element("tr", {},
      element("th", { scope: "row", title: dataset }, element("bdi", {}, short(dataset, 24))),
      ...cells,
      element("td", { class: "best" },
        best === null ? "–" : `${scoreText(curve, state.metric, best)} (${curve.layers[best]})`));
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
  const value = scoreText(curve, state.metric, at), numbered = curve.layers.length <= MOST_NUMBERED;
  const title = `${data.models[curve.model].name}, ${data.datasets[curve.dataset].name}, ` +
    `${layerTitle(curve, at)}: ${metrics.get(state.metric).label} ${value}`;
  const open = () => change({ model: curve.model, dataset: curve.dataset, at });
  const made = element("td", {
    role: "gridcell", tabindex: "-1", "aria-label": title, title, style: `background: ${colour}`,
    onclick: open, onkeydown: moveInGrid, class: numbered ? (at === best ? "numbered best-cell" : "numbered") : at === best ? "peak" : null,
  }, numbered ? element("span", { style: `color: ${inkOn(colour)}` }, value) : null);
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
  const from = event.currentTarget;
  const row = [...from.parentElement.children];
  const rows = [...place("heatmap").querySelectorAll("tbody tr")];
  const column = row.indexOf(from), line = rows.indexOf(from.parentElement);
  const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
  let to = null;
  if (step) {
    const others = [...(rows[line + step[0]]?.children ?? [])];
    // In a model with another number of layers, go to the same depth.
    const share = (column - 1) / Math.max(1, row.length - 3);
    const target = step[0] && others.length !== row.length
      ? 1 + Math.round(share * (others.length - 3)) : column + step[1];
    to = others[target];
  } else if (event.key === "Home") to = row.find((other) => other.opens);
  else if (event.key === "End") to = row.findLast((other) => other.opens);
  else if (event.key === "Enter" || event.key === " ") to = from;
  else return;
  event.preventDefault();
  if (to?.opens) {
    to.opens();
    to.focus();
  }
}

function drawScale() {
  const { name, label, chance_name: chance, perfect } = metrics.get(state.metric);
  const levels = curves.flatMap((curve) => (curve.scores[name] ?? []).filter((value) => value !== null)
    .map((value) => levelOf(curve, name, value)));
  const from = Math.max(-1, Math.min(-0.2, ...levels));
  const shown = ramp().slice(Math.floor(((from + 1) / 2) * (ramp().length - 1)));
  const chances = curves.map((curve) => curve.chances[name] ?? null).filter((value) => value !== null);
  const low = Math.min(...chances), high = Math.max(...chances);
  const left = `left: ${(-from / (1 - from)) * 100}%`;
  fill("scale",
    element("span", { class: "bar", style: `background: linear-gradient(to right, ${shown.join(", ")})` },
      element("i", { style: left })),
    element("span", { class: "marks" },
      element("b", { style: left }, low === high ? `${chance} ${number(low)}` : `${chance} (${number(low)} to ${number(high)})`),
      element("b", { style: "left: 100%" }, String(perfect))),
    element("span", { class: "soft" }, label));
}

part(["metric", "order", "theme"], drawHeatmap);
part(["model", "dataset", "at"], markCell);
