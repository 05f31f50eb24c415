/** The HTTP API: one place that knows how requests are made and how refusals look (RFC 9457 problem documents). */

import { sleep } from "./dom.js";

export const BASE = "/api/v1";

/** A refusal by the server. `code` is stable and is what translations hang on. */
export class ApiError extends Error {
  /** @param {number} status @param {any} problem @param {number} retryAfter seconds, 0 when the server names none */
  constructor(status, problem, retryAfter) {
    super(problem?.detail || problem?.error || `HTTP ${status}`);
    this.status = status;
    this.code = problem?.code ?? "";
    this.problem = problem ?? {};
    this.retryAfter = retryAfter;
    /** @type {{field: string, message: string}[]} */
    this.errors = problem?.errors ?? [];
  }
}

/** The server could not be reached at all. */
export class NetworkError extends Error {}

/**
 * One request without credentials of its own. Raises ApiError or NetworkError.
 * @param {string} method @param {string} path below /api/v1
 * @param {{ body?: any, headers?: Record<string, string>, signal?: AbortSignal }} [options]
 * @returns {Promise<Response>}
 */
export async function request(method, path, { body, headers = {}, signal } = {}) {
  /** @type {RequestInit} */
  const init = { method, headers: { Accept: "application/json", ...headers }, signal, credentials: "same-origin" };
  if (body !== undefined) {
    init.body = JSON.stringify(body);
    init.headers = { ...init.headers, "Content-Type": "application/json" };
  }
  let response;
  try {
    response = await fetch(path.startsWith("/api/") ? path : BASE + path, init);
  } catch (error) {
    if (error instanceof TypeError) throw new NetworkError("The server cannot be reached.", { cause: error });
    throw error;
  }
  if (response.ok) return response;
  throw await refusal(response);
}

/** @param {Response} response */
export async function refusal(response) {
  const problem = await response.json().catch(() => null);
  return new ApiError(response.status, problem, Number(response.headers.get("Retry-After")) || 0);
}

/** Address of the next page, or null. RFC 8288; only same-origin paths are followed. @param {Response} response */
export function nextPage(response) {
  for (const part of (response.headers.get("Link") ?? "").split(/,(?=\s*<)/)) {
    const match = /^\s*<([^>]*)>\s*;(.*)$/s.exec(part);
    if (match && /\brel="?next"?/.test(match[2])) {
      const url = new URL(match[1], location.origin);
      return url.pathname + url.search;
    }
  }
  return null;
}

/** Worth another try with the same idempotency key? @param {unknown} error */
export function transient(error) {
  return error instanceof NetworkError || (error instanceof ApiError && [502, 503, 504].includes(error.status));
}

/**
 * Repeat until it is answered. `waiting` is called before each pause, so that a calm line can be shown.
 * @template T @param {() => Promise<T>} work @param {() => void} waiting @param {AbortSignal} [signal] @returns {Promise<T>}
 */
export async function insist(work, waiting, signal) {
  for (let attempt = 0; ; attempt += 1) {
    try {
      return await work();
    } catch (error) {
      if (!transient(error) || signal?.aborted) throw error;
      waiting();
      const named = error instanceof ApiError ? error.retryAfter * 1000 : 0;
      await reachable(Math.max(named, Math.min(500 * 2 ** attempt, 8_000)), signal);
    }
  }
}

/** Wait, but not longer than until the network is back. @param {number} milliseconds @param {AbortSignal} [signal] */
async function reachable(milliseconds, signal) {
  const wake = new AbortController();
  const stop = () => wake.abort();
  addEventListener("online", stop, { once: true });
  signal?.addEventListener("abort", stop, { once: true });
  await sleep(milliseconds, wake.signal);
  removeEventListener("online", stop);
}
