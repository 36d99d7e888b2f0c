// Tables: sort by a heading, filter rows by words.

function sortKey(row, index, numeric) {
  const cell = row.cells[index];
  if (!numeric) return cell.textContent.trim().toLowerCase();
  const value = cell.dataset.v;
  return value === undefined || value === "" || value === "None" ? NaN : Number(value);
}

function sortTable(table, heading) {
  const index = heading.cellIndex, numeric = heading.classList.contains("n");
  const up = heading.getAttribute("aria-sort") !== "ascending";
  for (const other of heading.parentNode.querySelectorAll("th")) other.setAttribute("aria-sort", "none");
  heading.setAttribute("aria-sort", up ? "ascending" : "descending");
  const rows = [...table.tBodies[0].rows].map((row) => [sortKey(row, index, numeric), row]);
  rows.sort(([a], [b]) => {
    if (numeric && (Number.isNaN(a) || Number.isNaN(b))) return Number.isNaN(a) - Number.isNaN(b);  // rows without a value stay last
    const order = numeric ? a - b : a.localeCompare(b, "en", { numeric: true });
    return up ? order : -order;
  });
  table.tBodies[0].append(...rows.map(([, row]) => row));
  table.dispatchEvent(new CustomEvent("sorted", { bubbles: true }));
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button.sort");
  if (button) sortTable(button.closest("table"), button.closest("th"));
});

document.addEventListener("input", (event) => {
  const field = event.target.closest(".search input");
  if (!field) return;
  const wanted = field.value.trim().toLowerCase();
  for (const row of field.closest(".table").querySelectorAll("tbody tr")) {
    row.hidden = !row.textContent.toLowerCase().includes(wanted);
  }
});
