/** The conversation: a window of messages that slides over a chat of any length, and the answer being written in it. */

import { ApiError, insist, nextPage } from "./api.js";
import { Answer } from "./answer.js";
import { call, get } from "./auth.js";
import { Branches } from "./branches.js";
import { calm, h, iconButton, randomId, store as keep, stored } from "./dom.js";
import { explain, explainCode, t } from "./i18n.js";
import { announce, SentenceReader } from "./live.js";
import { MessageView } from "./message.js";
import { Publisher } from "./store.js";

/** @typedef {import("./message.js").Message} Message */

const STEP = 50; // messages fetched or revealed at once
const WINDOW = 240; // messages in the page at the most
const SOON = 300; // milliseconds
const NEAR = 60; // pixels from the end that count as "at the end"

export class Thread extends Publisher {
  /** @param {import("./store.js").Store} store */
  constructor(store) {
    super();
    this.store = store;
    this.list = h("div.messages");
    this.top = h("p.edge", { hidden: true });
    this.bottom = h("div.edge-bottom");
    this.inner = h("div.thread-inner", {}, this.top, this.list, this.bottom);
    this.scroller = h("div.thread", { tabindex: "0", role: "region", "aria-label": t("thread") }, this.inner);
    this.jump = iconButton("down", t("toLatest"), { onclick: () => this.toEnd(true) });
    this.jump.classList.add("jump");
    this.jump.hidden = true;
    this.element = h("div.thread-frame", {}, this.scroller, this.jump);
    this.answer = /** @type {Answer | null} */ (null);
    this.branches = new Branches();
    /** The model chosen for the next answer. */
    this.model = () => "";
    this.chatId = "";
    /** Oldest first; a contiguous end of the chat. @type {Message[]} */
    this.messages = [];
    /** @type {Map<string, MessageView>} */
    this.views = new Map();
    /** The window over `messages` that is in the page: from `first` to before `end`. */
    this.first = 0;
    this.end = 0;
    /** @type {string | null} */
    this.next = null;
    this.loading = false;
    this.pinned = true;
    this.lastTop = 0;
    this.sending = 0;
    this.learnTimer = 0;
    /** Rises with every chat that is opened: what was asked for on an earlier visit is dropped. */
    this.visit = 0;
    this.edges = this.watchScrolling();
    this.on("answering", (answering) => this.list.classList.toggle("busy", answering));
    store.on("chat", (chat) => chat.id === this.chatId && this.learnBranchesSoon());
  }

  clear() {
    this.letGo();
    this.branches.clear();
    this.chatId = "";
    this.messages = [];
    this.views.clear();
    this.first = this.end = 0;
    this.next = null;
    this.loading = false;
    this.pinned = true;
    this.sending = 0;
    this.visit += 1;
    this.list.replaceChildren();
    this.top.hidden = true;
    this.jump.hidden = true;
  }

  // ── opening ──────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Show a chat. Raises ApiError or NetworkError. @param {string} chatId */
  async open(chatId) {
    this.clear();
    this.chatId = chatId;
    const { visit } = this;
    const response = await call("GET", `/chats/${chatId}/messages?limit=${STEP}&order=desc`);
    /** @type {Message[]} */
    const page = await response.json();
    if (visit !== this.visit) return;
    this.next = nextPage(response);
    this.messages = page.reverse();
    this.end = this.messages.length;
    this.render();
    this.toEnd(false);
    this.followRunning();
    this.sendWaiting();
    this.learnBranches();
  }

