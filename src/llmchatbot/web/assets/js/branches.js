/**
 * The tree of a chat, as far as it was read: which message has siblings, that is other answers to the same question or
 * other wordings of the same question. A chat that nobody branched costs nothing: its numbers have no gap.
 */

/** @typedef {import("./message.js").Message} Message */

const PAGE = 100;
const MOST_PAGES = 30; // a chat with more asides than this shows those of its newer part

export class Branches {
  constructor() {
    this.clear();
  }

  clear() {
    /** @type {Map<string, Message>} */
    this.known = new Map();
    /** Messages by what they follow. @type {Map<string | null, Set<string>>} */
    this.families = new Map();
    /** The highest number that a message has. */
    this.top = 0;
    this.asked = "";
    this.reading = false;
  }

  /** @param {Message[]} messages */
  add(messages) {
    for (const message of messages) if (!message.pending) this.put(message);
  }

  /** @param {Message} message */
  put(message) {
    const { id, parent_id: parent } = message;
    this.known.set(id, message);
    this.top = Math.max(this.top, message.sequence_number);
    if (parent === undefined) return;
    if (!this.families.has(parent)) this.families.set(parent, new Set());
    this.families.get(parent)?.add(id);
  }

  /** Is every message from number `low` to `top` known? They are handed out without gaps. @param {number} low @param {number} top */
  complete(low, top) {
    const numbers = new Set();
    for (const { sequence_number } of this.known.values()) if (sequence_number >= low) numbers.add(sequence_number);
    return numbers.size >= top - low + 1;
  }

  /**
   * Learn what lies beside the branch on screen. @param {number} low @param {number} top
   * @param {(path: string) => Promise<{ page: Message[], next: string | null }>} fetchPage @param {string} chatId
   * @returns {Promise<boolean>} whether there was something to read
   */
  async read(low, top, fetchPage, chatId) {
    const asked = `${low} ${top}`;
    if (this.reading || this.asked === asked || this.complete(low, top)) return false;
    this.reading = true;
    try {
      /** @type {string | null} */
      let path = `/chats/${chatId}/messages?limit=${PAGE}&order=desc&branch=all`;
      for (let pages = 0; path && pages < MOST_PAGES && !this.complete(low, top); pages += 1) {
        const { page, next } = await fetchPage(path);
        for (const message of page) this.put(Object.assign(this.known.get(message.id) ?? message, { sequence_number: message.sequence_number }));
        path = (page.at(-1)?.sequence_number ?? 0) <= low ? null : next;
      }
      this.asked = asked;
    } finally {
      this.reading = false;
    }
    return true;
  }

  /** The versions of a message, oldest first, itself among them. @param {Message} message @returns {Message[]} */
  versions(message) {
    if (message.parent_id === undefined) return [message];
    const ids = [...(this.families.get(message.parent_id) ?? [])];
    if (ids.length < 2) return [message];
    const family = ids.map((id) => /** @type {Message} */ (this.known.get(id))).filter((one) => one.role === message.role);
    family.sort((a, b) => a.sequence_number - b.sequence_number);
    if (!family.includes(message)) return [message]; // not here yet: still on its way
    return family.filter((one) => one.id === message.id || !superseded(one, family));
  }
}

/** The beginning of an answer that was continued, or a try without a word, is nothing to go back to.
 * @param {Message} message @param {Message[]} family */
function superseded(message, family) {
  if (message.role !== "assistant" || message.status === "completed" || message.status === "streaming") return false;
  return family.some((other) => other.sequence_number > message.sequence_number && other.content.startsWith(message.content));
}
