"use strict";
// The page itself: its data, light and dark, enlarged figures, print. No library but Plotly, which charts.js unpacks.

const DATA = JSON.parse(document.getElementById("data").textContent);
const PALETTE = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#8C8C8C", "#B8A800"];
const VIRIDIS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];

function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== false && value !== null) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children);  // strings become text, never markup
  return node;
}

function format(value) {
  if (value === null || value === undefined || value === "") return "–";
  if (typeof value !== "number") return String(value);
  if (!Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  let text = Number.isInteger(value) || size >= 1e4 ? Math.round(value).toLocaleString("en-US", { useGrouping: size >= 1e4 })
    : size && size < 1e-4 ? value.toExponential(2) : String(Number(value.toPrecision(4)));
  return text.replace("-", "−");
}

function withSpread(mean, spread) {  // two digits of the spread, and as many decimals of the mean
  const places = Math.max(0, 1 - Math.floor(Math.log10(spread)));
  if (places > 6) return `${format(mean)} ± ${format(Number(spread.toPrecision(2)))}`;
  const digits = { minimumFractionDigits: places, maximumFractionDigits: places, useGrouping: Math.abs(mean) >= 1e4 };
  return [mean, spread].map((value) => value.toLocaleString("en-US", digits).replace("-", "−")).join(" ± ");
}

function viridis(share) {
  const [from, to] = isDark() ? [0.2, 1] : [0, 0.93];  // neither end may vanish in the ground
  const at = (from + Math.min(Math.max(share, 0), 1) * (to - from)) * (VIRIDIS.length - 1), low = Math.min(Math.floor(at), VIRIDIS.length - 2);
  const rgb = VIRIDIS[low].map((from, i) => Math.round(from + (VIRIDIS[low + 1][i] - from) * (at - low)));
  return `rgb(${rgb.join(",")})`;
}

function select(words, choices, chosen, changed) {
  const menu = element("select", {}, ...choices.map(([value, text]) => element("option", { value, selected: value === chosen }, text)));
  menu.addEventListener("change", () => changed(menu.value));
  return element("label", {}, words + " ", menu);
}

// ------------------------------------------------------------------------------------------------- light and dark
const theme = document.getElementById("theme");
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme || (prefersDark.matches ? "dark" : "light")) === "dark";
const nameTheme = () => {
  theme.textContent = isDark() ? "Light" : "Dark";
  document.dispatchEvent(new Event("themed"));
};
theme.addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  nameTheme();
});
prefersDark.addEventListener("change", nameTheme);
theme.textContent = isDark() ? "Light" : "Dark";

// ---------------------------------------------------------------------------------------------- enlarged pictures
const lightbox = document.getElementById("lightbox");
document.addEventListener("click", (event) => {
  const button = event.target.closest(".enlarge");
  if (button) {
    const [small, large] = [button.querySelector("img"), lightbox.querySelector("img")];
    large.src = small.src;
    large.alt = small.alt;
    lightbox.showModal();
  } else if (event.target === lightbox || event.target.id === "close") {
    lightbox.close();
  }
});

// ---------------------------------------------------------------------------------------------------------- print
const PRINT_PX = 680;  // width of the printable part of a page of A4
let closed = [];
addEventListener("beforeprint", () => {
  closed = [...document.querySelectorAll("details:not([open])")];
  closed.forEach((one) => { one.open = true; });
  drawAll();
  resizeAll((plot) => (plot.closest(".grid.small") ? PRINT_PX / 2 - 20 : PRINT_PX));
});
addEventListener("afterprint", () => {
  closed.forEach((one) => { one.open = false; });
  resizeAll(() => null);
});
