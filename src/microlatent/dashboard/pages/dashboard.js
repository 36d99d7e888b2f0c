// The list of runs: asks the server every few seconds for the rows that changed, and shows, sorts and filters them.
"use strict";

const EVERY_MS = 3000;
const COLUMNS = [
  { name: "Run", of: (row) => row.key, fill: fillName },
  { name: "State", of: (row) => row.state, fill: fillState },
  { name: "Task", of: (row) => row.task },
  { name: "Model", of: (row) => row.model },
  { name: "Data", of: (row) => row.data },
  { name: "Progress", of: (row) => (row.total ? (row.done || 0) / row.total : null), fill: fillProgress },
  { name: "Best score", of: (row) => row.score, fill: fillScore, isNumber: true },
  { name: "Started", of: (row) => row.started, fill: (cell, row) => cell.append(when(row.started)) },
  { name: "Duration", of: duration, fill: (cell, row) => cell.append(span(duration(row))), isNumber: true },
  { name: "Steps", fill: fillSteps },
];

const rows = new Map(); // key -> row
const lines = new Map(); // key -> its <tr>, and what it shows
const open = new Set(); // keys of the sweeps whose jobs are shown
const view = { words: "", state: "", kind: "", sort: "Started", down: true };
let version = 0;
let clockOffset = 0; // seconds that the server's clock is ahead of this one
let waiting = null;

const element = (id) => document.getElementById(id);

function make(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const path = (key) => key.split("/").map(encodeURIComponent).join("/");

// ---------------------------------------------------------------------------------------------------------- cells

function fillName(cell, row) {
  if (row.kind === "sweep") {
    const shown = open.has(row.key);
    const toggle = make("button", { type: "button", className: "toggle", textContent: shown ? "▾" : "▸" });
    toggle.setAttribute("aria-expanded", shown);
    toggle.setAttribute("aria-label", `jobs of ${row.key}`);
    toggle.onclick = () => {
      shown ? open.delete(row.key) : open.add(row.key);
      draw();
      lines.get(row.key).line.querySelector(".toggle").focus();
    };
    cell.append(toggle);
  }
  const parts = row.key.split("/");
  const title = row.label || (row.kind === "sweep" ? "sweep" : parts.slice(0, -1).join("/") || row.key);
  if (row.kind === "job") return cell.append(title); // not begun: there is no folder yet
  cell.append(make("a", { href: `/report/${path(row.key)}`, textContent: title }));
  const second = make("span", { className: row.parent ? "dim" : "dim block" }, row.parent ? " " : `${parts.at(-1)} `);
  const files = make("a", { href: `/folder/${path(row.key)}`, textContent: "files" });
  files.setAttribute("aria-label", `files of ${row.key}`);
  second.append(files);
  cell.append(second);
}

function fillState(cell, row) {
  cell.append(make("span", { className: `state ${row.state}`, textContent: row.state }));
  const others = Object.entries(row.states || {}).filter(([state]) => state !== "completed");
  const counts = others.map(([state, count]) => `${count} ${state}`).join(", ");
  const reason = row.reason.split("\n")[0] || (others.length && row.total > 1 ? counts : "");
  if (reason) cell.append(make("span", { className: "reason", textContent: reason, title: row.reason }));
}

function fillProgress(cell, row) {
  if (!row.total) return;
  const done = row.done || 0;
  const unit = row.kind === "sweep" ? "jobs" : "epochs";
  const bar = make("progress", { value: done, max: row.total });
  bar.setAttribute("aria-label", `${done} of ${row.total} ${unit}`);
  cell.append(bar, make("span", { className: "dim block", textContent: `${done} of ${row.total} ${unit}` }));
}

function fillScore(cell, row) {
  if (row.score === null) return;
  cell.append(Number(row.score.toPrecision(4)).toString());
  cell.append(make("span", { className: "dim block", textContent: row.monitor }));
}

function fillSteps(cell, row) {
  for (const step of row.steps) {
    const chip = make("a", { className: "chip", href: `/folder/${path(`${row.key}/${step.name}`)}`, title: `${step.name}: ${step.state}` });
    chip.append(make("span", { className: `state ${step.state}`, ariaLabel: step.state }), step.name);
    cell.append(chip);
  }
}

function when(seconds) {
  if (!seconds) return "";
  const [day, clock] = new Date(seconds * 1000 - new Date(seconds * 1000).getTimezoneOffset() * 60000).toISOString().split("T");
  return make("span", { className: "block" }, `${day} `, make("span", { className: "dim", textContent: clock.slice(0, 5) }));
}

// Seconds worked, of a sweep by all its jobs; what is running goes on since its last sign of life.
function duration(row) {
  if (row.seconds === null) return null;
  return row.seconds + (row.state === "running" ? Math.max(0, Date.now() / 1000 + clockOffset - row.updated) : 0);
}

function span(seconds) {
  if (seconds === null) return "";
  const [hours, minutes, rest] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, Math.floor(seconds % 60)];
  if (hours) return `${hours} h ${String(minutes).padStart(2, "0")} min`;
  return minutes ? `${minutes} min ${String(rest).padStart(2, "0")} s` : `${rest} s`;
}

