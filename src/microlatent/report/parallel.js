// Parallel coordinates as SVG: sharp in print, the same colours as all else, no WebGL. Drag along an axis to keep a range.

const NS = "http://www.w3.org/2000/svg";

function svg(name, attributes = {}, ...children) {
  const node = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function axisOf(column, runs) {
  const values = runs.map((run) => run.values[column.name] ?? null), known = values.filter((value) => value !== null);
  if (column.kind === "number" && known.every((value) => typeof value === "number")) {
    const low = Math.min(...known), high = Math.max(...known), width = high - low || 1;
    const few = [...new Set(known)].sort((a, b) => a - b);
    const step = (high - low) / 4, ticks = few.length <= 6 ? few : [0, 1, 2, 3, 4].map((i) => low + i * step);
    return { column, ticks: ticks.map((value) => [value, format(Number(value.toPrecision(3)))]), at: (v) => (typeof v === "number" ? (v - low) / width : null), low, width };
  }
  const words = [...new Set(known.map(String))].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  const at = (value) => (value === null || value === undefined ? null : words.length > 1 ? words.indexOf(String(value)) / (words.length - 1) : 0.5);
  return { column, words, ticks: words.map((word) => [word, word.length > 16 ? `${word.slice(0, 15)}…` : word]), at };
}

function apart(ticks, at) {  // the ends, and what does not stand on the text of another
  const kept = [];
  for (const tick of [ticks[0], ticks.at(-1), ...ticks.slice(1, -1)]) {
    if (kept.every((other) => Math.abs(at(other[0]) - at(tick[0])) > 0.05)) kept.push(tick);
  }
  return kept;
}

function wrapped(words) {  // into lines as narrow as the space between axes
  const lines = [""];
  for (const word of words.split(" ")) {
    if (lines.at(-1) && lines.at(-1).length + word.length > 14) lines.push("");
    lines[lines.length - 1] = `${lines.at(-1)} ${word}`.trim();
  }
  return lines.length > 3 ? [...lines.slice(0, 2), `${lines[2]}…`] : lines;
}

function parallelCoordinates(place, sweep, setFilter) {
  const WIDTH = 1080, HEIGHT = 350, TOP = 66, BOTTOM = 14, SIDE = 70;
  const axes = sweep.columns.filter((column) => sweep.axes.includes(column.name)).map((column) => axisOf(column, sweep.runs)).filter((axis) => axis.ticks.length);
  const x = (i) => SIDE + (axes.length > 1 ? (i * (WIDTH - 2 * SIDE)) / (axes.length - 1) : WIDTH / 2 - SIDE);
  const y = (share) => HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM);
  const shareAt = (py) => Math.min(Math.max((HEIGHT - BOTTOM - py) / (HEIGHT - TOP - BOTTOM), 0), 1);
  const root = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `Parallel coordinates of ${sweep.runs.length} runs over ${axes.map((axis) => axis.column.label).join(", ")}. The minimum and maximum fields of the table filter the same runs.` });
  const lines = new Map();
  for (const run of sweep.runs) {
    const points = axes.map((axis, i) => [x(i), axis.at(run.values[axis.column.name])]);
    const known = (i) => (points[i]?.[1] ?? null) !== null;
    const path = points.map(([px, share], i) => {  // a run without a value has a gap there; a value between two gaps is a dash
      if (share === null) return "";
      const alone = !known(i - 1) && !known(i + 1);
      return `${known(i - 1) ? "L" : "M"}${(alone ? px - 5 : px).toFixed(1)} ${y(share).toFixed(1)}${alone ? "h10" : ""}`;
    }).join("");
    const line = svg("path", { d: path }, svg("title", {}, run.name));
    lines.set(run.job, line);
    root.append(line);
  }
  const brushes = axes.map((axis, i) => {
    const words = axis.column.label, group = svg("g", { "data-axis": axis.column.name });
    group.append(svg("line", { class: "axis", x1: x(i), x2: x(i), y1: y(0), y2: y(1) }));
    const rows = wrapped(words);
    rows.forEach((row, line) => group.append(svg("text", { class: "name", x: x(i), y: TOP - 16 - 15 * (rows.length - 1 - line), "text-anchor": "middle" }, row)));
    for (const [value, text] of apart(axis.ticks, axis.at)) group.append(svg("text", { x: x(i) - 7, y: y(axis.at(value)) + 4, "text-anchor": "end" }, text));
    const brush = svg("rect", { class: "brush", x: x(i) - 7, width: 14, y: y(0), height: 0 });
    const grip = svg("rect", { class: "grip", x: x(i) - 14, width: 28, y: TOP - 8, height: HEIGHT - TOP - BOTTOM + 16 });
    group.append(brush, grip);
    root.append(group);
    let from = null;
    const share = (event) => { const box = root.getBoundingClientRect(); return shareAt(((event.clientY - box.top) * HEIGHT) / box.height); };
    grip.addEventListener("pointerdown", (event) => { from = share(event); grip.setPointerCapture(event.pointerId); });
    grip.addEventListener("pointermove", (event) => from !== null && mark(brush, Math.min(from, share(event)), Math.max(from, share(event))));
    grip.addEventListener("pointerup", (event) => {
      const [low, high] = [Math.min(from, share(event)), Math.max(from, share(event))];
      from = null;
      setFilter(axis.column.name, high - low < 0.015 ? null : filterOf(axis, low, high));  // a click clears
    });
    return { axis, brush };
  });
  const mark = (brush, low, high) => { brush.setAttribute("y", y(high)); brush.setAttribute("height", y(low) - y(high)); };
  const filterOf = (axis, low, high) => {
    if (axis.words) return { choices: new Set(axis.words.filter((word) => axis.at(word) >= low && axis.at(word) <= high)) };
    const outward = (value, round) => {  // four digits, never past a run that the drag has reached
      const scale = 10 ** (3 - Math.floor(Math.log10(Math.abs(value) || 1)));
      return round(value * scale) / scale;
    };
    const ends = { min: outward(axis.low + low * axis.width, Math.floor), max: outward(axis.low + high * axis.width, Math.ceil) };
    return { min: low > 0.01 ? ends.min : undefined, max: high < 0.99 ? ends.max : undefined };
  };
  place.classList.add("parallel");
  place.append(root);
  return {
    show(there, own, shade, filters) {
      for (const run of sweep.runs) {
        const line = lines.get(run.job), on = there.has(run.job);
        line.style.stroke = on ? shade.of(run) : "";
        line.classList.toggle("off", !on);
        line.classList.toggle("faint", on && !own.has(run.job));
        if (!on) root.prepend(line);
      }
      for (const { axis, brush } of brushes) {
        const filter = filters.get(axis.column.name);
        if (!filter || filter.words !== undefined) mark(brush, 0, 0);
        else if (filter.choices) {
          const places = [...filter.choices].map((word) => axis.at(word)).filter((share) => share !== null);
          mark(brush, Math.max(Math.min(...places) - 0.04, 0), Math.min(Math.max(...places) + 0.04, 1));
        } else mark(brush, Math.max(axis.at(filter.min ?? axis.low), 0), Math.min(axis.at(filter.max ?? axis.low + axis.width), 1));
      }
    },
  };
}
