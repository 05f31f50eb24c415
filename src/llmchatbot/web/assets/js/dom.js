/**
 * Building DOM without HTML strings. Nothing in this client ever parses HTML: the policy of the page
 * (`require-trusted-types-for 'script'; trusted-types 'none'`) makes every such sink throw.
 */

/** @typedef {Node | string | number | null | undefined | false} Child */

/**
 * Make an element: `h("button.primary", {onclick}, "Send")`. Attributes beginning with `on` are listeners,
 * `dataset` is merged, booleans switch an attribute, everything else is set as an attribute.
 * @param {string} tag name with classes, e.g. `div.card.wide`
 * @param {Record<string, any>} [attributes]
 * @param {...(Child | Child[])} children
 * @returns {any}
 */
export function h(tag, attributes = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const element = document.createElement(name || "div");
  if (classes.length) element.classList.add(...classes);
  for (const [key, value] of Object.entries(attributes)) setAttribute(element, key, value);
  append(element, children);
  return element;
}

/** @param {Element} element @param {string} key @param {any} value */
function setAttribute(element, key, value) {
  if (value === null || value === undefined || value === false) return;
  if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
  else if (key === "dataset") Object.assign(/** @type {HTMLElement} */ (element).dataset, value);
  else if (key === "value") /** @type {HTMLInputElement} */ (element).value = value;
  else element.setAttribute(key, value === true ? "" : String(value));
}

/** @param {Element | DocumentFragment} parent @param {any[]} children */
export function append(parent, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    parent.append(child instanceof Node ? child : String(child));
  }
}

/** @param {Element} element @param {...(Child | Child[])} children */
export function replace(element, ...children) {
  element.replaceChildren();
  append(element, children);
}

/** Stroked 24×24 outlines, drawn for this page. @type {Record<string, string>} */
const ICONS = {
  plus: "M12 5v14M5 12h14",
  search: "M11 4.5a6.5 6.5 0 1 0 0 13 6.5 6.5 0 0 0 0-13ZM20 20l-4.4-4.4",
  menu: "M4 7h16M4 12h16M4 17h10",
  more: "M5.5 12h.01M12 12h.01M18.5 12h.01",
  send: "M12 19V5.5M6 11l6-6 6 6",
  stop: "M7.5 7.5h9v9h-9z",
  copy: "M9 9V5.5A1.5 1.5 0 0 1 10.5 4h8A1.5 1.5 0 0 1 20 5.5v8a1.5 1.5 0 0 1-1.5 1.5H15M5.5 9h8A1.5 1.5 0 0 1 15 10.5v8a1.5 1.5 0 0 1-1.5 1.5h-8A1.5 1.5 0 0 1 4 18.5v-8A1.5 1.5 0 0 1 5.5 9Z",
  check: "M5 12.5l4.5 4.5L19 7.5",
  retry: "M19.5 12a7.5 7.5 0 1 1-2.2-5.3L20 9.2M20 4.5v4.7h-4.7",
  forward: "M5 12h14M13 6l6 6-6 6",
  info: "M12 20a8 8 0 1 0 0-16 8 8 0 0 0 0 16ZM12 11.5V16M12 8.2v.01",
  pencil: "M4.5 19.5l.8-3.7L15.8 5.3a1.7 1.7 0 0 1 2.4 0l.5.5a1.7 1.7 0 0 1 0 2.4L8.2 18.7z",
  archive: "M4.5 8.5h15V18a1.5 1.5 0 0 1-1.5 1.5H6A1.5 1.5 0 0 1 4.5 18zM3.5 4.5h17v4h-17zM10 12.5h4",
  restore: "M4.5 8.5h15V18a1.5 1.5 0 0 1-1.5 1.5H6A1.5 1.5 0 0 1 4.5 18zM3.5 4.5h17v4h-17zM12 17v-5M9.5 14l2.5-2.5 2.5 2.5",
  trash: "M5 7h14M10 7V4.5h4V7M6.5 7l.8 11.6A1.5 1.5 0 0 0 8.8 20h6.4a1.5 1.5 0 0 0 1.5-1.4L17.5 7M10 11v5M14 11v5",
  down: "M12 5v13.5M6 13l6 6 6-6",
  chevron: "M9 6l6 6-6 6",
  left: "M15 6l-6 6 6 6",
  close: "M6 6l12 12M18 6L6 18",
  image: "M5.5 4.5h13a1 1 0 0 1 1 1v13a1 1 0 0 1-1 1h-13a1 1 0 0 1-1-1v-13a1 1 0 0 1 1-1ZM5 17l4.5-5 3 3 2.5-2.5L19 17M15 9h.01",
  open: "M13 5h6v6M19 5l-8.5 8.5M17 14v4.5a.5.5 0 0 1-.5.5h-11a.5.5 0 0 1-.5-.5v-11a.5.5 0 0 1 .5-.5H10",
  key: "M14.5 9.5a4.5 4.5 0 1 0-3.3 4.3L13 15.5h2V18h2.5v2.5H20V17l-5.9-5.9c.3-.5.4-1 .4-1.6ZM8.5 9h.01",
  person: "M12 12a4 4 0 1 0 0-8 4 4 0 0 0 0 8ZM4.5 20c.8-3.5 3.8-5.5 7.5-5.5s6.7 2 7.5 5.5",
  device: "M5.5 5h13a1 1 0 0 1 1 1v8.5h-15V6a1 1 0 0 1 1-1ZM3 18.5h18",
  sun: "M12 16a4 4 0 1 0 0-8 4 4 0 0 0 0 8ZM12 3v1.5M12 19.5V21M3 12h1.5M19.5 12H21M5.6 5.6l1.1 1.1M17.3 17.3l1.1 1.1M5.6 18.4l1.1-1.1M17.3 6.7l1.1-1.1",
  keyboard: "M4 6.5h16a1 1 0 0 1 1 1v9a1 1 0 0 1-1 1H4a1 1 0 0 1-1-1v-9a1 1 0 0 1 1-1ZM7 10.5h.01M10.3 10.5h.01M13.7 10.5h.01M17 10.5h.01M8 14h8",
  logout: "M14 7V5.5a1 1 0 0 0-1-1H6a1 1 0 0 0-1 1v13a1 1 0 0 0 1 1h7a1 1 0 0 0 1-1V17M10 12h10M16.5 8.5L20 12l-3.5 3.5",
  spark: "M12 4l1.7 5.3L19 11l-5.3 1.7L12 18l-1.7-5.3L5 11l5.3-1.7z",
};

