/** Profile, password, devices, appearance, keyboard: one dialog with a page for each. */

import { ApiError } from "./api.js";
import { call, get, logOut } from "./auth.js";
import { h, icon, replace, store as keep, stored } from "./dom.js";
import { explain, explainField, language, longDate, setLanguage, t, when } from "./i18n.js";
import { confirm, dialog, toast } from "./overlay.js";

/** @typedef {{ store: import("./store.js").Store, changed: () => void, close: () => void, show: (page: string) => void }} Context */

/** @type {[string, string, (context: Context) => any][]} */
const PAGES = [
  ["profile", "person", profile],
  ["changePassword", "key", password],
  ["devices", "device", devices],
  ["appearance", "sun", appearance],
  ["keyboard", "keyboard", keyboard],
];

/** @param {import("./store.js").Store} store @param {() => void} changed @param {string} [first] */
export function openAccount(store, changed, first = "profile") {
  return dialog(
    t("settings"),
    (close) => {
      const show = (/** @type {string} */ page) => tabs.find((tab) => tab.id === `tab-${page}`)?.click();
      const context = { store, changed, close, show };
      const pages = store.user.is_guest ? PAGES.filter(([name]) => name !== "changePassword") : PAGES;
      const body = h("div.settings-page", { id: "settings-page", role: "tabpanel", tabindex: "0" });
      const tabs = pages.map(([name, picture, build]) => {
        const tab = h("button.settings-tab", { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": "settings-page" }, icon(picture), t(name));
        tab.addEventListener("click", () => select(name, build));
        return tab;
      });
      const select = (/** @type {string} */ name, /** @type {(context: Context) => any} */ build) => {
        for (const tab of tabs) {
          const on = tab.id === `tab-${name}`;
          tab.setAttribute("aria-selected", String(on));
          tab.tabIndex = on ? 0 : -1;
        }
        body.setAttribute("aria-labelledby", `tab-${name}`);
        replace(body, build(context));
      };
      const list = h("div.settings-tabs", { role: "tablist", "aria-orientation": "vertical", "aria-label": t("settings") }, tabs);
      list.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => arrows(event, tabs));
      const [name, , build] = pages.find(([entry]) => entry === first) ?? pages[0];
      select(name, build);
      const out = h("button.settings-tab.logout", { type: "button", onclick: () => void leave(context, false) }, icon("logout"), t("logout"));
      return h("div.settings", {}, list, body, out);
    },
    { wide: true },
  );
}

/** @param {KeyboardEvent} event @param {HTMLElement[]} tabs */
function arrows(event, tabs) {
  const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const now = tabs.indexOf(/** @type {HTMLElement} */ (document.activeElement));
  const next = tabs[(now + step + tabs.length) % tabs.length];
  next.click();
  next.focus();
}

/** @param {Context} context @param {boolean} everywhere */
async function leave(context, everywhere) {
  // Nobody can log in as this guest again: the account ends with its last session, and its chats with it.
  if (context.store.user.is_guest && !(await confirm(t("leaveGuestTitle"), t("leaveGuestText"), t("leaveGuest"), t("upgrade")))) {
    return context.show("profile"); // where it can be kept
  }
  try {
    await logOut(everywhere);
    context.close();
  } catch (error) {
    toast(explain(error));
  }
}

/**
 * A form that says what went wrong. @param {any[]} fields @param {string} action @param {() => Promise<void>} work
 */
function form(fields, action, work) {
  const alert = h("p.form-alert", { role: "alert", hidden: true });
  const button = h("button.button.primary", { type: "submit" }, action);
  const submit = async (/** @type {Event} */ event) => {
    event.preventDefault();
    button.disabled = true;
    alert.hidden = true;
    try {
      await work();
    } catch (error) {
      const refused = error instanceof ApiError ? error.errors[0] : undefined;
      alert.textContent = refused ? explainField(refused) : explain(error);
      alert.hidden = false;
    } finally {
      button.disabled = false;
    }
  };
  return h("form.form", { onsubmit: (/** @type {Event} */ event) => void submit(event) }, fields, alert, h("div", {}, button));
}

/** @param {string} id @param {string} label @param {Record<string, any>} attributes */
function field(id, label, attributes) {
  const input = h("input.input", { id, required: true, ...attributes });
  return { input, row: h("div.field", {}, h("label", { for: id }, label), input) };
}

/** @param {Context} context */
function profile({ store, changed }) {
  const { user } = store;
  const name = field("profile-name", t("username"), { value: user.username, minlength: "3", maxlength: "100", autocomplete: "nickname" });
  return [
    h("p.muted", {}, user.is_guest ? t("guestAccount") : user.email, h("br"), t("since", { date: longDate(user.created_at) })),
    user.is_guest && upgrade(store, changed),
    !user.is_guest && form([name.row], t("save"), async () => {
      store.user = await (await call("PUT", "/users/me", { body: { username: name.input.value.trim() } })).json();
      changed();
      toast(t("profileSaved"));
    }),
  ];
}

/** A guest who wants to stay. @param {import("./store.js").Store} store @param {() => void} changed */
function upgrade(store, changed) {
  const email = field("upgrade-email", t("email"), { type: "email", autocomplete: "username", maxlength: "254" });
  const name = field("upgrade-name", t("username"), { minlength: "3", maxlength: "100", autocomplete: "nickname" });
  const secret = field("upgrade-password", t("password"), { type: "password", minlength: "8", maxlength: "256", autocomplete: "new-password" });
  return form([email.row, name.row, secret.row, h("p.muted", {}, t("passwordHint"))], t("upgrade"), async () => {
    const body = { email: email.input.value.trim(), username: name.input.value.trim(), password: secret.input.value };
    store.user = await (await call("POST", "/users/me/upgrade", { body })).json();
    changed();
    toast(t("upgraded"));
  });
}

/** @param {Context} context */
function password({ store }) {
  const hidden = h("input", { type: "text", value: store.user.email, autocomplete: "username", hidden: true, "aria-hidden": "true" });
  const current = field("password-current", t("currentPassword"), { type: "password", autocomplete: "current-password" });
  const next = field("password-new", t("newPassword"), { type: "password", autocomplete: "new-password", minlength: "8", maxlength: "256" });
  return form([hidden, current.row, next.row, h("p.muted", {}, t("passwordHint"))], t("changePassword"), async () => {
    await call("POST", "/users/me/password", { body: { old_password: current.input.value, new_password: next.input.value } });
    current.input.value = next.input.value = "";
    toast(t("passwordChanged"));
  });
}

/** @param {Context} context */
function devices(context) {
  const list = h("ul.devices", { "aria-busy": "true" }, h("li.muted", {}, t("working")));
  const fill = async () => {
    try {
      const sessions = await get("/users/me/sessions");
      list.removeAttribute("aria-busy");
      replace(list, sessions.map((/** @type {any} */ session) => device(session, fill)));
    } catch (error) {
      replace(list, h("li", {}, explain(error)));
    }
  };
  void fill();
  return [list, h("button.button.danger", { type: "button", onclick: () => void leave(context, true) }, t("logoutAll"))];
}

/** @param {any} session @param {() => Promise<void>} refill */
function device(session, refill) {
  const current = Boolean(session.is_current);
  const name = deviceName(session.user_agent ?? "");
  const end = async () => {
    try {
      await call("DELETE", `/users/me/sessions/${session.id}`);
      toast(t("deviceEnded"));
      await refill();
    } catch (error) {
      toast(explain(error));
    }
  };
  const facts = [t("lastUsed", { date: when(session.last_used_at ?? session.created_at) }), session.address].filter(Boolean);
  return h(
    "li.device",
    {},
    icon("device"),
    h("span.device-text", {}, h("b", {}, name, current && h("span.badge", {}, t("thisDevice"))), h("span.muted", {}, facts.join(" · "))),
    !current && h("button.button.small-button", { type: "button", "aria-label": t("endDeviceLabel", { device: name }), onclick: () => void end() }, t("endDevice")),
  );
}

/** "Firefox, Windows" out of a user agent; good enough to recognise one's own device. @param {string} agent */
function deviceName(agent) {
  const browser = [/Edg/, /OPR/, /Firefox|FxiOS/, /Chrom|CriOS/, /Safari/].findIndex((pattern) => pattern.test(agent));
  const system = [/iPhone|iPad/, /Android/, /Windows/, /Mac OS/, /Linux|X11/].findIndex((pattern) => pattern.test(agent));
  const names = [["Edge", "Opera", "Firefox", "Chrome", "Safari"][browser], ["iOS", "Android", "Windows", "macOS", "Linux"][system]];
  return names.filter(Boolean).join(", ") || agent.split(/[\s(]/)[0].slice(0, 40) || t("unknownDevice");
}

/** @param {string} name @param {string} legend @param {[string, string][]} options @param {string} value
 * @param {(value: string) => void} choose */
function choice(name, legend, options, value, choose) {
  const entries = options.map(([option, label]) =>
    h("label.choice", {}, h("input", { type: "radio", name, value: option, checked: option === value, onchange: () => choose(option) }), h("span", {}, label)),
  );
  return h("fieldset.choices", {}, h("legend", {}, legend), h("div.choice-row", {}, entries));
}

function appearance() {
  const setTheme = (/** @type {string} */ theme) => {
    keep("theme", theme === "auto" ? null : theme);
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
  };
  const themes = /** @type {[string, string][]} */ ([["auto", t("themeAuto")], ["light", t("themeLight")], ["dark", t("themeDark")]]);
  return [
    choice("theme", t("theme"), themes, stored("theme", () => "auto"), setTheme),
    choice("language", t("language"), [["en", "English"], ["ru", "Русский"]], language, (value) => setLanguage(/** @type {"en" | "ru"} */ (value))),
  ];
}

function keyboard() {
  const keys = /** @type {[string[], string][]} */ ([
    [["Enter"], t("keySend")],
    [["Shift", "Enter"], t("keyNewline")],
    [["↑"], t("keyEdit")],
    [["Esc"], t("keyStop")],
    [["/"], t("keySearch")],
    [["Alt", "N"], t("keyNew")],
    [["?"], t("keyHelp")],
  ]);
  return h("dl.keys", {}, keys.map(([names, text]) => h("div", {}, h("dt", {}, names.map((name) => h("kbd", {}, name))), h("dd", {}, text))));
}
