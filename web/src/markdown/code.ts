// Code: its text, which grows, its colours when it is complete, and the button that copies it.
import { COLOURS_CHARS } from './colours';
import { highlight } from './highlight';
import { append, PIECE_CHARS, visible } from './text';

export interface Labels {
  copy: string;
  copied: string;
  code: string;
  table: string;
  showAll: (n: number) => string;
}

const LINE_CHARS = 2000;
/** How long the button says that it has copied. */
const SAID_MS = 1500;

/** A block of code with its head. `write` replaces the code, `close` colours it. */
export class CodeBlock {
  readonly element = document.createElement('div');
  #pre = document.createElement('pre');
  #code = document.createElement('code');
  #text = '';
  #wraps = false;

  constructor(
    readonly language: string,
    readonly labels: Labels,
  ) {
    this.element.className = 'code';
    const head = document.createElement('div');
    head.className = 'code-head';
    const name = document.createElement('span');
    name.textContent = visible(language.slice(0, 40)) || labels.code;
    const button = document.createElement('button');
    button.type = 'button';
    button.className = 'copy';
    button.textContent = labels.copy;
    button.addEventListener('click', () => void this.#copy(button));
    head.append(name, button);
    this.#pre.tabIndex = 0;
    this.#pre.setAttribute('role', 'region');
    this.#pre.setAttribute('aria-label', `${labels.code} ${name.textContent}`);
    this.#pre.append(this.#code);
    this.element.append(head, this.#pre);
  }

  async #copy(button: HTMLButtonElement): Promise<void> {
    await copy(this.#text);
    button.textContent = this.labels.copied;
    setTimeout(() => (button.textContent = this.labels.copy), SAID_MS);
  }

  /** More of the code: what is there stays, so that a long block costs per frame what is new of it. */
  write(text: string): void {
    if (!text.startsWith(this.#text)) {
      this.#code.replaceChildren();
      this.#text = '';
    }
    append(this.#code, text.slice(this.#text.length), this.#text.length, this.labels.showAll);
    this.#text = text;
    if (!this.#wraps && text.length > PIECE_CHARS && longestLine(text.slice(-PIECE_CHARS)) > LINE_CHARS) this.#wrap();
  }

  #wrap(): void {
    this.#wraps = true;
    this.#pre.classList.add('wraps');
  }

  close(text: string): void {
    // A last line's end belongs to the fence.
    if (this.#text !== `${text}\n`) this.write(text);
    this.#text = text;
    const isWide = longestLine(text) > LINE_CHARS;
    if (isWide) this.#wrap();
    const { language } = this;
    if (language && !isWide && text.length <= COLOURS_CHARS) highlight(this.#code, language, visible(text));
  }
}

function longestLine(text: string): number {
  let longest = 0;
  for (let at = 0; at < text.length; ) {
    const end = text.indexOf('\n', at);
    const next = end < 0 ? text.length : end;
    longest = Math.max(longest, next - at);
    at = next + 1;
  }
  return longest;
}

/** Copies a text; pages that came without TLS from another machine have the older way only. */
export async function copy(text: string): Promise<void> {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const field = document.createElement('textarea');
  field.value = text;
  field.className = 'unseen';
  document.body.append(field);
  field.select();
  document.execCommand('copy');
  field.remove();
}
