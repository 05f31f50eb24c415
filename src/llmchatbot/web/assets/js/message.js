/** One message on screen. */

import { LIMIT } from "./composer.js";
import { h, icon, iconButton, replace } from "./dom.js";
import { explainCode, moment, t, when } from "./i18n.js";
import { copied, MarkdownView } from "./markdown.js";
import { editForm, Versions } from "./versions.js";

const LONG_TEXT = 1_800; // characters of a question that are shown at once
const LONG_LINES = 20;

/**
 * @typedef {object} Message
 * @property {string} id
 * @property {"user" | "assistant" | "system"} role
 * @property {string} content
 * @property {"streaming" | "completed" | "stopped" | "failed" | "interrupted"} status
 * @property {number} tokens
 * @property {boolean} is_incomplete
 * @property {string} created_at
 * @property {number} sequence_number
 * @property {string | null} [parent_id]
 * @property {string | null} [model]
 * @property {string | null} [generation_id]
 * @property {string} [reasoning]
 * @property {{ input_tokens?: number, output_tokens?: number, speed?: number, seconds?: number }} [usage]
 * @property {{ code: string, text: string }} [error]
 * @property {string} [notice]
 * @property {"sending" | "again"} [pending] written here, not yet confirmed by the server
 */

/**
 * @typedef {object} Actions
 * @property {(message: Message) => void} retry
 * @property {(message: Message) => void} resume
 * @property {(message: Message) => Promise<void>} details
 * @property {(message: Message, step: -1 | 1) => void} turn to the version before or after
 * @property {(message: Message, text: string) => void} edit ask this instead
 */

export class MessageView {
  /** @param {Message} message @param {Actions} actions */
  constructor(message, actions) {
    this.message = message;
    this.actions = actions;
    this.last = false;
    this.connection = "";
    this.footState = "";
    this.form = /** @type {HTMLElement | null} */ (null);
    this.versions = new Versions((step) => this.actions.turn(this.message, step));
    this.element = h(`article.message.${message.role}`, { dataset: { id: message.id } });
    if (message.role === "user") this.buildUser();
    else this.buildAnswer();
    this.update(message);
  }

  buildUser() {
    this.text = h("div.bubble", { dir: "auto" });
    this.state = h("p.state", { hidden: true });
    const edit = iconButton("pencil", t("editMessage"), { onclick: () => this.edit() });
    edit.classList.add("changes");
    this.foot = h("div.foot", {}, this.versions.element, this.copyButton(t("copyMessage")), edit, this.timeTag());
    this.unfold = h("button.text-button.unfold", { type: "button", hidden: true, onclick: () => this.fold(!this.element.classList.contains("folded")) });
    this.element.append(this.text, this.unfold, this.state, this.foot);
    this.fold(true);
  }

  /** A whole file pasted into a question must not bury the talk. @param {boolean} folded */
  fold(folded) {
    const { content } = this.message;
    const long = content.length > LONG_TEXT || content.split("\n", LONG_LINES + 1).length > LONG_LINES;
    this.element.classList.toggle("folded", long && folded);
    this.unfold.hidden = !long;
    this.unfold.textContent = t(folded ? "showAll" : "showLess");
    this.unfold.setAttribute("aria-expanded", String(!folded));
  }

  buildAnswer() {
    this.notice = h("p.notice", { hidden: true });
    this.thoughts = h("div.thoughts-text", { dir: "auto" });
    this.thoughtsTitle = h("span", {}, t("thought"));
    this.reasoning = h("details.thoughts", { hidden: true }, h("summary", {}, icon("chevron"), this.thoughtsTitle), this.thoughts);
    this.text = h("div.markdown");
    this.markdown = new MarkdownView(this.text);
    this.state = h("p.state", { hidden: true });
    this.numbers = h("p.numbers", { hidden: true });
    this.foot = h("div.foot");
    this.element.append(this.notice, this.reasoning, this.text, this.state, this.foot, this.numbers);
  }

  /** Write the question anew. @param {string} [text] of an earlier try */
  edit(text = this.message.content) {
    if (this.message.pending || this.form) return;
    const close = () => {
      const focused = this.form?.contains(document.activeElement);
      this.form?.remove();
      this.form = null;
      this.element.classList.remove("editing");
      if (focused) this.foot.querySelector(".icon-pencil")?.closest("button")?.focus();
    };
    const send = (/** @type {string} */ next) => {
      close();
      this.actions.edit(this.message, next);
    };
    this.form = editForm(text, LIMIT, { send, cancel: close });
    this.element.classList.add("editing");
    this.text.after(this.form);
  }

  /** @param {string} label */
  copyButton(label) {
    const button = iconButton("copy", label);
    button.addEventListener("click", () => void copied(button, this.message.content));
    return button;
  }

  timeTag() {
    const { created_at: iso } = this.message;
    return h("time", { datetime: iso, title: moment(iso) }, when(iso));
  }

  /** Another day has begun: what was "14:03" is yesterday's now. */
  showTime() {
    const time = this.foot.querySelector("time");
    if (time) time.textContent = when(this.message.created_at);
  }

  /** Show the message as it is now. @param {Message} message */
  update(message) {
    this.message = message;
    this.element.dataset.id = message.id;
    this.element.dataset.status = message.status;
    this.element.setAttribute("aria-label", this.label());
    if (message.role === "user") this.updateUser();
    else this.updateAnswer();
  }

