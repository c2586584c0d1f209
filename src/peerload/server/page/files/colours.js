/* The colours that the style sheet gives, for what is painted: in the scheme that holds now. */

const NAMES = ["ink", "muted", "line", "surface", "ready", "initializing", "stale", "move", "bad", "fill"];

export const colours = {};
const listeners = [];
const system = window.matchMedia("(prefers-color-scheme: dark)");
const KEY = "peerload.theme";
const CHOICES = ["", "light", "dark"];

function read() {
  const probe = document.createElement("i");
  probe.hidden = true;
  document.body.append(probe);
  for (const name of NAMES) {
    probe.style.color = `var(--${name})`;
    colours[name] = getComputedStyle(probe).color;
  }
  probe.remove();
  for (const listener of listeners) listener();
}

export const onColours = (listener) => listeners.push(listener);

function apply(choice, button) {
  document.documentElement.dataset.theme = choice;
  button.setAttribute("aria-label", `Colours: ${choice || "as the system has them"}`);
  button.title = button.getAttribute("aria-label");
  read();
}

/** Let a button go through the schemes; what was chosen is remembered. */
export function themes(button) {
  let choice = localStorage.getItem(KEY) ?? "";
  if (!CHOICES.includes(choice)) choice = "";
  apply(choice, button);
  system.addEventListener("change", read);
  button.addEventListener("click", () => {
    choice = CHOICES[(CHOICES.indexOf(choice) + 1) % CHOICES.length];
    localStorage.setItem(KEY, choice);
    apply(choice, button);
  });
}
