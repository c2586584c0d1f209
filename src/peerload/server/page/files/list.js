/* A list of any length: only the rows in sight are there. It is walked with the arrow keys, and Enter opens a row. */

import { el, phone } from "./dom.js";

const TALLEST = 8_000_000;
const BESIDE = 6;

/** `columns`: [class, heading] each; `fill(cells, index, row)` writes a row's cells, and returns whether there is anything to
 * show yet; `open(index)` is told which was chosen; `seen(first, last)` which are in sight. */
export class List {
  constructor(host, { label, columns, fill, open = null, seen = null, tall = [34, 58], empty = "" }) {
    this.columns = columns;
    this.fill = fill;
    this.open = open;
    this.seen = seen;
    this.tall = tall;
    this.total = 0;
    this.active = -1;
    this.rows = [];
    this.scroller = el("div.rows", { tabindex: "0", role: "grid", "aria-readonly": "true", "aria-label": label });
    this.spacer = el("div.spacer", { role: "rowgroup" });
    this.emptiness = el("p.empty", { hidden: true }, empty);
    this.scroller.append(
      el("div.row.heads", { role: "row" }, ...columns.map(([name, heading]) => el(`span.${name}`, { role: "columnheader" }, heading))),
      this.spacer,
    );
    host.append(this.scroller, this.emptiness);
    this.scroller.addEventListener("scroll", () => this.#soon(), { passive: true });
    this.scroller.addEventListener("keydown", (event) => this.#key(event));
    this.scroller.addEventListener("click", (event) => {
      const row = event.target.closest("[data-index]");
      if (!row) return;
      this.#activate(Number(row.dataset.index));
      this.open?.(this.active);
    });
    new ResizeObserver(() => this.#soon()).observe(this.scroller);
    phone.addEventListener("change", () => this.refresh());
  }

  get height() {
    return this.tall[phone.matches ? 1 : 0];
  }

  /** There are so many rows now. */
  resize(total) {
    this.total = total;
    this.emptiness.hidden = total > 0;
    this.scroller.setAttribute("aria-rowcount", String(total + 1));
    if (this.active >= total) this.active = -1;
    this.refresh();
  }

  /** Write what is in sight anew. */
  refresh() {
    this.scroller.style.setProperty("--row", `${this.height}px`);
    this.spacer.style.height = `${Math.min(TALLEST, this.total * this.height)}px`;
    this.#draw();
  }

  top() {
    this.scroller.scrollTop = 0;
  }

  #soon() {
    if (this.pending) return;
    this.pending = requestAnimationFrame(() => {
      this.pending = 0;
      this.#draw();
    });
  }

  /** Of very long lists, how many pixels of rows one pixel of the scroll bar stands for. */
  #stretch(room) {
    const all = this.total * this.height;
    return all <= TALLEST ? 1 : (all - room) / (TALLEST - room);
  }

  #draw() {
    const room = this.scroller.clientHeight;
    if (!room) return;
    const top = this.scroller.scrollTop;
    const start = top * this.#stretch(room);
    const first = Math.max(0, Math.floor(start / this.height) - BESIDE);
    const last = Math.min(this.total, Math.ceil((start + room) / this.height) + BESIDE);
    while (this.rows.length < last - first) this.#add();
    for (const [at, row] of this.rows.entries()) {
      const index = first + at;
      const used = index < last;
      row.element.hidden = !used;
      if (!used) continue;
      row.element.dataset.index = index;
      row.element.setAttribute("aria-rowindex", index + 2);
      row.element.style.transform = `translateY(${top + index * this.height - start}px)`;
      row.element.classList.toggle("odd", index % 2 === 1);
      row.element.classList.toggle("active", index === this.active);
      row.element.setAttribute("aria-selected", String(index === this.active));
      row.element.classList.toggle("blank", this.fill(row.cells, index, row.element) === false);
    }
    if (this.active >= first && this.active < last) {
      this.scroller.setAttribute("aria-activedescendant", this.rows[this.active - first].element.id);
    } else this.scroller.removeAttribute("aria-activedescendant");
    if (last > first) this.seen?.(first, last);
  }

  #add() {
    const cells = {};
    const element = el("div.row", { role: "row", id: `row-${(List.made = (List.made ?? 0) + 1)}` });
    for (const [name] of this.columns) element.append((cells[name] = el(`span.${name}`, { role: "gridcell" })));
    if (this.open) element.classList.add("opens");
    this.spacer.append(element);
    this.rows.push({ element, cells });
  }

  #activate(index) {
    this.active = Math.max(0, Math.min(this.total - 1, index));
    const room = this.scroller.clientHeight - this.scroller.firstChild.offsetHeight;
    const stretch = this.#stretch(this.scroller.clientHeight);
    const at = this.active * this.height;
    const start = this.scroller.scrollTop * stretch;
    if (at < start) this.scroller.scrollTop = at / stretch;
    else if (at + this.height > start + room) this.scroller.scrollTop = (at + this.height - room) / stretch;
    this.#draw();
  }

  #key(event) {
    if (event.ctrlKey || event.altKey || event.metaKey || !this.total) return;
    const page = Math.max(1, Math.floor(this.scroller.clientHeight / this.height) - 2);
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (event.key in moves) this.#activate(this.active < 0 && event.key === "ArrowUp" ? 0 : this.active + moves[event.key]);
    else if (event.key === "Enter" && this.active >= 0) this.open?.(this.active);
    else return;
    event.preventDefault();
  }
}
