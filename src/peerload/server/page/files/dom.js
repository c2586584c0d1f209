/* Elements made without markup: what comes from the server is only ever text. */

/** An element: `el("span.muted", {title: "…"}, child, …)`. Children are nodes or text; null is left out. */
export function el(what, attributes = {}, ...children) {
  const [tag, ...classes] = what.split(".");
  const made = document.createElement(tag || "div");
  if (classes.length) made.className = classes.join(" ");
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child != null));
  return made;
}

/** Set an element's text, if it is another. */
export function text(element, value) {
  if (element.textContent !== value) element.textContent = value;
}

/** Set an attribute, if it is another; null removes it. */
export function attribute(element, name, value) {
  if (value == null) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

export const $ = (id) => document.getElementById(id);

/** Whether the window is a phone's. */
export const phone = window.matchMedia("(max-width: 720px)");
export const still = window.matchMedia("(prefers-reduced-motion: reduce)");

/** A group of buttons of which one is chosen; `onchange` is told its value. */
export function chips(host, choices, onchange) {
  const buttons = choices.map(([value, label], index) =>
    el("button.chip", { type: "button", "aria-pressed": String(index === 0), "data-value": value }, label),
  );
  host.append(...buttons);
  for (const button of buttons) {
    button.addEventListener("click", () => {
      for (const each of buttons) each.setAttribute("aria-pressed", String(each === button));
      onchange(button.dataset.value);
    });
  }
}
