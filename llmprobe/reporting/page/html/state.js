// The state of the page, and how every part of it is told of a change.

const data = JSON.parse(document.getElementById("data").textContent);
const curves = data.curves;
const metrics = new Map(data.metrics.map((metric) => [metric.name, metric]));
const state = {
  dataset: 0, model: 0, at: 0, // `at` is a place in the curve's list of layers
  metric: curves[0].metric, order: "given", example: null,
};
const parts = [];

/** Register a part of the page that is drawn again when one of these keys of the state changes. */
function part(keys, draw) {
  parts.push({ keys, draw });
}

function change(changes) {
  const next = { ...state, ...changes };
  if (!curveOf(next.model, next.dataset)) next.model = modelsOn(next.dataset)[0] ?? next.model;
  const before = curveOf(state.model, state.dataset);
  const curve = curveOf(next.model, next.dataset);
  if (!("at" in changes) && curve !== before) next.at = nearest(curve, before.depths[state.at]);
  if (next.dataset !== state.dataset) next.example = null;
  const changed = Object.keys(next).filter((key) => next[key] !== state[key]);
  Object.assign(state, next);
  for (const { keys, draw } of parts) if (keys.some((key) => changed.includes(key))) draw(changed);
}

function curveOf(model, dataset) {
  return curves.find((curve) => curve.model === model && curve.dataset === dataset);
}

function current() {
  return curveOf(state.model, state.dataset);
}

function modelsOn(dataset) {
  return curves.filter((curve) => curve.dataset === dataset).map((curve) => curve.model);
}

/** The place of the layer that is closest to a relative depth. */
function nearest(curve, depth) {
  const gaps = curve.depths.map((other) => Math.abs((other ?? 0) - (depth ?? 0)));
  return gaps.indexOf(Math.min(...gaps));
}

/** The place of the best layer by the score that the curve is judged by. */
function peakPlace(curve) {
  return curve.best[curve.metric] ?? 0;
}

/** A score of a curve at a place, in the format of its metric. */
function scoreText(curve, metric, at) {
  return written(curve.scores[metric]?.[at] ?? null, metrics.get(metric).form);
}

/** A number in a format of Python (.2f, .3g, .1%), or as a p-value. */
function written(value, form) {
  if (value === null) return "–";
  if (form === "p") return value < 0.001 ? "< 0.001" : number(value, 3);
  const digits = Number(/\d+/.exec(form)?.[0] ?? 2);
  if (form.endsWith("g")) return String(Number(value.toPrecision(digits)));
  return form.endsWith("%") ? `${number(100 * value, digits)} %` : number(value, digits);
}

function layerTitle(curve, at) {
  const last = curve.layers[curve.layers.length - 1];
  const name = curve.names.length ? ` (${curve.names[at]})` : "";
  return `layer ${curve.layers[at]}${name} of ${last}`;
}

/** An element with attributes and children; text is never read as HTML. */
function element(tag, attributes = {}, ...children) {
  const made = tag === "svg" || SVG.includes(tag)
    ? document.createElementNS("http://www.w3.org/2000/svg", tag)
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name.startsWith("aria-")) made.setAttribute(name, value); // "false" says something there.
    else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}
const SVG = ["polyline", "line", "circle"];

function place(id) {
  return document.getElementById(id);
}

function fill(id, ...children) {
  place(id).replaceChildren(...children.filter((child) => child !== null));
}

/** A number as Python writes it: halfway between two, the one with an even last digit. */
function number(value, digits = 2) {
  if (value === null || value === undefined) return "–";
  const between = value * 2 ** (digits + 1); // Only what is odd here is halfway between two.
  const lower = Math.floor(value * 10 ** digits);
  const even = Math.abs(between % 2) === 1 ? (lower + Math.abs(lower % 2)) / 10 ** digits : value;
  return even.toFixed(digits).replace("-", "−");
}

/** A line of a model's colour, and its name. */
function modelKey(model) {
  return element("span", { class: "class" },
    element("i", { style: `color: ${modelColour(model)}` }, "━"), element("bdi", {}, short(data.models[model].name, 40)));
}

/** A name that is cut in the middle: beginnings are shared, and ends differ. */
function short(text, most = 32) {
  const half = Math.floor((most - 1) / 2);
  return text.length <= most ? text : `${text.slice(0, half + 1)}…${text.slice(-half)}`;
}

/** Bytes from base64, decoded once. */
function bytes(holder, key) {
  if (typeof holder[key] !== "string") return holder[key];
  holder[key] = Uint8Array.from(atob(holder[key]), (character) => character.charCodeAt(0));
  return holder[key];
}

function css(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function isDark() {
  return matchMedia("(prefers-color-scheme: dark)").matches;
}

function classColour(index) {
  return data.class_colours[index % data.class_colours.length];
}

function modelColour(index) {
  return data.colours[index % data.colours.length];
}
