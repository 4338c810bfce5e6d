// The table of examples: what every layer says of each, hardest first or as asked.

const ROWS = 20;
const list = { sort: "hardest", search: "", page: 0 };

function measures() {
  const shown = modelsOn(state.dataset).map((model) => curveOf(model, state.dataset)).filter((curve) => curve.points);
  const own = current().points ? current() : shown[0];
  if (!own) return null;
  const dataset = data.datasets[state.dataset], m = dataset.examples.number.length;
  const right = (curve, at, i) => bytes(curve.points, "right")[at * m + i] / 255;
  const rows = Array.from({ length: m }, (_, i) => {
    const curve = own.layers.map((_, at) => right(own, at, i));
    const peaks = shown.map((other) => right(other, peakPlace(other), i));
    return {
      i, mean: curve.reduce((sum, value) => sum + value, 0) / curve.length, atPeak: right(own, peakPlace(own), i),
      flip: lastFlip(own, i), gap: Math.max(...peaks) - Math.min(...peaks),
    };
  });
  return { rows, shown, own, right };
}

/** The last layer whose prediction differs from that of the layer before; -1 if none does. */
function lastFlip(curve, i) {
  for (let at = curve.layers.length - 1; at > 0; at -= 1) {
    if (answerOf(curve, at, i).predicted !== answerOf(curve, at - 1, i).predicted) return at;
  }
  return -1;
}

const SORTS = {
  hardest: (a, b) => a.mean - b.mean,
  flips: (a, b) => b.flip - a.flip || a.mean - b.mean,
  wrong: (a, b) => a.atPeak - b.atPeak,
  easiest: (a, b) => b.mean - a.mean,
  gap: (a, b) => b.gap - a.gap,
  number: (a, b) => numberOf(a.i) - numberOf(b.i),
};

function numberOf(i) {
  return data.datasets[state.dataset].examples.number[i];
}

function textOf(i) {
  const { examples } = data.datasets[state.dataset];
  const fields = Object.values(examples.fields ?? {}).map((values) => values[i]);
  return [examples.text?.[i], examples.group?.[i], examples.label[i], ...fields].join("\n").toLowerCase();
}

let measured = null;

function drawExamples() {
  measured = measures();
  place("example-part").hidden = !measured;
  if (!measured) return;
  const { examples, n } = data.datasets[state.dataset];
  place("example-title").replaceChildren(element("bdi", {}, data.datasets[state.dataset].name));
  place("sort-gap").hidden = measured.shown.length < 2;
  place("example-note").textContent = (examples.number.length < n
    ? `${examples.number.length.toLocaleString("en")} of ${n.toLocaleString("en")} examples are on this page: a random part and the hardest ones; predictions.parquet in the run’s folder has all. ` : "")
    + (data.datasets[state.dataset].classes.length
      ? "Lines: the probability of the right answer from the first layer to the last, by probes that did not see the example; " + (data.datasets[state.dataset].classes.length > 2
        ? "where another class is predicted, it is at most this." : "above the middle, the answer is right.")
      : "Lines: how close the prediction is, from the first layer to the last; at the bottom it is two standard deviations off.");
  fill("line-models", ...(measured.shown.length > 1 ? measured.shown.map((curve) => modelKey(curve.model)) : []));
  drawRows();
}

