// Reads one answer to its end with one of two clients and prints what it has seen, for test_clients.py.
//   node run_client.mjs ours|eventsource BASE TOKEN GENERATION
import { ChatClient } from "../../docs/clients/client.js";
import { EventSource } from "./vendor/eventsource.mjs";

const [kind, base, token, generation] = process.argv.slice(2);

async function ours() {
  let text = "";
  let last = null;
  const client = new ChatClient(base, token);
  for await (const seen of client.follow(generation)) {
    text = seen.text;
    last = seen.event;
  }
  return { text, end: last };
}

function eventsource() {
  return new Promise((resolve, reject) => {
    let text = "";
    const authorized = (input, init) => fetch(input, { ...init, headers: { ...init.headers, Authorization: `Bearer ${token}` } });
    const source = new EventSource(`${base}/api/v1/generations/${generation}/stream`, { fetch: authorized });
    source.onmessage = (message) => {
      const event = JSON.parse(message.data);
      if (event.type === "token") text += event.content;
      if (event.type === "reset") text = event.content;
      if (event.type !== "complete") return;
      source.close();
      resolve({ text, end: event });
    };
    source.onerror = () => {
      if (source.readyState === EventSource.CLOSED) reject(new Error("closed for good"));
    };
  });
}

console.log(JSON.stringify(await (kind === "ours" ? ours() : eventsource())));
