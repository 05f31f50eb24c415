/**
 * Markdown of a model, as DOM. Model text is data: it is cut into tokens and every token becomes an element made by hand.
 * No HTML is ever parsed, so there is nothing to sanitize; a tag that a model writes is shown as the text it is.
 */

import { Marked } from "../vendor/marked/marked.js";
import { copyText, h, icon, replace } from "./dom.js";
import { decodeEntities } from "./entities.js";
import { highlight, languageOf } from "./highlight.js";
import { t } from "./i18n.js";

/** @typedef {any} Token */

const DISPLAY_MATH = /^(?:\$\$([\s\S]+?)\$\$|\\\[([\s\S]+?)\\\])[ \t]*(?:\n|$)/;
const INLINE_MATH = /^(?:\$\$([^\n]+?)\$\$|\\\[([^\n]+?)\\\]|\\\(([^\n]+?)\\\)|\$(?![\s\d$])([^\n$]*?[^\s$\\])\$(?![\w$]))/;
const SINGLE_MATH = /^\$(\d[^\n$]*[\\^_=+*/<>{}][^\n$]*?)\$(?![\w$])/; // `$2^n$`, but not "$5 and $10"
const DATA_IMAGE = /^data:image\/(?:png|jpeg|gif|webp);base64,[a-z0-9+/=]+$/i;
const PLAIN_TAGS = new Set(["sub", "sup", "kbd", "u", "mark", "small"]);
const DEEPEST = 60;

