/* The picture of who reads from whom.
 *
 * Each model is a lane. In it the workers stand in columns: those at the left have read from nobody that is known, the next
 * ones from these, and so on; so a model that spreads grows from left to right. A worker is a dot; a read that is under way
 * is a line along which its bytes go, and the reader's dot fills up as they arrive. The ranks of a replica stand together.
 */

import { attribute, phone, still } from "./dom.js";
import { colours, onColours } from "./colours.js";
import { translucent } from "./chart.js";
import { Flows } from "./flows.js";
import { brief, bytes, count, plural, rate, span } from "./format.js";
import { STATUS } from "./fleet.js";
import { arrange, depthOf } from "./lanes.js";

const FRAME_MS = 33;
const SLOWEST_MS = 1_000;
const FADE_MS = 25_000;
const GHOST_MS = 8_000;
const PULSE_MS = 900;
const MOST_TRACES = 600;

export class Swarm {
  constructor({ canvas, tip, nobody, fleet, flows, now, timeout, open }) {
    Object.assign(this, { canvas, tip, nobody, fleet, flows, now, timeout, open });
    this.paint = canvas.getContext("2d");
    this.only = "";
    this.nodes = new Map();
    this.lanes = [];
    this.seen = "";
    this.frame = 0;
    this.last = 0;
    this.cost = 0;
    this.width = this.height = 0;
    new ResizeObserver(() => this.#fit()).observe(canvas.parentElement);
    canvas.addEventListener("pointermove", (event) => this.#point(event));
    canvas.addEventListener("pointerleave", () => (this.tip.hidden = true));
    canvas.addEventListener("click", (event) => {
      const node = this.#at(event);
      if (node?.worker) this.open(node.worker);
    });
    document.addEventListener("visibilitychange", () => this.wake());
    still.addEventListener("change", () => this.wake());
    onColours(() => this.wake());
  }

  /** Something has changed. */
  wake() {
    if (!this.frame && !document.hidden && this.width) this.frame = requestAnimationFrame((at) => this.#draw(at));
  }

  show(model) {
    this.only = model;
    this.seen = "";
    this.wake();
  }

  #fit() {
    const { clientWidth, clientHeight } = this.canvas.parentElement;
    if (!clientWidth || (clientWidth === this.width && clientHeight === this.height)) return;
    const scale = Math.min(2, window.devicePixelRatio || 1);
    this.width = clientWidth;
    this.height = clientHeight;
    this.canvas.width = clientWidth * scale;
    this.canvas.height = clientHeight * scale;
    this.paint.setTransform(scale, 0, 0, scale, 0, 0);
    this.seen = "";
    this.wake();
  }

  /** Where everything belongs: lanes by model, columns by how many have passed the weights on. */
  #arrange(now) {
    const lanes = new Map();
    const lane = (model) => {
      if (!lanes.has(model)) lanes.set(model, { model, nodes: [], moving: 0, workers: 0 });
      return lanes.get(model);
    };
    const present = new Set();
    const put = (place, model, worker, ghost) => {
      let node = this.nodes.get(place);
      if (!node) this.nodes.set(place, (node = { place, x: null, y: null, size: 0, pulse: 0 }));
      Object.assign(node, { model, worker, ghost, depth: 0, reading: null });
      present.add(place);
      lane(model).nodes.push(node);
      return node;
    };
    for (const worker of this.fleet.workers.values()) {
      if (this.only && worker.model !== this.only) continue;
      put(worker.place, worker.model, worker, null);
      lane(worker.model).workers += 1;
    }
    for (const flow of this.flows.moving.values()) {
      if (this.only && flow.model !== this.only) continue;
      const node = present.has(flow.child) ? this.nodes.get(flow.child) : put(flow.child, flow.model, null, flow);
      node.reading = flow;
      lane(flow.model).moving += 1;
    }
    for (let at = this.flows.ended.length - 1; at >= 0; at -= 1) {
      const flow = this.flows.ended[at];
      if (now - flow.at > GHOST_MS) break;
      if ((this.only && flow.model !== this.only) || present.has(flow.child)) continue;
      put(flow.child, flow.model, null, flow);
    }
    for (const place of this.nodes.keys()) if (!present.has(place)) this.nodes.delete(place);
    const depths = new Map();
    for (const place of present) this.nodes.get(place).depth = depthOf(place, present, this.flows.parents, depths);
    const ordered = [...lanes.values()].sort((a, b) => b.workers + 50 * b.moving - (a.workers + 50 * a.moving) || (a.model < b.model ? -1 : 1));
    const most = Math.max(1, Math.floor(this.height / (phone.matches ? 62 : 58)));
    this.hiddenLanes = Math.max(0, ordered.length - most);
    this.lanes = ordered.slice(0, most);
    for (const each of ordered.slice(most)) for (const node of each.nodes) this.nodes.delete(node.place);
    arrange(this.lanes, { width: this.width, height: this.height, hidden: this.hiddenLanes });
    this.nobody.hidden = present.size > 0;
  }

  #draw(at) {
    this.frame = 0;
    // Of a slow machine's time it takes a quarter.
    if (at - this.last < Math.min(Math.max(FRAME_MS, 4 * this.cost), SLOWEST_MS) - 4) {
      this.wake();
      return;
    }
    const began = performance.now();
    const step = Math.min(0.1, (at - this.last) / 1000);
    this.last = at;
    const now = this.now();
    // Who comes and goes alters the arrangement; who merely moves does not.
    const seen = `${this.fleet.version}/${this.flows.version}/${this.only}/${this.width}x${this.height}`;
    if (seen !== this.seen) {
      this.seen = seen;
      this.#arrange(now);
    }
    const quiet = still.matches;
    let restless = false;
    const ease = quiet ? 1 : 1 - Math.exp(-step * 7);
    for (const node of this.nodes.values()) {
      if (node.toX === undefined) continue;
      if (node.x === null) {
        const parent = this.nodes.get(this.flows.parents.get(node.place));
        node.x = parent?.x ?? node.toX;
        node.y = parent?.y ?? node.toY;
      }
      node.x += (node.toX - node.x) * ease;
      node.y += (node.toY - node.y) * ease;
      node.size += (node.toSize - node.size) * ease;
      if (Math.abs(node.toX - node.x) + Math.abs(node.toY - node.y) + Math.abs(node.toSize - node.size) > 0.5) restless = true;
      if (node.pulse > 0) {
        node.pulse = quiet ? 0 : Math.max(0, node.pulse - (step * 1000) / PULSE_MS);
        restless = true;
      }
    }
    for (const number of this.fleet.beaten.splice(0)) {
      const node = this.nodes.get(this.fleet.workers.get(number)?.place);
      if (node && !quiet) {
        node.pulse = 1;
        restless = true;
      }
    }
    const paint = this.paint;
    paint.clearRect(0, 0, this.width, this.height);
    this.#labels();
    this.#traces(now);
    this.#dots(now);
    if (this.#streams(now, at, quiet)) restless = true;
    attribute(this.canvas, "aria-label", this.#words());
    this.cost = 0.8 * this.cost + 0.2 * (performance.now() - began);
    if (restless && !quiet) this.wake();
  }

  #words() {
    const moving = this.flows.moving.size;
    const lanes = this.lanes.slice(0, 8).map((lane) => `${lane.model}: ${plural(lane.workers, "worker")}, ${plural(lane.moving, "read")} under way${lane.missing.length ? `, ${plural(lane.missing.length, "rank")} missing` : ""}`);
    return `${plural(moving, "read")} under way. ${lanes.join("; ")}`;
  }

  #labels() {
    const paint = this.paint;
    paint.textBaseline = "alphabetic";
    for (const [index, lane] of this.lanes.entries()) {
      if (index) {
        paint.fillStyle = colours.line;
        paint.fillRect(0, Math.round(lane.top) - 1, this.width, 1);
      }
      paint.font = "600 12px system-ui, sans-serif";
      paint.fillStyle = colours.ink;
      const name = fitting(paint, lane.model || "(no name)", this.width - 130);
      paint.fillText(name, 12, lane.top + 15);
      const beside = 12 + paint.measureText(name).width + 8;
      paint.font = "12px system-ui, sans-serif";
      paint.fillStyle = colours.muted;
      paint.fillText(`${count(lane.workers)}${lane.moving ? ` · ${count(lane.moving)} reading` : ""}`, beside, lane.top + 15);
    }
    if (this.hiddenLanes) {
      paint.font = "12px system-ui, sans-serif";
      paint.fillStyle = colours.muted;
      paint.textAlign = "right";
      paint.fillText(`and ${plural(this.hiddenLanes, "more model")}`, this.width - 12, this.height - 8);
      paint.textAlign = "left";
    }
  }