function drawRows() {
  if (!measured) return;
  const search = list.search.trim().toLowerCase();
  const rows = measured.rows.filter((row) => !search || textOf(row.i).includes(search)).sort(SORTS[list.sort]);
  const pages = Math.max(1, Math.ceil(rows.length / ROWS));
  list.page = Math.min(list.page, pages - 1);
  const { examples, classes } = data.datasets[state.dataset];
  const focused = document.activeElement.closest("tr[data-example]")?.dataset.example;
  const head = ["example", ...(examples.text ? ["text"] : []), ...(examples.group ? ["group"] : []), "label",
    `${short(data.models[measured.own.model].name, 24)} at the open layer`, ...(classes.length ? ["probability of its label"] : []), "by layer"];
  fill("example-rows",
    element("thead", {}, element("tr", {}, ...head.map((name) => element("th", { scope: "col" }, name)))),
    element("tbody", {}, ...rows.slice(list.page * ROWS, (list.page + 1) * ROWS).map((row) => exampleRow(row.i))));
  if (focused) place("example-rows").querySelector(`[data-example="${focused}"] button`)?.focus();
  place("example-count").textContent = `${rows.length.toLocaleString("en")} examples, page ${list.page + 1} of ${pages}`;
  place("previous").disabled = list.page === 0;
  place("next").disabled = list.page >= pages - 1;
}

function exampleRow(i) {
  const { examples, classes } = data.datasets[state.dataset], at = placeBeside(measured.own);
  const answer = answerOf(measured.own, at, i), chosen = examples.number[i] === state.example;
  const fields = Object.entries(examples.fields ?? {}).filter(([, values]) => values[i] !== "")
    .map(([key, values]) => `${key}: ${values[i]}`).join(" · ");
  const choose = () => change({ example: chosen ? null : examples.number[i] });
  return element("tr", { class: chosen ? "chosen" : null, "data-example": examples.number[i] },
    element("th", { scope: "row" }, element("button", { class: "plain", "aria-pressed": chosen, title: "Mark it among the points", onclick: choose }, String(examples.number[i]))),
    examples.text ? element("td", { class: "text" }, element("bdi", { class: chosen ? "whole" : "clipped" }, examples.text[i]),
      fields ? element("div", { class: "soft fields" }, element("bdi", {}, fields)) : null) : null,
    examples.group ? element("td", {}, element("bdi", {}, short(examples.group[i], 24))) : null,
    element("td", {}, element("bdi", {}, short(examples.label[i], 24))),
    element("td", { class: answer.correct === false ? "miss" : null }, element("bdi", {}, short(answer.predicted, 24)), answer.correct === false ? " ✗" : answer.correct ? " ✓" : ""),
    classes.length ? element("td", {}, rightOf(measured.own, answer)) : null,
    element("td", {}, lineOf(i)));
}

/** A small line for each model, over relative depth. */
function lineOf(i) {
  const width = 130, height = 30, y = (value) => (1 - value) * (height - 4) + 2;
  const lines = measured.shown.map((curve) => {
    const points = curve.layers.map((_, at) => `${(2 + (curve.depths[at] ?? 0) * (width - 4)).toFixed(1)},${y(measured.right(curve, at, i)).toFixed(1)}`);
    return element("polyline", { points: points.join(" "), fill: "none", stroke: modelColour(curve.model), "stroke-width": curve === measured.own ? 1.8 : 1 });
  });
  const own = measured.own, at = placeBeside(own);
  const values = own.layers.map((_, layer) => number(measured.right(own, layer, i)));
  return element("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": `by layer: ${values.join(", ")}` },
    element("line", { x1: 0, x2: width, y1: height / 2, y2: height / 2, class: "middle" }), ...lines,
    element("circle", { cx: (2 + (own.depths[at] ?? 0) * (width - 4)).toFixed(1), cy: y(measured.right(own, at, i)).toFixed(1), r: 2.6, fill: modelColour(own.model) }));
}

place("sort").addEventListener("change", (event) => { Object.assign(list, { sort: event.target.value, page: 0 }); drawRows(); });
place("search").addEventListener("input", (event) => { Object.assign(list, { search: event.target.value, page: 0 }); drawRows(); });
place("previous").addEventListener("click", () => { list.page -= 1; drawRows(); });
place("next").addEventListener("click", () => { list.page += 1; drawRows(); });
part(["dataset", "model", "theme"], () => { list.page = 0; drawExamples(); });
part(["at"], drawRows);
part(["example"], (changed) => {
  if (!changed.includes("dataset")) drawRows();
});
