/* Every worker, in one list that is as long as the fleet. */

import { $, attribute, chips, text } from "./dom.js";
import { brief, bytes, plural, span } from "./format.js";
import { Fleet, inOrder, STATUS } from "./fleet.js";
import { List } from "./list.js";

export class Workers {
  constructor({ fleet, now, timeout, open }) {
    Object.assign(this, { fleet, now, timeout });
    this.status = "";
    this.model = null;
    this.rows = [];
    this.list = new List($("worker-list"), {
      label: "Workers",
      columns: [
        ["status", "Status"],
        ["model", "Model"],
        ["worker", "Worker"],
        ["rank", "Rank"],
        ["host", "Host"],
        ["engines", "Engines"],
        ["size", "Size"],
        ["load", "Load"],
        ["age", "Heartbeat"],
      ],
      fill: (cells, index) => this.#row(cells, this.rows[index]),
      open: (index) => open(this.rows[index]),
      empty: "No worker is like that.",
    });
    chips($("statuses"), [["", "All"], ["2", "Ready"], ["1", "Initializing"], ["3", "Stale"], ["suspect", "Suspect"]], (value) => {
      this.status = value;
      this.list.top();
      this.render();
    });
    $("find").addEventListener("input", () => {
      this.model = null;
      this.list.top();
      this.render();
    });
  }

  /** Only those of one model. */
  pick(model) {
    $("find").value = model;
    this.model = model;
    this.list.top();
  }

  render() {
    const words = $("find").value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    const rows = [];
    for (const worker of this.fleet.workers.values()) {
      if (this.status === "suspect" ? !worker.suspect : this.status && worker.status !== Number(this.status)) continue;
      if (this.model !== null ? worker.model !== this.model : words.length && !words.every((word) => Fleet.words(worker).includes(word))) continue;
      rows.push(worker);
    }
    rows.sort(inOrder);
    this.rows = rows;
    text($("worker-count"), `${plural(rows.length, "worker")}${this.fleet.more ? `, and ${plural(this.fleet.more, "more")} that this page leaves out` : ""}`);
    this.list.resize(rows.length);
  }

  #row(cells, worker) {
    const status = STATUS[worker.status];
    text(cells.status, worker.suspect ? `${status}, suspect` : status);
    cells.status.className = `status is-${status}${worker.suspect ? " is-suspect" : ""}`;
    text(cells.model, worker.model || "(no name)");
    attribute(cells.model, "title", worker.model);
    text(cells.worker, brief(worker.worker));
    attribute(cells.worker, "title", worker.worker);
    text(cells.rank, worker.world > 1 ? `${worker.rank} / ${worker.world}` : String(worker.rank));
    text(cells.host, worker.host || worker.pod || "–");
    attribute(cells.host, "title", worker.pod || worker.host || null);
    text(cells.engines, (worker.engines ?? []).join(" ") || "–");
    text(cells.size, worker.bytes ? bytes(worker.bytes) : "–");
    text(cells.load, worker.load >= 0 ? `${worker.load} %` : "–");
    const age = this.now() - worker.beat;
    text(cells.age, span(age));
    cells.age.classList.toggle("late", age > this.timeout() / 2);
  }
}
