/** "‹ 2 / 3 ›" under a message that has siblings, and the field in which a question is written anew. */

import { h, iconButton, touch } from "./dom.js";
import { t } from "./i18n.js";

/** Turns the pages between versions. */
export class Versions {
  /** @param {(step: -1 | 1) => void} turn */
  constructor(turn) {
    this.back = iconButton("left", t("previousVersion"), { onclick: () => turn(-1) });
    this.onward = iconButton("chevron", t("nextVersion"), { onclick: () => turn(1) });
    this.place = h("span.versions-place");
    this.element = h("span.versions.idle", { role: "group", hidden: true }, this.back, this.place, this.onward);
  }

  /** @param {number} index from 0 @param {number} count */
  show(index, count) {
    this.element.hidden = count < 2;
    this.place.textContent = `${index + 1} / ${count}`;
    this.element.setAttribute("aria-label", t("versionOf", { index: index + 1, count }));
    this.back.disabled = index <= 0;
    this.onward.disabled = index >= count - 1;
  }

  /** After a turn the page is another one; the finger stays on the same button. @param {-1 | 1} step */
  focus(step) {
    const [wanted, other] = step < 0 ? [this.back, this.onward] : [this.onward, this.back];
    (wanted.disabled ? other : wanted).focus({ preventScroll: true });
  }
}

/**
 * A form over a question: Enter sends, Esc leaves it as it was.
 * @param {string} text @param {number} limit @param {{ send: (text: string) => void, cancel: () => void }} actions
 */
export function editForm(text, limit, { send, cancel }) {
  const submit = (/** @type {Event} */ event) => {
    event.preventDefault();
    if (button.disabled) return;
    if (field.value === text) cancel();
    else send(field.value);
  };
  const key = (/** @type {KeyboardEvent} */ event) => {
    if (event.key === "Escape") {
      event.stopPropagation(); // this Esc is not meant for the answer
      cancel();
    } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing && (!touch() || event.ctrlKey || event.metaKey)) submit(event);
  };
  const changed = () => {
    field.style.height = "auto";
    field.style.height = `${field.scrollHeight + 2}px`;
    const over = [...field.value].length - limit;
    note.textContent = over > 0 ? t("tooLong", { count: over }) : "";
    button.disabled = over > 0 || !field.value.trim();
  };
  const field = h("textarea.edit-field", { rows: "1", value: text, dir: "auto", "aria-label": t("editMessage"), oninput: changed, onkeydown: key });
  const note = h("p.edit-note", { role: "status" });
  const button = h("button.button.primary.small-button", { type: "submit" }, t("send"));
  const buttons = h("div.edit-actions", {}, note, h("button.button.small-button", { type: "button", onclick: cancel }, t("cancel")), button);
  const form = h("form.edit", { onsubmit: submit }, field, buttons);
  queueMicrotask(() => {
    changed(); // its height is known once it is in the page
    field.focus();
    field.setSelectionRange(text.length, text.length);
  });
  return form;
}
