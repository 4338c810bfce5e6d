// The controls above all parts, downloads, and the first drawing.

function choice(id, names, key) {
  const select = place(id);
  select.append(...names.map((name, i) => element("option", { value: i }, short(name, 60))));
  select.addEventListener("change", () => change({ [key]: Number(select.value) }));
  select.closest("label").hidden = names.length < 2;
  part([key], () => { select.value = state[key]; });
}

function download(name) {
  const url = URL.createObjectURL(new Blob([data.files[name]], { type: "text/csv" }));
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

choice("dataset", data.datasets.map((dataset) => dataset.name), "dataset");
choice("model", data.models.map((model) => model.name), "model");
const coloured = data.metrics.filter((metric) => metric.heatmap);
place("metric").append(...coloured.map(({ name, label }) => element("option", { value: name, selected: name === state.metric }, label)));
place("metric").addEventListener("change", (event) => change({ metric: event.target.value }));
place("order").addEventListener("change", (event) => change({ order: event.target.value }));
place("order").closest("label").hidden = data.datasets.length < 2;
for (const name of Object.keys(data.files)) {
  place("downloads").append(element("button", { onclick: () => download(name) }, name));
}

// A click on a finding opens its layer.
for (const button of document.querySelectorAll("button[data-curve]")) {
  button.addEventListener("click", () => {
    const curve = curves[Number(button.dataset.curve)];
    stop();
    change({ model: curve.model, dataset: curve.dataset, at: peakPlace(curve) });
    place("layer-title").scrollIntoView({ block: "center" });
  });
}

// Pointing at an answer, touching it or reaching it with a key shows its sentence.
for (const button of document.querySelectorAll("button.answer")) {
  const say = () => {
    const { left, bottom } = button.getBoundingClientRect();
    tipAt(left, bottom - 14, [place(button.getAttribute("aria-describedby")).textContent]);
  };
  for (const event of ["pointerenter", "focus", "click"]) button.addEventListener(event, say);
  for (const event of ["pointerleave", "blur"]) button.addEventListener(event, () => { place("tip").hidden = true; });
  button.addEventListener("keydown", (event) => { if (event.key === "Escape") place("tip").hidden = true; });
}

document.documentElement.classList.add("scripted");
const height = (curve) => curve.scores[curve.metric]?.[peakPlace(curve)] ?? -1;
const [first] = [...curves].sort((a, b) => b.readable - a.readable || a.dataset - b.dataset || height(b) - height(a));
Object.assign(state, { model: first.model, dataset: first.dataset, at: peakPlace(first), theme: isDark() });
for (const { draw } of parts) draw(Object.keys(state));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => change({ theme: isDark() }));
let width = innerWidth;
addEventListener("resize", () => {
  if (innerWidth !== width) drawCurves();
  width = innerWidth;
});
