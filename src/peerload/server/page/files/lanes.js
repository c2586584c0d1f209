/* Where the dots of the picture belong. */

import { phone } from "./dom.js";
import { inOrder } from "./fleet.js";

const SIZES = [26, 23, 20, 16, 13, 11, 9, 7, 6, 5, 4, 3];
const LABEL = 20;
const EDGE = 12;
const GAP = 0.6;
const MOST_RANKS = 256;

/** How many have passed the weights on before they came to a place, as far as `parents` tells; `depths` keeps what was found. */
export function depthOf(place, present, parents, depths) {
  const chain = [];
  let at = place;
  while (!depths.has(at)) {
    chain.push(at);
    const parent = parents.get(at);
    if (parent === undefined || !present.has(parent) || chain.includes(parent) || chain.length > 40) {
      depths.set(at, 0);
      chain.pop();
      break;
    }
    at = parent;
  }
  let depth = depths.get(at);
  while (chain.length) depths.set(chain.pop(), (depth += 1));
  return depths.get(place);
}

/** Lanes take the room that they need at the largest size at which all find room; those in which weights spread take what is
 * left. Each dot's own place is in its `toX`, `toY` and `toSize`. */
export function arrange(lanes, { width, height, hidden }) {
  for (const lane of lanes) {
    const columns = [];
    for (const node of lane.nodes) (columns[node.depth] ??= []).push(node);
    lane.columns = columns.filter(Boolean);
    for (const column of lane.columns) column.sort(byWorker);
    lane.cells = lane.columns.length > 1 ? [] : cellsOf(lane.columns[0] ?? []);
    lane.missing = [];
  }
  const space = height - (hidden ? 28 : 8);
  const room = width - 2 * EDGE;
  const need = (lane, size) => {
    const across = Math.max(1, room / size);
    const flat = (lane.cells.length ? walk(lane.cells, across) : Math.ceil(lane.nodes.length / Math.floor(across))) * size;
    const deep = lane.columns.length > 1 ? Math.max(flat * 1.6, phone.matches ? 40 : 84) : flat;
    return LABEL + deep + 12;
  };
  const all = (size) => lanes.reduce((sum, lane) => sum + need(lane, size), 0);
  const size = SIZES.find((each) => all(each) <= space) ?? SIZES.at(-1);
  const spare = Math.max(0, space - all(size));
  const weights = lanes.map((lane) => (lane.columns.length > 1 ? Math.sqrt(lane.nodes.length) : 0));
  const weight = weights.reduce((sum, each) => sum + each, 0);
  let top = 4;
  for (const [index, lane] of lanes.entries()) {
    lane.top = top;
    lane.height = need(lane, size) + (weight ? (spare * weights[index]) / weight : 0);
    top += lane.height;
    if (lane.columns.length > 1) spread(lane, room);
    else fill(lane, size, room);
  }
}

/** Row by row; the ranks of a replica together. `put` is told of each dot, and of each rank that is missing, in which column and
 * row it is. How many rows there are. */
function walk(cells, across, put = () => {}) {
  let [x, y] = [0, 0];
  for (const group of cells) {
    if (x && group.length > 1 && group.length <= across && x + group.length > across) [x, y] = [0, y + 1];
    for (const node of group) {
      if (x + 1 > across + 0.01) [x, y] = [0, y + 1];
      put(node, x, y);
      x += 1;
    }
    if (group.length > 1) x += GAP;
  }
  return y + 1;
}

/** A cross stands for each rank that is missing. */
function fill(lane, size, room) {
  walk(lane.cells, Math.max(1, room / size), (node, x, y) => {
    const at = { toX: EDGE + (x + 0.5) * size, toY: lane.top + LABEL + 4 + (y + 0.5) * size, toSize: size };
    if (node) Object.assign(node, at);
    else lane.missing.push(at);
  });
}

function spread(lane, room) {
  const tall = lane.height - LABEL - 10;
  const least = phone.matches ? 22 : 54;
  let size = SIZES.at(-1);
  let rows = 1;
  for (const step of SIZES) {
    size = step;
    rows = Math.max(1, Math.floor(tall / step));
    const width = lane.columns.reduce((sum, column) => sum + Math.ceil(column.length / rows) * step + least, -least);
    if (width <= room) break;
  }
  const widths = lane.columns.map((column) => Math.ceil(column.length / rows) * size);
  const free = room - widths.reduce((sum, width) => sum + width, 0);
  const gap = Math.min(free / (lane.columns.length - 1), 640);
  let left = EDGE;
  for (const [index, column] of lane.columns.entries()) {
    // Columns are as even as they can be, and in the middle.
    const high = Math.ceil(column.length / Math.ceil(column.length / rows));
    const first = lane.top + LABEL + 4 + (tall - high * size) / 2;
    for (const [at, node] of column.entries()) {
      node.toX = left + (Math.floor(at / high) + 0.5) * size;
      node.toY = first + ((at % high) + 0.5) * size;
      node.toSize = size;
    }
    left += widths[index] + gap;
  }
}

function byWorker(a, b) {
  if (a.worker && b.worker) return inOrder(a.worker, b.worker);
  return a.worker ? -1 : b.worker ? 1 : a.place < b.place ? -1 : 1;
}

/** Dots in groups: the ranks of a replica that has several are one, with null for those that nobody has published. */
function cellsOf(nodes) {
  const groups = [];
  let replica = null;
  for (const node of nodes) {
    const { world = 0, rank = 0, source, replica: name = "" } = node.worker ?? {};
    if (world < 2 || world > MOST_RANKS || !name) {
      groups.push([node]);
      replica = null;
      continue;
    }
    const key = `${source}/${name}`;
    if (key !== replica) {
      groups.push(new Array(world).fill(null));
      replica = key;
    }
    const group = groups.at(-1);
    if (rank < group.length && !group[rank]) group[rank] = node;
    else group.push(node);
  }
  return groups;
}
