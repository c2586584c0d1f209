/* Numbers, as people read them. */

const UNITS = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];

/** Bytes, to three digits: `1.23 GB`. */
export function bytes(count) {
  let unit = 0;
  while (count >= 999.5 && unit < UNITS.length - 1) {
    count /= 1000;
    unit += 1;
  }
  const digits = unit === 0 || count >= 99.95 ? 0 : count >= 9.995 ? 1 : 2;
  return `${count.toFixed(digits)} ${UNITS[unit]}`;
}

export const rate = (perSecond) => `${bytes(perSecond)}/s`;

/** A whole number with thin spaces. */
export function count(number) {
  return String(Math.round(number)).replace(/\B(?=(\d{3})+(?!\d))/g, "\u202f");
}

/** `1 worker`, `2 workers`. */
export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

/** A time span in milliseconds, in its largest unit: `12 s`, `3 min`. */
export function span(ms) {
  const seconds = Math.max(0, ms) / 1000;
  if (seconds < 1) return `${Math.round(ms)} ms`;
  if (seconds <= 120) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 129600) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

/** A short span of seconds: `0.42 s`. */
export const short = (seconds) => (seconds < 10 ? `${seconds.toFixed(2)} s` : span(seconds * 1000));

/** The first characters of an id, of which the rest says nothing to people. */
export const brief = (id) => (id.length > 12 ? `${id.slice(0, 8)}…` : id);

const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
const DATE = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium", hour12: false });

export const clock = (ms) => CLOCK.format(ms);
export const date = (ms) => DATE.format(ms);
