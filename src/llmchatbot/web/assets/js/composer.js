/** Where a message is written. Drafts are kept per chat, in this browser. */

import { h, icon, store as keep, stored, touch } from "./dom.js";
import { t } from "./i18n.js";
import { Publisher } from "./store.js";

export const LIMIT = 32_000; // characters, the server's own limit
const WARN = 2_000; // from here on the rest is counted

export class Composer extends Publisher {
  /** @param {import("./store.js").Store} store */
  constructor(store) {
    super();
    this.store = store;
    this.chatId = "";
    this.answering = false;
    this.stopping = false;
    this.busy = false;
    this.field = h("textarea.composer-field", {
      rows: "1",
      id: "message",
      "aria-label": t("composer"),
      "aria-describedby": "composer-note",
      placeholder: t("placeholder"),
      dir: "auto",
      enterkeyhint: touch() ? "enter" : "send",
      oninput: () => this.changed(),
      onkeydown: (/** @type {KeyboardEvent} */ event) => this.key(event),
    });
    this.models = h("select.model-select", {
      "aria-label": t("model"),
      title: t("model"),
      onchange: () => this.emit("model", this.model),
    });
    this.button = h("button.send-button", { type: "submit" });
    this.note = h("p.composer-note", { id: "composer-note" });
    this.alert = h("p.composer-alert", { role: "alert", hidden: true });
    const bar = h("div.composer-bar", {}, h("span.select", {}, this.models, icon("chevron")), this.button);
    const box = h("div.composer-box", { onclick: (/** @type {Event} */ event) => event.target === box && this.focus() }, this.field, bar);
    this.element = h("form.composer", { onsubmit: (/** @type {Event} */ event) => this.submit(event) }, this.alert, box, this.note);
    this.paint();
    addEventListener("resize", () => this.grow());
  }

  /** @param {string} chatId empty for a chat that does not exist yet @param {string} model */
  open(chatId, model) {
    this.chatId = chatId;
    this.field.value = stored(this.draftName(chatId), () => "");
    this.say("");
    this.fillModels(model);
    this.grow();
    this.paint();
  }

  /** @param {string} chatId */
  draftName(chatId) {
    return `draft:${this.store.user?.id ?? ""}:${chatId || "new"}`;
  }

  /** @param {string} chosen */
  fillModels(chosen) {
    const names = this.store.models.map((model) => model.name);
    const selected = names.includes(chosen) ? chosen : this.store.defaultModel;
    this.models.replaceChildren(...names.map((name) => h("option", { value: name }, name)));
    this.models.value = selected;
    this.models.parentElement?.classList.toggle("single", names.length < 2);
    this.models.disabled = names.length < 2;
  }

  get model() {
    return this.models.value;
  }

  get text() {
    return this.field.value;
  }

  /** @param {string} text */
  put(text) {
    this.field.value = text;
    this.changed();
    this.focus();
  }

  focus() {
    this.field.focus({ preventScroll: true });
  }

  /** @param {string} text @param {string} [chatId] */
  keepDraft(text, chatId = this.chatId) {
    keep(this.draftName(chatId), text || null);
  }

  changed() {
    this.keepDraft(this.field.value);
    if (this.alert.textContent) this.say("");
    this.grow();
    this.paint();
  }

  /** As high as its text; CSSOM is what the page's policy allows. */
  grow() {
    this.field.style.height = "auto";
    const { scrollHeight } = this.field;
    if (scrollHeight) this.field.style.height = `${scrollHeight}px`; // 0: not on screen, an archived chat has no field
  }

  /** @param {boolean} answering */
  setAnswering(answering) {
    this.answering = answering;
    this.stopping = false;
    this.paint();
  }

  /** A message is on its way; the next one can be written, but not sent. @param {boolean} busy */
  setBusy(busy) {
    this.busy = busy;
    this.paint();
  }

  paint() {
    const left = LIMIT - [...this.field.value].length;
    const over = left < 0;
    const label = this.answering ? t("stop") : t("send");
    this.button.replaceChildren(icon(this.answering ? "stop" : "send"));
    this.button.setAttribute("aria-label", label);
    this.button.title = label;
    this.button.classList.toggle("stop", this.answering);
    this.button.disabled = this.answering ? this.stopping : this.busy || over || !this.field.value.trim();
    this.note.classList.toggle("over", over);
    this.note.textContent = this.noteText(left);
  }

  /** @param {number} left */
  noteText(left) {
    if (left < 0) return t("tooLong", { count: -left });
    if (left < WARN) return t("charactersLeft", { count: left });
    if (touch()) return "";
    return t(this.answering ? "hintAnswering" : "hint");
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    if (event.key === "ArrowUp" && !this.field.value) {
      event.preventDefault();
      this.emit("editLast");
    }
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
    if (touch() && !event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    if (!this.answering) this.submit(event);
  }

  /** @param {Event} event */
  submit(event) {
    event.preventDefault();
    if (this.answering) {
      this.stopping = true;
      this.paint();
      this.emit("stop");
      return;
    }
    const text = this.field.value;
    if (this.button.disabled || !text.trim()) return;
    this.field.value = "";
    this.changed();
    this.emit("send", text, this.model);
  }

  /** A sentence above the field, e.g. why a message was refused. @param {string} text */
  say(text) {
    this.alert.textContent = text;
    this.alert.hidden = !text;
  }
}
