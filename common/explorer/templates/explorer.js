// Lights a layer wherever it stands, folds blocks, copies code. Without it the pages can still be read in full.
"use strict";

const all = (selector) => [...document.querySelectorAll(selector)];
const table = document.querySelector("table.layers");

if (table) {
  const rows = [...table.tBodies[0].rows];
  const boxes = all(".drawing .l");
  const cells = all(".code [data-g]");
  const inspector = document.getElementById("inspector");
  const groups = JSON.parse(document.getElementById("groups").textContent).map((pair) => pair.map(numbers));
  let selected = [];

  // "3-5,8" → [3, 4, 5, 8]
  function numbers(ranges) {
    return ranges.split(",").filter(Boolean).flatMap((range) => {
      const [first, last = first] = range.split("-").map(Number);
      return Array.from({ length: last - first + 1 }, (_, n) => first + n);
    });
  }

  // A line is lit if all layers that it stands for are selected, and tinted if one of them is.
  function select(layers) {
    selected = layers;
    const chosen = new Set(layers);
    rows.forEach((row, number) => row.classList.toggle("lit", chosen.has(number)));
    boxes.forEach((box, number) => box.classList.toggle("lit", chosen.has(number)));
    const fewest = groups.map(([written]) => written.filter((layer) => chosen.has(layer)).length && written.length);
    const smallest = new Set(layers.map((layer) =>
      Math.min(...groups.filter(([written]) => written.includes(layer)).map(([written]) => written.length))));
    const lit = groups.map(([written], n) => fewest[n] > 0 && (written.every((layer) => chosen.has(layer)) || smallest.has(written.length)));
    const near = groups.map(([written, used]) => [...written, ...used].some((layer) => chosen.has(layer)));
    for (const cell of cells) {
      cell.classList.toggle("lit", lit[cell.dataset.g]);
      cell.classList.toggle("near", !lit[cell.dataset.g] && near[cell.dataset.g]);
    }
    inspector.textContent = "";
    if (layers.length) {
      const row = rows[layers[0]].cells;
      const title = inspector.appendChild(document.createElement("b"));
      title.textContent = row[0].textContent;
      const what = [row[1], row[2]].map((cell) => cell.textContent);
      if (row[3].textContent) what.push(`${row[3].textContent} parameters`);
      if (row[4].textContent) what.push(`${row[4].textContent} multiply-adds`);
      what.push(`sees ${row[5].textContent}`);
      if (layers.length > 1) what.push(`and ${layers.length - 1} more layers`);
      inspector.append(` · ${what.join(" · ")}`);
    }
    for (const row of rows) row.cells[0].firstChild.tabIndex = -1;
    rows[layers[0] ?? 0].cells[0].firstChild.tabIndex = 0;
    for (const cell of cells) cell.firstChild.tabIndex = cell.classList.contains("lit") ? 0 : -1;
    clearTimeout(naming);
    naming = setTimeout(name, 100);
  }

  // The address names the layer; not at each step of a key that is held down, which browsers refuse.
  let naming = 0;
  function name() {
    const link = selected.length === 1 ? `#${rows[selected[0]].id}` : location.pathname + location.search;
    try { history.replaceState(null, "", link); } catch { /* some browsers refuse it for files */ }
  }

  function show(layer) {
    const cell = all(".code .lit").find((lit) => lit.offsetParent) ?? rows[layer];
    cell.scrollIntoView({ block: "nearest" });
    boxes[layer].scrollIntoView({ block: "nearest", inline: "nearest" });
    cell.scrollIntoView({ block: "nearest" });
  }

  const same = (left, right) => left.length === right.length && left.every((layer, n) => layer === right[n]);
  const toggle = (layers) => select(same(layers, selected) ? [] : layers);

  document.addEventListener("click", (event) => {
    const cell = event.target.closest(".code [data-g]");
    const row = event.target.closest(".layers tbody tr");
    const strip = event.target.closest(".strip");
    const box = boxes.indexOf(event.target.closest(".drawing .l"));
    if (cell && !event.target.closest("a") && getSelection().isCollapsed) {
      const [written, used] = groups[cell.dataset.g];
      toggle(written.length ? written : used);
    } else if (row) {
      event.preventDefault();
      toggle([rows.indexOf(row)]);
    } else if (box >= 0) {
      toggle([box]);
    } else if (strip) {
      const { left, width } = strip.getBoundingClientRect();
      toggle([Math.min(rows.length - 1, Math.floor(((event.clientX - left) / width) * rows.length))]);
    }
  });

  boxes.forEach((box, number) => box.addEventListener("mouseenter", () => {
    if (box.firstChild) return;
    const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
    title.textContent = [...rows[number].cells].slice(0, 3).map((cell) => cell.textContent).join(" · ");
    box.append(title);
  }));

  const handles = all(".block button");
  const fold = document.getElementById("fold");
  const setFolded = (handle, folded) => {
    handle.setAttribute("aria-expanded", String(!folded));
    document.getElementById(handle.getAttribute("aria-controls")).hidden = folded;
  };
  handles.forEach((handle) => handle.addEventListener("click", () =>
    setFolded(handle, handle.getAttribute("aria-expanded") === "true")));
  fold.addEventListener("click", () => {
    const folded = fold.getAttribute("aria-pressed") !== "true";
    fold.setAttribute("aria-pressed", String(folded));
    handles.forEach((handle) => setFolded(handle, folded));
  });

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, .scroll, pre")) return;
    const press = (id) => document.getElementById(id)?.click();
    const narrow = matchMedia("(max-width: 56rem)").matches;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      const step = event.key === "ArrowDown" ? 1 : -1;
      const from = selected.length ? selected[0] + step : 0;
      if (from < 0 || from >= rows.length) return;
      event.preventDefault();
      select([from]);
      show(from);
    } else if (event.key === "Escape") select([]);
    else if (event.key === "f") fold.click();
    else if (event.key === "s") press(document.getElementById("form-functional")?.checked ? "form-sequential" : "form-functional");
    else if ("123".includes(event.key)) press((narrow ? "tab-" : "show-") + ["keras", "torch", "tf1"][event.key - 1]);
  });

  all(".copy").forEach((button) => button.addEventListener("click", async () => {
    const code = document.getElementById(button.dataset.code).textContent.replaceAll("<\\/", "</");
    await copy(code);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  }));

  // From one column at a time, so that what is selected with the mouse can be pasted.
  document.querySelector("table.code").addEventListener("pointerdown", (event) => {
    const column = event.target.closest("td")?.cellIndex;
    all(".code td").forEach((cell) => { cell.style.userSelect = column === undefined || cell.cellIndex === column ? "" : "none"; });
  });

  const fromLink = () => {
    const layer = rows.findIndex((row) => row.id === decodeURIComponent(location.hash.slice(1)));
    if (layer >= 0) { select([layer]); show(layer); }
  };
  addEventListener("hashchange", fromLink);
  // Hundreds of line numbers are links: the tabulator stops only at those of the lit lines.
  all(".code td > a").forEach((link) => { link.tabIndex = -1; });
  select([]);
  fromLink();
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // not allowed for files in some browsers
    const area = document.body.appendChild(document.createElement("textarea"));
    area.value = text;
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}
