/** Words and dates in the language of the person. */

import { ApiError, NetworkError } from "./api.js";
import { store } from "./dom.js";

export const language = document.documentElement.lang === "ru" ? "ru" : "en";

/** @type {Record<string, any>} */
const words = (await import(`./locales/${language}.js`)).default;
const plural = new Intl.PluralRules(language);
const rounded = new Intl.NumberFormat(language, { maximumFractionDigits: 0 });
const exact = new Intl.NumberFormat(language, { maximumFractionDigits: 1 });
const digits = (/** @type {number} */ value) => (value < 100 ? exact : rounded).format(value);

/** @param {string} text @param {Record<string, string | number>} values */
function fill(text, values) {
  return text.replace(/\{(\w+)\}/g, (whole, name) => {
    const value = values[name];
    if (value === undefined) return whole;
    return typeof value === "number" ? digits(value) : value;
  });
}

/** @param {string} key @param {Record<string, string | number>} [values] @returns {string} */
export function t(key, values = {}) {
  const entry = words[key];
  if (entry === undefined) throw new Error(`no words for "${key}"`);
  if (typeof entry === "string") return fill(entry, values);
  return fill(entry[plural.select(Number(values.count))] ?? entry.other, values);
}

/** @param {string} key @returns {string[]} */
export function list(key) {
  return words[key];
}

/** A refusal in the words of this person. @param {unknown} error */
export function explain(error) {
  if (error instanceof NetworkError) return t("errorNetwork");
  if (!(error instanceof ApiError)) throw error;
  const known = words.errors[error.code];
  const text = known ?? t("errorUnknown", { detail: error.message });
  return error.retryAfter > 1 ? `${text} ${t("wait", { count: error.retryAfter })}` : text;
}

/** What is asked of a field, in the words of this person; the server's own are for programs. @param {{ field: string, message: string }} refused */
export function explainField({ field, message }) {
  return words.fields[field] ?? message;
}

/** The sentence for an error event of a stream. @param {string} code @param {string} fallback */
export function explainCode(code, fallback) {
  return words.errors[code] ?? (fallback || t("failed"));
}

/** @param {"en" | "ru"} next The page is loaded again: drafts are kept and a running answer is resumed. */
export function setLanguage(next) {
  store("language", next);
  location.reload();
}

/** The same language as this country writes it, e.g. British dates for a British browser. */
const locale = navigator.languages.find((name) => name.toLowerCase().startsWith(language)) ?? language;
const clock = new Intl.DateTimeFormat(locale, { hour: "numeric", minute: "2-digit" });
const dayAndMonth = new Intl.DateTimeFormat(locale, { day: "numeric", month: "long" });
const fullDate = new Intl.DateTimeFormat(locale, { day: "numeric", month: "long", year: "numeric" });
const monthAndYear = new Intl.DateTimeFormat(locale, { month: "long", year: "numeric" });

/** Whole days of the calendar between then and now. @param {Date} date */
function daysAgo(date) {
  const midnight = (/** @type {Date} */ day) => new Date(day.getFullYear(), day.getMonth(), day.getDate()).getTime();
  return Math.round((midnight(new Date()) - midnight(date)) / 86_400_000);
}

/** "14:03", "Yesterday, 14:03", "3 March, 14:03", "3 March 2024, 14:03". @param {string} iso */
export function when(iso) {
  const date = new Date(iso);
  const days = daysAgo(date);
  if (days <= 0) return clock.format(date);
  if (days === 1) return `${t("yesterday")}, ${clock.format(date)}`;
  const day = date.getFullYear() === new Date().getFullYear() ? dayAndMonth : fullDate;
  return `${day.format(date)}, ${clock.format(date)}`;
}

/** The whole date, for whoever points at a short one. @param {string} iso */
export function moment(iso) {
  return `${longDate(iso)}, ${clock.format(new Date(iso))}`;
}

/** Run `work` when another day of the calendar has begun while the page was open. @param {() => void} work */
export function onNewDay(work) {
  let day = new Date().toDateString();
  const look = () => {
    const today = new Date().toDateString();
    if (today === day) return;
    day = today;
    work();
  };
  setInterval(look, 60_000);
  document.addEventListener("visibilitychange", look);
}

/** @param {string} iso */
export function longDate(iso) {
  return fullDate.format(new Date(iso));
}

/** Heading under which a chat stands in the list. @param {string} iso */
export function period(iso) {
  const date = new Date(iso);
  const days = daysAgo(date);
  if (days <= 0) return t("today");
  if (days === 1) return t("yesterday");
  if (days < 7) return t("lastWeek");
  if (days < 30) return t("lastMonth");
  const text = monthAndYear.format(date).replace(/\s*г\.$/, "");
  return text[0].toUpperCase() + text.slice(1);
}