const SVG = "http://www.w3.org/2000/svg";

/** A decorative icon; the control it stands in carries the label. @param {string} name */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", `icon icon-${name}`);
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name] ?? "");
  svg.append(path);
  return svg;
}

/** The product's mark. */
export function mark() {
  return h("img.mark", { src: "/assets/icon.svg", alt: "", width: "28", height: "28" });
}

/**
 * A button that shows only an icon and says the rest to assistive technology.
 * @param {string} name @param {string} label @param {Record<string, any>} [attributes]
 */
export function iconButton(name, label, attributes = {}) {
  return h("button.icon-button", { type: "button", "aria-label": label, title: label, ...attributes }, icon(name));
}

/** @param {string} name @param {() => string} fallback */
export function stored(name, fallback) {
  try {
    return localStorage.getItem(name) ?? fallback();
  } catch {
    return fallback();
  }
}

/** Keep or, with null, forget a value of this browser; silent where storage is switched off or full.
 * @param {string} name @param {string | null} value */
export function store(name, value) {
  try {
    if (value === null) localStorage.removeItem(name);
    else localStorage.setItem(name, value);
  } catch (error) {
    console.info("storage is not available:", error);
  }
}

/** Remove every stored value whose name begins with `prefix`. @param {string} prefix */
export function forget(prefix) {
  try {
    for (const name of Object.keys(localStorage)) if (name.startsWith(prefix)) localStorage.removeItem(name);
  } catch (error) {
    console.info("storage is not available:", error);
  }
}

/** Random identifier, also outside secure contexts where `crypto.randomUUID` is missing. */
export function randomId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** @param {number} milliseconds @param {AbortSignal} [signal] @returns {Promise<void>} */
export function sleep(milliseconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}

/** Copy text; the second way serves pages without a secure context. @param {string} text */
export async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = h("textarea.visually-hidden", { "aria-hidden": "true", value: text });
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

/** Only a finger to point with? Then Enter is the only way to a new line. */
export function touch() {
  return matchMedia("(pointer: coarse) and (hover: none)").matches;
}

/** Does the person prefer things not to move? */
export function calm() {
  return matchMedia("(prefers-reduced-motion: reduce)").matches;
}
