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

/** Puts a text into an element, its beginning only where it is very long, with a button for the rest. */
export function showText(element: HTMLElement, text: string, label: (n: number) => string): void {
  element.textContent = visible(text.slice(0, SHOWN_CHARS));
  if (text.length <= SHOWN_CHARS) return;
  const button = document.createElement('button');
  button.type = 'button';
  button.className = 'show-all';
  button.textContent = label(text.length);
  button.addEventListener('click', () => {
    button.remove();
    // In pieces, each laid out when it comes into view.
    for (let at = SHOWN_CHARS; at < text.length; at += SHOWN_CHARS) {
      const piece = document.createElement('span');
      piece.className = 'piece';
      piece.textContent = visible(text.slice(at, at + SHOWN_CHARS));
      element.append(piece);
    }
  });
  element.after(button);
}