  /** Read the end of the chat again and take over what has changed. */
  async sync() {
    if (!this.chatId || this.sending) return;
    const { visit } = this;
    const response = await call("GET", `/chats/${this.chatId}/messages?limit=${STEP}&order=desc`);
    /** @type {Message[]} */
    const page = (await response.json()).reverse();
    if (visit !== this.visit || this.sending) return;
    const oldest = page[0]?.sequence_number ?? 0;
    const atEnd = this.end === this.messages.length;
    const known = new Map(this.messages.map((message) => [message.id, message]));
    const fresh = page.map((message) => this.merge(known.get(message.id), message));
    const earlier = this.messages.filter((message) => message.sequence_number < oldest);
    // On another branch what was read before may have nothing to do with this end.
    const before = earlier.length && earlier.at(-1)?.id === page[0]?.parent_id ? earlier : [];
    if (!before.length) this.next = nextPage(response);
    this.messages = [...before, ...fresh];
    this.end = atEnd ? this.messages.length : Math.min(this.end, this.messages.length);
    this.first = Math.min(this.first, Math.max(0, this.end - 1));
    if (earlier.length && !before.length) this.beginAtEnd();
    for (const message of fresh) this.views.get(message.id)?.update(message);
    if (this.answer && !this.messages.includes(this.answer.message)) this.letGo();
    this.render();
    this.followRunning();
    this.learnBranches();
  }

  /** The window over a chat of which only the newest page is known. */
  beginAtEnd() {
    this.end = this.messages.length;
    this.first = Math.max(0, this.end - STEP);
    this.lookAgain(this.top);
  }

  /** What this tab watched itself is newer than any page. @param {Message | undefined} old @param {Message} message */
  merge(old, message) {
    if (!old) return message;
    if (this.answer?.message === old) return old;
    const { usage, error, notice } = old;
    return Object.assign(old, { usage, error, notice }, message);
  }

  // ── the window ───────────────────────────────────────────────────────────────────────────────────────────────────

  watchScrolling() {
    this.scroller.addEventListener("scroll", () => this.scrolled(), { passive: true });
    const sizes = new ResizeObserver(() => (this.pinned ? this.stick() : this.offerEnd()));
    sizes.observe(this.inner);
    sizes.observe(this.scroller);
    const edges = new IntersectionObserver((entries) => {
      for (const entry of entries) if (entry.isIntersecting) this.edge(entry.target);
    }, { root: this.scroller, rootMargin: "1500px 0px" });
    edges.observe(this.top);
    edges.observe(this.bottom);
    return edges;
  }

