// Train × test: what probes read elsewhere, each train set at its best layer, or all at one.

function transferRow(matrix, train, at) {
  const layer = at < 0 ? matrix.best[train] : at;
  const cells = matrix.scores[layer][train].map((value, test) => {
    const colour = value === null ? null : ramp()[Math.round(value * (ramp().length - 1))];
    const mark = at < 0 ? matrix.marks[train][test] : "";
    return element("td", { style: colour && `background: ${colour}; color: ${inkOn(colour)}` }, number(value) + mark);
  });
  const head = element("th", { scope: "row" }, element("bdi", {}, short(matrix.train[train], 30)));
  return element("tr", {}, head, element("td", {}, String(matrix.layers[layer])), ...cells);
}

function drawTransfer() {
  const matrix = data.transfer[Number(place("transfer-model").value)];
  const at = Number(place("transfer-layer").value) - 1;
  const shown = at < 0 ? "each set’s best" : `layer ${matrix.layers[at]}`;
  place("transfer-at").textContent = shown;
  const names = matrix.test.map((name) => element("th", { scope: "col" }, element("bdi", {}, short(name, 18))));
  fill("transfer-matrix", element("table", {},
    element("caption", {}, `AUROC${matrix.of && ` on ${short(matrix.of, 24)}`} at ${shown}${at < 0 ? " layer" : ""}`),
    element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "fitted on"), element("th", { scope: "col" }, "layer"), ...names)),
    element("tbody", {}, ...matrix.train.map((_, train) => transferRow(matrix, train, at)))));
}

function openTransfer() {
  place("transfer-layer").max = data.transfer[Number(place("transfer-model").value)].layers.length;
  drawTransfer();
}

if (data.transfer.length) {
  const select = place("transfer-model");
  select.append(...data.transfer.map(({ model }, i) => element("option", { value: i }, short(model, 60))));
  select.closest("label").hidden = data.transfer.length < 2;
  select.addEventListener("change", openTransfer);
  place("transfer-layer").addEventListener("input", drawTransfer);
  part(["model"], () => {
    const { name } = data.models[state.model];
    const first = data.transfer.findIndex(({ model }) => model === name || model.startsWith(`${name} @ `));
    select.value = Math.max(0, first);
    openTransfer();
  });
  part(["theme"], drawTransfer);
}
