/** The page: who is here, which chat is open, and what reaches it from elsewhere. */

import { ApiError, insist } from "./api.js";
import { openAccount } from "./account.js";
import { call, onLeave, remembered, resume } from "./auth.js";
import { Composer } from "./composer.js";
import { h, iconButton, mark, replace } from "./dom.js";
import { Entrance } from "./entrance.js";
import { Feed } from "./feed.js";
import { explain, list, onNewDay, t } from "./i18n.js";
import { toast } from "./overlay.js";
import { Sidebar, titleOf } from "./sidebar.js";
import { Store } from "./store.js";
import { Thread } from "./thread.js";

const root = /** @type {HTMLElement} */ (document.getElementById("app"));

/** Chat and message named by the address: `#/c/<chat>/<message>`. */
function place() {
  const match = /^#\/c\/([\w-]+)(?:\/([\w-]+))?$/.exec(location.hash);
  return { chatId: match?.[1] ?? "", messageId: match?.[2] ?? "" };
}

class App {
  constructor() {
    this.store = new Store();
    this.sidebar = new Sidebar(this.store);
    this.thread = new Thread(this.store);
    this.composer = new Composer(this.store);
    this.feed = /** @type {Feed | null} */ (null);
    this.opened = /** @type {string | null} */ (null);
    /** Chats to be read again. @type {Set<string>} */
    this.waiting = new Set();
    this.refreshTimer = 0;
    this.narrow = matchMedia("(max-width: 859px)");
    this.build();
    this.connect();
  }

  build() {
    this.title = h("h1.chat-heading", { dir: "auto" });
    this.actions = iconButton("more", t("chatActions"), { "aria-haspopup": "menu", "aria-expanded": "false" });
    this.actions.addEventListener("click", () => this.opened && this.sidebar.openMenu(this.actions, this.opened));
    this.toggle = iconButton("menu", t("openSidebar"), { "aria-controls": "sidebar", onclick: () => this.showSidebar() });
    this.network = h("p.network", { role: "status", hidden: navigator.onLine }, t("offline"));
    this.welcome = h("div.welcome", { hidden: true });
    this.problem = h("div.problem", { role: "alert", hidden: true });
    this.archivedBar = h("div.archived-bar", { hidden: true });
    const header = h("header.topbar", {}, this.toggle, this.title, this.actions);
    this.main = h("main.main", { id: "main" }, header, this.network, this.problem, this.welcome, this.thread.element, this.archivedBar, this.composer.element);
    this.veil = h("div.veil", { onclick: () => this.closeDrawer() });
    this.element = h("div.shell", {}, h("a.skip", { href: "#message", onclick: (/** @type {Event} */ event) => this.skip(event) }, t("skip")), this.sidebar.element, this.veil, this.main);
  }

  /** @param {Event} event */
  skip(event) {
    event.preventDefault(); // the part after # names the chat
    this.composer.focus();
  }

  connect() {
    this.composer.on("send", (text, model) => void this.send(text, model));
    this.composer.on("editLast", () => this.thread.editLast());
    this.thread.model = () => this.composer.model;
    this.composer.on("stop", () => void this.stop());
    this.thread.on("answering", (answering) => this.composer.setAnswering(answering));
    this.thread.on("trouble", (text) => toast(text));
    this.thread.on("refused", (error, text) => this.refused(error, text));
    this.composer.on("model", (model) => void this.chooseModel(model));
    this.sidebar.on("close", () => this.closeDrawer());
    this.sidebar.on("collapse", () => this.collapse());
    this.narrow.addEventListener("change", () => this.closeDrawer());
    this.sidebar.on("account", () => void this.account());
    this.store.on("chat", (chat) => chat.id === this.opened && this.paintChat());
    this.store.on("gone", (id) => id === this.opened && (location.hash = "#/"));
    onNewDay(() => {
      this.sidebar.paint();
      for (const view of this.thread.views.values()) view.showTime();
    });
    addEventListener("hashchange", () => void this.go());
    addEventListener("online", () => (this.network.hidden = true));
    addEventListener("offline", () => (this.network.hidden = false));
    addEventListener("keydown", (event) => this.key(event));
  }

  /** Somebody is logged in. */
  async start() {
    replace(root, splash(t("working")));
    await insist(() => this.store.load(), () => replace(root, splash(t("errorNetwork"))));
    replace(root, this.element);
    this.feed = new Feed({ onEvent: (event) => this.heard(event), onMissed: () => void this.missed() });
    const list = this.sidebar.load().catch((error) => toast(explain(error)));
    await Promise.all([list, this.go()]);
  }

  // ── where we are ─────────────────────────────────────────────────────────────────────────────────────────────────

  /** Show what the address names. */
  async go() {
    const { chatId, messageId } = place();
    if (this.opened !== chatId) await this.open(chatId);
    if (messageId && this.opened === chatId) await this.thread.reveal(messageId);
  }

