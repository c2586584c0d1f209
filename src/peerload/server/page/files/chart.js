/* Charts over time, by uPlot, in the page's colours. */

import uPlot from "./uplot/uPlot.esm.js";
import { colours, onColours } from "./colours.js";

export class Chart {
  /** `format` writes a value of the y axis; `read(seconds, value)` is told what the pointer is at, null when it leaves. The
   * y axis reaches up to `least` at least. */
  constructor(host, { height, format, least, read = null, colour = "move", bottom = true }) {
    this.host = host;
    this.options = { height, format, least, read, colour, bottom };
    this.data = [[], []];
    this.plot = null;
    onColours(() => this.#make());
    new ResizeObserver(() => this.#fit()).observe(host);
  }

  set(times, values) {
    this.data = [times, values];
    if (!this.plot) this.#make();
    else this.plot.setData(this.data);
  }

  #fit() {
    const width = this.host.clientWidth;
    if (!width) return;
    if (!this.plot) this.#make();
    else if (this.plot.width !== width) this.plot.setSize({ width, height: this.options.height });
  }

  #make() {
    const width = this.host.clientWidth;
    this.plot?.destroy();
    this.plot = null;
    if (!width || !this.data[0].length) return;
    const { height, format, least, read, colour, bottom } = this.options;
    const axis = { stroke: colours.muted, grid: { stroke: colours.line, width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    this.plot = new uPlot(
      {
        width,
        height,
        padding: [8, 12, bottom ? 0 : 10, 0],
        legend: { show: false },
        cursor: { y: false, drag: { x: false, y: false }, points: { size: 7 } },
        scales: { y: { range: (_, low, high) => [0, Math.max(high * 1.1, least)] } },
        axes: [
          { ...axis, show: bottom, size: 26, space: 70, values: (_, ticks) => ticks.map(minutes) },
          { ...axis, size: 66, space: 34, values: (_, ticks) => ticks.map(format) },
        ],
        series: [{}, { stroke: colours[colour], width: 1.5, fill: translucent(colours[colour], 0.16), points: { show: false } }],
        hooks: {
          setCursor: [
            (plot) => {
              const at = plot.cursor.idx;
              read?.(at == null ? null : plot.data[0][at], at == null ? null : plot.data[1][at]);
            },
          ],
        },
      },
      this.data,
      this.host,
    );
  }
}

function minutes(seconds) {
  const at = new Date(seconds * 1000);
  const two = (number) => String(number).padStart(2, "0");
  return `${two(at.getHours())}:${two(at.getMinutes())}${at.getSeconds() ? `:${two(at.getSeconds())}` : ""}`;
}

/** `rgb(…)` with so much of it. */
export function translucent(colour, alpha) {
  return colour.replace(/^rgb\((.*)\)$/, `rgba($1, ${alpha})`);
}
