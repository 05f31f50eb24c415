/**
 * Who is logged in. The access token lives in memory only; the refresh token is an HttpOnly cookie that no script sees.
 * Tabs share one access token over the channel, and one tab at a time refreshes it, ahead of its end.
 */

import { ApiError, request } from "./api.js";
import { alone, hear, tell } from "./bus.js";
import { forget, sleep, store, stored } from "./dom.js";

// Parts of a token's life, 15 minutes by default: refreshed when this much is left, and not used for a new request with less.
const AHEAD = 0.15;
const FRESH = 0.03;
const NEIGHBOUR_WAIT = 120;
const COOKIE = { "X-Refresh-Cookie": "1" };

/** @typedef {{ token: string, expiresAt: number, life: number, user: string }} Access times in milliseconds */

/** @type {Access | null} */
let access = null;
/** @type {Promise<void> | null} */
let refreshing = null;
let timer = 0;
/** @type {(reason: "logged-out" | "expired") => void} */
let leave = () => {};

/** @param {(reason: "logged-out" | "expired") => void} callback runs when this tab has to show the log-in page */
export function onLeave(callback) {
  leave = callback;
}

/** Was somebody logged in here when the page was last used? Saves a request that would be refused. */
export function remembered() {
  return stored("signed-in", () => "") !== "";
}

/** Claims are read for comparison only; whether they are true is the server's business. @param {string} token */
function claims(token) {
  try {
    const payload = token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    return JSON.parse(atob(payload));
  } catch {
    return {};
  }
}

/** @param {{access_token: string, expires_in: number}} answer */
function accept(answer) {
  const { sub = "" } = claims(answer.access_token);
  const life = answer.expires_in * 1000;
  take({ token: answer.access_token, expiresAt: Date.now() + life, life, user: sub });
  tell("token", access);
}

/** @param {Access} next */
function take(next) {
  const other = access !== null && access.user !== next.user;
  access = next;
  store("signed-in", "1");
  if (other) location.reload(); // somebody else logged in from another tab: nothing of the former may stay on screen
  clearTimeout(timer);
  const spread = Math.random() * 0.1 * next.life; // so that tabs do not all ask for the lock in the same moment
  const pause = next.expiresAt - Date.now() - AHEAD * next.life - spread;
  timer = setTimeout(() => void refreshQuietly(), Math.max(1_000, pause));
}

function usable() {
  return access !== null && access.expiresAt - Date.now() > FRESH * access.life;
}

/** Ask the other tabs for their token before spending a refresh. */
async function askNeighbours() {
  if (access) return;
  tell("token?");
  for (let waited = 0; waited < NEIGHBOUR_WAIT && !usable(); waited += 20) await sleep(20);
}

/** Raises ApiError 401 when the device has to log in again, NetworkError when nobody answers. */
async function refresh() {
  const before = access?.token;
  await alone("refresh", async () => {
    if (usable() && access?.token !== before) return; // another tab was faster
    const response = await request("POST", "/auth/refresh", { headers: COOKIE, body: {} });
    accept(await response.json());
  });
}

/** One refresh at a time in this tab; `alone` sees to the others. */
export function renew() {
  refreshing ??= refresh().finally(() => (refreshing = null));
  return refreshing;
}

async function refreshQuietly() {
  try {
    await renew();
  } catch (error) {
    if (error instanceof ApiError && error.status === 401) end("expired");
    else timer = setTimeout(() => void refreshQuietly(), 10_000);
  }
}

/** @returns {Promise<string>} */
async function token() {
  if (!usable()) await renew();
  return access?.token ?? "";
}

/**
 * Take up the session of this browser. @returns {Promise<boolean>} false: nobody is logged in
 * Raises NetworkError when the server cannot be reached.
 */
export async function resume() {
  if (!remembered()) return false;
  await askNeighbours();
  if (usable()) return true;
  try {
    await renew();
    return true;
  } catch (error) {
    if (!(error instanceof ApiError) || error.status !== 401) throw error;
    store("signed-in", null);
    return false;
  }
}

/** @param {"register" | "login" | "guest"} door @param {Record<string, string>} [body] */
export async function enter(door, body = {}) {
  const response = await request("POST", `/auth/${door}`, { headers: COOKIE, body });
  access = null;
  accept(await response.json());
}

/** @param {boolean} everywhere end all devices of this account */
export async function logOut(everywhere = false) {
  try {
    await call("POST", everywhere ? "/auth/logout-all" : "/auth/logout", { headers: COOKIE });
  } catch (error) {
    if (!(error instanceof ApiError)) throw error; // not reached: then it would be a lie to say "logged out"
  }
  end("logged-out");
  tell("left", "logged-out");
}

/** @param {"logged-out" | "expired"} reason */
function end(reason) {
  clearTimeout(timer);
  access = null;
  store("signed-in", null);
  if (reason === "logged-out") for (const kind of ["draft:", "outbox:"]) forget(kind);
  leave(reason);
}

/**
 * A request with the bearer token; a token that was revoked or just ended is renewed once.
 * @param {string} method @param {string} path
 * @param {{ body?: any, headers?: Record<string, string>, signal?: AbortSignal }} [options]
 */
export async function call(method, path, options = {}) {
  const attempt = async () =>
    request(method, path, { ...options, headers: { ...options.headers, Authorization: `Bearer ${await token()}` } });
  try {
    return await attempt();
  } catch (error) {
    if (!(error instanceof ApiError) || error.status !== 401 || error.code === "bad_credentials") throw error;
    await renewOrLeave();
    return attempt();
  }
}

/** @param {string} path @param {any} [options] @returns {Promise<any>} */
export async function get(path, options) {
  return (await call("GET", path, options)).json();
}

/**
 * Open a stream. Answers are given back as they are, since a reader knows what each status means for it.
 * @param {string} path @param {Record<string, string>} headers @param {AbortSignal} signal
 */
export async function openStream(path, headers, signal) {
  const response = await fetch(path, { headers: { ...headers, Authorization: `Bearer ${await token()}` }, signal });
  if (response.status === 401) await renewOrLeave();
  return response;
}

async function renewOrLeave() {
  try {
    await renew();
  } catch (error) {
    if (error instanceof ApiError && error.status === 401) end("expired");
    throw error;
  }
}

hear("token?", () => usable() && tell("token", access));
hear("token", (/** @type {Access} */ next) => take(next));
hear("left", () => access && end("logged-out"));
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && access && !usable()) void refreshQuietly();
});