// ----------------------------------------------------------------------------------------------------------- table

function line(row) {
  const known = lines.get(row.key);
  const shown = JSON.stringify([row, open.has(row.key), row.state === "running" && span(duration(row))]);
  if (known && known.shown === shown) return known.line;
  const tr = known ? known.line : make("tr");
  const focus = tr.contains(document.activeElement) ? [...tr.querySelectorAll("a, button")].indexOf(document.activeElement) : -1;
  tr.className = row.parent ? "child" : "";
  tr.dataset.key = row.key;
  tr.replaceChildren(
    ...COLUMNS.map((column) => {
      const cell = make("td", { className: column.isNumber ? "number" : "" });
      column.fill ? column.fill(cell, row) : cell.append(column.of(row) || "");
      return cell;
    }),
  );
  if (focus >= 0) tr.querySelectorAll("a, button")[focus]?.focus();
  lines.set(row.key, { line: tr, shown });
  return tr;
}

function matches(row) {
  const text = [row.key, row.label, row.task, row.model, row.data, row.state, ...row.steps.map((step) => step.name)].join(" ").toLowerCase();
  return view.words.toLowerCase().split(/\s+/).every((word) => text.includes(word)) && (!view.state || row.state === view.state);
}

function compare(a, b) {
  const of = COLUMNS.find((column) => column.name === view.sort).of;
  const [left, right] = [of(a), of(b)];
  if (left === right || (left == null && right == null)) return a.key.localeCompare(b.key, undefined, { numeric: true });
  if (left == null || right == null) return left == null ? 1 : -1; // what has no value comes last either way
  const order = typeof left === "string" ? left.localeCompare(right, undefined, { numeric: true }) : left - right;
  return view.down ? -order : order;
}

function draw() {
  const jobs = Map.groupBy([...rows.values()].filter((row) => row.parent), (row) => row.parent);
  const wanted = [];
  for (const row of [...rows.values()].filter((row) => !row.parent).sort(compare)) {
    if (view.kind && row.kind !== view.kind) continue;
    const all = jobs.get(row.key) || [];
    const isMatch = matches(row);
    const hits = isMatch && !view.state ? all : all.filter(matches);
    if (!isMatch && !hits.length) continue;
    wanted.push(row);
    if (open.has(row.key)) wanted.push(...hits.sort(compare));
  }
  const body = document.querySelector("#runs tbody");
  const next = wanted.map(line);
  if (next.length !== body.children.length || next.some((tr, at) => tr !== body.children[at])) {
    const focused = document.activeElement;
    body.replaceChildren(...next);
    if (body.contains(focused)) focused.focus();
  }
  for (const th of document.querySelectorAll("#runs th[data-name]")) {
    if (th.dataset.name === view.sort) th.setAttribute("aria-sort", view.down ? "descending" : "ascending");
    else th.removeAttribute("aria-sort");
  }
  say(wanted);
}

