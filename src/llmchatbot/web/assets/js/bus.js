/** What the tabs of one browser tell each other. Access tokens pass here too: it is memory of this origin, not storage. */

const channel = "BroadcastChannel" in self ? new BroadcastChannel("llmchatbot") : null;

/** @type {Map<string, Set<(payload: any) => void>>} */
const listeners = new Map();

channel?.addEventListener("message", ({ data }) => {
  for (const listener of listeners.get(data.topic) ?? []) listener(data.payload);
});

/** Tell the other tabs; this one does not hear itself. @param {string} topic @param {any} [payload] */
export function tell(topic, payload = null) {
  channel?.postMessage({ topic, payload });
}

/** @param {string} topic @param {(payload: any) => void} listener */
export function hear(topic, listener) {
  if (!listeners.has(topic)) listeners.set(topic, new Set());
  listeners.get(topic)?.add(listener);
}

/**
 * Run `work` while no other tab runs work of that name. Web Locks need a secure context; without them every tab works for
 * itself, which the server's rules for racing refreshes make harmless.
 * @template T @param {string} name @param {() => Promise<T>} work @returns {Promise<T>}
 */
export async function alone(name, work) {
  return navigator.locks ? navigator.locks.request(`llmchatbot:${name}`, work) : work();
}
