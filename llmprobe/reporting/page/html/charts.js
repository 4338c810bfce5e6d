// Vega in this page's colours, and a tooltip that shows text as text.

const views = new Map();

function config() {
  const ink = css("--ink"), soft = css("--soft"), line = css("--line");
  const font = "system-ui, sans-serif";
  return {
    background: "transparent", font, view: { stroke: line },
    axis: {
      labelColor: soft, titleColor: soft, domainColor: line, tickColor: line, gridColor: line, gridOpacity: 0.5,
      labelFont: font, titleFont: font, titleFontWeight: "normal", labelFontSize: 11, titleFontSize: 12, labelFlush: false,
    },
    legend: { labelColor: ink, titleColor: soft, labelFont: font, titleFont: font, labelFontSize: 12, labelLimit: 240 },
    text: { color: ink }, header: { labelColor: ink },
  };
}

/** Draw a Vega or Vega-Lite specification in an element, and replace what was there. */
async function chart(id, spec, description, tooltip = showTip) {
  const holder = place(id);
  const turn = (holder.turn = (holder.turn ?? 0) + 1);
  const drawing = element("div");
  const { view } = await vegaEmbed(drawing, spec, {
    actions: false, ast: true, renderer: "canvas", config: config(), tooltip,
  });
  if (turn !== holder.turn) {
    view.finalize(); // A newer drawing was asked for meanwhile.
    return null;
  }
  views.get(id)?.finalize();
  views.set(id, view);
  holder.view = view;
  holder.setAttribute("role", "img");
  holder.setAttribute("aria-label", description);
  holder.replaceChildren(drawing);
  return view;
}

function showTip(handler, event, item, value) {
  if (value === null || value === undefined || value === "") {
    place("tip").hidden = true;
    return;
  }
  const lines = typeof value === "object" ? Object.entries(value).map(([key, text]) => `${key}: ${text}`) : [String(value)];
  tipAt(event.clientX, event.clientY, lines);
}

function tipAt(x, y, lines) {
  const tip = place("tip");
  tip.replaceChildren(...lines.map((line) => element("div", {}, element("bdi", {}, line))));
  tip.hidden = false;
  const width = tip.offsetWidth, height = tip.offsetHeight;
  tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - width - 4))}px`;
  tip.style.top = `${y + 18 + height > innerHeight ? Math.max(4, y - height - 10) : y + 18}px`;
}
