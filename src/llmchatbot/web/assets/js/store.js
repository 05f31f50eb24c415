/** What this tab knows: the person, the models, the chats. Views listen, nobody else keeps copies. */

import { ApiError, nextPage } from "./api.js";
import { call, get } from "./auth.js";

/** A very small publisher. */
export class Publisher {
  constructor() {
    /** @type {Map<string, Set<(...values: any[]) => void>>} */
    this.listeners = new Map();
  }

  /** @param {string} name @param {(...values: any[]) => void} listener @returns {() => void} stops listening */
  on(name, listener) {
    if (!this.listeners.has(name)) this.listeners.set(name, new Set());
    this.listeners.get(name)?.add(listener);
    return () => this.listeners.get(name)?.delete(listener);
  }

  /** @param {string} name @param {...any} values */
  emit(name, ...values) {
    for (const listener of [...(this.listeners.get(name) ?? [])]) listener(...values);
  }
}

/** @typedef {{ id: string, title: string, model_used: string, created_at: string, updated_at: string, is_archived: boolean, message_count: number }} Chat */

const PAGE = 30;

/** One list of chats, paged by key, newest first. */
export class ChatList extends Publisher {
  /** @param {boolean} archived the archive, or the living chats */
  constructor(archived) {
    super();
    this.archived = archived;
    this.reset();
  }

  reset() {
    /** @type {Map<string, Chat>} */
    this.chats = new Map();
    /** @type {string | null} */
    this.next = this.beginning;
    /** @type {Promise<void> | null} */
    this.loading = null;
    this.loaded = false;
  }

  /** The archive is picked out of the list of all, so its pages are as large as they may be. */
  get beginning() {
    return this.archived ? "/chats?limit=100&include_archived=true" : `/chats?limit=${PAGE}`;
  }

  get complete() {
    return this.next === null;
  }

  /** @returns {Chat[]} */
  sorted() {
    return [...this.chats.values()].sort((a, b) => b.updated_at.localeCompare(a.updated_at) || b.id.localeCompare(a.id));
  }

  /** The next page; calls while one is under way share it. */
  more() {
    this.loading ??= this.page().finally(() => (this.loading = null));
    return this.loading;
  }

  async page() {
    for (let found = 0; this.next && found < 10; ) {
      const response = await call("GET", this.next);
      /** @type {Chat[]} */
      const page = await response.json();
      this.next = nextPage(response);
      for (const chat of page) {
        if (chat.is_archived !== this.archived) continue;
        this.chats.set(chat.id, chat);
        found += 1;
      }
    }
    this.loaded = true;
    this.emit("change");
  }

  /** Read the first page again, e.g. when events were missed; what is on screen stays until it is here. */
  async refresh() {
    this.next = this.beginning;
    const before = new Set(this.chats.keys());
    const fresh = new ChatList(this.archived);
    await fresh.more();
    const oldest = fresh.complete ? "" : (fresh.sorted().at(-1)?.updated_at ?? "");
    for (const id of before) {
      const chat = this.chats.get(id);
      if (chat && chat.updated_at >= oldest) this.chats.delete(id);
    }
    for (const [id, chat] of fresh.chats) this.chats.set(id, chat);
    this.next = fresh.next;
    this.loaded = true;
    this.emit("change");
  }

  /** @param {Chat} chat */
  put(chat) {
    if (chat.is_archived === this.archived) this.chats.set(chat.id, chat);
    else this.chats.delete(chat.id);
    this.emit("change");
  }

  /** @param {string} id */
  drop(id) {
    if (this.chats.delete(id)) this.emit("change");
  }
}

/** The state of one logged-in person. */
export class Store extends Publisher {
  constructor() {
    super();
    this.user = /** @type {any} */ (null);
    /** @type {{ name: string, default?: boolean }[]} */
    this.models = [];
    this.living = new ChatList(false);
    this.archive = new ChatList(true);
    /** Chats in which an answer is being written. @type {Set<string>} */
    this.busy = new Set();
  }

  /** Raises ApiError or NetworkError. */
  async load() {
    const [user, models] = await Promise.all([get("/users/me"), get("/models")]);
    this.user = user;
    this.models = models;
  }

  get defaultModel() {
    return (this.models.find((model) => model.default) ?? this.models[0])?.name ?? "";
  }

  /** @param {string} id @returns {Chat | undefined} */
  chat(id) {
    return this.living.chats.get(id) ?? this.archive.chats.get(id);
  }

  /** @param {Chat} chat */
  put(chat) {
    this.living.put(chat);
    this.archive.put(chat);
    this.emit("chat", chat);
  }

  /** @param {string} id */
  drop(id) {
    const known = this.chat(id) !== undefined;
    this.living.drop(id);
    this.archive.drop(id);
    this.busy.delete(id);
    if (known) this.emit("gone", id);
  }

  /** Read one chat from the server. Null when it does not exist (any more). @param {string} id @returns {Promise<Chat | null>} */
  async fetch(id) {
    try {
      const chat = await get(`/chats/${id}`);
      this.put(chat);
      return chat;
    } catch (error) {
      if (!(error instanceof ApiError) || ![400, 404, 422].includes(error.status)) throw error;
      this.drop(id);
      return null;
    }
  }

  /** @param {string} id @param {boolean} busy */
  setBusy(id, busy) {
    if (this.busy.has(id) === busy) return;
    if (busy) this.busy.add(id);
    else this.busy.delete(id);
    this.emit("busy", id, busy);
  }

  /** @param {string} id @param {string} title */
  async rename(id, title) {
    this.put(await (await call("PUT", `/chats/${id}`, { body: { title } })).json());
  }

  /** @param {Chat} chat @param {boolean} archived */
  async setArchived(chat, archived) {
    if (archived) await call("DELETE", `/chats/${chat.id}`);
    else await call("POST", `/chats/${chat.id}/restore`);
    this.put({ ...chat, is_archived: archived });
  }

  /** @param {string} id */
  async remove(id) {
    await call("DELETE", `/chats/${id}/permanent`);
    this.drop(id);
  }
}