function say(wanted) {
  const every = [...rows.values()].filter((row) => row.kind !== "job");
  const top = every.filter((row) => !row.parent);
  const running = every.filter((row) => row.kind === "run" && row.state === "running").length;
  const shown = wanted.filter((row) => !row.parent).length;
  const summary = `${shown === top.length ? shown : `${shown} of ${top.length}`} shown, ${running} running`;
  if (element("summary").textContent !== summary) element("summary").textContent = summary;
  element("clear").hidden = !(view.words || view.state || view.kind);
  element("empty").hidden = shown > 0;
  element("empty").textContent = rows.size ? "Nothing matches the filter." : "No run yet. For a first one: python train.py --help";
  const states = [...new Set([...rows.values()].map((row) => row.state))].sort();
  const options = ["", ...states].join();
  if (element("state").dataset.options !== options) {
    element("state").dataset.options = options;
    element("state").replaceChildren(make("option", { value: "", textContent: "any" }), ...states.map((state) => make("option", { value: state, textContent: state })));
    element("state").value = view.state;
  }
}

// --------------------------------------------------------------------------------------------------------- refresh

async function refresh() {
  clearTimeout(waiting);
  if (document.hidden) return; // goes on when the tab is looked at again
  try {
    const answer = await fetch(`/runs.json?since=${version}`, { cache: "no-store", signal: AbortSignal.timeout(30000) });
    if (!answer.ok) throw new Error(`it answered ${answer.status}`);
    const news = await answer.json();
    if (news.whole) rows.clear();
    news.gone.forEach((key) => (rows.delete(key), lines.delete(key)));
    news.rows.forEach((row) => rows.set(row.key, row));
    version = news.version;
    clockOffset = news.now - Date.now() / 1000;
    element("alarm").hidden = true;
    draw();
  } catch (error) {
    element("alarm").textContent = `The dashboard does not answer (${error.message}). Was it stopped? What is shown may be out of date.`;
    element("alarm").hidden = false;
  }
  waiting = setTimeout(refresh, EVERY_MS);
}

// What is filtered and sorted stays in the address, so that a link and the back button keep it.
function remember() {
  const { down, ...rest } = view;
  const set = Object.entries({ ...rest, order: down ? "down" : "up" }).filter(([, value]) => value);
  history.replaceState(null, "", `#${new URLSearchParams(set)}`);
}

function recall() {
  const kept = new URLSearchParams(location.hash.slice(1));
  for (const key of ["words", "state", "kind"]) view[key] = kept.get(key) || "";
  if (COLUMNS.some((column) => column.of && column.name === kept.get("sort"))) view.sort = kept.get("sort");
  if (kept.has("order")) view.down = kept.get("order") === "down";
  element("words").value = view.words;
  element("kind").value = view.kind;
  element("state").value = view.state;
}

function sortBy(name) {
  view.down = view.sort === name ? !view.down : ["Started", "Duration", "Progress"].includes(name);
  view.sort = name;
  remember();
  draw();
}

function start() {
  document.querySelector("#runs thead tr").append(
    ...COLUMNS.map((column) => {
      const th = make("th", { scope: "col", className: column.isNumber ? "number" : "" });
      if (!column.of) return Object.assign(th, { className: "plain", textContent: column.name });
      th.dataset.name = column.name;
      th.append(make("button", { type: "button", textContent: column.name, onclick: () => sortBy(column.name) }));
      return th;
    }),
  );
  for (const key of ["words", "state", "kind"]) {
    element(key).addEventListener("input", () => {
      view[key] = element(key).value;
      remember();
      draw();
    });
  }
  element("filters").addEventListener("submit", (event) => event.preventDefault());
  element("clear").addEventListener("click", () => {
    Object.assign(view, { words: "", state: "", kind: "" });
    remember();
    recall();
    draw();
    element("words").focus();
  });
  document.addEventListener("visibilitychange", refresh);
  recall();
  refresh();
}

start();
