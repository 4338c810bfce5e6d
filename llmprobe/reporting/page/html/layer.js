// The open layer: the slider through the layers, and the scores, confusion and calibration of one.

let playing = null;

function drawLayer() {
  const curve = current();
  const slider = place("slider");
  slider.max = curve.layers.length - 1;
  slider.value = state.at;
  slider.setAttribute("aria-valuetext", layerTitle(curve, state.at));
  fill("layer-title",
    element("bdi", {}, data.models[curve.model].name), ", ",
    element("bdi", {}, data.datasets[curve.dataset].name), `: ${layerTitle(curve, state.at)}`);
  place("dataset-about").textContent = short(data.datasets[curve.dataset].about, 300);
  place("slider-value").textContent = layerTitle(curve, state.at);
  fill("scores", scoreTable(curve, state.at), askedTable(curve, state.at));
  fill("confusion", confusionTable(curve, state.at));
  drawCalibration(curve);
}

function scoreTable(curve, at) {
  const rows = data.metrics.map(({ name, label, form }) => scoreRow(curve, at, name, label, form));
  return captioned("Scores, with 95 % intervals", {}, element("tbody", {}, ...rows.filter(Boolean)));
}

/** A row with a score at a layer and its interval; null where there is none. */
function scoreRow(curve, at, name, label, form) {
  const [score, low, high] = ["", "_low", "_high"].map((end) => curve.scores[name + end]?.[at] ?? null);
  if (score === null) return null;
  const within = low === null ? "" : ` [${written(low, form)}, ${written(high, form)}]`;
  return element("tr", {}, element("th", { scope: "row" }, label), element("td", {}, written(score, form) + within));
}

/** What the layer holds, and what the model makes of it; null if only readability was asked for. */
function askedTable(curve, at) {
  const asked = data.asked.map(({ name, label }) => scoreRow(curve, at, name, label, ".2f")).filter(Boolean);
  if (!asked.length) return null;
  const rows = [scoreRow(curve, at, "auroc", "readable (AUROC)", ".2f"), ...asked].filter(Boolean);
  return captioned("Readable, said, used, linear", {}, element("tbody", {}, ...rows));
}

/** A table below its caption, which may be wider. */
function captioned(caption, attributes, ...content) {
  return element("div", {}, element("p", { class: "caption" }, caption),
    element("table", { "aria-label": caption, ...attributes }, ...content));
}

function confusionTable(curve, at) {
  const counts = curve.confusion?.[at];
  if (!counts) return null;
  const classes = data.datasets[curve.dataset].classes;
  const head = classes.map((name) => element("th", { scope: "col" }, element("bdi", {}, short(name, 14))));
  const body = counts.map((row, truth) => {
    const total = Math.max(1, row.reduce((sum, count) => sum + count, 0));
    return element("tr", {},
      element("th", { scope: "row" }, element("bdi", {}, short(classes[truth], 14))),
      ...row.map((count, predicted) => element("td", {
        class: predicted === truth ? "right" : null, style: `--share: ${(count / total).toFixed(3)}`,
      }, count.toLocaleString("en"))));
  });
  return captioned("Confusion: label (rows) and prediction (columns)", { class: "confusion" },
    element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "label"), ...head)),
    element("tbody", {}, ...body));
}

async function drawCalibration(curve) {
  const bins = curve.calibration?.[state.at];
  place("calibration").hidden = !bins;
  if (!bins) return;
  const classes = data.datasets[curve.dataset].classes;
  const of = classes.length === 2 ? `label ${short(classes[1], 14)}` : "predicted class";
  const values = bins.map(([mean, share, n]) => ({ mean, share, n }));
  const axis = { type: "quantitative", scale: { domain: [0, 1] }, axis: { values: [0, 0.5, 1] } };
  await chart("calibration-chart", {
    width: 150, height: 150,
    layer: [
      { data: { values: [{ mean: 0, share: 0 }, { mean: 1, share: 1 }] },
        mark: { type: "line", strokeDash: [4, 3], color: css("--soft"), strokeWidth: 1 },
        encoding: { x: { field: "mean", ...axis }, y: { field: "share", ...axis } } },
      { data: { values },
        mark: { type: "circle", color: css("--accent"), opacity: 0.9 },
        encoding: {
          x: { field: "mean", ...axis, title: `probability of ${of}` }, y: { field: "share", ...axis, title: "how often it is" },
          size: { field: "n", type: "quantitative", legend: null, scale: { range: [20, 200] } },
          tooltip: [{ field: "mean", title: "probability" }, { field: "share", title: "how often" }, { field: "n", title: "examples" }],
        } },
    ],
  }, `Calibration: ${values.map((bin) => `${bin.mean} given, ${bin.share} found`).join("; ")}`);
}

function stop() {
  clearInterval(playing);
  playing = null;
  place("play").textContent = "▶ Play";
}

function play() {
  if (playing) return stop();
  if (state.at === current().layers.length - 1) change({ at: 0 });
  place("play").textContent = "❚❚ Pause";
  playing = setInterval(() => {
    if (state.at >= current().layers.length - 1) stop();
    else change({ at: state.at + 1 });
  }, 450);
}

place("slider").addEventListener("input", (event) => change({ at: Number(event.target.value) }));
place("play").addEventListener("click", play);
place("peak").addEventListener("click", () => { stop(); change({ at: peakPlace(current()) }); });
part(["model", "dataset", "at", "theme"], drawLayer);
