// A sweep: one selection, which filters, brushes and ticks change and all views show.

const SWEEP = DATA.sweep;

if (SWEEP) {
  const table = document.getElementById("runs"), bar = document.getElementById("selection");
  bar.classList.add("bar", "controls", "screen");
  document.getElementById("runs-section").before(bar);  // it stays in sight above all views of the selection
  const count = element("output", { "aria-live": "polite" }), clear = element("button", { type: "button" }, "Show all, select none");
  const menus = element("span"), legendOf = element("span", { class: "legend" });
  bar.append(count, clear, menus, legendOf);
  const runs = SWEEP.runs, filters = new Map(), ticked = new Set();
  const state = { colour: SWEEP.colour, metric: SWEEP.curves[0], picture: SWEEP.pictures[0], log: false };
  const MAX_TILES = 12, MAX_DIFFERENCES = 8, CURVES_PX = 420;

  const kept = (run) => [...filters].every(([name, filter]) => {
    const value = run.values[name];
    if (filter.words !== undefined) return String(value ?? "").toLowerCase().includes(filter.words);
    if (filter.choices) return filter.choices.has(String(value ?? ""));
    return typeof value === "number" && value >= (filter.min ?? -Infinity) && value <= (filter.max ?? Infinity);
  });
  const inOrder = (list) => {  // as the table is sorted
    const order = new Map([...table.tBodies[0].rows].map((row, i) => [row.dataset.run, i]));
    return [...list].sort((a, b) => order.get(a.job) - order.get(b.job));
  };
  const visible = () => inOrder(runs.filter(kept));
  const selection = () => { const shown = visible(), own = shown.filter((run) => ticked.has(run.job)); return own.length ? own : shown; };

  // ------------------------------------------------------------------------------------------------------ colour
  function colours() {
    const values = runs.map((run) => run.values[state.colour] ?? null);
    if (isNumeric(values)) {
      const known = values.filter((value) => value !== null), low = Math.min(...known), high = Math.max(...known);
      return { of: (run) => { const v = run.values[state.colour]; return typeof v === "number" ? viridis((v - low) / (high - low || 1)) : "#b4bac1"; }, ramp: [low, high] };
    }
    const groups = groupsOf(values.map((value) => String(value ?? "none")));
    const palette = new Map(groups.shown.map((group, i) => [group, PALETTE[i]]));
    return { of: (run) => palette.get(String(run.values[state.colour] ?? "none")) || "#b4bac1", palette };
  }
  const labelOf = (name) => (SWEEP.columns.find((one) => one.name === name) || { label: name }).label;

  function showLegend(shade) {
    const dot = ([group, colour]) => element("span", {}, element("i", { class: "dot", style: `background:${colour}` }), group);
    const ramp = () => element("span", {}, format(shade.ramp[0]), element("i", { class: "ramp" }), format(shade.ramp[1]));
    legendOf.replaceChildren(...(shade.ramp ? [ramp()] : [...shade.palette].map(dot)));
  }

  // ------------------------------------------------------------------------------------------------------- views
  function paretoFront(points) {  // lower is better in every coordinate
    const beats = (a, b) => a.every((value, i) => value <= b[i]) && a.some((value, i) => value < b[i]);
    return points.map((point) => point.every(Number.isFinite) && !points.some((other) => beats(other, point)));
  }
  const curves = element("div", { class: "plot", role: "img", "aria-label": "Curves of the runs over epochs", style: `min-height:${CURVES_PX}px` });

  function showCurves(shown, chosen, shade) {
    if (!document.getElementById("curves") || !window.Plotly) return;
    const own = new Set(chosen.map((run) => run.job));
    const traces = shown.filter((run) => run.curves[state.metric]).sort((a, b) => own.has(a.job) - own.has(b.job)).map((run) => ({
      x: run.epochs, y: run.curves[state.metric], mode: run.epochs.length > 1 ? "lines" : "markers", name: inert(run.name), showlegend: false,
      line: { width: own.has(run.job) ? 1.8 : 1, color: own.has(run.job) ? shade.of(run) : "rgba(140,148,156,.35)" },
      hovertemplate: `${inert(run.name)}<br>epoch %{x}: %{y:.4g}<extra></extra>`,
    }));
    const longest = Math.max(0, ...traces.map((trace) => trace.x.length));
    const layout = { xaxis: { title: { text: "epoch" }, ...(longest <= 10 && { dtick: 1 }) }, yaxis: { title: { text: inert(labelOf(state.metric)) }, type: state.log ? "log" : "linear" }, hovermode: "closest" };
    curves.classList.add("drawn");
    Plotly.react(curves, ...themed({ data: traces, layout }, CURVES_PX), OPTIONS);
  }

  function showSeeds(shown) {
    const place = document.getElementById("seeds");
    if (!place) return;
    const groups = new Map();
    for (const run of shown.filter((one) => one.values.state === "completed")) {
      const key = JSON.stringify(SWEEP.group.map((name) => run.values[name] ?? null));
      groups.set(key, [...(groups.get(key) || []), run]);
    }
    const means = (members, name) => members.map((run) => run.values[name]).filter((value) => typeof value === "number");
    const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
    const spread = (values) => Math.sqrt(values.reduce((sum, value) => sum + (value - mean(values)) ** 2, 0) / (values.length - 1));
    const lists = [...groups.values()], front = paretoFront(lists.map((members) => SWEEP.objectives.map(([name, way]) => mean(means(members, name)) * (way === "maximize" ? -1 : 1))));
    const head = [...SWEEP.group.map((name) => [labelOf(name), false]), ["runs", true], ...SWEEP.compared.map((name) => [labelOf(name), true]), ...(SWEEP.objectives.length > 1 ? [["Pareto front", false]] : [])];
    const rows = lists.map((members, i) => {
      const cells = SWEEP.group.map((name) => element("td", {}, format(members[0].values[name])));
      cells.push(element("td", { class: "n", "data-v": members.length }, String(members.length)));
      for (const name of SWEEP.compared) {
        const values = means(members, name), middle = values.length ? mean(values) : null, around = values.length > 1 ? spread(values) : 0;
        const some = values.length && values.length < members.length ? ` (n = ${values.length})` : "";  // of so many runs
        cells.push(element("td", { class: "n", "data-v": middle ?? "" }, (around ? withSpread(middle, around) : format(middle)) + some));
      }
      if (SWEEP.objectives.length > 1) cells.push(element("td", {}, front[i] ? "yes" : ""));
      return element("tr", {}, ...cells);
    });
    const headings = head.map(([words, numeric]) => element("th", { scope: "col", "aria-sort": "none", class: numeric && "n" }, element("button", { type: "button", class: "sort" }, words)));
    place.replaceChildren(element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Mean and spread over seeds" }, element("table", { class: "sortable" }, element("thead", {}, element("tr", {}, ...headings)), element("tbody", {}, ...rows))));
  }

  function showPictures(chosen) {
    const wall = document.getElementById("wall");
    if (!wall) return;
    const few = chosen.filter((run) => run.pictures.includes(state.picture)).slice(0, ticked.size ? MAX_TILES : 4);
    const own = new Map(few.map((run, i) => [run.job, i]));
    for (const tile of wall.children) {
      tile.hidden = !(own.has(tile.dataset.run) && tile.dataset.name === state.picture);
      tile.style.order = own.get(tile.dataset.run) ?? 0;
    }
  }

  function showDifferences(chosen) {
    const place = document.getElementById("differences");
    if (!place) return;
    const few = chosen.slice(0, MAX_DIFFERENCES);
    const rows = SWEEP.settings.filter((setting) => new Set(few.map((run) => setting.values[run.job])).size > 1);
    const body = rows.map((setting) => element("tr", {}, element("th", { scope: "row" }, setting.name), ...few.map((run) => element("td", {}, setting.values[run.job] ?? "–"))));
    const more = chosen.length > few.length ? ` The first ${few.length} of ${chosen.length}; tick rows of the table to choose others.` : "";
    const words = few.length < 2 ? "Two runs or more have differences: tick their rows." : rows.length ? `Settings in which the selected runs differ.${more}` : "The selected runs have the same settings.";
    const heads = few.map((run) => element("th", { scope: "col" }, `job ${run.job}`));
    place.replaceChildren(element("p", { class: "lead" }, words), ...(body.length ? [element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Differences" }, element("table", {}, element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "setting"), ...heads)), element("tbody", {}, ...body)))] : []));
  }

  function apply() {
    const shown = visible(), chosen = selection(), shade = colours(), there = new Set(shown.map((run) => run.job)), own = new Set(chosen.map((run) => run.job));
    for (const row of table.tBodies[0].rows) {
      row.hidden = !there.has(row.dataset.run);
      row.classList.toggle("ticked", ticked.has(row.dataset.run));
      row.querySelector(".swatch").style.background = shade.of(runs.find((run) => run.job === row.dataset.run));
    }
    const marked = shown.filter((run) => ticked.has(run.job)).length;
    count.textContent = `${shown.length} of ${runs.length} runs shown${marked ? `, ${marked} selected` : ""}`;
    clear.hidden = !filters.size && !ticked.size;
    showLegend(shade);
    parallel.show(there, own, shade, filters);
    showCurves(shown, chosen, shade);
    showSeeds(shown);
    showPictures(chosen);
    showDifferences(chosen);
  }

  // ---------------------------------------------------------------------------------------------------- controls
  function setFilter(name, filter) {
    if (filter) filters.set(name, filter);
    else filters.delete(name);
    const cell = table.querySelector(`[data-filter="${CSS.escape(name)}"]`);
    if (cell) {
      const fields = cell.querySelectorAll("input, select");
      if (fields.length === 2) [fields[0].value, fields[1].value] = [filter?.min ?? "", filter?.max ?? ""];
      else if (fields[0].tagName === "SELECT") fields[0].value = filter?.choices?.size === 1 ? [...filter.choices][0] : "";
      else fields[0].value = filter?.words ?? "";
    }
    apply();
  }
  const parallel = parallelCoordinates(document.getElementById("parallel"), SWEEP, setFilter);

  table.querySelector(".filters").addEventListener("input", (event) => {
    const cell = event.target.closest("[data-filter]"), fields = cell.querySelectorAll("input, select");
    let filter = null;
    if (fields.length === 2) {
      const [min, max] = [...fields].map((field) => (field.value === "" ? undefined : Number(field.value)));
      if (min !== undefined || max !== undefined) filter = { min, max };
    } else if (fields[0].value) {
      filter = fields[0].tagName === "SELECT" ? { choices: new Set([fields[0].value]) } : { words: fields[0].value.toLowerCase() };
    }
    if (filter) filters.set(cell.dataset.filter, filter);
    else filters.delete(cell.dataset.filter);
    apply();
  });
  table.tBodies[0].addEventListener("change", (event) => {
    const job = event.target.closest("tr").dataset.run;
    if (event.target.checked) ticked.add(job);
    else ticked.delete(job);
    apply();
  });
  table.addEventListener("sorted", apply);
  document.addEventListener("themed", apply);
  clear.addEventListener("click", () => {
    ticked.clear();
    for (const box of table.querySelectorAll("input[type=checkbox]")) box.checked = false;
    for (const name of [...filters.keys()]) setFilter(name, null);
    apply();
  });
  const change = (key) => (value) => { state[key] = value; apply(); };
  menus.append(select("Colour by", SWEEP.axes.map((name) => [name, labelOf(name)]), state.colour, change("colour")));
  const place = document.getElementById("curves");
  if (place) {
    const log = element("button", { type: "button", "aria-pressed": false, class: "scale" }, "Logarithmic");
    log.addEventListener("click", () => { state.log = !state.log; log.setAttribute("aria-pressed", state.log); apply(); });
    place.append(element("div", { class: "controls screen" }, select("Curve", SWEEP.curves.map((name) => [name, labelOf(name)]), state.metric, change("metric")), log), curves);
    register(curves, () => apply());
  }
  if (SWEEP.pictures.length) document.getElementById("wall-controls").append(select("Figure", SWEEP.pictures.map((name) => [name, name]), state.picture, change("picture")));
  apply();
}
start();
