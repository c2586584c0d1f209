/* The workers, as the server's events have them. */

export const STATUS = ["unknown", "initializing", "ready", "stale"];
export const FORM = ["", "runtime", "checkpoint"];

/** What a transfer and a worker call the same process. */
export const place = (worker, rank) => `${rank ?? 0}/${worker}`;

/** Workers by model and source, those of one replica together, rank by rank. */
export function inOrder(a, b) {
  if (a.model !== b.model) return a.model < b.model ? -1 : 1;
  if (a.source !== b.source) return a.source < b.source ? -1 : 1;
  const [one, other] = [a.replica ?? "", b.replica ?? ""];
  if (one !== other) return one < other ? -1 : 1;
  return a.rank - b.rank || a.n - b.n;
}

export class Fleet {
  constructor() {
    this.workers = new Map();
    this.byPlace = new Map();
    this.more = 0;
    this.version = 0;
    this.beaten = [];
  }

  apply({ reset, put, gone, more }) {
    if (reset) {
      this.workers.clear();
      this.byPlace.clear();
    }
    for (const worker of put) {
      worker.place = place(worker.worker, worker.rank);
      worker.text = null;
      this.workers.set(worker.n, worker);
      this.byPlace.set(worker.place, worker);
    }
    for (const number of gone) {
      const worker = this.workers.get(number);
      if (!worker) continue;
      this.workers.delete(number);
      if (this.byPlace.get(worker.place) === worker) this.byPlace.delete(worker.place);
    }
    this.more = more;
    this.version += 1;
  }

  beat({ beats }) {
    for (let at = 0; at < beats.length; at += 4) {
      const worker = this.workers.get(beats[at]);
      if (!worker) continue;
      if (beats[at + 1] > worker.beat) this.beaten.push(worker.n);
      worker.beat = beats[at + 1];
      worker.load = beats[at + 2];
      worker.suspect = beats[at + 3];
    }
    if (this.beaten.length > 4096) this.beaten.splice(0, this.beaten.length - 4096);
  }

  /** What is searched for in a worker. */
  static words(worker) {
    worker.text ??= [worker.model, worker.worker, worker.host, worker.pod, worker.replica, worker.source, worker.revision, ...(worker.engines ?? [])]
      .join(" ")
      .toLowerCase();
    return worker.text;
  }

  /** Models with what is known of their workers, those with the most first. */
  models() {
    const found = new Map();
    for (const worker of this.workers.values()) {
      let model = found.get(worker.model);
      if (!model) {
        model = { name: worker.model, workers: [], ready: 0, initializing: 0, stale: 0, bytes: 0, largest: 0, oldest: Infinity, load: 0, loads: 0, replicas: new Map(), revisions: new Set(), forms: new Set() };
        found.set(worker.model, model);
      }
      model.workers.push(worker);
      if (worker.status === 2) model.ready += 1;
      else if (worker.status === 3) model.stale += 1;
      else model.initializing += 1;
      // The dead hold nothing.
      if (worker.status !== 3) model.bytes += worker.bytes ?? 0;
      model.largest = Math.max(model.largest, worker.bytes ?? 0);
      if (worker.status !== 3) model.oldest = Math.min(model.oldest, worker.beat);
      if (worker.load >= 0) {
        model.load += worker.load;
        model.loads += 1;
      }
      if (worker.revision) model.revisions.add(worker.revision);
      model.forms.add(worker.form ?? 0);
      const replica = `${worker.source}/${worker.replica || worker.worker}`;
      const ranks = model.replicas.get(replica) ?? { ready: new Set(), world: 0 };
      if (worker.status === 2) ranks.ready.add(worker.rank);
      ranks.world = Math.max(ranks.world, worker.world ?? 0);
      model.replicas.set(replica, ranks);
    }
    const models = [...found.values()];
    for (const model of models) {
      model.complete = [...model.replicas.values()].filter((ranks) => ranks.ready.size >= Math.max(1, ranks.world)).length;
    }
    return models.sort((a, b) => b.workers.length - a.workers.length || (a.name < b.name ? -1 : 1));
  }
}
