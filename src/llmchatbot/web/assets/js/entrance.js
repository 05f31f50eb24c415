/** Logging in, registering, coming as a guest. */

import { ApiError } from "./api.js";
import { enter } from "./auth.js";
import { h, iconButton, mark, replace } from "./dom.js";
import { explain, explainField, language, setLanguage, t } from "./i18n.js";

export class Entrance {
  /** @param {() => void} done called when somebody is logged in */
  constructor(done) {
    this.done = done;
    this.element = h("main.entrance");
    this.show("login");
  }

  /** @param {"login" | "register"} door @param {string} [note] */
  show(door, note = "") {
    this.door = door;
    const registering = door === "register";
    const title = t(registering ? "registerTitle" : "loginTitle");
    this.alert = h("p.form-alert", { role: "alert", hidden: true });
    this.submit = h("button.button.primary.wide", { type: "submit" }, t(door));
    /** @type {Record<string, any>} */
    this.inputs = {};
    const form = h(
      "form.form",
      { onsubmit: (/** @type {Event} */ event) => void this.send(event) },
      registering && this.field("username", "text", { autocomplete: "nickname", minlength: "3", maxlength: "100" }),
      this.field("email", "email", { autocomplete: "username", maxlength: "254", inputmode: "email" }),
      this.field("password", "password", {
        autocomplete: registering ? "new-password" : "current-password",
        minlength: registering ? "8" : "1",
        maxlength: "256",
      }),
      this.alert,
      this.submit,
    );
    const other = registering ? "login" : "register";
    replace(
      this.element,
      h(
        "div.entrance-card",
        {},
        h("div.entrance-brand", {}, mark(), h("span", {}, t("appName"))),
        h("h1", {}, title),
        h("p.tagline", {}, note || t("tagline")),
        form,
        h("p.switch", {}, t(registering ? "haveAccount" : "noAccount"), " ", h("button.text-button", { type: "button", onclick: () => this.show(other) }, t(other))),
        h("div.or", { "aria-hidden": "true" }, h("span", {}, t("or"))),
        h("button.button.wide", { type: "button", onclick: () => void this.attempt("guest", {}) }, t("guest")),
        h("p.small", {}, t("guestHint")),
      ),
      this.languages(),
    );
    (this.inputs.username ?? this.inputs.email).focus();
  }

  /** @param {"email" | "username" | "password"} name @param {string} type @param {Record<string, string>} attributes */
  field(name, type, attributes) {
    const note = h("span.field-note", { id: `${name}-note` }, name === "password" && this.door === "register" ? t("passwordHint") : "");
    const input = h("input.input", { id: name, name, type, required: true, "aria-describedby": `${name}-note`, spellcheck: "false", ...attributes });
    this.inputs = { ...this.inputs, [name]: input };
    const box = type === "password" ? h("span.input-box", {}, input, this.eye(input)) : input;
    return h("div.field", {}, h("label", { for: name }, t(name)), box, note);
  }

  /** @param {any} input */
  eye(input) {
    const button = h("button.text-button.eye", { type: "button", "aria-pressed": "false" }, t("showPassword"));
    button.addEventListener("click", () => {
      const shown = input.type === "text";
      input.type = shown ? "password" : "text";
      button.setAttribute("aria-pressed", String(!shown));
      button.textContent = t(shown ? "showPassword" : "hidePassword");
      input.focus();
    });
    return button;
  }

  languages() {
    const entry = (/** @type {"en" | "ru"} */ code, /** @type {string} */ name) =>
      h("button.text-button", { type: "button", lang: code, "aria-pressed": String(language === code), onclick: () => setLanguage(code) }, name);
    return h("footer.entrance-foot", {}, entry("en", "English"), h("span", { "aria-hidden": "true" }, "·"), entry("ru", "Русский"));
  }

  /** @param {Event} event */
  async send(event) {
    event.preventDefault();
    const values = Object.fromEntries(Object.entries(this.inputs ?? {}).map(([name, input]) => [name, input.value]));
    values.email = values.email.trim();
    if (values.username !== undefined) values.username = values.username.trim();
    await this.attempt(/** @type {"login" | "register"} */ (this.door), values);
  }

  /** @param {"login" | "register" | "guest"} door @param {Record<string, string>} values */
  async attempt(door, values) {
    this.refuse("");
    this.element.setAttribute("aria-busy", "true");
    for (const button of this.element.querySelectorAll("button.button")) button.disabled = true;
    try {
      await enter(door, values);
      this.done();
    } catch (error) {
      this.refuse(explain(error));
      if (error instanceof ApiError) this.pointOut(error);
    } finally {
      this.element.removeAttribute("aria-busy");
      for (const button of this.element.querySelectorAll("button.button")) button.disabled = false;
    }
  }

  /** @param {string} text */
  refuse(text) {
    if (!this.alert) return;
    this.alert.textContent = text;
    this.alert.hidden = !text;
    for (const input of Object.values(this.inputs ?? {})) input.removeAttribute("aria-invalid");
  }

  /** Put what the server says about a field next to that field. @param {ApiError} error */
  pointOut(error) {
    const named = error.errors.filter(({ field }) => this.inputs?.[field]);
    for (const refused of named) {
      const input = this.inputs?.[refused.field];
      input.setAttribute("aria-invalid", "true");
      const note = document.getElementById(`${refused.field}-note`);
      if (note) note.textContent = explainField(refused);
    }
    if (named.length) this.inputs?.[named[0].field].focus();
    else this.inputs?.password.select();
  }
}
