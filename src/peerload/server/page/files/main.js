/* The page: what the server tells goes to whoever shows it. */

import { $, text } from "./dom.js";
import { Chart } from "./chart.js";
import { themes } from "./colours.js";
import { Fleet } from "./fleet.js";
import { Flows, STEP_MS } from "./flows.js";
import { clock, rate } from "./format.js";
import { Overview } from "./overview.js";
import { ServerView } from "./server.js";
import { follow, token } from "./stream.js";
import { Swarm } from "./swarm.js";
import { Transfers } from "./transfers.js";
import { Detail } from "./worker.js";
import { Workers } from "./workers.js";

const RENDER_MS = 250;
const TICK_MS = 1_000;
const CHART_STEPS = 300;
const REASON = "peerload.reason";
const VIEWS = ["overview", "workers", "transfers", "server"];

themes($("theme"));

const fleet = new Fleet();
const flows = new Flows();
let offset = 0;
let timeoutMs = 90_000;
/** The store's clock: ages are reckoned by it. */
const now = () => Date.now() + offset;
const timeout = () => timeoutMs;

const detail = new Detail({ fleet, now, timeout });
const open = (worker) => detail.open(worker);
const workers = new Workers({ fleet, now, timeout, open });
const transfers = new Transfers({ fleet, flows, now, open });
const overview = new Overview({
  fleet,
  flows,
  now,
  timeout,
  open,
  pick(model) {
    workers.pick(model);
    location.hash = "workers";
  },
});
const serverView = new ServerView();
const swarm = new Swarm({ canvas: $("swarm"), tip: $("tip"), nobody: $("nobody"), fleet, flows, now, timeout, open });
const chart = new Chart($("chart"), {
  height: 140,
  least: 1e6,
  format: rate,
  read(at, value) {
    pointed = at === null ? "" : `${clock(at * 1000)}: ${rate(value)}`;
    if (pointed) text($("rate"), pointed);
  },
});
let pointed = "";
let health = null;
let view = "overview";
let shown = false;

$("shown").addEventListener("change", () => swarm.show($("shown").value));

/* Views. */

function show() {
  const wanted = location.hash.slice(1);
  view = VIEWS.includes(wanted) ? wanted : "overview";
  for (const name of VIEWS) $(name).hidden = name !== view;
  for (const tab of $("tabs").children) {
    if (tab.dataset.view === view) tab.setAttribute("aria-current", "page");
    else tab.removeAttribute("aria-current");
  }
  document.title = view === "overview" ? "Peerload" : `${view[0].toUpperCase()}${view.slice(1)} · Peerload`;
  render();
}
window.addEventListener("hashchange", show);

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || $("entry").open) return;
  const typing = ["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName);
  if (event.key === "/" && !typing) {
    event.preventDefault();
    if ($("detail").open) detail.find.focus();
    else {
      location.hash = "workers";
      show();
      $("find").focus();
    }
  } else if (!typing && !$("detail").open && VIEWS[Number(event.key) - 1]) location.hash = VIEWS[Number(event.key) - 1];
});

/* What is shown is written anew a few times a second at most, however much is told. */

let pending = 0;
function soon() {
  pending ||= setTimeout(() => {
    pending = 0;
    render();
  }, RENDER_MS);
}

function render() {
  if (document.hidden || !shown) return;
  if (view === "overview") {
    const models = fleet.models();
    overview.render(models);
    choices(models);
    drawChart();
    swarm.wake();
  } else if (view === "workers") workers.render();
  else if (view === "transfers") transfers.render();
  else if (health) serverView.render(health);
  detail.render();
}

function choices(models) {
  const select = $("shown");
  const names = models.slice(0, 200).map((model) => model.name);
  const same = names.length === select.options.length - 1 && names.every((name, index) => select.options[index + 1].value === name);
  if (same || document.activeElement === select) return;
  const chosen = select.value;
  select.replaceChildren(new Option("All models", ""), ...names.map((name) => new Option(name.slice(0, 80) || "(no name)", name)));
  select.value = names.includes(chosen) ? chosen : "";
  if (select.value !== chosen) swarm.show("");
}

function drawChart() {
  const last = Math.floor(now() / STEP_MS) - 1;
  const times = [];
  const values = [];
  for (let step = last - CHART_STEPS + 1; step <= last; step += 1) {
    times.push((step * STEP_MS) / 1000);
    values.push((flows.steps.get(step) ?? 0) / (STEP_MS / 1000));
  }
  chart.set(times, values);
  if (!pointed) text($("rate"), rate(flows.speed(now())));
}

setInterval(render, TICK_MS);
document.addEventListener("visibilitychange", render);

/* What the server tells. */

function link(kind, words) {
  const pill = $("link");
  pill.dataset.kind = kind;
  text(pill.lastElementChild, words);
}

function notice(words) {
  $("notice").hidden = !words;
  text($("notice"), words);
}

const told = {
  hello(fixed) {
    shown = true;
    timeoutMs = fixed.timeout;
    offset = fixed.now - Date.now();
    text($("address"), fixed.address);
    serverView.hello(fixed);
    $("leave").hidden = !token.get();
    // All of a machine's addresses are none that a worker could call.
    const server = fixed.address.replace(/^(0\.0\.0\.0|\[::\]):/, `${location.hostname}:`);
    text($("nobody"), `No worker has published anything here yet. The first could be:\npeerload share FOLDER --model ORG/NAME --server ${server}`);
    link("live", "live");
  },
  fleet(message) {
    if (message.reset) notice("");
    fleet.apply(message);
  },
  beats: (message) => fleet.beat(message),
  traffic: (message) => flows.apply(message, now()),
  health(message) {
    offset = message.now - Date.now();
    health = message;
    if (!message.serving) notice(`The server does not answer workers: ${message.reason}.`);
    else if (message.lost) notice("The store is silent: what is shown may be out of date.");
    else if ($("link").dataset.kind === "live") notice("");
  },
  outage: ({ reason }) => notice(`${reason}. Looking again …`),
  quiet() {
    link("quiet", "silent");
    notice("Nothing has come from the server for some seconds: what is shown may be out of date.");
  },
  heard() {
    link("live", "live");
    notice("");
  },
  lost({ reason }) {
    if (health) health = { ...health, unheard: true };
    link("lost", "reconnecting");
    notice(`The connection to the server is lost (${reason}). What is shown is as it was.`);
  },
};

async function look() {
  for (;;) {
    const refusal = await follow((name, message) => {
      told[name]?.(message);
      soon();
    }, new AbortController().signal);
    const reason = token.get() ? refusal.message : takeReason();
    token.set("");
    if (shown) {
      // Nothing of what was shown stays.
      sessionStorage.setItem(REASON, reason);
      location.reload();
      return;
    }
    link("lost", "not let in");
    notice("");
    await enter(reason);
  }
}

function takeReason() {
  const reason = sessionStorage.getItem(REASON) ?? "";
  sessionStorage.removeItem(REASON);
  return reason;
}

/** Ask who is looking; resolves once a token was given. */
function enter(reason) {
  $("leave").hidden = true;
  text($("entry-reason"), reason);
  $("entry").showModal();
  return new Promise((resolve) => {
    $("token-form").onsubmit = (event) => {
      event.preventDefault();
      token.set($("token").value.trim());
      $("token").value = "";
      $("entry").close();
      link("", "connecting");
      resolve();
    };
  });
}
$("entry").addEventListener("cancel", (event) => event.preventDefault());
$("leave").addEventListener("click", () => {
  token.set("");
  location.reload();
});

show();
look();
