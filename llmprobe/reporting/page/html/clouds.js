// The examples as points in the plane of the probe, a cloud for each model; they move with the slider.

const MOST_CLOUDS = 4;
const SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down"];
const TWEEN = 260; // milliseconds
let shownClouds = "";

function cloudModels() {
  const models = modelsOn(state.dataset).filter((model) => curveOf(model, state.dataset).points?.along);
  const others = models.filter((model) => model !== state.model);
  const most = models.includes(state.model) ? MOST_CLOUDS - 1 : MOST_CLOUDS;
  const chosen = new Set([state.model, ...others.slice(0, most)]);
  return models.filter((model) => chosen.has(model));
}

/** The layer of another model that is shown beside the open one: the closest in relative depth. */
function placeBeside(curve) {
  return curve === current() ? state.at : nearest(curve, current().depths[state.at]);
}

function positions(curve, at) {
  const points = curve.points, m = data.datasets[curve.dataset].examples.number.length;
  const read = (key) => {
    const all = bytes(points, key), reach = points.reach;
    return (i) => (all[at * m + i] / 255 * 2 - 1) * reach;
  };
  return [read("along"), read("across")];
}

/** The answer for an example at a layer: the predicted class, and the probability of the right one. */
function answerOf(curve, at, i) {
  const dataset = data.datasets[curve.dataset], { points } = curve;
  const m = dataset.examples.number.length, label = dataset.examples.label[i];
  const right = bytes(points, "right")[at * m + i] / 255;
  if (!dataset.classes.length) {
    const [low, high] = points.values;
    const value = low + (bytes(points, "value")[at * m + i] / 255) * (high - low);
    return { predicted: Number(value.toPrecision(3)).toString(), right, correct: null };
  }
  let predicted;
  if (points.predicted) predicted = dataset.classes[bytes(points, "predicted")[at * m + i]];
  else predicted = right > 0.5 ? label : dataset.classes.find((name) => name !== label) ?? label;
  return { predicted, right, correct: predicted === label };
}

function pointRow(curve, at, i, x, y) {
  const dataset = data.datasets[curve.dataset], examples = dataset.examples;
  const label = examples.label[i];
  return {
    i, x: x(i), y: y(i), label,
    class: dataset.classes.length ? dataset.classes.indexOf(label) : Number(label),
    chosen: examples.number[i] === state.example,
  };
}

/** The probability of the right answer; with more than two classes, an upper bound if the answer is wrong. */
function rightOf(curve, answer) {
  const bound = !answer.correct && data.datasets[curve.dataset].classes.length > 2;
  return (bound ? "≤ " : "") + number(answer.right);
}

function tipOf(curve, i) {
  const examples = data.datasets[curve.dataset].examples, at = placeBeside(curve);
  const answer = answerOf(curve, at, i);
  const lines = {};
  if (examples.text) lines.text = short(examples.text[i], 160);
  lines.label = examples.label[i];
  lines.predicted = answer.predicted;
  if (answer.correct !== null) lines["probability of the right answer"] = rightOf(curve, answer);
  if (examples.group) lines.group = examples.group[i];
  lines.example = examples.number[i];
  return lines;
}

function cloudSpec(curve, size) {
  const { classes, examples } = data.datasets[curve.dataset], many = examples.drawn > 800;
  const [x, y] = positions(curve, placeBeside(curve)), domain = classes.map((_, i) => i);
  const rows = Array.from({ length: examples.drawn }, (_, i) => pointRow(curve, placeBeside(curve), i, x, y));
  const xTitle = classes.length === 2 ? `← ${short(classes[0], 14)}   probe   ${short(classes[1], 14)} →`
    : classes.length ? "scores of the classes, first component" : "← less   probe   more →";
  const axis = (field, title) => ({ field, type: "quantitative", scale: { domain: [-3.3, 3.3], clamp: true },
    axis: { title, ticks: false, labels: false, grid: false, titlePadding: 4 } });
  const points = {
    data: { name: "points", values: rows },
    mark: { type: "point", filled: true, fillOpacity: many ? 0.55 : 0.75, size: many ? 18 : 32, stroke: css("--ink"), cursor: "pointer", tooltip: { content: "data" } },
    encoding: {
      x: axis("x", xTitle), y: axis("y", classes.length > 2 ? "second component" : "widest direction across"),
      strokeWidth: { condition: { test: "datum.chosen", value: 2.5 }, value: 0 },
      order: { condition: { test: "datum.chosen", value: 1 }, value: 0 },
      ...(classes.length ? {
        fill: { field: "class", type: "nominal", scale: { domain, range: domain.map(classColour) }, legend: null },
        shape: { field: "class", type: "nominal", scale: { domain, range: domain.map((i) => SHAPES[i % SHAPES.length]) }, legend: null },
      } : { fill: { field: "class", type: "quantitative", scale: { scheme: "viridis", zero: false, nice: false }, legend: null }, shape: { value: "circle" } }),
    },
  };
  const threshold = { data: { values: [{ x: 0 }] }, mark: { type: "rule", color: css("--soft"), strokeDash: [4, 3] }, encoding: { x: { field: "x", type: "quantitative" } } };
  return { width: size, height: size, padding: 4, view: { stroke: null }, layer: classes.length === 2 ? [threshold, points] : [points] };
}

