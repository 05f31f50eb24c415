/** What a screen reader hears of an answer: whole sentences, a few at a time, never single tokens. */

const PAUSE = 1_500;
const SENTENCE = /[\s\S]*?(?:[.!?…。！？](?=\s|$)|\n{2,})/g;

const region = () => /** @type {HTMLElement} */ (document.getElementById("announcer"));

/** Say one thing now. @param {string} text */
export function announce(text) {
  const line = document.createElement("p");
  line.textContent = text;
  const target = region();
  target.append(line);
  while (target.childElementCount > 12) target.firstElementChild?.remove();
}

/** Reads out a growing text. */
export class SentenceReader {
  constructor() {
    this.said = 0;
    this.timer = 0;
    this.text = "";
  }

  /** @param {string} text the whole text so far */
  push(text) {
    if (text.length < this.said) this.said = text.length;
    this.text = text;
    this.timer ||= setTimeout(() => this.flush(false), PAUSE);
  }

  /** @param {boolean} all also what is no whole sentence yet */
  flush(all) {
    clearTimeout(this.timer);
    this.timer = 0;
    const rest = this.text.slice(this.said);
    const part = all ? rest : (rest.match(SENTENCE) ?? []).join("");
    this.said += part.length;
    const plain = part.replace(/```[\s\S]*?(?:```|$)/g, " ").replace(/[#*_`>|]+/g, " ").replace(/\s+/g, " ").trim();
    if (plain) announce(plain);
  }
}
