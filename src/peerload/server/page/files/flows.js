/* Transfers: those under way, those that ended of late, and how many bytes moved when. */

import { place } from "./fleet.js";

const MOST_ENDED = 1_000;
const MOST_STEPS = 300;
export const STEP_MS = 2_000;

export class Flows {
  constructor() {
    this.moving = new Map();
    this.ended = [];
    this.steps = new Map();
    this.parents = new Map();
    this.version = 0;
  }

  apply({ reset, new: begun, moved, gone, ended, rates }, now) {
    if (reset) {
      this.moving.clear();
      this.ended = [];
      this.steps.clear();
      this.parents.clear();
    }
    for (const flow of begun) {
      this.#place(flow);
      flow.heard = now;
      flow.rate = flow.bytes / Math.max(0.25, (now - flow.began) / 1000);
      this.moving.set(flow.n, flow);
    }
    for (let at = 0; at < moved.length; at += 2) {
      const flow = this.moving.get(moved[at]);
      if (!flow) continue;
      const since = Math.max(0.25, (now - flow.heard) / 1000);
      flow.rate = 0.5 * flow.rate + (0.5 * (moved[at + 1] - flow.bytes)) / since;
      flow.bytes = moved[at + 1];
      flow.heard = now;
    }
    for (const number of gone) this.moving.delete(number);
    for (const flow of ended) {
      this.#place(flow);
      this.ended.push(flow);
    }
    if (this.ended.length > MOST_ENDED) this.ended.splice(0, this.ended.length - MOST_ENDED);
    for (const [at, nbytes] of rates) this.steps.set(Math.round(at / STEP_MS), nbytes);
    if (this.steps.size > 2 * MOST_STEPS) {
      const oldest = Math.round(now / STEP_MS) - MOST_STEPS;
      for (const step of this.steps.keys()) if (step < oldest) this.steps.delete(step);
    }
    if (this.parents.size > 50_000) this.parents.clear();
    this.version += 1;
  }

  /** Bytes so far, between two tellings as it most likely goes on. */
  static bytes(flow, now) {
    const guess = flow.bytes + Math.min(flow.rate, 1e12) * Math.min(2, Math.max(0, (now - flow.heard) / 1000));
    return flow.total ? Math.min(guess, flow.total) : guess;
  }

  /** Bytes a second, of the last steps that are whole. */
  speed(now) {
    const last = Math.floor(now / STEP_MS) - 1;
    let sum = 0;
    for (let step = last - 1; step <= last; step += 1) sum += this.steps.get(step) ?? 0;
    return sum / ((2 * STEP_MS) / 1000);
  }

  #place(flow) {
    flow.parent = place(flow.from, flow.fromRank);
    flow.child = place(flow.to, flow.toRank);
    if (flow.outcome === undefined || flow.outcome === "ok") this.parents.set(flow.child, flow.parent);
  }
}