async function drawClouds(changed) {
  const models = cloudModels();
  place("cloud-part").hidden = !models.length;
  place("no-clouds").hidden = models.length > 0;
  if (!models.length) return;
  const wanted = JSON.stringify([state.dataset, models, isDark()]);
  if (wanted === shownClouds) {
    for (const model of models) moveCloud(model, changed.includes("at") || changed.includes("model"));
    return;
  }
  shownClouds = wanted;
  fill("clouds", ...models.map((model) => element("figure", { class: "cloud", "data-model": model },
    element("figcaption", { id: `cloud-title-${model}` }), element("div", { id: `cloud-${model}` }))));
  drawLegend();
  for (const model of models) {
    const curve = curveOf(model, state.dataset);
    titleCloud(curve);
    const tip = (handler, event, item, value) => showTip(handler, event, item, value?.i === undefined ? null : tipOf(curve, value.i));
    const view = await chart(`cloud-${model}`, cloudSpec(curve, Math.min(330, place("cloud-part").clientWidth - 34)), "", tip);
    if (!view) return;
    describeCloud(curve);
    view.addEventListener("click", (_, item) => {
      if (item?.datum?.i !== undefined) change({ example: data.datasets[state.dataset].examples.number[item.datum.i] });
    });
  }
}

function scoreBeside(curve) {
  return `${metrics.get(curve.metric).label} ${scoreText(curve, curve.metric, placeBeside(curve))}`;
}

function titleCloud(curve) {
  fill(`cloud-title-${curve.model}`,
    element("strong", {}, element("bdi", {}, data.models[curve.model].name)),
    ` ${layerTitle(curve, placeBeside(curve))}: ${scoreBeside(curve)}`);
}

function describeCloud(curve) {
  place(`cloud-${curve.model}`).setAttribute("aria-label",
    `Examples of ${data.datasets[curve.dataset].name} at ${layerTitle(curve, placeBeside(curve))} of ${data.models[curve.model].name} ` +
    `as points: along the probe’s direction and across it. ${scoreBeside(curve)}.`);
}

function moveCloud(model, moves) {
  const curve = curveOf(model, state.dataset), holder = place(`cloud-${model}`), { view } = holder;
  titleCloud(curve);
  if (!view) return;
  describeCloud(curve);
  const rows = view.data("points"), [x, y] = positions(curve, placeBeside(curve));
  const from = rows.map((row) => [row.x, row.y]);
  const began = performance.now();
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches || !moves;
  cancelAnimationFrame(holder.frame);
  const step = (now) => {
    const way = still ? 1 : Math.min(1, (now - began) / TWEEN), share = way * (2 - way);
    const moved = view.changeset();
    rows.forEach((row, k) => {
      moved.modify(row, "x", from[k][0] + share * (x(row.i) - from[k][0]));
      moved.modify(row, "y", from[k][1] + share * (y(row.i) - from[k][1]));
      moved.modify(row, "chosen", data.datasets[curve.dataset].examples.number[row.i] === state.example);
    });
    view.change("points", moved).run();
    if (way < 1) holder.frame = requestAnimationFrame(step);
  };
  if (still) step(began);
  else holder.frame = requestAnimationFrame(step);
}

function drawLegend() {
  const dataset = data.datasets[state.dataset], { classes, examples } = dataset;
  const marks = classes.slice(0, 12).map((name, i) => element("span", { class: "class" },
    element("i", { style: `color: ${classColour(i)}` }, ["●", "■", "▲", "◆", "✚", "▼"][i % 6]), element("bdi", {}, short(name, 24))));
  if (classes.length > 12) marks.push(element("span", {}, `and ${classes.length - 12} more classes`));
  if (!classes.length) {
    const numbers = examples.label.map(Number);
    marks.push(element("span", { class: "class" }, "label ", String(Math.min(...numbers)),
      element("i", { class: "viridis" }), String(Math.max(...numbers))));
  }
  const drawn = examples.drawn < dataset.n
    ? `${examples.drawn.toLocaleString("en")} of ${dataset.n.toLocaleString("en")} examples, drawn at random`
    : `all ${dataset.n.toLocaleString("en")} examples`;
  const hidden = modelsOn(state.dataset).length - cloudModels().length;
  const beside = hidden > 0 ? `; ${hidden} more models: choose one above` : "";
  place("cloud-note").textContent = classes.length > 2
    ? "Left and right, up and down: the two directions in which the scores of the classes differ most."
    : "Left and right: the probe’s direction; up and down: the widest direction across it.";
  fill("legend", ...marks, element("span", { class: "soft" }, drawn + beside));
}

part(["model", "dataset", "at", "example", "theme"], drawClouds);
