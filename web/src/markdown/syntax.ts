// Markdown as the models write it: GitHub's, and formulas between $ or \( \).
//
// Owns what each element becomes as HTML. What comes out is not trusted: `render.ts` passes it through a sanitiser.
import { Marked, type Tokens } from 'marked';

/** Longer formulas are shown as they are written. */
export const FORMULA_CHARS = 4000;

/** Elements that the models write as HTML and that do nothing but set text. */
const HARMLESS = /^<\/?(?:br|sub|sup|kbd|mark|u|s|b|i|em|strong|details|summary)\s*\/?>$/i;

export function escape(text: string): string {
  return text.replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
}

/** An address that a link may lead to; null if it may not. */
export function address(href: string): string | null {
  return /^(?:https?:\/\/|mailto:)/i.test(href.trim()) ? href.trim() : null;
}

interface Formula extends Tokens.Generic {
  tex: string;
}

function formula(token: Tokens.Generic, block: boolean): string {
  const tex = escape((token as Formula).tex);
  return block ? `<div class="tex">${tex}</div>` : `<span class="tex">${tex}</span>`;
}

const BLOCK = /^ {0,3}(?:\$\$((?:[^$\\]|\\[^]|\$(?!\$))+?)\$\$|\\\[([^]+?)\\\])[ \t]*(?:\n+|$)/;
const INLINE_DISPLAY = /^(?:\$\$((?:[^$\\\n]|\\.)+?)\$\$|\\\[((?:[^\n])+?)\\\])/;
const INLINE = /^(?:\$((?![\s$])(?:[^$\\\n]|\\.)*?(?<!\s))\$(?![\d$])|\\\(((?:[^\n])+?)\\\))/;

export const markdown = new Marked({
  gfm: true,
  breaks: false,
  extensions: [
    {
      name: 'formula_block',
      level: 'block',
      start(src) {
        // At the beginning of a line alone.
        const found = /\n {0,3}(?:\$\$|\\\[)/.exec(src);
        return found ? found.index + 1 : undefined;
      },
      tokenizer(src) {
        const found = BLOCK.exec(src.slice(0, FORMULA_CHARS + 16));
        return found ? { type: 'formula_block', raw: found[0], tex: found[1] ?? found[2] ?? '' } : undefined;
      },
      renderer: (token) => formula(token, true),
    },
    {
      name: 'formula',
      level: 'inline',
      start: (src) => /\$|\\[([]/.exec(src)?.index,
      tokenizer(src) {
        const near = src.slice(0, FORMULA_CHARS + 4);
        const display = INLINE_DISPLAY.exec(near);
        if (display) return { type: 'formula', raw: display[0], tex: display[1] ?? display[2] ?? '', display: true };
        const found = INLINE.exec(near);
        return found ? { type: 'formula', raw: found[0], tex: found[1] ?? found[2] ?? '' } : undefined;
      },
      renderer: (token) => formula(token, token.display === true).replace(/^<div(.*)div>$/s, '<span data-display$1span>'),
    },
  ],
  renderer: {
    html({ text }) {
      // What is no harmless element is text that the person should see.
      return HARMLESS.test(text.trim()) ? text : escape(text);
    },
    link({ href, title, tokens }) {
      const inner = this.parser.parseInline(tokens);
      const to = address(href);
      if (!to) return inner;
      const named = title ? ` title="${escape(title)}"` : '';
      return `<a href="${escape(to)}"${named}>${inner}</a>`;
    },
    image({ href, text }) {
      // An image of another place would tell that place who reads.
      const to = address(href);
      return to ? `<a href="${escape(to)}">${escape(text || to)}</a>` : escape(text);
    },
    checkbox({ checked }) {
      return checked ? '☑ ' : '☐ ';
    },
  },
});