  /** @param {string} chatId empty: a new chat */
  async open(chatId) {
    this.opened = chatId;
    this.sidebar.setCurrent(chatId);
    this.problem.hidden = true;
    this.thread.clear();
    this.composer.setAnswering(false);
    this.composer.setBusy(false);
    this.composer.open(chatId, this.store.chat(chatId)?.model_used ?? "");
    this.paintChat();
    if (!chatId) return this.focusComposer();
    this.main.setAttribute("aria-busy", "true");
    try {
      const [chat] = await Promise.all([this.store.chat(chatId) ?? this.store.fetch(chatId), this.thread.open(chatId)]);
      if (this.opened !== chatId) return;
      if (chat) this.composer.fillModels(chat.model_used);
      this.paintChat();
      this.focusComposer();
    } catch (error) {
      if (this.opened === chatId) this.fail(error, chatId);
    } finally {
      this.main.removeAttribute("aria-busy");
    }
  }

  /** A keyboard should not spring up on a phone because a chat was opened. */
  focusComposer() {
    if (matchMedia("(hover: hover)").matches && !document.querySelector("dialog[open]")) this.composer.focus();
  }

  /** @param {unknown} error @param {string} chatId */
  fail(error, chatId) {
    const missing = error instanceof ApiError && [400, 404, 422].includes(error.status);
    const again = () => {
      this.opened = null;
      void this.go();
    };
    replace(
      this.problem,
      h("p", {}, missing ? t("errorNotFound") : explain(error)),
      missing
        ? h("a.button", { href: "#/" }, t("startAgain"))
        : h("button.button", { type: "button", onclick: again }, t("again")),
    );
    this.problem.hidden = false;
    this.composer.element.hidden = missing;
    if (missing) this.store.drop(chatId);
  }

  paintChat() {
    const chat = this.opened ? this.store.chat(this.opened) : null;
    const title = chat ? titleOf(chat) : "";
    const archived = chat?.is_archived ?? false;
    this.title.textContent = title || (this.opened ? "" : t("newChat"));
    this.element.classList.toggle("fresh", !this.opened);
    this.actions.hidden = !chat;
    this.composer.element.hidden = archived;
    this.composer.grow();
    this.thread.list.classList.toggle("locked", archived);
    this.archivedBar.hidden = !archived;
    if (chat && archived) {
      const restore = () => void this.sidebar.attempt(() => this.sidebar.setArchived(chat, false));
      replace(this.archivedBar, h("span", {}, t("archivedNote")), h("button.button", { type: "button", onclick: restore }, t("restore")));
    }
    document.title = title ? `${title} · ${t("appName")}` : t("appName");
    this.paintWelcome();
  }

  paintWelcome() {
    this.welcome.hidden = Boolean(this.opened);
    this.thread.element.hidden = !this.opened;
    if (this.opened) return;
    // The built-in guide answers from the product's documentation and nothing else.
    const topics = list(this.store.defaultModel === "guide" ? "guideIdeas" : "ideas");
    const ideas = topics.map((idea) => h("button.idea", { type: "button", onclick: () => this.composer.put(idea) }, idea));
    replace(
      this.welcome,
      mark(),
      h("h2.greeting", { dir: "auto" }, t("greeting")),
      h("div.ideas", {}, ideas),
    );
  }

  /** A drawer over the talk where there is little room, else a column beside it. @param {HTMLElement} focus */
  showSidebar(focus = this.sidebar.closer) {
    this.element.classList.remove("side-closed");
    if (this.narrow.matches) {
      this.element.classList.add("side-open");
      this.main.inert = true;
    }
    focus.focus({ preventScroll: true });
  }

  closeDrawer() {
    const open = this.element.classList.contains("side-open");
    this.element.classList.remove("side-open");
    this.main.inert = false;
    if (open && this.sidebar.element.contains(document.activeElement)) this.toggle.focus();
  }

  collapse() {
    if (this.narrow.matches) return this.closeDrawer();
    this.element.classList.add("side-closed");
    this.toggle.focus();
  }

  // ── talking ──────────────────────────────────────────────────────────────────────────────────────────────────────

  /** @param {string} text @param {string} model */
  async send(text, model) {
    this.composer.setBusy(true);
    let chatId = this.opened;
    try {
      if (!chatId) chatId = await this.begin(text, model);
      if (this.opened === chatId) await this.thread.send(text, model);
    } catch (error) {
      this.refused(error, text, chatId);
    } finally {
      if (this.opened === chatId) this.composer.setBusy(false); // another chat is none of its business
    }
  }

  /** A chat is made with its first message, which stays a draft until there is one. @param {string} text @param {string} model */
  async begin(text, model) {
    this.composer.keepDraft(text, "");
    const chat = await (await call("POST", "/chats", { body: model ? { model_used: model } : {} })).json();
    this.composer.keepDraft("", "");
    if (this.opened) this.composer.open(chat.id, model); // somebody looked elsewhere meanwhile
    this.store.put(chat);
    this.opened = chat.id;
    history.pushState(null, "", `#/c/${chat.id}`);
    this.sidebar.setCurrent(chat.id);
    this.thread.clear();
    this.thread.chatId = chat.id;
    this.composer.chatId = chat.id;
    this.paintChat();
    return chat.id;
  }