  scrolled() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    const left = scrollHeight - scrollTop - clientHeight;
    // The smallest move upwards means "let me read", though the end is still near.
    const upwards = scrollTop < this.lastTop - 1 && left > 2;
    this.lastTop = scrollTop;
    this.pinned = !upwards && left < NEAR && this.end === this.messages.length;
    this.offerEnd();
  }

  /** The way back, once the end is out of sight. */
  offerEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    this.jump.hidden = this.pinned || scrollHeight - scrollTop - clientHeight < clientHeight / 3;
  }

  stick() {
    this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  /** @param {boolean} smoothly */
  toEnd(smoothly) {
    const far = this.end < this.messages.length;
    if (far) {
      this.end = this.messages.length;
      this.first = Math.max(0, this.end - STEP);
      this.render();
    }
    this.pinned = true;
    const behavior = smoothly && !far && !calm() ? "smooth" : "instant";
    this.scroller.scrollTo({ top: this.scroller.scrollHeight, behavior });
    this.jump.hidden = true;
  }

  /** @param {Element} edge which end of the window has come near */
  edge(edge) {
    if (edge === this.bottom) this.showLater();
    else void this.showEarlier();
  }

  showLater() {
    if (this.end >= this.messages.length) return;
    this.anchored(() => {
      this.end = Math.min(this.messages.length, this.end + STEP);
      this.first = Math.max(this.first, this.end - WINDOW);
      this.render();
    });
    this.lookAgain(this.bottom);
  }

  async showEarlier() {
    if (this.loading) return;
    if (this.first === 0 && this.next) await this.fetchEarlier();
    if (this.first === 0) return;
    this.anchored(() => {
      this.first = Math.max(0, this.first - STEP);
      this.end = Math.min(this.end, this.first + WINDOW);
      this.render();
    });
    this.lookAgain(this.top);
  }

  /** An observer speaks only of changes: ask again whether the edge is still near. @param {Element} edge */
  lookAgain(edge) {
    this.edges.unobserve(edge);
    this.edges.observe(edge);
  }

  async fetchEarlier() {
    const { visit } = this;
    this.loading = true;
    try {
      const response = await call("GET", /** @type {string} */ (this.next).replace(`limit=${STEP}`, `limit=${2 * STEP}`));
      /** @type {Message[]} */
      const page = (await response.json()).reverse();
      if (visit !== this.visit) return;
      this.next = nextPage(response);
      this.messages.unshift(...page);
      this.first += page.length;
      this.end += page.length;
      this.learnBranches();
    } catch (error) {
      explain(error); // raises what is no trouble of the network; the edge stays, and scrolling tries again
    } finally {
      this.loading = false;
    }
  }

  /** Change the window without moving what is being read. @param {() => void} change */
  anchored(change) {
    const line = this.scroller.getBoundingClientRect().top;
    const anchor = [...this.list.children].find((child) => child.getBoundingClientRect().bottom > line);
    const before = anchor?.getBoundingClientRect().top ?? 0;
    change();
    if (anchor?.isConnected) this.scroller.scrollTop += anchor.getBoundingClientRect().top - before;
  }

  /** Make the page show exactly the window. */
  render() {
    const wanted = this.messages.slice(this.first, this.end);
    const last = this.messages.at(-1);
    const kept = new Set(wanted.map((message) => message.id));
    for (const [id, view] of this.views) {
      if (kept.has(id)) continue;
      view.element.remove();
      this.views.delete(id);
    }
    /** @type {ChildNode | null} */
    let place = this.list.firstChild;
    for (const message of wanted) {
      const { element } = this.view(message);
      if (place && element === place) place = place.nextSibling;
      else this.list.insertBefore(element, place);
    }
    this.branches.add(wanted);
    for (const message of wanted) this.view(message).setLast(message === last);
    this.showVersions();
    this.top.hidden = !this.messages.length || (this.first === 0 && !this.next && this.messages.length < STEP);
    this.top.textContent = this.first > 0 || this.next ? t("earlier") : t("beginning");
  }

  /** @param {Message} message */
  view(message) {
    let view = this.views.get(message.id);
    if (!view) {
      view = new MessageView(message, {
        retry: (target) => void this.again(target, "regenerate"),
        resume: (target) => void this.again(target, "continue"),
        details: (target) => this.details(target),
        turn: (target, step) => void this.turn(target, step),
        edit: (target, text) => void this.edit(target, text),
      });
      this.views.set(message.id, view);
    }
    return view;
  }

  /** Bring one message into view, fetching the way to it. @param {string} messageId */
  async reveal(messageId) {
    if (!(await this.show(messageId))) return;
    const { element } = /** @type {MessageView} */ (this.views.get(messageId));
    element.scrollIntoView({ block: "center" });
    element.classList.add("found");
    setTimeout(() => element.classList.remove("found"), 2_400);
  }

  /** Have a message in the window, fetching the way to it. @param {string} messageId @returns {Promise<boolean>} found */
  async show(messageId) {
    const { visit } = this;
    const find = () => this.messages.findIndex((message) => message.id === messageId);
    while (find() < 0 && this.next && visit === this.visit) {
      const before = this.messages.length;
      await this.fetchEarlier();
      if (this.messages.length === before) return false;
    }
    const index = find();
    if (index < 0 || visit !== this.visit) return false;
    this.pinned = false;
    if (index >= this.first && index < this.end) return true;
    this.first = Math.max(0, index - STEP / 2);
    this.end = Math.min(this.messages.length, this.first + STEP);
    this.render();
    return true;
  }

  /** Is this event about an answer whose state this tab has at first hand? @param {any} event */
  knows(event) {
    const message = this.messages.find((one) => one.generation_id === event.generation_id);
    if (!message) return false;
    return this.answer?.message === message || (event.type === "generation.ended" && message.status !== "streaming");
  }

  // ── the answer being written ─────────────────────────────────────────────────────────────────────────────────────

  followRunning() {
    const running = this.messages.findLast((message) => message.status === "streaming" && message.generation_id);
    if (running) this.follow(running, false);
  }

  /** @param {Message} message @param {boolean} watched from its very beginning */
  follow(message, watched) {
    if (this.answer?.generation === message.generation_id) return;
    this.answer?.leave();
    const reader = new SentenceReader();
    if (!watched) reader.said = message.content.length;
    announce(t("liveStart"));
    const answer = new Answer(message, {
      changed: () => {
        this.views.get(message.id)?.update(message);
        reader.push(message.content);
      },
      connection: (state) => {
        this.views.get(message.id)?.setConnection(state);
        if (state === "reconnecting") announce(t("reconnecting"));
      },
      titled: (title) => this.titled(title),
      ended: (how) => this.ended(answer, reader, how),
    });
    answer.watched = watched;
    this.answer = answer;
    this.store.setBusy(this.chatId, true);
    this.emit("answering", true);
  }

  /** @param {string} title */
  titled(title) {
    const chat = this.store.chat(this.chatId);
    if (chat && title) this.store.put({ ...chat, title });
  }

  /** @param {Answer} answer @param {SentenceReader} reader @param {"end" | "unknown"} how */
  ended(answer, reader, how) {
    if (this.answer !== answer) return;
    this.answer = null;
    const { message } = answer;
    this.views.get(message.id)?.setConnection("");
    this.views.get(message.id)?.update(message);
    reader.push(message.content);
    reader.flush(true);
    this.store.setBusy(this.chatId, false);
    this.emit("answering", false);
    if (how === "unknown") void this.sync().catch(explain);
    else announce(verdict(message));
  }

  async stop() {
    await this.answer?.stop();
  }

  /** Stop watching the answer that is being written here, if there is one. */
  letGo() {
    if (!this.answer) return;
    this.answer.leave();
    this.answer = null;
    this.emit("answering", false);
  }

  // ── versions ─────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Find out which of the messages here have siblings. */
  learnBranches() {
    const { visit, chatId } = this;
    if (!chatId || !this.messages.length) return;
    const low = this.next === null ? 1 : this.messages[0].sequence_number;
    this.branches.add(this.messages);
    const top = Math.max(this.branches.top, this.store.chat(chatId)?.message_count ?? 0);
    const fetchPage = async (/** @type {string} */ path) => {
      const response = await call("GET", path);
      return { page: await response.json(), next: nextPage(response) };
    };
    const show = (/** @type {boolean} */ news) => news && visit === this.visit && this.showVersions();
    // Without them the chat is whole all the same; the next thing that happens here asks again.
    this.branches.read(low, top, fetchPage, chatId).then(show, explain);
  }

  /** Soon, once what has just happened is read: then there is mostly nothing left to ask. */
  learnBranchesSoon() {
    clearTimeout(this.learnTimer);
    this.learnTimer = setTimeout(() => this.learnBranches(), SOON);
  }

  showVersions() {
    for (const message of this.messages.slice(this.first, this.end)) {
      const versions = this.branches.versions(message);
      this.views.get(message.id)?.versions.show(versions.indexOf(message), versions.length);
    }
  }

  /** Show the version before or after, and what followed from it. @param {Message} message @param {-1 | 1} step */
  async turn(message, step) {
    const versions = this.branches.versions(message);
    const index = versions.findIndex((one) => one.id === message.id) + step;
    const target = versions[index];
    if (!target || this.answer || this.sending) return;
    const { visit, chatId } = this;
    const place = this.views.get(message.id)?.element.getBoundingClientRect().top ?? 0;
    try {
      await call("PUT", `/chats/${chatId}/leaf`, { body: { message_id: target.id } });
      if (visit !== this.visit) return;
      this.pinned = false;
      await this.sync();
      if (visit !== this.visit || !(await this.show(target.id))) return;
      const view = this.view(/** @type {Message} */ (this.messages.find((one) => one.id === target.id)));
      this.scroller.scrollTop += view.element.getBoundingClientRect().top - place;
      view.versions.focus(step);
      announce(t("versionOf", { index: index + 1, count: versions.length }));
    } catch (error) {
      this.emit("trouble", explain(error));
    }
  }

  /** The last question, to be written anew. */
  editLast() {
    const last = this.messages.slice(this.first, this.end).findLast((message) => message.role === "user");
    if (last) this.view(last).edit();
  }

  /** Ask something else in the place of a question. What followed from it stays, as another version.
   * @param {Message} message @param {string} content */
  async edit(message, content) {
    if (this.sending) return;
    const { visit } = this;
    try {
      await this.send(content, this.model(), { parent: message.parent_id ?? null });
    } catch (error) {
      this.emit("trouble", explain(error));
      if (visit === this.visit) this.view(message).edit(content);
    }
  }

  // ── sending ──────────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * Send a message. It is shown at once, kept until the server has it, and repeated under one key, so that it arrives
   * exactly once. Raises ApiError when it is refused.
   * @param {string} content @param {string} model
   * @param {{ key?: string, parent?: string | null }} [more] `key`: of an earlier try; `parent`: what the message
   * follows, null for a new beginning, where that is not the end of the chat
   */
  async send(content, model, { key = "", parent } = {}) {
    const repeated = key !== "";
    key ||= randomId();
    const { chatId, visit } = this;
    const outbox = `outbox:${this.store.user.id}:${chatId}`;
    keep(outbox, JSON.stringify({ content, model, key, parent }));
    this.sending += 1;
    const kept = this.messages;
    // After a reload the server may have it already, only its answer to us was lost.
    const here = this.messages.findLast((message) => message.role === "user")?.content === content;
    if (parent !== undefined && !(here && repeated)) this.cutBefore(this.messages.findIndex((message) => (message.parent_id ?? null) === parent));
    const local = localMessage(key, content, this.messages.at(-1), this.branches.top);
    if (!here || !repeated) this.add(local);
    try {
      // Who writes a question anew does not want the answer to the old one.
      const aside = parent === undefined ? {} : { parent_id: parent, if_busy: "interrupt" };
      const body = { content, model: model || undefined, ...aside };
      const send = () => call("POST", `/chats/${chatId}/messages`, { body, headers: { "Idempotency-Key": key } });
      const response = await insist(send, () => this.mark(local, "again"));
      keep(outbox, null);
      if (visit === this.visit) this.sent(local, await response.json(), model);
    } catch (error) {
      keep(outbox, null);
      if (visit === this.visit) this.restore(kept.filter((message) => message !== local));
      throw error;
    } finally {
      if (visit === this.visit) this.sending -= 1;
    }
  }

  /** A message that was on its way when the page was left. The key sees to it that it is not sent twice. */
  sendWaiting() {
    const text = stored(`outbox:${this.store.user.id}:${this.chatId}`, () => "");
    if (!text) return;
    const { content, model, key, parent } = JSON.parse(text);
    const sent = this.send(content, model, { key, parent });
    // The question that it replaces may lie further back than what was read so far.
    sent.then(() => parent !== undefined && this.sync()).catch((error) => this.emit("refused", error, content));
  }

  /** Take the rest of the chat off the page, from this message on. @param {number} index -1: nothing */
  cutBefore(index) {
    if (index < 0) return;
    const rest = this.messages.slice(index);
    this.messages = this.messages.slice(0, index);
    this.end = this.messages.length;
    this.first = Math.max(0, Math.min(this.first, this.end - STEP));
    if (this.answer && rest.includes(this.answer.message)) this.letGo();
  }

  /** Back to what was on the page before. @param {Message[]} messages */
  restore(messages) {
    this.messages = messages;
    this.end = messages.length;
    this.render();
    this.followRunning();
  }

  /** @param {Message} message */
  add(message) {
    const atEnd = this.end === this.messages.length;
    this.messages.push(message);
    if (atEnd) this.end = this.messages.length;
    this.render();
    this.toEnd(false);
  }

  /** @param {Message} message */
  take(message) {
    this.messages = this.messages.filter((other) => other !== message);
    this.end = Math.min(this.end, this.messages.length);
    this.render();
  }

  /** @param {Message} message @param {"sending" | "again"} pending */
  mark(message, pending) {
    message.pending = pending;
    this.views.get(message.id)?.update(message);
  }

  /** @param {Message} local @param {{message: Message, generation: any}} answer @param {string} model */
  sent(local, answer, model) {
    const view = this.views.get(local.id);
    this.views.delete(local.id);
    // The same question may be here already: joined by its key after a reload.
    const twin = this.messages.find((message) => message.id === answer.message.id);
    if (twin || !view) {
      view?.element.remove();
      this.take(local);
    } else {
      Object.assign(local, answer.message, { pending: undefined });
      delete local.pending;
      if (view) this.views.set(local.id, view);
      view?.update(local);
    }
    this.begin(answer.generation, answer.message.sequence_number + 1, model);
  }

  /** @param {any} generation @param {number} sequence @param {string} model */
  begin(generation, sequence, model) {
    if (this.messages.some((message) => message.id === generation.message_id)) return void this.sync().catch(explain);
    const message = answerMessage(generation, sequence, model);
    this.add(message);
    this.follow(message, true);
  }

  /** Continue an answer, or make another one. @param {Message} message @param {"continue" | "regenerate"} how */
  async again(message, how) {
    if (this.answer || this.sending) return;
    const { chatId, visit } = this;
    this.sending += 1;
    // Another answer comes from the model that is chosen now; going on is the business of the one that began.
    const body = how === "regenerate" ? { model: this.model() || undefined } : {};
    try {
      const response = await call("POST", `/chats/${chatId}/messages/${message.id}/${how}`, { body });
      const { generation } = await response.json();
      if (visit !== this.visit) return;
      this.branches.add(this.messages);
      this.cutBefore(this.messages.indexOf(message));
      const next = answerMessage(generation, this.branches.top + 1, message.model ?? "");
      if (how === "continue") next.content = message.content;
      this.add(next);
      this.follow(next, how === "regenerate");
    } catch (error) {
      this.emit("trouble", explain(error));
      if (error instanceof ApiError && error.status === 409) queueMicrotask(() => void this.sync().catch(explain));
    } finally {
      if (visit === this.visit) this.sending -= 1;
    }
  }

  /** Counts that are not with the message. @param {Message} message */
  async details(message) {
    if (message.usage?.speed || !message.generation_id) return;
    try {
      const generation = await get(`/generations/${message.generation_id}`);
      const seconds = (Date.parse(generation.finished_at) - Date.parse(generation.created_at)) / 1000;
      const usage = { output_tokens: message.tokens, ...message.usage };
      if (seconds > 0) Object.assign(usage, { seconds, speed: usage.output_tokens / seconds });
      message.usage = usage;
    } catch (error) {
      explain(error); // the token count of the message itself is shown all the same
    }
  }
}

