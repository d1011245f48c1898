// What highlight.js says about a code, in numbers that are quickly sent from its worker.

/** Longer code is not coloured. */
export const COLOURS_CHARS = 40_000;

export interface Asked {
  id: number;
  language: string;
  code: string;
}

/**
 * Steps through the code: 2n is a text of n characters, 2n + 1 opens an element of the class `classes[n - 1]`, and 1 closes
 * the innermost one. Null where the language is not known.
 */
export interface Coloured {
  id: number;
  steps: Uint32Array<ArrayBuffer> | null;
  classes: string[];
}

/** What a step may be in highlight.js' HTML: a tag, a character's name, or text. */
const PARTS = /<span class="([^"]*)">|<\/span>|&[#\w]+;|[^<&]+/g;

export function steps(html: string): { steps: Uint32Array<ArrayBuffer>; classes: string[] } {
  const found: number[] = [];
  const known = new Map<string, number>();
  let n_text = 0;
  const flush = () => {
    if (n_text > 0) found.push(2 * n_text);
    n_text = 0;
  };
  for (const [part, name] of html.matchAll(PARTS)) {
    if (part === '</span>') {
      flush();
      found.push(1);
    } else if (name !== undefined) {
      flush();
      if (!known.has(name)) known.set(name, known.size + 1);
      found.push(2 * known.get(name)! + 1);
    } else {
      n_text += part.startsWith('&') ? 1 : part.length;
    }
  }
  flush();
  return { steps: Uint32Array.from(found), classes: [...known.keys()] };
}

/** Builds coloured code piece by piece: `take` gives the next `n` characters of it, in elements of their own. */
export class Painter {
  #step = 0;
  /** Characters of the current step that were taken. */
  #n_taken = 0;
  #at = 0;
  #open: string[] = [];

  constructor(
    readonly code: string,
    readonly coloured: { steps: Uint32Array; classes: string[] },
  ) {}

  /** Whether the steps lead through exactly this code. */
  get fits(): boolean {
    return this.coloured.steps.reduce((n, step) => n + (step % 2 ? 0 : step / 2), 0) === this.code.length;
  }

  take(n: number): DocumentFragment {
    const { steps, classes } = this.coloured;
    const made = document.createDocumentFragment();
    const end = this.#at + n;
    let into: Node = made;
    for (const name of this.#open) into = into.appendChild(element(name));
    while (this.#step < steps.length) {
      const step = steps[this.#step]!;
      if (step % 2 === 0) {
        if (this.#at >= end) break;
        const n_now = Math.min(step / 2 - this.#n_taken, end - this.#at);
        into.appendChild(document.createTextNode(this.code.slice(this.#at, this.#at + n_now)));
        this.#at += n_now;
        this.#n_taken += n_now;
        if (this.#n_taken < step / 2) break;
        this.#n_taken = 0;
      } else if (step === 1) {
        this.#open.pop();
        into = into.parentNode ?? made;
      } else {
        if (this.#at >= end) break;
        const name = classes[(step - 3) / 2] ?? '';
        this.#open.push(name);
        into = into.appendChild(element(name));
      }
      this.#step += 1;
    }
    return made;
  }
}

function element(name: string): HTMLElement {
  const made = document.createElement('span');
  made.className = name;
  return made;
}
