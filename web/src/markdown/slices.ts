// Work on answers that can wait: a little of it per frame, whoever asked for it.
//
// Owns when it is done. Must not know what it is.

/** Time of a frame that such work may take. What it builds is laid out in the same frame, which takes as long again. */
const SLICE_MS = 6;
/** A page that is not seen gets no frames. */
const UNSEEN_MS = 50;

const queue: (() => void)[] = [];
let isRunning = false;

/** Does a piece of work, which must be short, when there is time; in the order that they came. */
export function later(work: () => void): void {
  queue.push(work);
  if (!isRunning) next();
}

function next(): void {
  isRunning = true;
  if (document.hidden) setTimeout(slice, UNSEEN_MS);
  else requestAnimationFrame(slice);
}

function slice(): void {
  const until = performance.now() + SLICE_MS;
  isRunning = false;
  while (queue.length > 0 && performance.now() < until) {
    try {
      queue.shift()!();
    } catch (error) {
      reportError(error);
    }
  }
  if (queue.length > 0) next();
}
