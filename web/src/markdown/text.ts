// Characters that change how the text around them reads, and texts that are too long to be shown at once.

/** Controls that reorder what follows them; with them, code can read other than it runs. */
const REORDERING = /[\u202A-\u202E\u2066-\u2069]/g;

/** Makes such characters visible instead of letting them act. */
export function visible(text: string): string {
  return text.replace(REORDERING, (c) => `⟨U+${c.charCodeAt(0).toString(16).toUpperCase()}⟩`);
}

export function hasReordering(text: string): boolean {
  return text.search(REORDERING) >= 0;
}

/** Does `visible` to all text below a node. */
export function makeVisible(root: Node): void {
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) node.nodeValue = visible(node.nodeValue ?? '');
}

/** Longer texts are shown in part until somebody asks for the rest. */
export const SHOWN_CHARS = 20_000;

/** Elements nested deeper than this make browsers fail. */
const DEPTH_MAX = 200;
const ELEMENTS_MAX = 30_000;

/** Whether there is more below an element than a browser can be trusted with. */
export function isDeep(root: Element): boolean {
  let depth = 0;
  let n = 0;
  for (let at: Element | null = root; at; ) {
    n += 1;
    if (depth > DEPTH_MAX || n > ELEMENTS_MAX) return true;
    if (at.firstElementChild) {
      at = at.firstElementChild;
      depth += 1;
      continue;
    }
    while (at && at !== root && !at.nextElementSibling) {
      at = at.parentElement;
      depth -= 1;
    }
    if (!at || at === root) break;
    at = at.nextElementSibling;
  }
  return false;
}

/** Text grows in pieces of this size, so that only the last one is laid out again, and those in view are. */
export const PIECE_CHARS = 2000;
/** So much of a growing text is shown. */
const GROWING_CHARS = 200_000;

/** What is behind buttons. */
const held = new WeakMap<Element, string>();

/** Adds to a text that grows, of which `n_before` characters are there. */
export function append(element: HTMLElement, text: string, n_before: number, label: (n: number) => string): void {
  let last = element.lastElementChild;
  const n = n_before + text.length;
  if (last?.tagName === 'BUTTON') {
    last.textContent = label(n);
    held.set(last, (held.get(last) ?? '') + text);
    return;
  }
  for (let at = 0; at < text.length; ) {
    if (n_before + at >= GROWING_CHARS) {
      element.append(button(text.slice(at), label(n)));
      return;
    }
    const known = last?.textContent ?? '';
    // Each piece is a block of its own, so it begins a line, unless lines are endless.
    if (!last || known.length >= 4 * PIECE_CHARS || (known.length >= PIECE_CHARS && known.endsWith('\n'))) {
      last = piece('');
      element.append(last);
      continue;
    }
    const line = text.indexOf('\n', at + Math.max(0, PIECE_CHARS - known.length));
    const end = Math.min(line < 0 ? text.length : line + 1, at + 4 * PIECE_CHARS - known.length);
    (last.firstChild as Text).appendData(visible(text.slice(at, end)));
    at = end;
  }
}

function piece(text: string): HTMLElement {
  const made = document.createElement('span');
  made.className = 'piece';
  made.append(visible(text));
  return made;
}

/** A button that gives way to the rest of a text, in pieces that are laid out when they come into view. */
function button(rest: string, label: string): HTMLElement {
  const made = document.createElement('button');
  made.type = 'button';
  made.className = 'show-all';
  made.textContent = label;
  held.set(made, rest);
  made.addEventListener('click', () => {
    const text = held.get(made) ?? '';
    for (let at = 0; at < text.length; at += SHOWN_CHARS) made.before(piece(text.slice(at, at + SHOWN_CHARS)));
    made.remove();
  });
  return made;
}

/** Puts a text into an element, its beginning only where it is very long, with a button for the rest. */
export function showText(element: HTMLElement, text: string, label: (n: number) => string): void {
  element.textContent = visible(text.slice(0, SHOWN_CHARS));
  if (text.length > SHOWN_CHARS) element.append(button(text.slice(SHOWN_CHARS), label(text.length)));
}
