// Colours for code: highlight.js with its common languages.
import hljs from 'highlight.js/lib/common';
import { purify } from './purify';

/** Colours code that is in the element already. */
export function highlight(element: HTMLElement, language: string, code: string): void {
  const name = language.split(/[\s,{:]/)[0]!.toLowerCase();
  if (!hljs.getLanguage(name)) return;
  const { value } = hljs.highlight(code, { language: name, ignoreIllegals: true });
  element.replaceChildren(purify(value));
}
