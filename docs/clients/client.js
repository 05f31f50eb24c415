// A complete client for answers that are never lost: sends, follows through any number of drops, stops.
// For browsers, and for Node.js from version 20 on. The rules behind it: docs/streaming.md.
const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
const SILENCE = 45_000; // three heartbeats: the connection is dead even if nobody has said so

export class ChatClient {
  constructor(base, token) { Object.assign(this, { base, token }); }

  async request(method, path, { body, headers } = {}) {
    const all = { Authorization: `Bearer ${this.token}`, ...(body && { "Content-Type": "application/json" }), ...headers };
    for (let pause = 200; ; pause = Math.min(pause * 2, 5000)) {
      const sent = fetch(this.base + path, { method, headers: all, body: body && JSON.stringify(body) });
      const response = await sent.catch(() => ({ status: 503 })); // nobody there: as "not now"
      if (response.ok) return response;
      if (![429, 502, 503, 504].includes(response.status)) throw Object.assign(new Error(response.status), { response });
      await sleep(pause);
    }
  }

  // One message however often this is tried: the server knows the key and gives the same answer again.
  async send(chat, content, options = {}) {
    const headers = { "Idempotency-Key": crypto.randomUUID() };
    const sent = await this.request("POST", `/api/v1/chats/${chat}/messages`, { body: { content, ...options }, headers });
    return (await sent.json()).generation.id;
  }

  // Closes the connection to the model and keeps the text; everybody who asks gets the same receipt.
  async stop(generation) {
    return (await this.request("POST", `/api/v1/generations/${generation}/stop`)).json();
  }

  // Yields { text, event } after each event, `complete` or `error` last. To `break` is to leave: nothing is stopped.
  async *follow(generation, { lastId = "", text = "" } = {}) {
    for (let pause = 1000; ; await sleep(pause)) {
      const headers = { Accept: "text/event-stream", ...(lastId && { "Last-Event-ID": lastId }) };
      const response = await this.request("GET", `/api/v1/generations/${generation}/stream`, { headers });
      if (response.status === 204) return;
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      const read = () => {
        const timer = setTimeout(() => reader.cancel(), SILENCE);
        return reader.read().catch(() => ({})).finally(() => clearTimeout(timer));
      };
      try {
        for (let buffer = "", piece; (piece = (await read()).value); ) {
          const blocks = (buffer + piece).split("\n\n");
          buffer = blocks.pop(); // what a cut leaves here comes again: its id was never taken
          for (const lines of blocks.map((block) => block.split("\n"))) {
            const field = (name) => lines.find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2);
            [lastId, pause] = [field("id") ?? lastId, Number(field("retry") ?? pause)];
            const event = JSON.parse(field("data") ?? "{}");
            if (event.type === "token") text += event.content;
            if (event.type === "reset") text = event.content;
            yield { text, event };
            if (event.type === "complete" || event.type === "error") return;
          }
        }
      } finally { reader.cancel().catch(() => {}); }
    }
  }
}