  /** Who has read from whom: the older, the fainter; what failed is broken off. */
  #traces(now) {
    const paint = this.paint;
    const all = this.flows.ended;
    let left = MOST_TRACES;
    paint.lineWidth = 1;
    for (let at = all.length - 1; at >= 0 && left; at -= 1) {
      const flow = all[at];
      const from = this.nodes.get(flow.parent);
      const to = this.nodes.get(flow.child);
      if (!from || !to || from.x === null || to.x === null) continue;
      left -= 1;
      const age = now - flow.at;
      const fresh = Math.max(0, 1 - age / FADE_MS);
      if (flow.outcome === "ok") {
        paint.strokeStyle = translucent(colours.move, 0.1 + 0.5 * fresh);
        curve(paint, from, to);
        paint.stroke();
      } else if (fresh && flow.outcome !== "busy") {
        paint.strokeStyle = translucent(colours.bad, 0.25 + 0.6 * fresh);
        paint.setLineDash([3, 4]);
        curve(paint, from, to);
        paint.stroke();
        paint.setLineDash([]);
      }
    }
  }

  #dots(now) {
    const paint = this.paint;
    paint.beginPath();
    for (const lane of this.lanes) {
      for (const { toX, toY, toSize } of lane.missing) {
        const radius = Math.max(1, toSize * 0.16);
        paint.moveTo(toX - radius, toY - radius);
        paint.lineTo(toX + radius, toY + radius);
        paint.moveTo(toX + radius, toY - radius);
        paint.lineTo(toX - radius, toY + radius);
      }
    }
    paint.strokeStyle = colours.bad;
    paint.lineWidth = 1.2;
    paint.stroke();
    const timeout = this.timeout();
    // One path for all that look alike.
    const kinds = new Map();
    for (const node of this.nodes.values()) {
      if (node.x === null) continue;
      const worker = node.worker;
      const status = worker ? STATUS[worker.status] : "reading";
      const late = worker && worker.status !== 3 ? Math.min(1, Math.max(0, now - worker.beat) / timeout) : 0;
      const alpha = status === "stale" ? 0.75 : 1 - 0.5 * Math.round(late * 4) / 4;
      const kind = `${status}|${alpha}|${worker?.suspect ? 1 : 0}`;
      if (!kinds.has(kind)) kinds.set(kind, []);
      kinds.get(kind).push(node);
    }
    for (const [kind, nodes] of kinds) {
      const [status, alpha, suspect] = kind.split("|");
      const colour = { ready: colours.ready, initializing: colours.initializing, unknown: colours.initializing, stale: colours.stale }[status] ?? colours.move;
      paint.globalAlpha = Number(alpha);
      paint.beginPath();
      for (const node of nodes) {
        const radius = radiusOf(node);
        if (radius < 2.5) paint.rect(node.x - radius, node.y - radius, 2 * radius, 2 * radius);
        else {
          paint.moveTo(node.x + radius, node.y);
          paint.arc(node.x, node.y, radius, 0, 2 * Math.PI);
        }
      }
      if (status === "ready") {
        paint.fillStyle = colour;
        paint.fill();
      } else {
        // Not by colour alone: what cannot be read from is hollow, and what is gone is crossed out.
        paint.fillStyle = colours.surface;
        paint.fill();
        paint.strokeStyle = colour;
        paint.lineWidth = 1.4;
        paint.stroke();
        if (status === "stale") {
          paint.beginPath();
          for (const node of nodes) {
            const radius = radiusOf(node) * 0.7;
            paint.moveTo(node.x - radius, node.y + radius);
            paint.lineTo(node.x + radius, node.y - radius);
          }
          paint.stroke();
        }
      }
      paint.globalAlpha = 1;
      if (suspect === "1") {
        paint.beginPath();
        for (const node of nodes) {
          const radius = radiusOf(node) + 2;
          paint.moveTo(node.x + radius, node.y);
          paint.arc(node.x, node.y, radius, 0, 2 * Math.PI);
        }
        paint.strokeStyle = colours.bad;
        paint.lineWidth = 1.2;
        paint.stroke();
      }
    }
    for (const node of this.nodes.values()) {
      if (!node.pulse || node.x === null) continue;
      paint.beginPath();
      paint.arc(node.x, node.y, radiusOf(node) + (1 - node.pulse) * Math.max(3, node.size * 0.4), 0, 2 * Math.PI);
      paint.strokeStyle = translucent(colours.ready, 0.7 * node.pulse);
      paint.lineWidth = 1.2;
      paint.stroke();
    }
  }

  /** The reads under way; whether there are any. */
  #streams(now, at, quiet) {
    const paint = this.paint;
    let any = false;
    for (const flow of this.flows.moving.values()) {
      const from = this.nodes.get(flow.parent);
      const to = this.nodes.get(flow.child);
      if (!to || to.x === null) continue;
      any = true;
      if (from && from.x !== null) {
        const width = Math.min(3, 1 + Math.log10(1 + flow.rate / 1e8));
        paint.strokeStyle = translucent(colours.move, 0.35);
        paint.lineWidth = width;
        const bend = curve(paint, from, to);
        paint.stroke();
        const parts = quiet ? 0 : 4;
        paint.fillStyle = colours.move;
        for (let part = 0; part < parts; part += 1) {
          const along = ((at / 1400 + part / parts + (flow.n % 7) / 7) % 1 + 1) % 1;
          const [x, y] = bend(along);
          paint.beginPath();
          paint.arc(x, y, Math.min(width * 0.6 + 1, 1 + to.size * 0.1), 0, 2 * Math.PI);
          paint.fill();
        }
      }
      const done = flow.total ? Flows.bytes(flow, now) / flow.total : 0.05;
      paint.beginPath();
      paint.strokeStyle = colours.move;
      paint.lineWidth = Math.max(1.5, to.size * 0.14);
      paint.arc(to.x, to.y, radiusOf(to), -Math.PI / 2, -Math.PI / 2 + 2 * Math.PI * Math.min(1, done));
      paint.stroke();
    }
    return any;
  }

  #at(event) {
    const box = this.canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    let best = null;
    let least = 12 ** 2;
    for (const node of this.nodes.values()) {
      if (node.x === null) continue;
      const far = (node.x - x) ** 2 + (node.y - y) ** 2;
      if (far < least) [best, least] = [node, far];
    }
    return best;
  }

  #point(event) {
    const node = this.#at(event);
    this.tip.hidden = !node;
    this.canvas.style.cursor = node?.worker ? "pointer" : "default";
    if (!node) return;
    const worker = node.worker;
    const flow = node.reading ?? node.ghost;
    const lines = [];
    if (worker) {
      lines.push(`${brief(worker.worker)} · rank ${worker.rank}${worker.host ? ` · ${worker.host}` : ""}`);
      lines.push(`${STATUS[worker.status]}, heard ${span(this.now() - worker.beat)} ago${worker.suspect ? ", suspect" : ""}`);
    } else lines.push(`${brief(flow.to)}${flow.toHost ? ` · ${flow.toHost}` : ""}`);
    if (node.reading) lines.push(`reading ${bytes(Flows.bytes(node.reading, this.now()))}${node.reading.total ? ` of ${bytes(node.reading.total)}` : ""} at ${rate(node.reading.rate)}`);
    this.tip.textContent = lines.join("\n");
    const left = Math.min(Math.max(4, node.x + 12), this.width - 220);
    this.tip.style.left = `${left}px`;
    this.tip.style.top = `${node.y > this.height - 80 ? node.y - 70 : node.y + 12}px`;
  }
}

const radiusOf = (node) => Math.max(1, node.size * 0.36);

/** A path from one dot to another; gives where one is after a share of it. */
function curve(paint, from, to) {
  const middle = (from.x + to.x) / 2;
  const straight = Math.abs(to.x - from.x) < 12;
  const bow = straight ? 18 + Math.abs(to.y - from.y) * 0.2 : 0;
  const [ax, bx] = straight ? [from.x + bow, to.x + bow] : [middle, middle];
  paint.beginPath();
  paint.moveTo(from.x, from.y);
  paint.bezierCurveTo(ax, from.y, bx, to.y, to.x, to.y);
  return (t) => {
    const u = 1 - t;
    return [
      u * u * u * from.x + 3 * u * u * t * ax + 3 * u * t * t * bx + t * t * t * to.x,
      u * u * u * from.y + 3 * u * u * t * from.y + 3 * u * t * t * to.y + t * t * t * to.y,
    ];
  };
}

function fitting(paint, words, room) {
  if (words.length > 200) words = words.slice(0, 200);
  if (paint.measureText(words).width <= room) return words;
  while (words && paint.measureText(`${words}…`).width > room) words = words.slice(0, -1);
  return `${words}…`;
}
