/** The list of chats with its search, its archive, and the door to the account. */

import { nextPage } from "./api.js";
import { call } from "./auth.js";
import { h, icon, iconButton, mark, replace } from "./dom.js";
import { explain, period, t, when } from "./i18n.js";
import { ask, confirm, menu, toast } from "./overlay.js";
import { Publisher } from "./store.js";

/** @typedef {import("./store.js").Chat} Chat */

const TYPING = 220; // milliseconds without a key before a search is sent

/** The title as people see it; the server's own word for "none yet" is translated. @param {Chat} chat */
export function titleOf(chat) {
  return chat.title === "New Chat" ? t("untitled") : chat.title;
}

export class Sidebar extends Publisher {
  /** @param {import("./store.js").Store} store */
  constructor(store) {
    super();
    this.store = store;
    this.archive = false;
    this.current = "";
    /** @type {Map<string, HTMLElement>} */
    this.rows = new Map();
    this.searchRun = 0;
    this.hitCount = 0;
    /** Where the hits go on; null: all are shown. @type {string | null} */
    this.moreHits = null;
    this.hitsUnderWay = "";
    this.timer = 0;
    this.build();
    for (const list of [store.living, store.archive]) list.on("change", () => this.paint());
    store.on("busy", (id) => this.paintRow(id));
  }

  get shown() {
    return this.archive ? this.store.archive : this.store.living;
  }

  build() {
    this.field = h("input.search-field", {
      type: "search",
      id: "search",
      placeholder: t("searchHint"),
      "aria-label": t("search"),
      autocomplete: "off",
      maxlength: "200",
      oninput: () => this.typed(),
      onkeydown: (/** @type {KeyboardEvent} */ event) => this.searchKey(event),
    });
    this.clearButton = iconButton("close", t("clearSearch"), { hidden: true, onclick: () => this.clearSearch() });
    this.closer = iconButton("left", t("closeSidebar"), { onclick: () => this.emit("collapse") });
    this.fresh = h("a.button.new-chat", { href: "#/", onclick: () => this.emit("close") }, icon("plus"), t("newChat"));
    this.status = h("p.visually-hidden", { role: "status" });
    this.archiveTitle = h("h2.list-title", { hidden: true }, t("archived"));
    this.list = h("div.chat-list");
    this.more = h("p.list-edge", { hidden: true }, t("loadMore"));
    this.results = h("div.results", { hidden: true });
    this.scroller = h("div.side-scroll", {}, this.archiveTitle, this.list, this.results, this.more);
    this.archiveButton = h("button.side-link", { type: "button", onclick: () => this.showArchive(!this.archive) });
    this.person = h("button.side-link.person", { type: "button", onclick: () => this.emit("account") });
    this.element = h(
      "nav.sidebar",
      { "aria-label": t("chats"), id: "sidebar" },
      h(
        "div.side-head",
        {},
        h("a.brand", { href: "#/" }, mark(), h("span", {}, t("appName"))),
        this.closer,
      ),
      this.fresh,
      h("div.search", { role: "search" }, icon("search"), this.field, this.clearButton, h("kbd", { "aria-hidden": "true" }, "/")),
      this.status,
      this.scroller,
      h("div.side-foot", {}, this.archiveButton, this.person),
    );
    const near = (/** @type {IntersectionObserverEntry[]} */ entries) => entries.some((entry) => entry.isIntersecting);
    this.edge = new IntersectionObserver((entries) => near(entries) && void (this.results.hidden ? this.loadMore() : this.loadHits()), {
      root: this.scroller,
      rootMargin: "600px 0px",
    });
  }

  /** First filling. Raises ApiError or NetworkError. */
  async load() {
    this.paintPerson();
    this.showArchive(false);
    if (!this.shown.loaded) await this.shown.more();
  }

  paintPerson() {
    const name = this.store.user?.username ?? "";
    replace(this.person, h("span.visually-hidden", {}, `${t("account")}:`), h("span.avatar", { "aria-hidden": "true" }, [...name][0]?.toUpperCase() ?? "?"), h("span.person-name", { dir: "auto" }, name));
  }

  /** @param {boolean} archive */
  showArchive(archive) {
    this.archive = archive;
    this.archiveTitle.hidden = !archive;
    this.scroller.scrollTop = 0;
    replace(this.archiveButton, icon(archive ? "left" : "archive"), h("span", {}, archive ? t("backToChats") : t("showArchive")));
    this.paint();
    if (!this.shown.loaded) void this.loadMore();
  }

  async loadMore() {
    if (this.shown.complete || this.shown.loading) return;
    try {
      await this.shown.more();
    } catch (error) {
      toast(explain(error), { label: t("again"), run: () => void this.loadMore() });
    }
  }

