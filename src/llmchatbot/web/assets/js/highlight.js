/** Colours for code. The highlighter and each language are fetched when the first block that needs them appears. */

const LANGUAGES = new Set([
  ..."bash c cpp csharp css diff dockerfile go ini java javascript json kotlin".split(" "),
  ..."markdown php python ruby rust sql swift typescript xml yaml".split(" "),
]);
/** @type {Record<string, string>} */
const ALIASES = {
  sh: "bash", shell: "bash", zsh: "bash", console: "bash", "c++": "cpp", h: "c", hpp: "cpp", cs: "csharp", "c#": "csharp",
  docker: "dockerfile", golang: "go", toml: "ini", js: "javascript", jsx: "javascript", mjs: "javascript", kt: "kotlin",
  md: "markdown", py: "python", python3: "python", rb: "ruby", rs: "rust", psql: "sql", postgresql: "sql", ts: "typescript",
  tsx: "typescript", html: "xml", svg: "xml", yml: "yaml", patch: "diff", jsonc: "json",
};
const LONGEST = 60_000; // characters; a longer block stays plain rather than making the page stutter

/** Builds DOM where highlight.js would build HTML. Its own contract for emitters: text and scopes, nested. */
class DomEmitter {
  constructor() {
    this.root = document.createDocumentFragment();
    /** @type {(DocumentFragment | Element)[]} */
    this.stack = [this.root];
  }

  get top() {
    return this.stack[this.stack.length - 1];
  }

  /** @param {string} text */
  addText(text) {
    if (text) this.top.append(text);
  }

  /** @param {string} scope */
  startScope(scope) {
    const span = document.createElement("span");
    for (const part of scope.split(".").slice(0, 1)) span.classList.add(`hl-${part}`);
    this.top.append(span);
    this.stack.push(span);
  }

  endScope() {
    if (this.stack.length > 1) this.stack.pop();
  }

  /** @param {DomEmitter} other @param {string} _name */
  __addSublanguage(other, _name) {
    this.top.append(other.root);
  }

  openNode(/** @type {string} */ scope) {
    this.startScope(scope);
  }

  closeNode() {
    this.endScope();
  }

  finalize() {
    this.stack = [this.root];
  }

  toHTML() {
    return ""; // never used: the page has no place where HTML could go
  }
}

/** @type {Promise<any> | null} */
let loading = null;
/** @type {any} */
let engine = null;

async function load() {
  loading ??= import("../vendor/highlight/core.js").then(({ default: core }) => {
    core.configure({ __emitter: DomEmitter });
    engine = core;
  });
  await loading;
}

/** @param {string} tag the word after the fence @returns {string | null} */
export function languageOf(tag) {
  const name = tag.trim().toLowerCase().split(/[\s,{:]/)[0];
  const known = ALIASES[name] ?? name;
  return LANGUAGES.has(known) ? known : null;
}

/** Ready to colour without waiting? @param {string} name */
function ready(name) {
  return engine !== null && engine.getLanguage(name) !== undefined;
}

/** @param {string} name */
async function prepare(name) {
  await load();
  if (ready(name)) return;
  const grammar = await import(`../vendor/highlight/languages/${name}.js`);
  engine.registerLanguage(name, grammar.default);
}

/** @param {HTMLElement} element @param {string} name */
function paint(element, name) {
  const text = element.textContent ?? "";
  if (text.length > LONGEST) return;
  const result = engine.highlight(text, { language: name, ignoreIllegals: true });
  element.replaceChildren(result._emitter.root);
}

/** Colour a `code` element: at once when the language is here, else when it has arrived.
 * @param {HTMLElement} element @param {string} name */
export function highlight(element, name) {
  if (ready(name)) return paint(element, name);
  prepare(name).then(
    () => element.isConnected && paint(element, name),
    () => undefined, // no colours without a network; the text is there
  );
}
