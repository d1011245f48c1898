// HTML that is not trusted, as elements that can do nothing.
import DOMPurify from 'dompurify';

const ELEMENTS = [
  'a', 'b', 'blockquote', 'br', 'code', 'del', 'details', 'div', 'em', 'h1', 'h2', 'h3', 'h4', 'h5', 'h6', 'hr', 'i', 'kbd',
  'li', 'mark', 'ol', 'p', 'pre', 's', 'span', 'strong', 'sub', 'summary', 'sup', 'table', 'tbody', 'td', 'th', 'thead',
  'tr', 'u', 'ul',
];

/** Keeps the elements and attributes that Markdown makes, and nothing else. */
export function purify(html: string): DocumentFragment {
  return DOMPurify.sanitize(html, {
    ALLOWED_TAGS: ELEMENTS,
    ALLOWED_ATTR: ['href', 'title', 'class', 'start', 'align', 'data-display'],
    ALLOWED_URI_REGEXP: /^(?:https?:\/\/|mailto:)/i,
    // Their values are no addresses.
    ADD_URI_SAFE_ATTR: ['align', 'start', 'data-display'],
    ALLOW_ARIA_ATTR: false,
    ALLOW_DATA_ATTR: false,
    RETURN_DOM_FRAGMENT: true,
  });
}