const lexing = new Marked({ gfm: true, breaks: true });
lexing.use({
  extensions: [
    {
      name: "math",
      level: "block",
      start: (/** @type {string} */ source) => source.match(/\n(?:\$\$|\\\[)/)?.index,
      tokenizer: (/** @type {string} */ source) => {
        const match = DISPLAY_MATH.exec(source);
        return match ? { type: "math", raw: match[0], text: (match[1] ?? match[2]).trim(), display: true } : undefined;
      },
    },
    {
      name: "inlineMath",
      level: "inline",
      start: (/** @type {string} */ source) => source.match(/\$|\\[([]/)?.index,
      tokenizer: (/** @type {string} */ source) => {
        const match = INLINE_MATH.exec(source) ?? SINGLE_MATH.exec(source);
        if (!match) return undefined;
        const text = match.slice(1).find((part) => part !== undefined) ?? "";
        return { type: "inlineMath", raw: match[0], text: text.trim() };
      },
    },
  ],
});

/** @param {string} text @returns {Token[] & { links: Record<string, unknown> }} */
function lex(text) {
  return /** @type {any} */ (lexing.lexer(text));
}

/** The address of a link, or null when it is not one that a person may be sent to. @param {string} href */
export function safeUrl(href) {
  try {
    const url = new URL(href.trim());
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url : null;
  } catch {
    return null; // relative addresses included: model text has no business inside this page
  }
}

/** @param {Token[]} tokens @param {number} depth @returns {Node[]} */
function inline(tokens, depth) {
  /** @type {Node[]} */
  const nodes = [];
  for (let index = 0; index < tokens.length; index += 1) {
    const token = tokens[index];
    const end = token.type === "html" ? closing(tokens, index) : 0;
    if (end) {
      nodes.push(h(tagName(token.raw), {}, inline(tokens.slice(index + 1, end), depth + 1)));
      index = end;
    } else nodes.push(inlineNode(token, depth));
  }
  return nodes;
}

/** `<sub>` and its like, without attributes, are the only tags with a meaning here. @param {string} raw */
function tagName(raw) {
  return /^<([a-z]+)>$/i.exec(raw)?.[1].toLowerCase() ?? "";
}

/** @param {Token[]} tokens @param {number} open index of an opening tag @returns {number} index of its end, or 0 */
function closing(tokens, open) {
  const name = tagName(tokens[open].raw);
  if (!PLAIN_TAGS.has(name)) return 0;
  const found = tokens.findIndex((token, index) => index > open && token.type === "html" && token.raw === `</${name}>`);
  return Math.max(found, 0);
}

/** @param {Token} token @param {number} depth @returns {Node} */
function inlineNode(token, depth) {
  const children = () => (depth > DEEPEST ? [token.raw] : inline(token.tokens ?? [], depth + 1));
  switch (token.type) {
    case "strong":
    case "em":
    case "del":
      return h(token.type, {}, children());
    case "codespan":
      return h("code", {}, token.text);
    case "br":
      return h("br");
    case "inlineMath":
      return h("span.math", { title: t("math") }, token.text);
    case "link":
      return link(token, children());
    case "image":
      return image(token);
    case "html":
      return /^<br\s*\/?>$/i.test(token.raw) ? h("br") : document.createTextNode(token.raw);
    case "escape":
      return document.createTextNode(token.text);
    case "text":
      if (token.tokens) return h("span", {}, children());
      return document.createTextNode(decodeEntities(token.text));
    default:
      return document.createTextNode(token.raw ?? "");
  }
}

/** @param {Token} token @param {any[]} children */
function link(token, children) {
  const url = safeUrl(token.href);
  if (!url) return h("span", {}, children);
  const anchor = h("a", { href: url.href, target: "_blank", rel: "noopener noreferrer nofollow ugc", title: url.href });
  anchor.append(...children.map((child) => (typeof child === "string" ? document.createTextNode(child) : child)));
  // A text that looks like one address and leads to another is shown with where it leads.
  const shown = safeUrl(anchor.textContent?.replace(/^www\./, "https://www.") ?? "");
  if (shown && shown.protocol !== "mailto:" && shown.host !== url.host) anchor.append(` (${url.host || url.href})`);
  return anchor;
}

/** A remote image would tell a stranger that it was looked at; it is shown as what it is, and opens on request.
 * @param {Token} token */
function image(token) {
  const description = decodeEntities(token.text ?? "");
  if (DATA_IMAGE.test(token.href)) return h("img.inline-image", { src: token.href, alt: description });
  const url = safeUrl(token.href);
  if (!url || url.protocol === "mailto:") return h("span", {}, description || token.raw);
  return h(
    "a.remote-image",
    { href: url.href, target: "_blank", rel: "noopener noreferrer nofollow ugc", title: url.href },
    icon("image"),
    h("span.remote-image-text", {}, h("b", {}, description || t("image")), h("span", {}, `${t("remoteImage")} · ${url.host}`)),
    h("span.remote-image-open", {}, t("openImage"), icon("open")),
  );
}

/** @param {Token} token @param {number} depth @returns {HTMLElement | null} */
function block(token, depth) {
  const inside = () => (depth > DEEPEST ? [token.raw] : blocks(token.tokens ?? [], depth + 1));
  switch (token.type) {
    case "heading":
      return h(`h${Math.min(token.depth + 2, 6)}.md-h${token.depth}`, {}, inline(token.tokens, depth));
    case "paragraph":
      return h("p", { dir: "auto" }, inline(token.tokens, depth));
    case "text":
      return h("span", {}, token.tokens ? inline(token.tokens, depth) : decodeEntities(token.text));
    case "code":
      return codeBlock(token);
    case "blockquote":
      return h("blockquote", { dir: "auto" }, inside());
    case "list":
      return listBlock(token, depth);
    case "table":
      return table(token, depth);
    case "hr":
      return h("hr");
    case "math":
      return h("div.math.math-display", { role: "math", "aria-label": token.text, tabindex: "0" }, token.text);
    case "html":
      return /^\s*<br\s*\/?>\s*$/i.test(token.raw) ? h("br") : h("p.raw", { dir: "auto" }, token.raw.trimEnd());
    case "space":
    case "def":
      return null;
    default:
      return h("p", { dir: "auto" }, token.raw);
  }
}

/** @param {Token[]} tokens @param {number} depth */
function blocks(tokens, depth) {
  return tokens.map((token) => block(token, depth)).filter((node) => node !== null);
}

/** @param {Token} token @param {number} depth */
function listBlock(token, depth) {
  const attributes = { dir: "auto", start: token.ordered && token.start !== 1 ? token.start : null };
  return h(token.ordered ? "ol" : "ul", attributes, token.items.map((/** @type {Token} */ item) => listItem(item, depth)));
}

/** @param {Token} item @param {number} depth */
function listItem(item, depth) {
  const children = depth > DEEPEST ? [item.raw] : blocks(item.tokens.filter(notCheckbox), depth + 1);
  if (!item.task) return h("li", {}, children);
  const label = t(item.checked ? "taskDone" : "taskOpen");
  const box = h(`span.task${item.checked ? ".task-done" : ""}`, { role: "img", "aria-label": label }, item.checked ? icon("check") : "");
  return h("li.task-item", {}, box, children);
}

/** @param {Token} token */
function notCheckbox(token) {
  if (token.tokens) token.tokens = token.tokens.filter((/** @type {Token} */ inner) => inner.type !== "checkbox");
  return token.type !== "checkbox";
}

/** @param {Token} token @param {number} depth */
function table(token, depth) {
  const cell = (/** @type {string} */ name) => (/** @type {Token} */ entry, /** @type {number} */ column) =>
    h(token.align[column] ? `${name}.align-${token.align[column]}` : name, { dir: "auto" }, inline(entry.tokens, depth));
  const head = h("thead", {}, h("tr", {}, token.header.map(cell("th"))));
  const body = h("tbody", {}, token.rows.map((/** @type {Token[]} */ row) => h("tr", {}, row.map(cell("td")))));
  return h("div.table", { role: "region", "aria-label": t("table"), tabindex: "0" }, h("table", {}, head, body));
}

/** @param {Token} token */
function codeBlock(token) {
  const tag = decodeEntities(token.lang ?? "").trim().split(/\s/)[0].slice(0, 24);
  const code = h("code", {}, token.text);
  const copy = h("button.copy-code", { type: "button", "aria-label": t("copyCode") }, icon("copy"), h("span", {}, t("copy")));
  copy.addEventListener("click", () => void copied(copy, code.textContent ?? ""));
  const node = h(
    "div.code",
    {},
    h("div.code-bar", {}, h("span.code-name", {}, tag), copy),
    h("pre", { tabindex: "0", role: "region", "aria-label": `${t("code")} ${tag}`.trim() }, code),
  );
  const language = languageOf(tag);
  if (language) queueMicrotask(() => highlight(code, language)); // after the caller has put the block into the page
  return node;
}

/** Copy, and say so on the button for a moment. @param {HTMLElement} button @param {string} text */
export async function copied(button, text) {
  if (button.dataset.told) return;
  button.dataset.told = "yes";
  const before = [...button.childNodes];
  const words = button.classList.contains("icon-button") ? [] : [h("span", {}, t("copied"))];
  try {
    await copyText(text);
    replace(button, icon("check"), words);
  } catch {
    replace(button, icon("close"), words.length ? h("span", {}, t("copyFailed")) : []);
  }
  setTimeout(() => {
    delete button.dataset.told;
    button.replaceChildren(...before);
  }, 1_600);
}

/**
 * @typedef {{ raw: string, token: Token, node: HTMLElement | null }} Block
 */

/**
 * A growing answer. Blocks that cannot change any more are never touched again, so a selection survives, and the work per
 * frame depends on the length of the last block, not on that of the answer.
 */
export class MarkdownView {
  /** @param {HTMLElement} root */
  constructor(root) {
    this.root = root;
    this.text = "";
    this.settled = 0; // characters before this belong to blocks that are finished
    /** @type {Block[]} */
    this.blocks = [];
    this.settledBlocks = 0;
  }

  /** Show `text`. @param {string} text @param {boolean} [final] the last call: references to later links are resolved */
  show(text, final = false) {
    text = text.replace(/\r\n?/g, "\n"); // as the lexer does, so that lengths agree
    if (!text.startsWith(this.text)) this.clear();
    this.text = text;
    try {
      this.update(final);
    } catch (error) {
      if (!(error instanceof RangeError)) throw error; // nested beyond any use: then as plain text
      this.clear();
      this.root.replaceChildren(h("p.raw", {}, text));
    }
  }

  clear() {
    this.root.replaceChildren();
    this.text = "";
    this.settled = 0;
    this.settledBlocks = 0;
    this.blocks = [];
  }

  /** @param {boolean} final */
  update(final) {
    const from = final ? 0 : this.settled;
    const keep = final ? 0 : this.settledBlocks;
    const tokens = lex(this.text.slice(from));
    const linked = final && Object.keys(tokens.links ?? {}).length > 0;
    tokens.forEach((token, index) => this.place(keep + index, token, linked));
    for (const extra of this.blocks.splice(keep + tokens.length)) extra.node?.remove();
    if (!final) this.settle(tokens, from);
  }

  /** @param {number} index @param {Token} token @param {boolean} anew */
  place(index, token, anew) {
    const old = this.blocks[index];
    if (old && !anew && old.raw === token.raw && old.token.type === token.type) return;
    if (old && !anew && this.extend(old, token)) return;
    const node = block(token, 0);
    if (old?.node && node) old.node.replaceWith(node);
    else if (node) this.root.insertBefore(node, this.nodeAfter(index));
    else old?.node?.remove();
    this.blocks[index] = { raw: token.raw, token, node };
  }

  /** @param {number} index */
  nodeAfter(index) {
    for (let next = index + 1; next < this.blocks.length; next += 1) {
      const node = this.blocks[next]?.node;
      if (node?.isConnected) return node;
    }
    return null;
  }

  /** Let a block grow in place: code and lists get long, and are read while they do. @param {Block} old @param {Token} token */
  extend(old, token) {
    if (!old.node || old.token.type !== token.type) return false;
    if (token.type === "code" && old.token.lang === token.lang && token.text.startsWith(old.token.text)) {
      const code = /** @type {HTMLElement} */ (old.node.querySelector("code"));
      code.textContent = token.text;
      const language = languageOf(token.lang ?? "");
      if (language) highlight(code, language);
    } else if (token.type === "list" && old.token.ordered === token.ordered && old.token.loose === token.loose) {
      this.extendList(old, token);
    } else return false;
    old.raw = token.raw;
    old.token = token;
    return true;
  }

  /** @param {Block} old @param {Token} token */
  extendList(old, token) {
    const list = /** @type {HTMLElement} */ (old.node);
    token.items.forEach((/** @type {Token} */ item, /** @type {number} */ index) => {
      const before = old.token.items[index];
      if (before?.raw === item.raw) return;
      const node = listItem(item, 0);
      if (list.children[index]) list.children[index].replaceWith(node);
      else list.append(node);
    });
    while (list.children.length > token.items.length) list.lastElementChild?.remove();
  }

  /** All blocks but the last can only be changed by text that is already here. @param {Token[]} tokens @param {number} from */
  settle(tokens, from) {
    let last = tokens.length - 1;
    while (last > 0 && tokens[last].type === "space") last -= 1;
    let offset = from;
    for (let index = 0; index < last; index += 1) offset += tokens[index].raw.length;
    this.settled = offset;
    this.settledBlocks += Math.max(last, 0);
  }
}
