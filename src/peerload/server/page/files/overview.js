/* The fleet at a glance: figures, the latest transfers, and the models. */

import { $, attribute, el, phone, text } from "./dom.js";
import { brief, bytes, clock, count, plural, rate, short, span } from "./format.js";
import { FORM } from "./fleet.js";
import { Flows } from "./flows.js";
import { List } from "./list.js";

const FEED = 6;

export class Overview {
  constructor({ fleet, flows, now, timeout, pick, open }) {
    Object.assign(this, { fleet, flows, now, timeout, open });
    this.figures = {};
    for (const [name, label] of [
      ["models", "Models"],
      ["workers", "Workers ready"],
      ["moving", "Moving now"],
      ["held", "Weights held"],
      ["oldest", "Oldest heartbeat"],
    ]) {
      const value = el("b.num", {}, "–");
      const more = el("span.more", {}, " ");
      $("stats").append(el(`li.${name}`, {}, el("span.label", {}, label), value, more));
      this.figures[name] = { value, more };
    }
    const parts = ["ready", "initializing", "stale"].map((status) => el(`i.${status}`));
    this.shares = parts;
    $("stats").querySelector(".workers .more").after(el("span.shares", { "aria-hidden": "true" }, ...parts));
    this.models = [];
    this.list = new List($("models"), {
      label: "Models",
      tall: [38, 62],
      columns: [
        ["name", "Model"],
        ["form", "Form"],
        ["size", "Size"],
        ["ready", "Ready"],
        ["replicas", "Replicas"],
        ["load", "Load"],
        ["age", "Oldest heartbeat"],
      ],
      fill: (cells, index) => this.#model(cells, this.models[index]),
      open: (index) => pick(this.models[index].name),
      empty: "No worker has published anything here yet.",
    });
  }

  render(models) {
    const now = this.now();
    const workers = models.reduce((sum, model) => sum + model.workers.length, 0);
    const sum = (name) => models.reduce((all, model) => all + model[name], 0);
    const ready = sum("ready");
    const figure = (name, value, more) => {
      text(this.figures[name].value, value);
      text(this.figures[name].more, more);
    };
    figure("models", count(models.length), plural(sum("complete"), "whole replica"));
    const stale = sum("stale");
    figure("workers", count(ready), `of ${count(workers + this.fleet.more)}${stale ? `, ${count(stale)} stale` : ""}`);
    for (const [index, number] of [ready, sum("initializing"), stale].entries()) {
      this.shares[index].style.flexGrow = number;
      this.shares[index].hidden = !number;
    }
    figure("moving", plural(this.flows.moving.size, "read"), rate(this.flows.speed(now)));
    this.figures.moving.value.classList.toggle("moves", this.flows.moving.size > 0);
    figure("held", bytes(sum("bytes")), "in live workers");
    const oldest = Math.min(...models.map((model) => model.oldest));
    const late = Number.isFinite(oldest) ? now - oldest : null;
    figure("oldest", late === null ? "–" : span(late), late === null ? "nobody heartbeats" : `of ${span(this.timeout())} at most`);
    this.figures.oldest.value.classList.toggle("late", late !== null && late > this.timeout() / 2);
    text($("model-count"), plural(models.length, "model"));
    this.models = models;
    const rows = Math.min(Math.max(3, models.length), phone.matches ? 8 : 14);
    $("models").style.height = `${rows * this.list.height + (phone.matches ? 2 : 34)}px`;
    this.list.resize(models.length);
    this.#feed(now);
  }

  #model(cells, model) {
    text(cells.name, model.name || "(no name)");
    attribute(cells.name, "title", model.revisions.size ? `${model.name} · ${[...model.revisions].slice(0, 4).join(", ")}` : model.name);
    text(cells.form, [...model.forms].map((form) => FORM[form]).filter(Boolean).join(", ") || "stock");
    text(cells.size, model.largest ? bytes(model.largest) : "–");
    text(cells.ready, `${count(model.ready)} / ${count(model.workers.length)}`);
    cells.ready.classList.toggle("bad", model.ready === 0);
    text(cells.replicas, model.replicas.size === model.workers.length && model.complete === model.ready ? count(model.replicas.size) : `${count(model.complete)} / ${count(model.replicas.size)} whole`);
    text(cells.load, model.loads ? `${Math.round(model.load / model.loads)} %` : "–");
    text(cells.age, Number.isFinite(model.oldest) ? span(this.now() - model.oldest) : "–");
  }

  #feed(now) {
    const moving = [...this.flows.moving.values()].slice(-FEED).reverse();
    const ended = this.flows.ended.slice(-Math.max(2, FEED - moving.length)).reverse();
    const rows = [...moving, ...ended].slice(0, FEED);
    const host = $("feed");
    if (!rows.length) {
      if (!host.querySelector(".empty")) host.replaceChildren(el("li.empty", {}, "Nothing has moved yet. Pulls show up here while they last."));
      return;
    }
    host.querySelector(".empty")?.remove();
    while (host.children.length < rows.length) {
      const parts = { title: el("span.title"), way: el("span.way.mono"), fact: el("span.fact.num"), bar: el("i.bar") };
      const item = el("li", {}, parts.title, parts.fact, parts.way, parts.bar);
      item.parts = parts;
      host.append(item);
    }
    while (host.children.length > rows.length) host.lastChild.remove();
    for (const [index, flow] of rows.entries()) {
      const item = host.children[index];
      const { title, way, fact, bar } = item.parts;
      const live = flow.outcome === undefined;
      item.className = live ? "live" : flow.outcome;
      text(title, flow.model || "(no name)");
      text(way, `${brief(flow.from)} → ${flow.toHost || brief(flow.to)}`);
      if (live) {
        const done = Flows.bytes(flow, now);
        text(fact, `${bytes(done)}${flow.total ? ` of ${bytes(flow.total)}` : ""} · ${rate(flow.rate)}`);
        bar.style.transform = `scaleX(${flow.total ? Math.min(1, done / flow.total) : 0.03})`;
      } else {
        text(fact, flow.outcome === "ok" ? `${bytes(flow.bytes)} in ${short(flow.seconds)} · ${clock(flow.at)}` : `${flow.outcome} · ${clock(flow.at)}`);
        bar.style.transform = "scaleX(0)";
      }
    }
  }
}
