/** An answer in the making: its stream, its growing text, and what it becomes. No DOM here. */

import { BASE } from "./api.js";
import { call, openStream } from "./auth.js";
import { t } from "./i18n.js";
import { Follower } from "./stream.js";

/** @typedef {import("./message.js").Message} Message */

const CALM = 700; // a gap shorter than this is not worth a word
const OUT_OF_SIGHT = 10_000; // a hidden tab gives its connection back: a browser has only six for an origin
const FRAME = 40; // milliseconds between two paintings at the most often

/**
 * @typedef {object} AnswerEvents
 * @property {() => void} changed the message has new text or a new state
 * @property {(state: "" | "reconnecting" | "offline") => void} connection
 * @property {(title: string) => void} titled
 * @property {(how: "end" | "unknown") => void} ended "unknown": the stream is gone, the stored message has to tell
 */

export class Answer {
  /** @param {Message} message its `content` and `status` are kept up to date @param {AnswerEvents} events */
  constructor(message, events) {
    this.message = message;
    this.events = events;
    this.generation = /** @type {string} */ (message.generation_id);
    this.buffer = "";
    this.reasoning = "";
    this.began = 0;
    this.watched = false;
    this.stopping = false;
    this.queued = false;
    this.paintTimer = 0;
    this.calmTimer = 0;
    this.cost = 0;
    this.hiddenTimer = 0;
    this.lookedAt = () => this.seen();
    document.addEventListener("visibilitychange", this.lookedAt);
    this.follower = this.connect("");
  }

  /** @param {string} lastId */
  connect(lastId) {
    return new Follower({
      lastId,
      open: (headers, signal) => openStream(`${BASE}/generations/${this.generation}/stream`, headers, signal),
      onEvent: (event) => this.take(event),
      onState: (state) => this.connection(state),
      onClose: (reason) => reason !== "end" && this.close("unknown"),
    });
  }

  /** The tab came into sight or went out of it. Nothing is lost meanwhile: the stream goes on from its cursor. */
  seen() {
    clearTimeout(this.hiddenTimer);
    if (document.hidden) this.hiddenTimer = setTimeout(() => this.follower.close(), OUT_OF_SIGHT);
    else if (this.follower.closed) this.follower = this.connect(this.follower.lastId);
  }

  /** @param {any} event @returns {boolean} true after the last one */
  take(event) {
    this.connection("live");
    switch (event.type) {
      case "start":
        this.buffer = "";
        this.message.model = event.model || this.message.model;
        break;
      case "token":
        this.began ||= performance.now();
        if (this.queued) this.message.notice = "";
        this.queued = false;
        this.buffer += event.content;
        this.paint();
        break;
      case "reset":
        this.buffer = event.content;
        this.paint();
        break;
      case "reasoning":
        this.reasoning += event.content ?? "";
        this.paint();
        break;
      case "notice":
        this.message.notice = noticeText(event) || this.message.notice;
        this.queued = event.code === "queue_position";
        if (event.code === "fallback" && event.data?.model) this.message.model = event.data.model;
        this.paint();
        break;
      case "title":
        this.events.titled(event.title ?? event.content ?? "");
        break;
      case "complete":
      case "error":
        this.finish(event);
        return true;
    }
    return false;
  }

  /** @param {any} event the last one of the stream */
  finish(event) {
    const failed = event.type === "error";
    this.message.status = event.status ?? (failed ? "failed" : "completed");
    this.message.content = event.content ?? this.buffer;
    this.message.is_incomplete = this.message.status !== "completed";
    if (this.reasoning) this.message.reasoning = this.reasoning;
    if (failed) this.message.error = { code: event.code ?? "", text: event.error ?? "" };
    else this.count(event);
    this.close("end");
  }

  /** @param {any} event */
  count(event) {
    const tokens = event.usage?.output_tokens ?? event.tokens ?? 0;
    const seconds = this.began ? (performance.now() - this.began) / 1000 : 0;
    this.message.tokens = tokens;
    this.message.usage = { ...event.usage, output_tokens: tokens };
    // Only who heard the first word when it was said can tell how fast it was.
    if (this.watched && seconds > 0.2) {
      this.message.usage = { ...this.message.usage, seconds, speed: tokens / seconds };
    }
  }

  /** Bring what has arrived into the message, at most once per frame and less often where painting is slow. */
  paint() {
    this.paintTimer ||= setTimeout(() => {
      this.paintTimer = 0;
      this.message.reasoning = this.reasoning || this.message.reasoning;
      // While an old tab's text is replayed from its beginning, what is on screen already stays.
      if (!this.message.content.startsWith(this.buffer)) this.message.content = this.buffer;
      const before = performance.now();
      this.events.changed();
      this.cost = performance.now() - before;
    }, Math.max(FRAME, this.cost * 3));
  }

  /** @param {"live" | "reconnecting"} state */
  connection(state) {
    if (state === "live") {
      clearTimeout(this.calmTimer);
      this.calmTimer = 0;
      if (this.troubled) this.events.connection("");
      this.troubled = false;
      return;
    }
    this.calmTimer ||= setTimeout(() => {
      this.troubled = true;
      this.events.connection(navigator.onLine ? "reconnecting" : "offline");
    }, CALM);
  }

  /** @param {"end" | "unknown"} how */
  close(how) {
    this.leave();
    this.events.ended(how);
  }

  /** Stop watching; the answer itself goes on. */
  leave() {
    document.removeEventListener("visibilitychange", this.lookedAt);
    clearTimeout(this.hiddenTimer);
    this.follower.close();
    clearTimeout(this.paintTimer);
    clearTimeout(this.calmTimer);
  }

  /** End the answer itself. The text so far is kept by the server, and its stream says so. */
  async stop() {
    if (this.stopping) return;
    this.stopping = true;
    try {
      await call("POST", `/generations/${this.generation}/stop`);
    } finally {
      this.stopping = false;
    }
  }
}

/** @param {any} event */
function noticeText(event) {
  switch (event.code) {
    case "fallback":
      return t("noticeFallback", { model: event.data?.model ?? "" });
    case "queue_position":
      return t("noticeQueue", { position: event.data?.position ?? "…" });
    case "context_trimmed":
      return t("noticeTrimmed");
    case "parameter_ignored":
      return t("noticeParameter");
    default:
      return "";
  }
}
