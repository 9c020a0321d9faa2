"use strict";
// What the page can do beyond being read: tables that sort, one treemap at a time, bytes in full. Without it all is there too.
(() => {
  const value = (cell) => {
    const data = cell && cell.querySelector("data");
    return data ? Number(data.value) : cell ? cell.textContent.trim() : "";
  };
  const compare = (a, b) => {
    const numbers = [typeof a === "number", typeof b === "number"];
    if (numbers[0] && numbers[1]) return a - b;
    if (numbers[0] !== numbers[1]) return numbers[0] ? 1 : -1;
    return String(a).localeCompare(String(b), "en", { numeric: true });
  };
  const said = document.getElementById("said");

  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, at) => {
      const name = head.textContent;
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = name;
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const numeric = head.classList.contains("n");
        const now = head.getAttribute("aria-sort");
        const down = now ? now === "ascending" : numeric;
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const body = table.tBodies[0];
        const rows = [...body.rows].map((row) => [value(row.cells[at]), row]);
        rows.sort((a, b) => (down ? compare(b[0], a[0]) : compare(a[0], b[0])));
        body.append(...rows.map((pair) => pair[1]));
        said.textContent = `Sorted by ${name}, ${down ? "largest first" : "smallest first"}.`;
      });
    });
  }

  const tools = document.getElementById("tools");
  const exact = document.createElement("button");
  exact.type = "button";
  exact.textContent = "Bytes in full";
  exact.setAttribute("aria-pressed", "false");
  exact.addEventListener("click", () => {
    const on = exact.getAttribute("aria-pressed") !== "true";
    exact.setAttribute("aria-pressed", String(on));
    for (const data of document.querySelectorAll('data[data-as="bytes"]')) {
      if (on) data.dataset.human = data.textContent;
      data.textContent = on ? Number(data.value).toLocaleString("en") : data.dataset.human;
    }
  });
  tools.append(exact);

  const choices = [...document.querySelectorAll("#treemaps > figure")];
  if (choices.length > 1) {
    const label = document.createElement("label");
    const select = document.createElement("select");
    label.htmlFor = select.id = "which";
    label.textContent = "Treemap of";
    for (const figure of choices) select.add(new Option(figure.dataset.of, figure.id));
    const show = () => choices.forEach((figure) => { figure.hidden = figure.id !== select.value; });
    select.addEventListener("change", show);
    const bar = document.createElement("div");
    bar.className = "tools";
    bar.append(label, select);
    document.getElementById("treemaps").prepend(bar);
    show();
  }

  const opened = [];
  addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details:not([open])")) {
      details.open = true;
      opened.push(details);
    }
  });
  addEventListener("afterprint", () => {
    while (opened.length) opened.pop().open = false;
  });
})();