  label() {
    const { role, model, created_at } = this.message;
    const time = when(created_at);
    if (role === "user") return t("youSaid", { time });
    return model ? t("answerBy", { model, time }) : t("answer", { time });
  }

  updateUser() {
    this.text.textContent = this.message.content;
    const { pending } = this.message;
    this.element.classList.toggle("pending", pending !== undefined);
    this.state.hidden = pending !== "again";
    this.state.textContent = pending === "again" ? t("sendingAgain") : "";
  }

  updateAnswer() {
    const { content, status, reasoning = "", notice = "" } = this.message;
    const live = status === "streaming";
    this.markdown?.show(content, !live);
    this.element.classList.toggle("live", live);
    this.element.classList.toggle("empty", !content);
    this.element.setAttribute("aria-busy", String(live));
    this.notice.hidden = !notice;
    this.notice.textContent = notice;
    this.updateReasoning(reasoning, live && !content);
    this.updateState();
    this.updateFoot();
    this.updateNumbers();
  }

  /** @param {string} reasoning @param {boolean} going */
  updateReasoning(reasoning, going) {
    this.reasoning.hidden = !reasoning;
    if (!reasoning) return;
    this.thoughtsTitle.textContent = going ? t("thinking") : t("thought");
    this.reasoning.classList.toggle("going", going);
    if (this.thoughts.textContent !== reasoning) this.thoughts.textContent = reasoning;
  }

  /** The calm line under the text: why it ends here, or that it goes on. */
  updateState() {
    const { status, content, reasoning } = this.message;
    /** @type {any[]} */
    let parts = [];
    if (status === "streaming") {
      if (this.connection) parts = [h("span.pulse"), t(this.connection === "offline" ? "offlineAnswer" : "reconnecting")];
      else if (!content && !reasoning) parts = [h("span.dots", {}, h("i"), h("i"), h("i")), h("span.visually-hidden", {}, t("waiting"))];
    } else if (status !== "completed") parts = [this.ending(), ...this.remedies()];
    this.state.hidden = parts.length === 0;
    this.state.className = `state state-${status}`;
    replace(this.state, parts);
  }

  ending() {
    const { status, content, error } = this.message;
    if (content && (!error || error.code === "model_interrupted") && status === "interrupted") return h("span", {}, t("interrupted"));
    if (error) return h("span", {}, `${explainCode(error.code, error.text)} ${content ? t("kept") : ""}`);
    if (status === "stopped") return h("span", {}, content ? t("stopped") : t("stoppedEmpty"));
    return h("span", {}, content ? t("interrupted") : t("failed"));
  }

  /** @returns {HTMLElement[]} */
  remedies() {
    if (!this.last) return [];
    const remedies = [];
    if (this.message.content) {
      remedies.push(h("button.text-button.changes.idle", { type: "button", onclick: () => this.actions.resume(this.message) }, t("continue")));
    }
    remedies.push(h("button.text-button.changes.idle", { type: "button", onclick: () => this.actions.retry(this.message) }, t("retry")));
    return remedies;
  }

  updateFoot() {
    const { status, model, content } = this.message;
    this.foot.hidden = status === "streaming";
    const offered = this.last && status !== "completed"; // in words already, right above
    const state = `${status} ${model} ${Boolean(content)} ${offered}`;
    if (this.footState === state) return; // keep focus where it is
    this.footState = state;
    const retry = iconButton("retry", t("retry"), { onclick: () => this.actions.retry(this.message) });
    retry.classList.add("changes", "idle");
    replace(
      this.foot,
      this.versions.element,
      content && this.copyButton(t("copyAnswer")),
      !offered && retry,
      iconButton("info", t("details"), { "aria-expanded": "false", onclick: (/** @type {Event} */ event) => this.toggleNumbers(event) }),
      model && h("span.model-name", {}, model),
      this.timeTag(),
    );
  }

  /** @param {Event} event */
  toggleNumbers(event) {
    const open = this.numbers.hidden;
    this.numbers.hidden = !open;
    /** @type {HTMLElement} */ (event.currentTarget).setAttribute("aria-expanded", String(open));
    if (open) void this.actions.details(this.message).then(() => this.updateNumbers());
    this.updateNumbers();
  }

  updateNumbers() {
    if (this.numbers.hidden) return;
    const { tokens, usage = {} } = this.message;
    const parts = [t("tokens", { count: usage.output_tokens ?? tokens })];
    if (usage.speed) parts.push(t("speed", { count: usage.speed }));
    if (usage.seconds >= 0.1) parts.push(t("seconds", { count: usage.seconds }));
    if (usage.input_tokens) parts.push(t("promptTokens", { count: usage.input_tokens }));
    this.numbers.textContent = parts.join(" · ");
  }

  /** Is this the end of the chat? Only there an answer can be continued or made anew. @param {boolean} last */
  setLast(last) {
    if (this.last === last) return;
    this.last = last;
    this.element.classList.toggle("last", last);
    if (this.message.role !== "user") this.updateAnswer();
  }

  /** @param {"" | "reconnecting" | "offline"} connection */
  setConnection(connection) {
    if (this.connection === connection) return;
    this.connection = connection;
    this.updateState();
  }
}
