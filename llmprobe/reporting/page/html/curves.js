// The curves of a dataset: every model, with intervals, baselines and marks, and what speaks against them.

function sameLayers(shown) {
  return new Set(shown.map((curve) => curve.layers[curve.layers.length - 1])).size === 1;
}

async function drawCurves() {
  const shown = curves.filter((curve) => curve.dataset === state.dataset && curve.scores[state.metric]);
  const x = sameLayers(shown) ? "layer" : "depth";
  const color = { field: "index", type: "nominal", sort: null, title: null, scale: { domain: shown.map((curve) => curve.model), range: shown.map((curve) => modelColour(curve.model)) }, legend: null };
  const rows = shown.flatMap((curve) => curve.layers.map((layer, at) => ({
    model: data.models[curve.model].name, index: curve.model, at, layer, depth: curve.depths[at],
    name: layerTitle(curve, at), score: curve.scores[state.metric][at],
    low: curve.scores[`${state.metric}_low`]?.[at] ?? null, high: curve.scores[`${state.metric}_high`]?.[at] ?? null,
    control: state.metric === "accuracy" ? curve.scores.control_accuracy?.[at] ?? null : null,
    untrained: state.metric === "accuracy" ? curve.scores.random_weights_accuracy?.[at] ?? null : null,
    open: curve === current() && at === state.at,
  })).filter((row) => row.score !== null));
  const named = x === "layer" && shown.find((curve) => curve.names.length);
  const xAxis = { field: x, type: "quantitative", title: x === "layer" ? (named ? "probe point" : "layer (0: the embedding)") : "depth (layer / last layer)",
    scale: { domain: x === "depth" ? [0, 1] : [shown[0].layers[0], shown[0].layers.at(-1)], nice: false },
    axis: named ? { values: named.layers, labelExpr: "names[datum.value]", labelAngle: -35, labelOverlap: true } : { tickMinStep: x === "layer" ? 1 : 0.1, grid: false } };
  const name = METRICS[state.metric].name;
  const yAxis = { type: "quantitative", title: name, scale: { zero: false, nice: true } };
  const tooltip = [{ field: "model" }, { field: "name", title: "place" }, { field: "score", title: name, format: ".3f" },
    { field: "low", title: "95 % from", format: ".3f" }, { field: "high", title: "to", format: ".3f" }];
  const layers = [
    { mark: { type: "area", opacity: 0.18 }, encoding: { y: { field: "low", ...yAxis }, y2: { field: "high" } } },
    ...dashed(rows, "untrained", [6, 3], yAxis), ...dashed(rows, "control", [1, 3], yAxis),
    { mark: { type: "line", strokeWidth: 2 }, encoding: { y: { field: "score", ...yAxis } } },
    { mark: { type: "point", filled: true, opacity: 1, cursor: "pointer" },
      encoding: { y: { field: "score", ...yAxis }, tooltip, size: { condition: { test: "datum.open", value: 140 }, value: 26 } } },
  ];
  const marks = markRows(shown, x);
  const said = [
    ...(marks.length ? [{ data: { values: marks }, mark: { type: "point", filled: false, size: 90, strokeWidth: 1.6 },
      encoding: { y: { field: "score", ...yAxis }, shape: { field: "mark", type: "nominal", title: null, scale: { domain: MARKS.map(([, title]) => title), range: ["triangle-up", "diamond", "square"] }, legend: null },
        tooltip: [{ field: "mark" }, { field: "model" }, { field: "place", title: "at" }] } }] : []),
    ...baselineRules(shown),
  ];
  const width = Math.max(240, Math.min(720, place("curve-part").clientWidth - 70));
  const view = await chart("curve-chart", {
    width, height: Math.round(Math.max(200, width * 0.42)),
    // Names are data and no part of an expression, which some of their characters would break.
    params: named ? [{ name: "names", value: Object.fromEntries(named.layers.map((layer, at) => [layer, short(named.names[at], 18)])) }] : [],
    data: { values: rows }, encoding: { x: xAxis, color }, layer: [...layers, ...said],
  }, `${name} over layers: ` + shown.map((curve) => `${data.models[curve.model].name}, best ${number(curve.scores[state.metric][bestPlace(curve, state.metric)])} at layer ${curve.layers[bestPlace(curve, state.metric)]}`).join("; "));
  view?.addEventListener("click", (_, item) => {
    if (item?.datum?.at !== undefined) change({ model: item.datum.index, at: item.datum.at });
  });
  drawCautions(shown);
}

