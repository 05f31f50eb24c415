/**
 * Server-sent events over fetch: the parser of the WHATWG standard (HTML §9.2.6), and a reader that never loses its
 * place. EventSource cannot send a bearer header, so the tokens would have to stand in the URL; hence our own.
 */

import { ApiError } from "./api.js";
import { sleep } from "./dom.js";

/** @typedef {{ type: string, data: string, id: string }} ServerEvent */

const SILENCE_LIMIT = 45_000; // three heartbeats: the connection is dead even if TCP has not noticed
const LONGEST_PAUSE = 8_000;

/** Incremental parser of an event stream. */
export class EventParser {
  /** @param {(event: ServerEvent) => void} onEvent @param {(milliseconds: number) => void} [onRetry] */
  constructor(onEvent, onRetry = () => {}) {
    this.onEvent = onEvent;
    this.onRetry = onRetry;
    this.decoder = new TextDecoder(); // strips a BOM at the start, as the standard asks
    this.buffer = "";
    this.skipLineFeed = false;
    this.lastId = "";
    this.id = "";
    this.type = "";
    /** @type {string[]} */
    this.data = [];
  }

  /** @param {Uint8Array} bytes */
  push(bytes) {
    let text = this.decoder.decode(bytes, { stream: true });
    if (this.skipLineFeed && text) {
      if (text.startsWith("\n")) text = text.slice(1);
      this.skipLineFeed = false;
    }
    // A CR at the very end may be half of a CRLF: take it as the end of the line, and swallow the LF if it comes.
    if (text.endsWith("\r")) this.skipLineFeed = true;
    const lines = (this.buffer + text).split(/\r\n|\r|\n/);
    this.buffer = lines.pop() ?? "";
    for (const line of lines) this.line(line);
  }

  /** @param {string} line */
  line(line) {
    if (line === "") return this.dispatch();
    if (line.startsWith(":")) return;
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? "" : line.slice(colon + 1);
    if (value.startsWith(" ")) value = value.slice(1);
    if (field === "data") this.data.push(value);
    else if (field === "event") this.type = value;
    else if (field === "id" && !value.includes("\0")) this.id = value;
    else if (field === "retry" && /^\d+$/.test(value)) this.onRetry(Number(value));
  }

  dispatch() {
    this.lastId = this.id;
    if (this.data.length) this.onEvent({ type: this.type || "message", data: this.data.join("\n"), id: this.lastId });
    this.data = [];
    this.type = "";
  }
}

/**
 * @typedef {object} FollowOptions
 * @property {(headers: Record<string, string>, signal: AbortSignal) => Promise<Response>} open makes one request
 * @property {(event: any, id: string) => boolean | void} onEvent gets the parsed object; true ends the stream for good
 * @property {(state: "live" | "reconnecting") => void} [onState]
 * @property {(reason: "end" | "caught-up" | "gone") => void} [onClose] not called after `close()`
 * @property {string} [lastId] place to resume from
 */

/** Follows one stream to its end, through drops, restarts of the server and hours of sleep. */
export class Follower {
  /** @param {FollowOptions} options */
  constructor(options) {
    this.options = options;
    this.lastId = options.lastId ?? "";
    this.retry = 1_000;
    this.failures = 0;
    this.closed = false;
    this.attempt = new AbortController();
    this.pause = new AbortController();
    this.wake = () => this.pause.abort();
    this.drop = () => this.attempt.abort();
    addEventListener("online", this.wake);
    addEventListener("offline", this.drop); // a request in flight would only find out much later
    document.addEventListener("visibilitychange", this.wake);
    this.done = this.run();
  }

  close() {
    this.closed = true;
    this.attempt.abort();
    this.pause.abort();
    this.release();
  }

  release() {
    removeEventListener("online", this.wake);
    removeEventListener("offline", this.drop);
    document.removeEventListener("visibilitychange", this.wake);
  }

  async run() {
    while (!this.closed) {
      const reason = await this.connect();
      if (this.closed) return;
      if (reason) {
        this.closed = true;
        this.release();
        this.options.onClose?.(reason);
        return;
      }
      this.options.onState?.("reconnecting");
      this.pause = new AbortController();
      await sleep(this.nextPause(), this.pause.signal);
    }
  }

  /** The server's own `retry`, doubled with each failure in a row, spread so that readers do not come back as one. */
  nextPause() {
    this.failures += 1;
    if (!navigator.onLine) return LONGEST_PAUSE; // `online` ends the pause; a browser that is wrong still gets its try
    const pause = Math.min(this.retry * 2 ** Math.min(this.failures - 1, 6), LONGEST_PAUSE);
    return pause * (0.5 + Math.random() / 2);
  }

  /** One connection. @returns {Promise<"end" | "caught-up" | "gone" | null>} null: try again */
  async connect() {
    this.attempt = new AbortController();
    try {
      /** @type {Record<string, string>} */
      const headers = { Accept: "text/event-stream" };
      if (this.lastId) headers["Last-Event-ID"] = this.lastId;
      const response = await this.options.open(headers, this.attempt.signal);
      if (response.status === 204) return "caught-up";
      if ([400, 403, 404, 410].includes(response.status)) return "gone";
      if (!response.ok || !response.body) return null;
      return await this.read(response.body);
    } catch (error) {
      return error instanceof ApiError && error.status === 401 ? "gone" : null; // else: the network, try again
    }
  }

  /** @param {ReadableStream<Uint8Array>} body @returns {Promise<"end" | null>} */
  async read(body) {
    let ended = false;
    const parser = new EventParser(
      (event) => {
        this.failures = 0;
        this.lastId = event.id || this.lastId;
        if (!ended) ended = this.deliver(event) === true;
      },
      (milliseconds) => (this.retry = Math.max(100, milliseconds)),
    );
    this.options.onState?.("live");
    const reader = body.getReader();
    try {
      for (;;) {
        const { done, value } = await this.readOrGiveUp(reader);
        if (done) return ended ? "end" : null;
        parser.push(value);
        if (ended) return "end";
      }
    } finally {
      reader.cancel().catch(() => undefined); // the connection may be broken already, which is what cancel is for
    }
  }

  /** @param {ServerEvent} event */
  deliver(event) {
    if (this.closed) return true;
    let payload;
    try {
      payload = JSON.parse(event.data);
    } catch {
      return false; // a kind of event that this client does not know
    }
    try {
      return this.options.onEvent(payload, event.id);
    } catch (error) {
      reportError(error); // a fault of this page must not look like a broken network
      return false;
    }
  }

  /** @param {ReadableStreamDefaultReader<Uint8Array>} reader */
  async readOrGiveUp(reader) {
    const timer = setTimeout(() => this.attempt.abort(), SILENCE_LIMIT);
    try {
      return await reader.read();
    } finally {
      clearTimeout(timer);
    }
  }
}
