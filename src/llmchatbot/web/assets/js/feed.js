/**
 * The feed of a person: what happened in other tabs and on other devices. One tab reads it for all of this browser, since a
 * browser gives an origin few connections; the others hear through the channel and take over when that tab goes.
 */

import { BASE } from "./api.js";
import { openStream } from "./auth.js";
import { alone, hear, tell } from "./bus.js";
import { Follower } from "./stream.js";

export class Feed {
  /** @param {{ onEvent: (event: any) => void, onMissed: () => void }} options `onMissed`: events may be gone, read anew */
  constructor({ onEvent, onMissed }) {
    this.onEvent = onEvent;
    this.onMissed = onMissed;
    this.lastId = "";
    this.stopped = false;
    this.timer = 0;
    /** @type {Follower | null} */
    this.follower = null;
    hear("feed", ({ event, id }) => this.take(event, id));
    void alone("feed", () => this.lead());
  }

  /** @param {any} event @param {string} id */
  take(event, id) {
    if (this.stopped) return;
    this.lastId = id || this.lastId;
    if (event.type === "reset") this.onMissed();
    else this.onEvent(event);
  }

  /** Read until this tab stops; the lock is held as long. */
  async lead() {
    if (this.stopped) return;
    await new Promise((resolve) => {
      this.release = resolve;
      this.connect(resolve);
    });
  }

  /** @param {(value?: unknown) => void} resolve */
  connect(resolve) {
    this.follower = new Follower({
      lastId: this.lastId,
      open: (headers, signal) => openStream(`${BASE}/events`, headers, signal),
      onEvent: (event, id) => {
        this.take(event, id);
        tell("feed", { event, id });
      },
      onClose: (reason) => {
        if (this.stopped) return resolve();
        // The place is not known to the server any more: read everything again and begin anew, without haste.
        this.lastId = "";
        this.onMissed();
        this.timer = setTimeout(() => this.connect(resolve), reason === "gone" ? 10_000 : 0);
      },
    });
  }

  stop() {
    this.stopped = true;
    clearTimeout(this.timer);
    this.follower?.close();
    this.release?.(undefined);
  }
}