  /** The choice belongs to the chat, so that other devices make the same one. @param {string} model */
  async chooseModel(model) {
    const { opened } = this;
    if (!opened) return;
    try {
      this.store.put(await (await call("PUT", `/chats/${opened}`, { body: { model_used: model } })).json());
    } catch (error) {
      toast(explain(error));
    }
  }

  /** The words go back to where they were written. @param {unknown} error @param {string} text @param {string | null} chatId */
  refused(error, text, chatId = this.opened) {
    if (this.opened !== chatId) {
      this.composer.keepDraft(text, chatId ?? "");
      return toast(explain(error));
    }
    if (!this.composer.text) this.composer.put(text);
    this.composer.say(explain(error));
    if (error instanceof ApiError && error.code === "chat_busy") void this.thread.sync();
  }

  async stop() {
    try {
      await this.thread.stop();
    } catch (error) {
      this.composer.setAnswering(true);
      toast(explain(error));
    }
  }

  async account() {
    await openAccount(this.store, () => (this.sidebar.paintPerson(), this.paintWelcome()));
  }

  // ── what comes from elsewhere ────────────────────────────────────────────────────────────────────────────────────

  /** @param {any} event */
  heard(event) {
    const id = event.chat_id ?? event.session_id ?? "";
    switch (event.type) {
      case "chat.created":
      case "chat.updated":
      case "chat.archived":
        if (event.chat) this.store.put(event.chat);
        else this.refreshChat(id);
        // Another branch of the chat may be the current one now.
        if (event.leaf_id && id === this.opened) void this.thread.sync().catch(explain);
        break;
      case "chat.deleted":
        this.store.drop(id);
        break;
      case "generation.started":
        this.store.setBusy(id, true);
        this.refreshChat(id);
        if (id === this.opened && !this.thread.knows(event)) void this.thread.sync().catch(explain);
        break;
      case "generation.ended":
        this.store.setBusy(id, false);
        this.refreshChat(id);
        if (id === this.opened && !this.thread.knows(event)) void this.thread.sync().catch(explain);
        break;
      case "session.revoked":
        // Asking is the surest way to learn whether it was this one; a refusal leads to the log-in page.
        void call("GET", "/users/me").catch(() => undefined);
        break;
    }
  }

  /** Several events about one chat in a row cost one request. @param {string} id */
  refreshChat(id) {
    this.waiting.add(id);
    this.refreshTimer ||= setTimeout(() => {
      this.refreshTimer = 0;
      const ids = [...this.waiting];
      this.waiting.clear();
      for (const each of ids) if (each) void this.store.fetch(each).catch(explain);
    }, 80);
  }

  /** Events were lost: read everything that is on screen again. */
  async missed() {
    try {
      await this.store.living.refresh();
      await this.thread.sync();
    } catch (error) {
      explain(error);
    }
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    if (!root.contains(this.element) || document.querySelector("dialog[open], [popover]:popover-open")) return;
    const target = /** @type {HTMLElement} */ (event.target);
    const writing = /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName);
    if (event.key === "Escape") this.escape();
    else if (event.altKey && event.code === "KeyN") location.hash = "#/";
    else if (writing || event.ctrlKey || event.metaKey || event.altKey) return;
    else if (event.key === "/") this.showSearch();
    else if (event.key === "?") void openAccount(this.store, () => this.sidebar.paintPerson(), "keyboard");
    else return;
    event.preventDefault();
  }

  escape() {
    if (this.element.classList.contains("side-open")) this.closeDrawer();
    else if (this.thread.answer) void this.stop();
  }

  showSearch() {
    this.showSidebar(this.sidebar.field);
    this.sidebar.field.select();
  }
}

/** @param {string} text */
function splash(text) {
  return h("div.splash", { role: "status" }, mark(), h("p", {}, text));
}

/** @param {string} [note] */
function showEntrance(note) {
  const entrance = new Entrance(() => void new App().start());
  replace(root, entrance.element);
  entrance.show("login", note);
}

/** The page begins anew, so that nothing of the person who left stays in its memory. */
onLeave((reason) => {
  sessionStorage.setItem("left", reason);
  if (reason === "logged-out") history.replaceState(null, "", "/");
  location.reload();
});

const left = sessionStorage.getItem("left");
sessionStorage.removeItem("left");

if (remembered()) {
  replace(root, splash(t("working")));
  const known = await insist(resume, () => replace(root, splash(t("errorNetwork"))));
  if (known) await new App().start();
  else showEntrance(t("sessionEnded"));
} else showEntrance(left ? t(left === "expired" ? "sessionEnded" : "loggedOut") : "");
