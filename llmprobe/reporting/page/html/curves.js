// The curves of a dataset: every model, with intervals, baselines and marks, and what speaks against them or is unclear.

function sameLayers(shown) {
  return new Set(shown.map((curve) => curve.layers[curve.layers.length - 1])).size === 1;
}

async function drawCurves() {
  const all = curves.filter((curve) => curve.dataset === state.dataset);
  const metric = metrics.get(all.some((curve) => curve.scores[state.metric]) ? state.metric : all[0].metric), { name, label } = metric;
  const shown = all.filter((curve) => curve.scores[name]);
  const x = sameLayers(shown) ? "layer" : "depth";
  const color = { field: "index", type: "nominal", sort: null, title: null, scale: { domain: shown.map((curve) => curve.model), range: shown.map((curve) => modelColour(curve.model)) }, legend: null };
  const rows = shown.flatMap((curve) => curve.layers.map((layer, at) => {
    const value = (column) => curve.scores[column]?.[at] ?? null;
    return {
      model: data.models[curve.model].name, index: curve.model, at, layer, depth: curve.depths[at], name: layerTitle(curve, at),
      score: value(name), low: value(`${name}_low`), high: value(`${name}_high`),
      untrained: value(`random_weights_${name}`), ...controlled(value(`control_${name}`), value("selectivity")),
      open: curve === current() && at === state.at,
    };
  }).filter((row) => row.score !== null));
  const named = x === "layer" && shown.find((curve) => curve.names.length);
  const xAxis = { field: x, type: "quantitative", title: x === "layer" ? (named ? "probe point" : "layer (0: the embedding)") : "depth (layer / last layer)",
    scale: { domain: x === "depth" ? [0, 1] : [shown[0].layers[0], shown[0].layers.at(-1)], nice: false },
    axis: named ? { values: named.layers, labelExpr: "names[datum.value]", labelAngle: -35, labelOverlap: true } : { tickMinStep: x === "layer" ? 1 : 0.1, grid: false } };
  const yAxis = { type: "quantitative", title: label, scale: { zero: false, nice: true } };
  const tooltip = [{ field: "model" }, { field: "name", title: "place" }, { field: "score", title: label, format: ".3f" },
    { field: "low", title: "95 % from", format: ".3f" }, { field: "high", title: "to", format: ".3f" }];
  const layers = [
    { mark: { type: "area", opacity: 0.18 }, encoding: { y: { field: "low", ...yAxis }, y2: { field: "high" } } },
    ...dashed(rows, "untrained", [6, 3], yAxis), ...dashed(rows, "control", [1, 3], yAxis), ...dashed(rows, "beside", [8, 2, 1, 2], yAxis),
    { mark: { type: "line", strokeWidth: 2 }, encoding: { y: { field: "score", ...yAxis } } },
    { mark: { type: "point", filled: true, opacity: 1, cursor: "pointer" },
      encoding: { y: { field: "score", ...yAxis }, tooltip, size: { condition: { test: "datum.open", value: 140 }, value: 26 } } },
  ];
  const marks = markRows(shown, name, x);
  if (marks.length) {
    const scale = { domain: data.marks.map((mark) => mark.title), range: data.marks.map((mark) => mark.shape) };
    layers.push({ data: { values: marks }, mark: { type: "point", filled: false, size: 90, strokeWidth: 1.6 },
      encoding: { y: { field: "score", ...yAxis }, shape: { field: "mark", type: "nominal", title: null, scale, legend: null },
        tooltip: [{ field: "mark" }, { field: "model" }, { field: "place", title: "at" }] } });
  }
  const width = Math.max(240, Math.min(720, place("curve-part").clientWidth - 70));
  const view = await chart("curve-chart", {
    width, height: Math.round(Math.max(200, width * 0.42)),
    // Names are passed as data: some of their characters would break an expression.
    params: named ? [{ name: "names", value: Object.fromEntries(named.layers.map((layer, at) => [layer, short(named.names[at], 18)])) }] : [],
    data: { values: rows }, encoding: { x: xAxis, color }, layer: [...layers, ...baselineRules(shown, metric)],
  }, `${label} over layers: ` + shown.map((curve) => `${data.models[curve.model].name}, best ${scoreText(curve, name, curve.best[name])} at layer ${curve.layers[curve.best[name]]}`).join("; "));
  view?.addEventListener("click", (_, item) => {
    if (item?.datum?.at !== undefined) change({ model: item.datum.index, at: item.datum.at });
  });
  drawCautions(shown, marks, metric, rows);
}