function dashed(rows, field, strokeDash, yAxis) {
  if (!rows.some((row) => row[field] !== null)) return [];
  return [{ mark: { type: "line", strokeDash, strokeWidth: 1.2, opacity: 0.8 }, encoding: { y: { field, ...yAxis } } }];
}

const MARKS = [["half_rise_depth", "half of the rise", "△"], ["jump_layer", "jump", "◇"], ["converging_layer", "converged", "□"]];

function markRows(shown, x) {
  if (state.metric !== data.metric) return [];
  return shown.flatMap((curve) => MARKS.flatMap(([key, title]) => {
    const value = curve.summary?.[key];
    if (value === undefined) return [];
    const last = curve.layers[curve.layers.length - 1];
    const depth = key.endsWith("depth") ? value : value / Math.max(1, last);
    const score = scoreAtDepth(curve, depth);
    const at = key.endsWith("depth") ? `depth ${number(value)}` : `layer ${value}`;
    return [{ model: data.models[curve.model].name, index: curve.model, mark: title, score, place: at, [x]: x === "depth" ? depth : depth * last }];
  }));
}

function scoreAtDepth(curve, depth) {
  const after = Math.max(0, curve.depths.findIndex((other) => other >= depth - 1e-9)), before = Math.max(0, after - 1);
  const [a, b] = [curve.scores[state.metric][before], curve.scores[state.metric][after]];
  const gap = curve.depths[after] - curve.depths[before];
  return gap > 0 ? a + ((depth - curve.depths[before]) / gap) * (b - a) : b;
}

function baselineRules(shown) {
  if (state.metric !== data.metric && state.metric !== "auroc") return [];
  const first = shown[0], rules = [];
  const chance = chanceOf(first, state.metric);
  rules.push({ level: chance, said: state.metric === data.metric && state.metric === "accuracy" ? `majority class ${number(chance)}` : `chance ${number(chance)}`, dash: [6, 4] });
  const words = first.summary?.[`bag_of_words_${state.metric}`];
  if (words !== undefined) rules.push({ level: words, said: `bag of words ${number(words)}`, dash: [2, 3] });
  const highest = Math.max(...rules.map((rule) => rule.level));
  return rules.flatMap(({ level, said, dash }, i) => {
    const above = rules.length < 2 ? false : rules[0].level === rules[1].level ? i === 1 : level === highest;
    return [
    { data: { values: [{ level }] }, mark: { type: "rule", strokeDash: dash, color: css("--soft") },
      encoding: { x: null, color: { value: css("--soft") }, y: { field: "level", type: "quantitative" } } },
    { data: { values: [{ level, said }] }, mark: { type: "text", align: "right", baseline: above ? "bottom" : "top", dy: above ? -3 : 3, dx: -4, fontSize: 11 },
      encoding: { x: { value: { expr: "width" } }, color: { value: css("--soft") }, y: { field: "level", type: "quantitative" }, text: { field: "said" } } },
    ];
  });
}

/** What speaks against a curve, beside it. */
function drawCautions(shown) {
  const said = new Map();
  for (const curve of shown) for (const line of curve.against) said.set(line, [...(said.get(line) ?? []), curve.model]);
  const items = [...said].map(([line, models]) => element("li", {},
    models.length === shown.length ? null : element("strong", {}, element("bdi", {}, models.map((model) => data.models[model].name).join(", ")), ": "), line));
  place("cautions").hidden = !items.length;
  fill("caution-list", ...items);
  fill("curve-legend", ...shown.map((curve) => modelKey(curve.model)),
    ...MARKS.filter(([key]) => state.metric === data.metric && shown.some((curve) => curve.summary?.[key] !== undefined))
      .map(([, title, sign]) => element("span", { class: "class" }, element("i", {}, sign), title)));
  place("curve-title").replaceChildren(element("bdi", {}, data.datasets[state.dataset].name));
  const untrained = shown.some((curve) => curve.scores.random_weights_accuracy), control = shown.some((curve) => curve.scores.control_accuracy);
  place("curve-note").textContent = "Bands are 95 % intervals." + (state.metric === "accuracy"
    ? (untrained ? " Long dashes: the same architecture, untrained." : "") + (control ? " Dots: the same probe on random labels, one for each group, whose rows stand on both sides of its splits: what it can memorise about groups. The curve itself cannot gain by that, since its groups are never split." : "") : "")
    + (state.metric === data.metric ? " Half of the rise: from chance to the best layer. Jump: the first rise by a tenth. Converged: after the last change of 3 % (Jin et al. 2024)." : "")
    + " Click a point to open its layer.";
}

part(["dataset", "metric", "model", "at", "theme"], drawCurves);