/** @param {Message} message */
function verdict(message) {
  if (message.status === "completed") return t("liveEnd");
  if (message.status === "stopped") return t("liveStopped");
  if (message.status === "interrupted") return t("liveInterrupted");
  return t("liveFailed", { reason: explainCode(message.error?.code ?? "", message.error?.text ?? "") });
}

/** @param {string} key @param {string} content @param {Message | undefined} last @param {number} top the highest number so far
 * @returns {Message} */
function localMessage(key, content, last, top) {
  return {
    id: `local-${key}`,
    role: "user",
    content,
    status: "completed",
    tokens: 0,
    is_incomplete: false,
    created_at: new Date().toISOString(),
    sequence_number: Math.max(last?.sequence_number ?? 0, top) + 1,
    parent_id: last?.id ?? null,
    pending: "sending",
  };
}

/** @param {any} generation @param {number} sequence @param {string} model @returns {Message} */
function answerMessage(generation, sequence, model) {
  return {
    id: generation.message_id,
    role: "assistant",
    content: "",
    status: "streaming",
    tokens: 0,
    is_incomplete: true,
    created_at: new Date().toISOString(),
    sequence_number: sequence,
    parent_id: generation.user_message_id,
    model: generation.model ?? model,
    generation_id: generation.id,
  };
}
