
"use strict";
(() => {
  // Nothing here makes markup of texts: they are only compared.
  const text = (cell) => cell.textContent.trim();

  function compared(a, b) {
    const x = a.dataset.order, y = b.dataset.order;
    if (x !== undefined && y !== undefined) return Number(x) - Number(y);
    if (x !== undefined || y !== undefined) return x !== undefined ? -1 : 1;
    return text(a).localeCompare(text(b), undefined, {numeric: true});
  }

  function sort(table, place, heading) {
    const down = heading.getAttribute("aria-sort") === "ascending";
    const body = table.tBodies[0];
    const rows = [...body.rows].sort((one, other) => {
      const a = one.cells[place], b = other.cells[place];
      const empty = (text(a) === "") - (text(b) === "");
      return empty || (down ? compared(b, a) : compared(a, b));
    });
    for (const other of heading.parentElement.children) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    body.append(...rows);
  }

  function makeSortable(table) {
    [...table.tHead.rows[0].cells].forEach((heading, place) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      button.addEventListener("click", () => sort(table, place, heading));
      heading.append(button);
    });
  }

  function makeFilter(table) {
    const rows = [...table.tBodies[0].rows];
    const figures = new Map();
    for (const figure of document.querySelectorAll("figure[data-row]")) {
      const key = figure.dataset.row;
      figures.set(key, [...(figures.get(key) || []), figure]);
    }
    const tools = document.createElement("div");
    tools.className = "tools";
    const search = document.createElement("input");
    search.type = "search";
    const label = document.createElement("label");
    label.append("Filter ", search);
    const only = document.createElement("input");
    only.type = "checkbox";
    const failed = document.createElement("label");
    failed.append(only, " failed only");
    const count = document.createElement("span");
    count.setAttribute("role", "status");
    tools.append(label, ...(rows.some((row) => row.classList.contains("failed")) ? [failed] : []), count);
    table.parentElement.before(tools);

    function filter() {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        const content = [...row.cells].map(text).join("\n").toLowerCase();
        const fits = words.every((word) => content.includes(word)) &&
          (!only.checked || row.classList.contains("failed"));
        row.hidden = !fits;
        for (const figure of figures.get(row.id) || []) figure.hidden = !fits;
        shown += fits;
      }
      count.textContent = `${shown} of ${rows.length} ${table.dataset.noun}${rows.length === 1 ? "" : "s"}`;
    }
    search.addEventListener("input", filter);
    only.addEventListener("change", filter);
    filter();
  }

  document.querySelectorAll("table").forEach(makeSortable);
  document.querySelectorAll("table.main").forEach(makeFilter);
})();
