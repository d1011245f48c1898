// A tree of elements becomes like another: what is alike stays, with its layout and what somebody has selected in it.

/** Makes `old` what `fresh` is, of which it takes the parts that are new; both must be elements of the same kind. */
export function merge(old: Element, fresh: Element): void {
  let at = old.firstChild;
  let next = fresh.firstChild;
  while (at && next) {
    const [was, is]: [ChildNode, ChildNode] = [at, next];
    at = was.nextSibling;
    next = is.nextSibling;
    if (was.isEqualNode(is)) continue;
    if (was instanceof Text && is instanceof Text) was.data = is.data;
    else if (was instanceof Element && is instanceof Element && isShell(was) && was.cloneNode().isEqualNode(is.cloneNode())) merge(was, is);
    else was.replaceWith(is);
  }
  while (at) {
    const gone = at;
    at = at.nextSibling;
    gone.remove();
  }
  while (next) {
    const added = next;
    next = next.nextSibling;
    old.append(added);
  }
}

/** Whether an element is no more than what is in it; code has somebody who writes into it, and so has a formula. */
function isShell(element: Element): boolean {
  return !element.matches('.code, .tex');
}
