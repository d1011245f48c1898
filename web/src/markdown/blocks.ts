// Where Markdown that is still being written can be cut: what stands before the last block will not change any more.
//
// Owns the cutting alone, so that an answer of any length costs per frame what its last block costs. Must not render.
import { Lexer, type Token, type Tokens } from 'marked';
import { markdown } from './syntax';

export interface Block {
  raw: string;
  kind: 'markdown' | 'code' | 'plain';
}

/** A block of this size is cut; one that holds other blocks at a larger one. */
const BLOCK_CHARS = 8000;
const NESTED_CHARS = 30_000;
const WINDOW_CHARS = 32_000;
/** From this size on, a block that is mostly marks is no Markdown but an attempt to keep its reader busy. */
const MARKS_CHARS = 1500;
const MARKS = /[[\]()*_`$~<>!|\\]/g;
/** A list of this size is cut between its items. */
const LIST_CHARS = 2000;

const FENCE = /^ {0,3}(`{3,}|~{3,})([^\n]*)(?:\n|$)/;

interface Fenced {
  language: string;
  code: string;
  /** The whole of it, with its marks. */
  raw: string;
  isClosed: boolean;
}

/** The code that a text begins with, if it begins with a fence. Found without the lexer, since code may be of any length. */
export function fenced(text: string): Fenced | null {
  const opening = FENCE.exec(text);
  if (!opening || (opening[1]!.startsWith('`') && opening[2]!.includes('`'))) return null;
  const mark = opening[1]!;
  const closing = new RegExp(`^ {0,3}${mark[0]!.repeat(mark.length)}${mark[0]!}*[ \\t]*(?:\\n|$)`, 'm');
  const rest = text.slice(opening[0].length);
  const end = closing.exec(rest);
  const language = opening[2]!.trim();
  if (!end) return { language, code: rest, raw: text, isClosed: false };
  const raw = text.slice(0, opening[0].length + end.index + end[0].length);
  return { language, code: rest.slice(0, end.index), raw, isClosed: true };
}

/** Where a text that is too long for one block is cut: behind a line where there is one. */
function cut(text: string): number {
  const line = text.lastIndexOf('\n', BLOCK_CHARS);
  let at = line > BLOCK_CHARS / 2 ? line + 1 : BLOCK_CHARS;
  // Not between the halves of a character.
  if ((text.charCodeAt(at - 1) & 0xfc00) === 0xd800) at += 1;
  return at;
}

/** The blocks of `text`, and how much of it they take: all of it when it is `done`, else what will not change. */
export function settle(text: string, done: boolean): { blocks: Block[]; taken: number } {
  const blocks: Block[] = [];
  let taken = 0;
  while (taken < text.length) {
    const rest = text.slice(taken);
    const fence = fenced(rest);
    if (fence) {
      // A mark at the very end of what there is may be followed by more.
      const isSettled = done || (fence.isClosed && fence.raw.length < rest.length);
      if (!isSettled) return { blocks, taken };
      blocks.push({ raw: fence.raw, kind: 'code' });
      taken += fence.raw.length;
      continue;
    }
    // The lexer sees a bounded text, so that nothing in it can take long, and looks for blocks alone.
    const window = rest.slice(0, WINDOW_CHARS);
    const isWhole = window.length === rest.length;
    const tokens = lex(window);
    let n = tokens.length;
    if (!done || !isWhole) {
      while (n > 0 && tokens[n - 1]!.type === 'space') n -= 1;
      n -= 1;
    }
    let settled = 0;
    for (const token of tokens.slice(0, Math.max(n, 0))) {
      // A token that is not the text itself says nothing about where to cut.
      if (!window.startsWith(token.raw, settled)) break;
      settled += token.raw.length;
      push(blocks, token);
    }
    taken += settled;
    if (done && isWhole && taken < text.length) blocks.push({ raw: text.slice(taken), kind: 'plain' });
    if (done && isWhole) return { blocks, taken: text.length };
    const last = tokens[n];
    const items = last?.type === 'list' && last.raw.length > LIST_CHARS ? (last as Tokens.List).items : [];
    if (items.length > 1) {
      const raw = items.slice(0, -1).map((item) => item.raw).join('');
      // Only where the items are the text itself, so that nothing is lost or doubled.
      if (text.startsWith(raw, taken)) {
        blocks.push({ raw, kind: 'markdown' });
        taken += raw.length;
        continue;
      }
    }
    const left = text.length - taken;
    if (settled === 0 && left > largest(last)) {
      const at = cut(text.slice(taken, taken + BLOCK_CHARS + 2));
      blocks.push({ raw: text.slice(taken, taken + at), kind: 'plain' });
      taken += at;
      continue;
    }
    if (settled === 0 || isWhole) break;
  }
  return { blocks, taken };
}

/** Whether a text is mostly marks. */
export function isNoise(text: string): boolean {
  return text.length > MARKS_CHARS && (text.match(MARKS)?.length ?? 0) > text.length / 4 && !/\|[^\n]*\n *\|/.test(text);
}

/** The blocks that a text consists of; none where it is nested deeper than the lexer can follow. */
function lex(text: string): Token[] {
  try {
    return new Lexer(markdown.defaults).blockTokens(text, []);
  } catch {
    return [];
  }
}

/** How large a block may be. */
function largest(token: Token | undefined): number {
  return token && ['table', 'list', 'blockquote'].includes(token.type) ? NESTED_CHARS : BLOCK_CHARS;
}

function push(blocks: Block[], token: Token): void {
  if (token.type === 'space') return;
  if (fenced(token.raw)) blocks.push({ raw: token.raw, kind: 'code' });
  else if (token.raw.length > largest(token) || isNoise(token.raw)) blocks.push({ raw: token.raw, kind: 'plain' });
  else blocks.push({ raw: token.raw, kind: 'markdown' });
}
