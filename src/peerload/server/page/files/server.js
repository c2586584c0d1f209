/* The server that shows this page, and its store. */

import { $, el, text } from "./dom.js";
import { Chart } from "./chart.js";
import { bytes, count, plural, span } from "./format.js";

export class ServerView {
  constructor() {
    this.values = {};
    const facts = (...names) => {
      const list = el("dl.facts");
      for (const [name, label] of names) list.append(el("div", {}, el("dt", {}, label), (this.values[name] = el("dd.num", {}, "–"))));
      return list;
    };
    const card = (title, ...children) => el("div.card", {}, el("div.head", {}, el("h2", {}, title)), ...children);
    this.state = el("p.verdict");
    this.store = el("p.verdict");
    this.chart = el("div.chart", { role: "img", "aria-label": "How long the store took to answer, lately" });
    $("server").append(
      el(
        "div.cards",
        {},
        card(
          "Server",
          this.state,
          facts(["address", "Listens at"], ["version", "Version"], ["tls", "TLS"], ["uptime", "Has run for"], ["memory", "Memory"], ["records", "Records"], ["watches", "Watches"], ["lookers", "Looking on"]),
        ),
        card(
          "Store",
          this.store,
          facts(["place", "Place"], ["silent", "Last heard of"], ["stored", "Heartbeats"], ["settled", "Settled"], ["latency", "Answers in"]),
          this.chart,
        ),
        card("You", facts(["principal", "Known as"], ["role", "May"], ["models", "Models"])),
      ),
    );
    this.plot = new Chart(this.chart, { height: 120, least: 0.1, format: (ms) => `${ms} ms`, colour: "ready", bottom: false });
    this.health = null;
  }

  hello(fixed) {
    this.fixed = fixed;
    const set = (name, value) => text(this.values[name], value);
    set("address", fixed.address);
    set("version", fixed.version);
    set("tls", fixed.tls ? "yes" : "no: plaintext");
    set("place", fixed.store);
    set("principal", fixed.principal || "nobody is asked who they are");
    set("role", { read: "read", publish: "read and publish", admin: "do everything" }[fixed.role] ?? fixed.role);
    set("models", fixed.models.length ? fixed.models.join(", ") : "all");
  }

  render(health) {
    const set = (name, value) => text(this.values[name], value);
    if (health.unheard) {
      verdict(this.state, false, "Not reached: what is below is as it was");
      verdict(this.store, false, "Not known");
      return;
    }
    verdict(this.state, health.serving, health.serving ? "Serving" : `Not serving: ${health.reason}`);
    const well = !health.lost && health.stored && !health.trouble;
    const trouble = health.trouble || (health.lost ? "its feed is silent: what is shown may be out of date" : "heartbeats cannot be stored");
    verdict(this.store, well, well ? "Healthy" : `In trouble: ${trouble}`);
    set("uptime", span(health.uptime * 1000));
    set("memory", health.memory ? bytes(health.memory) : "–");
    for (const name of ["records", "watches", "lookers"]) set(name, health[name] === undefined ? "not yours to know" : count(health[name]));
    set("silent", health.silent === null ? "never yet" : `${span(health.silent)} ago`);
    set("stored", health.stored ? "are stored" : "cannot be stored");
    set("settled", health.settled ? "yes" : "not yet: workers may still be on their way back");
    const latencies = health.latencies;
    if (!latencies.length) return;
    const sorted = latencies.toSorted((a, b) => a - b);
    set("latency", `${sorted[Math.floor(sorted.length / 2)]} ms (of ${plural(sorted.length, "question")}, ${sorted.at(-1)} ms at most)`);
    this.plot.set(latencies.map((_, index) => index), latencies);
  }
}

function verdict(element, good, words) {
  text(element, words);
  element.className = `verdict ${good ? "good" : "trouble"}`;
}