  /** @param {string} id */
  setCurrent(id) {
    const before = this.current;
    this.current = id;
    this.paintRow(before);
    this.paintRow(id);
  }

  // ── the list ─────────────────────────────────────────────────────────────────────────────────────────────────────

  paint() {
    const chats = this.shown.sorted();
    /** @type {Node[]} */
    const wanted = [];
    let heading = "";
    /** @type {Map<string, HTMLElement>} */
    const rows = new Map();
    for (const chat of chats) {
      const name = period(chat.updated_at);
      if (name !== heading) wanted.push(this.heading((heading = name)));
      const row = this.rows.get(chat.id) ?? this.row(chat);
      rows.set(chat.id, row);
      wanted.push(row);
    }
    this.rows = rows;
    for (const chat of chats) this.paintRow(chat.id);
    if (!chats.length && this.shown.loaded) wanted.push(h("p.list-empty", {}, t(this.archive ? "noArchived" : "noChats")));
    arrange(this.list, wanted);
    this.paintEdge();
  }

  /** What stands below the list, or below the hits of a search. */
  paintEdge() {
    this.more.hidden = this.results.hidden ? this.shown.complete : this.moreHits === null;
    // An observer speaks only of changes: on a tall screen the end is still near after a page has come.
    this.edge?.unobserve(this.more);
    this.edge?.observe(this.more);
  }

  /** @param {string} name */
  heading(name) {
    const present = [...this.list.children].find((child) => child.tagName === "H3" && child.textContent === name);
    return present ?? h("h3.list-heading", {}, name);
  }

  /** @param {Chat} chat */
  row(chat) {
    const link = h("a.chat-link", { href: `#/c/${chat.id}`, onclick: () => this.emit("close") }, h("span.chat-title", { dir: "auto" }), h("span.chat-busy", { hidden: true }));
    const more = iconButton("more", "", { "aria-haspopup": "menu", "aria-expanded": "false" });
    more.addEventListener("click", () => this.openMenu(more, chat.id));
    return h("div.chat-row", { dataset: { id: chat.id } }, link, more);
  }

  /** @param {string} id */
  paintRow(id) {
    const row = this.rows.get(id);
    const chat = this.store.chat(id);
    if (!row || !chat) return;
    const title = titleOf(chat);
    const [link, more] = row.children;
    const [text, busy] = link.children;
    if (text.textContent !== title) text.textContent = title;
    link.setAttribute("title", title);
    if (id === this.current) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
    const writing = this.store.busy.has(id);
    busy.toggleAttribute("hidden", !writing);
    replace(busy, writing && h("span.visually-hidden", {}, t("answering")));
    const label = t("chatMenu", { title });
    more.setAttribute("aria-label", label);
    more.setAttribute("title", label);
  }

  /** @param {HTMLElement} anchor @param {string} id */
  openMenu(anchor, id) {
    const chat = this.store.chat(id);
    if (!chat) return;
    menu(anchor, [
      { icon: "pencil", label: t("rename"), run: () => void this.attempt(() => this.rename(id)) },
      chat.is_archived
        ? { icon: "restore", label: t("restore"), run: () => void this.attempt(() => this.setArchived(chat, false)) }
        : { icon: "archive", label: t("archive"), run: () => void this.attempt(() => this.setArchived(chat, true)) },
      { icon: "trash", label: t("remove"), danger: true, run: () => void this.attempt(() => this.remove(chat)) },
    ]);
  }

  /** @param {() => Promise<void>} work */
  async attempt(work) {
    try {
      await work();
    } catch (error) {
      toast(explain(error));
    }
  }

  /** @param {string} id */
  async rename(id) {
    const chat = this.store.chat(id);
    if (!chat) return;
    const title = await ask(t("renameTitle"), t("title"), titleOf(chat), 255);
    if (title && title !== chat.title) await this.store.rename(id, title);
  }

  /** @param {Chat} chat @param {boolean} archived */
  async setArchived(chat, archived) {
    await this.store.setArchived(chat, archived);
    const undo = { label: t("undo"), run: () => void this.attempt(() => this.store.setArchived(chat, !archived)) };
    toast(t(archived ? "archivedToast" : "restoredToast", { title: titleOf(chat) }), undo);
  }

  /** @param {Chat} chat */
  async remove(chat) {
    const title = titleOf(chat);
    if (!(await confirm(t("removeTitle"), t("removeText", { title }), t("remove")))) return;
    await this.store.remove(chat.id);
    toast(t("removedToast", { title }));
  }

