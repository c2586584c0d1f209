/* Every transfer that is under way, and those that ended of late. */

import { $, attribute, chips, text } from "./dom.js";
import { brief, bytes, clock, count, plural, rate, short } from "./format.js";
import { Flows } from "./flows.js";
import { List } from "./list.js";

const WORDS = {
  ok: "done",
  refused: "refused",
  unreachable: "unreachable",
  lost: "lost",
  stalled: "stalled",
  corrupt: "corrupt",
  busy: "busy",
  failed: "failed",
};

export class Transfers {
  constructor({ fleet, flows, now, open }) {
    Object.assign(this, { fleet, flows, now });
    this.choice = "";
    this.rows = [];
    this.list = new List($("transfer-list"), {
      label: "Transfers",
      columns: [
        ["outcome", "Outcome"],
        ["model", "Model"],
        ["from", "Source"],
        ["to", "Target"],
        ["engine", "Engine"],
        ["size", "Bytes"],
        ["rate", "Rate"],
        ["when", "When"],
      ],
      fill: (cells, index, row) => this.#row(cells, this.rows[index], row),
      open: (index) => {
        const worker = this.fleet.byPlace.get(this.rows[index].parent);
        if (worker) open(worker);
      },
      empty: "Nothing has moved yet.",
    });
    chips($("outcomes"), [["", "All"], ["moving", "Under way"], ["ok", "Done"], ["bad", "Failed"]], (value) => {
      this.choice = value;
      this.list.top();
      this.render();
    });
  }

  render() {
    const wanted = {
      "": () => true,
      moving: (flow) => flow.outcome === undefined,
      ok: (flow) => flow.outcome === "ok",
      bad: (flow) => flow.outcome !== undefined && flow.outcome !== "ok",
    }[this.choice];
    const moving = [...this.flows.moving.values()].sort((a, b) => b.began - a.began);
    this.rows = [...moving, ...this.flows.ended.toReversed()].filter(wanted);
    text($("transfer-count"), `${plural(moving.length, "read")} under way, ${count(this.flows.ended.length)} ended lately`);
    this.list.resize(this.rows.length);
  }

  #row(cells, flow, row) {
    const live = flow.outcome === undefined;
    const now = this.now();
    row.classList.toggle("live", live);
    const done = live ? Flows.bytes(flow, now) : flow.bytes;
    const percent = live && flow.total ? Math.round((100 * done) / flow.total) : null;
    text(cells.outcome, live ? (percent === null ? "reading" : `${percent} %`) : WORDS[flow.outcome] ?? flow.outcome);
    cells.outcome.className = `outcome is-${live ? "moving" : flow.outcome === "ok" ? "ok" : flow.outcome === "busy" ? "busy" : "bad"}`;
    text(cells.model, flow.model || "(no name)");
    attribute(cells.model, "title", flow.model);
    const source = this.fleet.byPlace.get(flow.parent);
    text(cells.from, source?.host ? `${source.host} ${brief(flow.from)}` : brief(flow.from));
    attribute(cells.from, "title", flow.from);
    text(cells.to, flow.toHost ? `${flow.toHost} ${brief(flow.to)}` : brief(flow.to) || "–");
    attribute(cells.to, "title", flow.to);
    text(cells.engine, flow.engine || "–");
    text(cells.size, live && flow.total ? `${bytes(done)} of ${bytes(flow.total)}` : bytes(done));
    text(cells.rate, live ? rate(flow.rate) : flow.seconds > 0 && flow.bytes ? rate(flow.bytes / flow.seconds) : "–");
    text(cells.when, live ? `for ${short(Math.max(0, now - flow.began) / 1000)}` : `${clock(flow.at)}, ${short(flow.seconds)}`);
    row.style.setProperty("--done", percent === null ? 0 : percent / 100);
  }
}