/** The control task, and the concept on its splits: both, or neither if one is not known. */
function controlled(control, selectivity) {
  const known = control !== null && selectivity !== null;
  return { control: known ? control : null, beside: known ? control + selectivity : null };
}

function dashed(rows, field, strokeDash, yAxis) {
  if (!rows.some((row) => row[field] !== null)) return [];
  return [{ mark: { type: "line", strokeDash, strokeWidth: 1.2, opacity: 0.8 }, encoding: { y: { field, ...yAxis } } }];
}

/** Where the marks stand, on those curves whose main score is shown. */
function markRows(shown, metric, x) {
  return shown.filter((curve) => curve.metric === metric).flatMap((curve) => curve.marks.map((mark) => ({
    ...mark, model: data.models[curve.model].name, index: curve.model, [x]: x === "depth" ? mark.depth : mark.depth * curve.layers.at(-1),
  })));
}

function baselineRules(shown, { name, chance_name: chance }) {
  const level = shown[0].chances[name] ?? null, words = shown[0].metric === name ? shown[0].bag_of_words : null;
  const rules = [
    { level, label: `${chance} ${number(level)}`, dash: [6, 4] },
    { level: words, label: `bag of words ${number(words)}`, dash: [2, 3] },
  ].filter((rule) => rule.level !== null);
  const highest = Math.max(...rules.map((rule) => rule.level));
  return rules.flatMap(({ level, label, dash }, i) => {
    const above = rules.length < 2 ? false : rules[0].level === rules[1].level ? i === 1 : level === highest;
    return [
    { data: { values: [{ level }] }, mark: { type: "rule", strokeDash: dash, color: css("--soft") },
      encoding: { x: null, color: { value: css("--soft") }, y: { field: "level", type: "quantitative" } } },
    { data: { values: [{ level, label }] }, mark: { type: "text", align: "right", baseline: above ? "bottom" : "top", dy: above ? -3 : 3, dx: -4, fontSize: 11 },
      encoding: { x: { value: { expr: "width" } }, color: { value: css("--soft") }, y: { field: "level", type: "quantitative" }, text: { field: "label" } } },
    ];
  });
}

/** What speaks against the curves or is unclear, beside them, and a legend of their lines and signs. */
function drawCautions(shown, marks, { name }, rows) {
  const against = new Map();
  for (const curve of shown) for (const line of curve.doubts) against.set(line, [...(against.get(line) ?? []), curve.model]);
  const items = [...against].map(([line, models]) => element("li", {},
    models.length === shown.length ? null : element("strong", {}, element("bdi", {}, models.map((model) => data.models[model].name).join(", ")), ": "), line));
  place("cautions").hidden = !items.length;
  fill("caution-list", ...items);
  fill("curve-legend", ...shown.map((curve) => modelKey(curve.model)),
    ...data.marks.filter(({ title }) => marks.some(({ mark }) => mark === title))
      .map(({ title, sign }) => element("span", { class: "class" }, element("i", {}, sign), title)));
  fill("curve-title", element("bdi", {}, data.datasets[state.dataset].name));
  const has = (key) => rows.some((row) => row[key] !== null);
  place("curve-note").textContent = "Bands are 95 % intervals."
    + (has("untrained") ? " Long dashes: the same architecture, untrained." : "")
    + (has("control") ? " Dots: the same probe on random labels, one for each group, with the rows of a group on both sides of its splits: what it can memorise about groups. Dash-dots: the concept on the same splits; dash-dots minus dots is the selectivity. The curve itself has no group on both sides." : "")
    + (shown.some((curve) => curve.scores[`control_${name}`] && !curve.scores.selectivity) ? " Selectivity is empty where groups hold opposite labels, which put the concept below chance on the splits of random labels." : "")
    + (shown[0].metric === name ? " Best layer: the one with the least held-out loss. Large dot: the open layer. Half: of the rise from chance to the best layer. Jump: the first rise by a tenth; converged: after the last change of 3 % (Jin et al. 2024), both only where the curve does not fall below half again." : "")
    + " Click a point to open its layer.";
}

part(["dataset", "metric", "model", "at", "theme"], drawCurves);
