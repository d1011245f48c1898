// HTML that is not trusted, as elements that can do nothing.
import DOMPurify from 'dompurify';
import workerUrl from './highlight.worker?worker&url';
import { policy } from './trusted';

const ELEMENTS = [
  'a', 'b', 'blockquote', 'br', 'code', 'del', 'details', 'div', 'em', 'h1', 'h2', 'h3', 'h4', 'h5', 'h6', 'hr', 'i', 'kbd',
  'li', 'mark', 'ol', 'p', 'pre', 's', 'span', 'strong', 'sub', 'summary', 'sup', 'table', 'tbody', 'td', 'th', 'thead',
  'tr', 'u', 'ul',
];

export const trusted = policy(workerUrl);

// Said once: it takes as long to read as a paragraph.
DOMPurify.setConfig({
  ALLOWED_TAGS: ELEMENTS,
  ALLOWED_ATTR: ['href', 'title', 'class', 'start', 'align', 'data-display'],
  ALLOWED_URI_REGEXP: /^(?:https?:\/\/|mailto:)/i,
  // Their values are no addresses.
  ADD_URI_SAFE_ATTR: ['align', 'start', 'data-display'],
  ALLOW_ARIA_ATTR: false,
  ALLOW_DATA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
  ...(trusted && { TRUSTED_TYPES_POLICY: trusted as never }),
});

/** Keeps the elements and attributes that Markdown makes, and nothing else. */
export function purify(html: string): DocumentFragment {
  return DOMPurify.sanitize(html) as unknown as DocumentFragment;
}
