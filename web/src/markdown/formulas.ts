// Formulas: KaTeX, loaded when the first one comes, within bounds of size and time.
//
// Must not touch anything but the elements that it is given. KaTeX builds elements itself, so no HTML is parsed here.
import type { KatexOptions } from 'katex';
import { later } from './slices';
import { FORMULA_CHARS } from './syntax';
import { isDeep } from './text';

/** An answer whose formulas have taken this long shows the rest as they are written. */
const ANSWER_MS = 2000;
/** Formulas that are remembered, so that text which is still being written need not set them again. */
const N_KNOWN = 300;

const OPTIONS: KatexOptions = {
  // Its own way to show what is wrong sets a style that the page's policy forbids.
  throwOnError: true,
  trust: false,
  strict: 'ignore',
  maxSize: 20,
  maxExpand: 300,
  output: 'htmlAndMathml',
};
/** A formula that defines macros can grow with each use. */
const DEFINES = /\\(?:[egx]?def|let|futurelet|(?:re)?newcommand|providecommand)(?![a-zA-Z])/;

interface Wanted {
  element: HTMLElement;
  tex: string;
  display: boolean;
}

const known = new Map<string, HTMLElement>();
const spent = new WeakMap<Element, number>();
/** What came before KaTeX had. */
let queue: Wanted[] = [];
let katex: typeof import('katex').default | null = null;
let isLoading = false;

function name(tex: string, display: boolean): string {
  return (display ? 'D' : 'I') + tex;
}

/** Sets the formulas below `root`, those that are known at once and others when there is time. */
export function set(root: ParentNode): void {
  for (const element of root.querySelectorAll<HTMLElement>('.tex')) {
    const tex = element.textContent ?? '';
    const display = element.tagName === 'DIV' || element.dataset.display !== undefined;
    if (tex.length > FORMULA_CHARS) continue;
    const copy = known.get(name(tex, display));
    if (copy) element.replaceChildren(copy.cloneNode(true));
    else if (katex) later(() => one({ element, tex, display }));
    else queue.push({ element, tex, display });
  }
  if (queue.length > 0) void load();
}

async function load(): Promise<void> {
  if (isLoading) return;
  isLoading = true;
  try {
    const [module] = await Promise.all([import('katex'), import('katex/dist/katex.min.css')]);
    katex = module.default;
    for (const wanted of queue) later(() => one(wanted));
  } catch {
    // Without KaTeX, formulas stay as they are written; the next one asks for it again.
  }
  queue = [];
  isLoading = false;
}

function one({ element, tex, display }: Wanted): void {
  // Text that is still being written may have replaced it.
  const answer = element.closest('.answer');
  if (!answer || !katex || (spent.get(answer) ?? 0) > ANSWER_MS) return;
  const begun = performance.now();
  const made = document.createElement('span');
  try {
    const bounds = DEFINES.test(tex) ? { maxExpand: tex.length > 500 ? 0 : 50 } : {};
    katex.render(tex, made, { ...OPTIONS, ...bounds, displayMode: display });
    if (isDeep(made)) return;
    element.replaceChildren(made);
    if (known.size >= N_KNOWN) known.delete(known.keys().next().value!);
    known.set(name(tex, display), made.cloneNode(true) as HTMLElement);
  } catch {
    // Wrong, or deeper than the stack: it stays as it is written.
    element.classList.add('wrong');
  }
  spent.set(answer, (spent.get(answer) ?? 0) + performance.now() - begun);
}
