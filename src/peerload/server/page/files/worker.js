/* One worker: what it said of itself, and what it published, however much that is. */

import { $, attribute, el, text } from "./dom.js";
import { bytes, count, date, plural, span } from "./format.js";
import { FORM, STATUS } from "./fleet.js";
import { List } from "./list.js";
import { ask } from "./stream.js";

const PAGE = 200;
const KEPT = 40;
const WAIT_MS = 180;

export class Detail {
  constructor({ fleet, now, timeout }) {
    Object.assign(this, { fleet, now, timeout });
    this.dialog = $("detail");
    this.worker = null;
    this.dialog.addEventListener("close", () => this.#forget());
    this.dialog.addEventListener("click", (event) => {
      // Beside the dialog is the dialog's own backdrop.
      if (event.target === this.dialog) this.dialog.close();
    });
  }

  open(worker) {
    this.#forget();
    this.worker = worker;
    this.aborting = new AbortController();
    this.pages = new Map();
    this.asked = new Set();
    this.head = null;
    this.#make();
    this.render();
    if (!this.dialog.open) this.dialog.showModal();
    this.#load(0);
  }

  #forget() {
    this.aborting?.abort();
    this.worker = null;
    this.pages = new Map();
    clearTimeout(this.waiting);
  }

  #make() {
    const { worker } = this;
    this.status = el("span.status");
    this.beat = el("dd.num");
    this.load = el("dd.num");
    const facts = [
      ["Worker", el("dd.mono.copy", {}, worker.worker)],
      ["Source id", el("dd.mono", {}, worker.source)],
      ["Rank", el("dd.num", {}, worker.world > 1 ? `${worker.rank} of ${worker.world}` : String(worker.rank))],
      ["Heartbeat", this.beat],
      ["Load", this.load],
      ["Host", worker.host],
      ["Pod", worker.pod],
      ["Place", Object.entries(worker.topology ?? {}).map((pair) => pair.join("=")).join(", ")],
      ["Revision", worker.revision],
      ["Known as", (worker.refs ?? []).join(", ")],
      ["Form", FORM[worker.form ?? 0]],
      ["Content", worker.content],
      ["Replica", worker.replica],
      ["Accelerator", worker.accelerator],
      ["Training step", worker.step ? count(worker.step) : ""],
      ["Owner", worker.owner],
      ["Published", el("dd.num", {}, date(worker.since ?? 0))],
    ];
    this.facts = el("dl.facts");
    for (const [name, value] of facts) {
      if (!value) continue;
      this.facts.append(el("div", {}, el("dt", {}, name), typeof value === "string" ? el("dd", {}, value) : value));
    }
    this.more = el("dl.facts.more");
    this.find = el("input", { type: "search", placeholder: "Find a tensor …", "aria-label": "Find a tensor", maxlength: "200", autocomplete: "off", spellcheck: "false" });
    this.sort = el(
      "select",
      { "aria-label": "Order" },
      el("option", { value: "" }, "As published"),
      el("option", { value: "name" }, "By name"),
      el("option", { value: "-size" }, "Largest first"),
      el("option", { value: "size" }, "Smallest first"),
    );
    this.items = el("span.muted.num", { role: "status" }, "reading …");
    const host = el("div.list.tensors");
    this.list = new List(host, {
      label: "Manifest",
      tall: [30, 50],
      columns: [["index", "#"], ["name", "Name"], ["dtype", "Type"], ["shape", "Shape"], ["size", "Bytes"], ["digest", "Digest"]],
      fill: (cells, index) => this.#row(cells, index),
      seen: (first, last) => {
        for (let page = Math.floor(first / PAGE); page <= Math.floor((last - 1) / PAGE); page += 1) this.#load(page);
      },
      empty: "Nothing is called that.",
    });
    const anew = () => {
      clearTimeout(this.waiting);
      this.waiting = setTimeout(() => {
        this.aborting.abort();
        this.aborting = new AbortController();
        this.pages.clear();
        this.asked.clear();
        this.list.top();
        this.#load(0);
      }, WAIT_MS);
    };
    this.find.addEventListener("input", anew);
    this.sort.addEventListener("change", anew);
    this.dialog.replaceChildren(
      el(
        "div.sheet",
        {},
        el("header", {}, el("div", {}, el("h2", { id: "detail-title" }, worker.model || "(no name)"), this.status), el("button.icon", { type: "button", "aria-label": "Close", onclick: () => this.dialog.close() }, "✕")),
        el("div.scroll", { tabindex: "-1" }, this.facts, this.more),
        el("div.tools", {}, this.find, this.sort, this.items),
        host,
      ),
    );
  }

  /** What changes by itself. */
  render() {
    const { worker } = this;
    if (!worker) return;
    const there = this.fleet.byPlace.get(worker.place) ?? null;
    const current = there ?? worker;
    const status = there ? STATUS[current.status] : "gone";
    text(this.status, current.suspect && there ? `${status}, suspect` : status);
    this.status.className = `status is-${status}${current.suspect ? " is-suspect" : ""}`;
    text(this.beat, `${span(this.now() - current.beat)} ago, of ${span(this.timeout())}`);
    text(this.load, current.load >= 0 ? `${current.load} %` : "not said");
  }

  async #load(page) {
    if (this.asked.has(page)) return;
    this.asked.add(page);
    const { worker, aborting } = this;
    const parameters = { source: worker.source, worker: worker.worker, rank: worker.rank, offset: page * PAGE, limit: PAGE, find: this.find.value, sort: this.sort.value };
    try {
      const answer = await ask("api/manifest", parameters, aborting.signal);
      if (aborting !== this.aborting) return;
      this.pages.set(page, answer.rows);
      for (const old of this.pages.keys()) {
        if (this.pages.size <= KEPT) break;
        this.pages.delete(old);
        this.asked.delete(old);
      }
      if (page === 0) this.#tell(answer);
      if (this.list.total !== answer.matched) this.list.resize(answer.matched);
      else this.list.refresh();
    } catch (error) {
      if (aborting.signal.aborted || aborting !== this.aborting) return;
      text(this.items, error.message);
      // Asked for again by whoever scrolls there.
      setTimeout(() => this.asked.delete(page), 2000);
    }
  }

  #tell(answer) {
    const all = plural(answer.total, "item");
    text(this.items, answer.matched === answer.total ? `${all}${answer.files ? ` in ${plural(answer.files, "file")}` : ""}, ${bytes(this.worker.bytes ?? 0)}` : `${count(answer.matched)} of ${all}`);
    if (this.head) return;
    this.head = answer;
    for (const [engine, address] of answer.endpoints) this.more.append(el("div", {}, el("dt", {}, engine || "listens at"), el("dd.mono", {}, address)));
    for (const [name, value] of answer.identity) {
      if (!["model_name", "revision"].includes(name)) this.more.append(el("div", {}, el("dt", {}, name.replaceAll("_", " ")), el("dd.mono", {}, value)));
    }
  }

  #row(cells, index) {
    const row = this.pages.get(Math.floor(index / PAGE))?.[index % PAGE];
    const [at, name, dtype, shape, size, digest, file] = row ?? [index, "…", "", "", null, "", ""];
    text(cells.index, count(at + 1));
    text(cells.name, name || "(no name)");
    attribute(cells.name, "title", file ? `${name} in ${file}` : name);
    text(cells.dtype, dtype.replace("torch.", "") || (file ? "file" : ""));
    text(cells.shape, shape);
    text(cells.size, size === null ? "" : bytes(size));
    text(cells.digest, digest.slice(0, 10));
    attribute(cells.digest, "title", digest || null);
    return row !== undefined;
  }
}
