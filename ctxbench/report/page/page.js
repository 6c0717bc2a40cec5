"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  const data = JSON.parse(document.getElementById("data").textContent);
  const letters = new Intl.Collator("en", { numeric: true });
  const tables = new Map();

  const make = (name, text, attributes = {}) => {
    const node = document.createElement(name);
    if (text) node.textContent = text;
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    return node;
  };
  const exact = (cell) =>
    cell.dataset.v ?? (cell.querySelector(".chip")?.lastChild ?? cell).textContent.trim();
  const number = (text) => parseFloat(text.replace("\u2212", "-").replaceAll(",", ""));

  // where a line comes from: `run:lines;run:lines;+more`
  const origins = (said) => said.split(";").filter(Boolean).map((part) => {
    if (part.startsWith("+")) return { beyond: part.slice(1) };
    const [run, lines] = part.split(":");
    const words = data.runs[Number(run)].map((place) => data.words[place]);
    return { lines, ...Object.fromEntries(data.fields.map((field, at) => [field, words[at]])) };
  });
  const copier = (text) => {
    const button = make("button", "copy", { type: "button", "aria-label": `Copy the command ${text}` });
    button.addEventListener("click", async () => {
      let done = true;
      try {
        await navigator.clipboard.writeText(text);
      } catch {
        const area = document.body.appendChild(make("textarea"));
        area.value = text;
        area.select();
        done = document.execCommand("copy");
        area.remove();
        button.focus();
      }
      button.textContent = done ? "copied" : "select and copy it yourself";
      button.setAttribute("aria-label", button.textContent);
    });
    return button;
  };
  const listed = (pairs) => {
    const list = make("dl");
    for (const [term, text, extra] of pairs) {
      if (!text) continue;
      const told = make("dd", term === "command" ? "" : text);
      if (term === "command") told.append(make("code", text));
      if (extra) told.append(extra);
      list.append(make("dt", term), told);
    }
    return list;
  };
  const told = (said, values) => {
    const box = make("div", "", { class: "told" });
    if (values.length) box.append(make("p", "This line, exactly:"), listed(values));
    const found = origins(said);
    box.append(make("p", found.length ? "Made from:" : "No row of its own is known."));
    for (const { beyond, lines, file, ...run } of found) {
      if (beyond) {
        box.append(make("p", `and ${beyond} more rows of further runs`));
        continue;
      }
      const many = /[-,]/.test(lines) ? "lines" : "line";
      const pairs = [["row", `${file}, ${many} ${lines.replaceAll("-", "\u2013").replaceAll(",", ", ")}`]];
      for (const [field, text] of Object.entries(run)) {
        pairs.push([field, text, field === "command" && text ? copier(text) : null]);
      }
      box.append(listed(pairs));
    }
    return box;
  };

  let opened = 0;
  const opener = (label, open, close) => {
    const button = make("button", "rows", { type: "button", "aria-expanded": "false", "aria-label": label });
    button.addEventListener("click", () => {
      const shut = button.getAttribute("aria-expanded") === "false";
      button.setAttribute("aria-expanded", String(shut));
      if (!shut) {
        button.removeAttribute("aria-controls");
        close();
        return;
      }
      const node = open();
      node.id = `told-${++opened}`;
      button.setAttribute("aria-controls", node.id);
    });
    return button;
  };

  class Table {
    constructor(box) {
      this.name = box.dataset.table;
      this.box = box;
      this.body = box.querySelector("tbody");
      this.heads = [...box.querySelectorAll("thead th")];
      this.names = this.heads.map((head) => head.textContent);
      this.lines = [...this.body.rows].map((row, at) => ({ row, at, cells: [...row.cells] }));
      this.form = box.querySelector("form");
      this.controls = this.form ? [...this.form.querySelectorAll("[data-key]")] : [];
      this.output = box.querySelector("output");
      this.sorted = null;
      this.more = Object.entries(data.more[this.name] ?? {});
      this.addSorting();
      for (const line of this.lines) this.addOpener(line);
      const corner = make("td", "", { class: "from" });
      this.heads[0].before(corner);
      if (this.form) this.addFilters();
    }
    addSorting() {
      this.heads.forEach((head, at) => {
        const button = make("button", head.textContent, { type: "button" });
        head.replaceChildren(button);
        button.addEventListener("click", () => {
          const first = head.classList.contains("n") ? "descending" : "ascending";
          const other = first === "ascending" ? "descending" : "ascending";
          const now = head.getAttribute("aria-sort");
          this.sort(now === first ? { at, way: other } : now ? null : { at, way: first });
          remember();
        });
      });
    }
    addOpener(line) {
      const { row } = line;
      const button = opener(`Rows of ${line.cells[0].textContent.trim()}`, () => {
        const cell = make("td", "", { colspan: String(this.heads.length + 1) });
        cell.append(told(row.dataset.from, this.values(line)));
        line.open = make("tr", "", { class: "origins" });
        line.open.append(cell);
        row.after(line.open);
        return line.open;
      }, () => {
        line.open.remove();
        line.open = null;
      });
      const cell = make("td", "", { class: "from" });
      cell.append(button);
      row.prepend(cell);
    }
    values(line) {
      const shown = line.cells.map((cell, at) => [this.names[at], exact(cell)]);
      return [...shown, ...this.more.map(([heading, values]) => [heading, values[line.at]])];
    }
    addFilters() {
      this.form.addEventListener("submit", (event) => event.preventDefault());
      this.form.addEventListener("input", () => { this.filter(); remember(); });
      this.form.addEventListener("reset", () => setTimeout(() => { this.filter(); remember(); }));
      this.filter();
    }
    sort(by) {
      this.sorted = by;
      for (const head of this.heads) head.removeAttribute("aria-sort");
      const order = [...this.lines];
      if (by) {
        this.heads[by.at].setAttribute("aria-sort", by.way);
        const sign = by.way === "ascending" ? 1 : -1;
        const keys = new Map(order.map((line) => {
          const text = exact(line.cells[by.at]);
          return [line, { text, value: number(text) }];
        }));
        order.sort((one, two) => {
          const [a, b] = [keys.get(one), keys.get(two)];
          if (!a.text || !b.text) return (a.text ? 0 : 1) - (b.text ? 0 : 1) || one.at - two.at;
          const numeric = this.heads[by.at].classList.contains("n");
          if (numeric && isNaN(a.value) !== isNaN(b.value)) return isNaN(a.value) ? 1 : -1;
          const gap = numeric && !isNaN(a.value) ? a.value - b.value : letters.compare(a.text, b.text);
          return sign * gap || one.at - two.at;
        });
      }
      this.body.append(...order.flatMap((line) => (line.open ? [line.row, line.open] : [line.row])));
    }
    filter() {
      const wanted = this.controls.map((control) => control.value);
      const words = (this.form.querySelector("input")?.value ?? "").toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const line of this.lines) {
        const fits = this.controls.every((control, at) =>
          control.dataset.key === "q" || !wanted[at] || line.row.dataset[`f${at}`] === wanted[at]);
        line.text ??= [...line.cells.map((cell) => cell.textContent), ...this.more.map(([, values]) => values[line.at])].join(" ").toLowerCase();
        const visible = fits && words.every((word) => line.text.includes(word));
        line.row.hidden = !visible;
        if (line.open) line.open.hidden = !visible;
        shown += visible;
      }
      this.output.textContent = `${shown} of ${this.lines.length} lines`;
    }
    // the state in the address: `claims.paper=x&claims.sort=3a`
    state() {
      const said = this.controls.filter((control) => control.value)
        .map((control) => [control.dataset.key, control.value]);
      if (this.sorted) said.push(["sort", `${this.sorted.at}${this.sorted.way[0]}`]);
      return said.map(([key, value]) => [`${this.name}.${key}`, value]);
    }
    restore(said) {
      for (const control of this.controls) {
        control.value = said.get(`${this.name}.${control.dataset.key}`) ?? "";
        if (control.selectedIndex === -1) control.value = "";
      }
      const [, at, way] = /^(\d+)([ad])$/.exec(said.get(`${this.name}.sort`) ?? "") ?? [];
      const by = at && this.heads[at] ? { at: Number(at), way: way === "a" ? "ascending" : "descending" } : null;
      if (by || this.sorted) this.sort(by);
      if (this.form) this.filter();
    }
  }

  const remember = () => {
    const said = [...tables.values()].flatMap((table) => table.state());
    history.replaceState(null, "", said.length ? `#${new URLSearchParams(said)}` : location.pathname + location.search);
  };
  const restore = () => {
    const hash = location.hash.slice(1);
    if (hash && !hash.includes("=")) return;  // a link to a place leaves filters alone
    const said = new URLSearchParams(hash);
    for (const table of tables.values()) table.restore(said);
    const first = [...said.keys()][0]?.split(".")[0];
    if (tables.has(first)) tables.get(first).box.scrollIntoView();
  };

  for (const box of document.querySelectorAll("[data-table]")) {
    const table = new Table(box);
    tables.set(table.name, table);
  }
  for (const caption of document.querySelectorAll("figcaption[data-from]")) {
    let box = null;
    const title = caption.querySelector("b").textContent;
    caption.append(opener(`Rows of ${title}`, () => {
      box = told(caption.dataset.from, []);
      caption.append(box);
      return box;
    }, () => box.remove()));
  }
  window.addEventListener("hashchange", restore);
  if (location.hash.includes("=")) restore();
})();