  // ── search ───────────────────────────────────────────────────────────────────────────────────────────────────────

  clearSearch() {
    this.field.value = "";
    this.typed();
    this.field.focus();
  }

  typed() {
    this.clearButton.hidden = !this.field.value;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => void this.search(), TYPING);
  }

  async search() {
    const query = this.field.value.trim();
    const run = (this.searchRun += 1);
    if (!query) return this.showResults(null, "");
    try {
      const response = await call("GET", `/search?q=${encodeURIComponent(query)}`);
      const hits = await response.json();
      if (run === this.searchRun) this.showResults(hits, query, nextPage(response));
    } catch (error) {
      if (run === this.searchRun) toast(explain(error));
    }
  }

  /** @param {any[] | null} hits @param {string} query @param {string | null} [next] */
  showResults(hits, query, next = null) {
    this.archiveTitle.hidden = hits !== null || !this.archive;
    this.results.hidden = hits === null;
    this.list.hidden = hits !== null;
    this.scroller.scrollTop = 0;
    this.hitCount = 0;
    replace(this.results, hits && h("h3.list-heading", {}));
    if (hits) this.addHits(hits, query, next);
    else this.moreHits = null;
    this.paintEdge();
  }

  /** @param {any[]} hits @param {string} query @param {string | null} next */
  addHits(hits, query, next) {
    this.moreHits = next;
    this.hitCount += hits.length;
    const count = this.hitCount ? t(next ? "searchCountMore" : "searchCount", { count: this.hitCount }) : t("searchNothing", { query });
    this.status.textContent = count;
    this.results.firstElementChild.textContent = count;
    this.results.append(...hits.map((hit) => this.result(hit)));
  }

  async loadHits() {
    const next = this.moreHits;
    if (next === null || this.hitsUnderWay === next) return;
    this.hitsUnderWay = next;
    try {
      const response = await call("GET", next);
      const hits = await response.json();
      if (this.moreHits !== next) return; // another search is shown by now
      this.addHits(hits, "", nextPage(response));
      this.paintEdge();
    } catch (error) {
      if (this.moreHits === next) toast(explain(error), { label: t("again"), run: () => void this.loadHits() });
    } finally {
      if (this.hitsUnderWay === next) this.hitsUnderWay = "";
    }
  }

  /** @param {any} hit */
  result(hit) {
    const address = hit.message_id ? `#/c/${hit.chat_id}/${hit.message_id}` : `#/c/${hit.chat_id}`;
    return h(
      "a.result",
      { href: address, onclick: () => this.emit("close") },
      h("span.result-title", { dir: "auto" }, hit.message_id ? hit.title : marked(hit.snippet || hit.title)),
      hit.message_id && h("span.result-text", { dir: "auto" }, marked(plain(hit.snippet))),
      h("span.result-time", {}, when(hit.created_at)),
    );
  }

  /** @param {KeyboardEvent} event */
  searchKey(event) {
    if (event.key === "Escape") {
      event.stopPropagation();
      this.clearSearch();
      this.field.blur();
    } else if (event.key === "ArrowDown") {
      event.preventDefault();
      /** @type {HTMLElement | null} */ (this.results.hidden ? this.list.querySelector(".chat-link") : this.results.querySelector(".result"))?.focus();
    } else if (event.key === "Enter") {
      clearTimeout(this.timer);
      void this.search().then(() => this.element.querySelector(".result")?.focus());
    }
  }
}

/** The server marks hits with control characters, which no title can hold. @param {string} snippet */
function marked(snippet) {
  return snippet.split(/(\u0002[^\u0003]*\u0003?)/).map((part) => (part.startsWith("\u0002") ? h("mark", {}, part.replace(/[\u0002\u0003]/g, "")) : part));
}

/** A cutting of Markdown, to be read in three lines: without its fences, rules and emphasis. @param {string} snippet */
function plain(snippet) {
  return snippet
    .replace(/`{1,}|\*\*|~~|(?<=^|\s)(?:#{1,6}|>|[-*+]|\d+\.)(?=\s)/gm, "")
    .replace(/\|(?:\s*:?-+:?\s*\|)*/g, " ")
    .replace(/\s+/g, " ");
}

/** Make the children of `parent` these nodes in this order, moving as few as possible: a moved node loses its focus.
 * @param {Element} parent @param {Node[]} wanted */
function arrange(parent, wanted) {
  const kept = new Set(wanted);
  for (const child of [...parent.children]) if (!kept.has(child)) child.remove();
  let place = parent.firstChild;
  for (const node of wanted) {
    if (node === place) place = place.nextSibling;
    else parent.insertBefore(node, place);
  }
}

