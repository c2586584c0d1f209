/* The server's events, by fetch: a token goes in a header, never in an address. */

/** The server says every two seconds how it is. */
const QUIET_MS = 7_000;
const SILENCE_MS = 20_000;
const LONGEST_MS = 10_000;
const KEY = "peerload.token";

export const token = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

/** Somebody must say who they are, or is not let in. */
export class Refused extends Error {}

function headers() {
  const held = token.get();
  return held ? { Authorization: `Bearer ${held}` } : {};
}

async function reasonOf(response) {
  try {
    return (await response.json()).reason ?? response.statusText;
  } catch {
    return response.statusText;
  }
}

/** A page of JSON from the server. Throws `Refused`, or an Error that says why. */
export async function ask(path, parameters, signal) {
  const url = new URL(path, document.baseURI);
  url.search = new URLSearchParams(parameters).toString();
  const response = await fetch(url, { headers: headers(), signal, cache: "no-store" });
  if (response.ok) return response.json();
  const reason = await reasonOf(response);
  throw response.status === 401 ? new Refused(reason) : new Error(reason);
}

/** Follow the events until a refusal, coming back after every loss. `on` is told each event by name, "quiet" once nothing has come
 * for some seconds, "heard" when something does again, and "lost" with a reason; resolves to the refusal. */
export async function follow(on, signal) {
  let pause = 500;
  while (!signal.aborted) {
    try {
      await once(on, signal, () => (pause = 500));
      on("lost", { reason: "the server ended the stream" });
    } catch (error) {
      if (error instanceof Refused) return error;
      if (signal.aborted) break;
      on("lost", { reason: inWords(error) });
    }
    await new Promise((resolve) => setTimeout(resolve, pause * (0.5 + Math.random())));
    pause = Math.min(2 * pause, LONGEST_MS);
  }
  return null;
}

/** Browsers each have words of their own for a server that is away. */
function inWords(error) {
  if (error.name === "AbortError") return `nothing came for ${SILENCE_MS / 1000} s`;
  return error instanceof TypeError ? "it cannot be reached" : error.message;
}

async function once(on, signal, heard) {
  const attempt = new AbortController();
  const abort = () => attempt.abort();
  signal.addEventListener("abort", abort, { once: true });
  let watchdog = setTimeout(abort, SILENCE_MS);
  let doubt = 0;
  let quiet = false;
  try {
    const response = await fetch(new URL("api/events", document.baseURI), {
      headers: headers(),
      signal: attempt.signal,
      cache: "no-store",
    });
    if (response.status === 401 || response.status === 403) throw new Refused(await reasonOf(response));
    if (!response.ok) throw new Error(await reasonOf(response));
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let parts = [];
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      clearTimeout(watchdog);
      watchdog = setTimeout(abort, SILENCE_MS);
      clearTimeout(doubt);
      doubt = setTimeout(() => {
        quiet = true;
        on("quiet");
      }, QUIET_MS);
      if (quiet) on("heard");
      quiet = false;
      heard();
      // An event may come in many chunks; only the last of them can end it.
      parts.push(value);
      if (!value.includes("\n\n") && !value.startsWith("\n")) continue;
      const events = parts.join("").split("\n\n");
      parts = [events.pop()];
      for (const event of events) {
        const [name, data] = event.split("\n");
        const told = JSON.parse(data.slice(6));
        if (name === "event: refused") throw new Refused(told.reason);
        on(name.slice(7), told);
      }
    }
  } finally {
    clearTimeout(watchdog);
    clearTimeout(doubt);
    signal.removeEventListener("abort", abort);
    attempt.abort();
  }
}
