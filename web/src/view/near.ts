// Which messages are in view or close to it: one observer for all of them.

/** So far out of view, a message is built already. */
const AHEAD = '1200px 0px';

export class Near {
  #told = new WeakMap<Element, (entry: IntersectionObserverEntry) => void>();
  #observer: IntersectionObserver;

  constructor(root: Element) {
    this.#observer = new IntersectionObserver((entries) => entries.forEach((entry) => this.#told.get(entry.target)?.(entry)), {
      root,
      rootMargin: AHEAD,
    });
  }

  /** Tells whenever an element comes near or leaves; what comes back ends that. */
  watch(element: Element, tell: (entry: IntersectionObserverEntry) => void): () => void {
    this.#told.set(element, tell);
    this.#observer.observe(element);
    return () => this.#observer.unobserve(element);
  }

  end(): void {
    this.#observer.disconnect();
  }
}

/** The pixels that a message takes before it was ever seen, more or less. */
export function guess(n_chars: number): number {
  return Math.min(60 + (n_chars / 80) * 26, 4000);
}
