// Colours for code: asks the worker, and builds what it says a piece per frame.
import workerUrl from './highlight.worker?worker&url';
import { Painter, type Asked, type Coloured } from './colours';
import { trusted } from './purify';
import { later } from './slices';

/** Code that takes longer, by a pattern that goes astray, stays without colours. */
const PATIENCE_MS = 5000;

let worker: Worker | null = null;
let n_asked = 0;
let timer = 0;
const waiting = new Map<number, { asked: Asked; element: Element }>();

/** Colours code that is in the pieces of an element already. */
export function highlight(element: Element, language: string, code: string): void {
  n_asked += 1;
  waiting.set(n_asked, { asked: { id: n_asked, language, code }, element });
  if (waiting.size === 1) ask();
}

/** Asks for the code that waits longest; one at a time, so that it is known which one takes long. */
function ask(): void {
  clearTimeout(timer);
  const next = waiting.values().next().value;
  if (!next) return;
  worker ??= start();
  worker.postMessage(next.asked);
  timer = window.setTimeout(() => giveUp(next.asked.id), PATIENCE_MS);
}

function start(): Worker {
  const made = new Worker((trusted?.createScriptURL(workerUrl) ?? workerUrl) as string, { type: 'module' });
  made.addEventListener('message', ({ data }: MessageEvent<Coloured>) => {
    const found = waiting.get(data.id);
    if (!found) return;
    waiting.delete(data.id);
    ask();
    const { steps, classes } = data;
    if (steps) paint(found.element, new Painter(found.asked.code, { steps, classes }));
  });
  made.addEventListener('error', () => giveUp(waiting.keys().next().value));
  return made;
}

function giveUp(id: number | undefined): void {
  worker?.terminate();
  worker = null;
  if (id !== undefined) waiting.delete(id);
  ask();
}

function paint(element: Element, painter: Painter): void {
  if (!painter.fits) return;
  for (const piece of element.children) {
    later(() => piece.replaceChildren(painter.take(piece.textContent?.length ?? 0)));
  }
}
