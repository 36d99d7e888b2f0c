// Figures: unpack Plotly once, draw what comes into view, the rest when the browser is idle. The theme's colours are CSS.

const FONT = { family: getComputedStyle(document.body).fontFamily, size: 12, color: "#59626c" };
const AXIS = { automargin: true, gridcolor: "#e9ecef", zerolinecolor: "#e2e5e9", showline: false, ticks: "", title: { standoff: 8 } };
const LAYOUT = {
  margin: { l: 48, r: 14, t: 10, b: 40 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: FONT,
  hoverlabel: { bgcolor: "#20262d", bordercolor: "#20262d", font: { ...FONT, color: "#f2f4f6" } }, colorway: PALETTE,
};
const SMALL = 300;  // CSS pixels: a lower figure has no bar of tools, which would cover it
const OPTIONS = { displaylogo: false, responsive: true, modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]] };
const waiting = new Map();  // plots that are not drawn yet, and how to draw each

// Plotly travels compressed; it becomes a script of this page, whose text the policy knows by its hash.
async function library() {
  const packed = Uint8Array.from(atob(document.getElementById("library").textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = element("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
}

// Plotly reads markup in its texts; what users named is text alone.
const inert = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");

function themed(spec, height) {
  const layout = { ...LAYOUT, height, ...spec.layout };
  for (const axis of ["xaxis", "yaxis"]) {
    const own = layout[axis] || {};
    layout[axis] = { ...AXIS, ...own, title: { ...AXIS.title, ...own.title } };
  }
  return [spec.data, layout];
}

function draw(plot) {
  const make = waiting.get(plot);
  if (!make || !window.Plotly) return;
  waiting.delete(plot);
  plot.classList.add("drawn");
  make(plot);
}

function drawAll() {
  for (const plot of [...waiting.keys()]) draw(plot);
}

function resizeAll(width) {
  if (!window.Plotly) return;
  for (const plot of document.querySelectorAll(".plot.drawn")) {
    const px = width(plot);
    Plotly.relayout(plot, px === null ? { width: null, autosize: true } : { width: px });
  }
}

function register(plot, make) {
  waiting.set(plot, make);
  if (window.Plotly) draw(plot);
}

async function start() {
  const plots = [...document.querySelectorAll(".plot[data-plot]")];
  for (const plot of plots) {
    const spec = DATA.plots[plot.dataset.plot], height = Number(plot.dataset.height);
    if (!spec) continue;
    const controls = document.querySelector(`[data-scatter="${CSS.escape(plot.dataset.plot)}"]`);
    if (controls) register(plot, scatter(spec, height, controls));
    else register(plot, () => Plotly.newPlot(plot, ...themed(spec, height), { ...OPTIONS, displayModeBar: height < SMALL ? false : "hover" }));
  }
  const done = () => { document.documentElement.dataset.ready = "yes"; };
  if (!waiting.size) return done();
  try {
    await library();
  } catch (error) {
    for (const note of document.querySelectorAll(".pending")) note.append(" (This browser cannot unpack the interactive figures.)");
    return;
  }
  const seen = new IntersectionObserver((entries) => entries.forEach((one) => one.isIntersecting && draw(one.target)), { rootMargin: "300px" });
  for (const plot of waiting.keys()) seen.observe(plot);
  const idle = window.requestIdleCallback || ((call) => setTimeout(call, 50));
  const next = () => {
    const plot = [...waiting.keys()].find((one) => one.offsetParent);  // one in a closed part has no size: drawn when opened
    if (plot) {
      draw(plot);
      idle(next);
    } else done();
  };
  idle(next);
}

// ------------------------------------------------------------------------------------------- colour of many points
function groupsOf(values) {
  const counts = new Map();
  for (const value of values) counts.set(value, (counts.get(value) || 0) + 1);
  const byName = (a, b) => String(a).localeCompare(String(b), "en", { numeric: true });
  const order = [...counts.keys()].sort((a, b) => counts.get(b) - counts.get(a) || byName(a, b));
  const own = order.length <= 8 ? order : order.slice(0, 7);
  return { shown: [...own].sort(byName), rest: new Set(order.slice(own.length)) };
}

function isNumeric(values) {
  return values.every((value) => value === null || typeof value === "number") && new Set(values).size > 8;
}

function coloured(spec, plane, column) {
  const text = spec.names.map((name, i) => inert(name) + (column ? `<br>${inert(column.label)}: ${inert(format(column.values[i]))}` : ""));
  const marker = { size: spec.names.length > 1500 ? 4.5 : 6, opacity: 0.8, line: { width: 0 } };
  const trace = (keep, more) => {
    const rows = spec.names.map((_, i) => i).filter(keep);
    const pick = (values) => rows.map((i) => values[i]);
    return { type: "scatter", mode: "markers", x: pick(plane.x), y: pick(plane.y), text: pick(text), hovertemplate: "%{text}<extra></extra>", ...more(pick) };
  };
  if (!column) return [trace(() => true, () => ({ marker: { ...marker, color: PALETTE[0] } }))];
  if (isNumeric(column.values)) {
    const sorted = column.values.filter((value) => value !== null).sort((a, b) => a - b);
    const at = (share) => sorted[Math.round(share * (sorted.length - 1))];
    const look = (pick) => ({ marker: { ...marker, color: pick(column.values), colorscale: "Viridis", cmin: at(0.01), cmax: at(0.99), colorbar: { title: { text: inert(column.label), side: "right" }, thickness: 12, outlinewidth: 0 } } });
    return [trace((i) => column.values[i] !== null, look)];
  }
  const groups = groupsOf(column.values);
  const named = groups.shown.map((group, i) => trace((row) => column.values[row] === group, () => ({ name: inert(String(group)), marker: { ...marker, color: PALETTE[i] } })));
  if (!groups.rest.size) return named;
  return [trace((row) => groups.rest.has(column.values[row]), () => ({ name: `${groups.rest.size} others`, marker: { ...marker, color: "#b4bac1" } })), ...named];
}

function scatter(spec, height, controls) {
  const state = { plane: spec.planes[0].name, colour: spec.first };
  const show = (plot) => {
    const plane = spec.planes.find((one) => one.name === state.plane);
    const column = spec.columns.find((one) => one.name === state.colour);
    const layout = { xaxis: { title: { text: plane.xlabel }, zeroline: false }, yaxis: { title: { text: plane.ylabel }, zeroline: false }, legend: { title: { text: column ? inert(column.label) : "" }, itemsizing: "constant", y: 0.95 }, hovermode: "closest" };
    Plotly.react(plot, ...themed({ data: coloured(spec, plane, column), layout }, height), OPTIONS);
  };
  return (plot) => {
    const changed = (key) => (value) => { state[key] = value; show(plot); };
    if (spec.planes.length > 1) controls.append(select("Plane", spec.planes.map((one) => [one.name, one.name]), state.plane, changed("plane")));
    if (spec.columns.length) controls.append(select("Colour by", spec.columns.map((one) => [one.name, one.label]), state.colour, changed("colour")));
    show(plot);
  };
}

document.addEventListener("toggle", (event) => {
  if (event.target.open) event.target.querySelectorAll(".plot").forEach(draw);
}, true);
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-scale]");
  if (!button) return;
  const log = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", log);
  for (const plot of button.closest("section").querySelectorAll(".plot.drawn")) Plotly.relayout(plot, { "yaxis.type": log ? "log" : "linear" });
});
