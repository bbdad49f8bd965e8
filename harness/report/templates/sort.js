"use strict";
// A click on a column's name sorts its table: by number where every cell is one, else by text; absent cells go last.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const next = { ascending: "descending", descending: null }[head.getAttribute("aria-sort")];
      const order = next === undefined ? "ascending" : next;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      if (order === null) {
        body.append(...original);
        return;
      }
      head.setAttribute("aria-sort", order);
      body.append(...sorted(original, column, order === "descending" ? -1 : 1));
    });
  });
}

function sorted(rows, column, sign) {
  const keys = new Map(rows.map((row) => [row, key(row.cells[column].textContent.trim())]));
  const present = rows.filter((row) => keys.get(row) !== null);
  const isNumber = present.every((row) => typeof keys.get(row) === "number");
  const text = (row) => rowText(row, column);
  const compare = isNumber
    ? (a, b) => keys.get(a) - keys.get(b)
    : (a, b) => text(a).localeCompare(text(b), "en", { numeric: true });
  present.sort((a, b) => sign * compare(a, b));
  return [...present, ...rows.filter((row) => keys.get(row) === null)];
}

function rowText(row, column) {
  return row.cells[column].textContent.trim();
}

function key(text) {
  if (text === "–") return null;
  const found = /^[+\-−]?\d[\d.,]*(e[+-]?\d+)?(?=$|[\s×%])/.exec(text);
  return found ? Number(found[0].replace(/,/g, "").replace("−", "-")) : text;
}

// What is folded is opened for paper.
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details.part:not([open]), figure.table > details.data:not([open])")];
  opened.forEach((part) => { part.open = true; });
});
addEventListener("afterprint", () => opened.forEach((part) => { part.open = false; }));
