/** Dialogs, menus and short notes. Built on `dialog` and `popover`, so focus and Esc behave as the platform's own. */

import { h, icon, iconButton } from "./dom.js";
import { t } from "./i18n.js";

let opened = 0; // dialogs so far: one may lie over another, and each needs its own name

/**
 * A modal dialog; resolves when it is closed, with the value it was closed with.
 * @param {string} title @param {(close: (value?: any) => void) => any} content what stands below the title @param {{ wide?: boolean }} [options]
 * @returns {Promise<any>}
 */
export function dialog(title, content, { wide = false } = {}) {
  return new Promise((resolve) => {
    /** @type {any} */
    let result;
    const close = (/** @type {any} */ value = undefined) => {
      result = value;
      element.close();
    };
    const name = `dialog-title-${(opened += 1)}`;
    const heading = h("h2", { id: name }, title);
    const head = h("header.dialog-head", {}, heading, iconButton("close", t("close"), { onclick: () => close() }));
    /** @type {HTMLDialogElement} */
    const element = h(wide ? "dialog.dialog.wide" : "dialog.dialog", { "aria-labelledby": name }, head, content(close));
    element.addEventListener("close", () => {
      const host = element.querySelector("#toasts");
      if (host) document.body.append(host);
      element.remove();
      resolve(result);
    });
    // A press that begins and ends on the backdrop closes; one that only ends there was a selection of text.
    let pressed = false;
    element.addEventListener("pointerdown", (event) => (pressed = event.target === element));
    element.addEventListener("click", (event) => pressed && event.target === element && close());
    document.body.append(element);
    element.showModal();
    /** @type {HTMLElement | null} */ (element.querySelector("[autofocus]"))?.focus();
  });
}

/** @param {string} title @param {string} text @param {string} action @param {string} [otherwise] @returns {Promise<boolean>} */
export async function confirm(title, text, action, otherwise = t("cancel")) {
  const answer = await dialog(title, (close) =>
    h(
      "div.dialog-body",
      {},
      h("p", {}, text),
      h(
        "div.dialog-actions",
        {},
        h("button.button", { type: "button", autofocus: true, onclick: () => close(false) }, otherwise),
        h("button.button.danger", { type: "button", onclick: () => close(true) }, action),
      ),
    ),
  );
  return answer === true;
}

/** @param {string} title @param {string} label @param {string} value @param {number} longest @returns {Promise<string | null>} */
export async function ask(title, label, value, longest) {
  const answer = await dialog(title, (close) => {
    const field = h("input.input", { id: "ask", value, maxlength: String(longest), autofocus: true, required: true, dir: "auto" });
    queueMicrotask(() => field.select());
    const submit = (/** @type {Event} */ event) => {
      event.preventDefault();
      if (field.value.trim()) close(field.value.trim());
    };
    return h(
      "form.dialog-body",
      { onsubmit: submit },
      h("label.field", { for: "ask" }, h("span", {}, label), field),
      h(
        "div.dialog-actions",
        {},
        h("button.button", { type: "button", onclick: () => close(null) }, t("cancel")),
        h("button.button.primary", { type: "submit" }, t("save")),
      ),
    );
  });
  return typeof answer === "string" ? answer : null;
}

/**
 * A menu under a button. @param {HTMLElement} anchor
 * @param {{ icon: string, label: string, danger?: boolean, run: () => void }[]} items
 */
export function menu(anchor, items) {
  const buttons = items.map((item) =>
    h(
      item.danger ? "button.menu-item.danger" : "button.menu-item",
      { type: "button", role: "menuitem", tabindex: "-1", onclick: () => (element.hidePopover(), item.run()) },
      icon(item.icon),
      item.label,
    ),
  );
  const element = h("div.menu", { role: "menu", popover: "auto", "aria-label": anchor.getAttribute("aria-label") }, buttons);
  element.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => moveFocus(event, buttons, element));
  element.addEventListener("toggle", (/** @type {any} */ event) => {
    if (event.newState !== "closed") return;
    anchor.setAttribute("aria-expanded", "false");
    const focusInside = element.contains(document.activeElement) || document.activeElement === document.body;
    element.remove();
    if (focusInside) anchor.focus();
  });
  // Inside an open modal dialog everything outside it is inert, the menu included.
  (anchor.closest("dialog") ?? document.body).append(element);
  element.showPopover();
  place(element, anchor);
  anchor.setAttribute("aria-expanded", "true");
  buttons[0].focus();
}

/** @param {KeyboardEvent} event @param {HTMLElement[]} buttons @param {any} element */
function moveFocus(event, buttons, element) {
  const now = buttons.indexOf(/** @type {HTMLElement} */ (document.activeElement));
  const next = { ArrowDown: now + 1, ArrowUp: now - 1, Home: 0, End: buttons.length - 1 }[event.key];
  if (event.key === "Tab") element.hidePopover();
  if (next === undefined) return;
  event.preventDefault();
  buttons[(next + buttons.length) % buttons.length].focus();
}

/** @param {HTMLElement} element @param {HTMLElement} anchor */
function place(element, anchor) {
  const at = anchor.getBoundingClientRect();
  const { offsetWidth: width, offsetHeight: height } = element;
  const below = at.bottom + 6 + height <= innerHeight - 8;
  const left = Math.min(Math.max(8, at.right - width), innerWidth - width - 8);
  element.style.left = `${left}px`;
  element.style.top = `${below ? at.bottom + 6 : Math.max(8, at.top - 6 - height)}px`;
}

/** A short note at the edge of the page, with at most one thing to do. @param {string} text
 * @param {{ label: string, run: () => void }} [action] */
export function toast(text, action) {
  const host = /** @type {HTMLElement} */ (document.getElementById("toasts"));
  // Behind an open dialog it would neither be seen nor heard.
  const top = [...document.querySelectorAll("dialog[open]")].at(-1) ?? document.body;
  if (host.parentElement !== top) top.append(host);
  const note = h("div.toast", {}, h("span", { dir: "auto" }, text));
  const leave = () => note.remove();
  if (action) note.append(h("button.text-button", { type: "button", onclick: () => (leave(), action.run()) }, action.label));
  host.append(note);
  while (host.childElementCount > 3) host.firstElementChild?.remove();
  setTimeout(leave, action ? 8_000 : 4_000);
}
