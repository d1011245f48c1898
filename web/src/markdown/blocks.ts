// Where Markdown that is still being written can be cut: what stands before the last block will not change any more.
//
// Owns the cutting alone, so that an answer of any length costs per frame what its last block costs. Must not render.
import { Lexer, type Token, type Tokens } from 'marked';
import { markdown } from './syntax';

export interface Block {
  raw: string;
  /** `rows` is a table whose rows belong to the one before it. */
  kind: 'markdown' | 'code' | 'plain' | 'rows';
}

export interface Settled {
  blocks: Block[];
  /** How much of the text they take. */
  taken: number;
  /** The head of a table that what is left goes on with. */
  head: string;
}

/** A block of this size is cut; one that holds other blocks at a larger one. */
const BLOCK_CHARS = 8000;
const NESTED_CHARS = 30_000;
const WINDOW_CHARS = 32_000;
/** From this size on, a block that is mostly marks is no Markdown but an attempt to keep its reader busy. */
const MARKS_CHARS = 1500;
const MARKS = /[[\]()*_`$~<>!|\\]/g;
/** A list of this size is cut between its items, a table between its rows. */
const PART_CHARS = 2000;
/** Each row has all of its table's columns; a table of more is not cut, so that a short text cannot make many elements. */
const COLUMNS_MAX = 40;

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

/**
 * The blocks of `text`: all of it when it is `done`, else what will not change. `head` is what the last call said of the text
 * before.
 */
export function settle(text: string, done: boolean, head = ''): Settled {
  const blocks: Block[] = [];
  let taken = 0;
  while (taken < text.length) {
    const rest = text.slice(taken);
    const fence = head ? null : fenced(rest);
    if (fence) {
      // A mark at the very end of what there is may be followed by more.
      const isSettled = done || (fence.isClosed && fence.raw.length < rest.length);
      if (!isSettled) break;
      blocks.push({ raw: fence.raw, kind: 'code' });
      taken += fence.raw.length;
      continue;
    }
    // The lexer sees a bounded text, so that nothing in it can take long, and looks for blocks alone.
    const window = head + rest.slice(0, WINDOW_CHARS);
    const isWhole = window.length === head.length + rest.length;
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
      push(blocks, token, settled < head.length ? head : '');
      settled += token.raw.length;
    }
    taken += Math.max(0, settled - head.length);
    if (settled > 0) head = '';
    if (done && isWhole) {
      if (taken < text.length) blocks.push({ raw: text.slice(taken), kind: 'plain' });
      return { blocks, taken: text.length, head: '' };
    }
    const last = tokens[n];
    const part = last && last.raw.length > PART_CHARS ? begun(last, head) : null;
    // Only where it is the text itself, so that nothing is lost or doubled.
    if (part && text.startsWith(part.text, taken)) {
      blocks.push(...part.blocks);
      taken += part.text.length;
      head = part.head;
      continue;
    }
    if (settled === 0 && text.length - taken > largest(last)) {
      const at = cut(text.slice(taken, taken + BLOCK_CHARS + 2));
      blocks.push({ raw: text.slice(taken, taken + at), kind: 'plain' });
      taken += at;
      head = '';
      continue;
    }
    if (settled === 0 || isWhole) break;
  }
  return { blocks, taken, head };
}

/** What a list or a table that is not complete has settled already: all but its last item or row. */
function begun(token: Token, head: string): { blocks: Block[]; text: string; head: string } | null {
  if (token.type === 'list') {
    const raw = (token as Tokens.List).items.slice(0, -1).map((item) => item.raw).join('');
    return raw ? { blocks: [{ raw, kind: 'markdown' }], text: raw, head: '' } : null;
  }
  if (token.type !== 'table' || !token.raw.startsWith(head)) return null;
  const lines = linesOf(token.raw);
  const settled = lines.slice(0, -1);
  if (!isCuttable(lines) || settled.length < 3) return null;
  return { blocks: rows(settled, head !== ''), text: settled.join('').slice(head.length), head: lines.slice(0, 2).join('') };
}

function linesOf(text: string): string[] {
  return text.match(/[^\n]*\n|[^\n]+$/g) ?? [];
}

function isCuttable(table: string[]): boolean {
  const n_columns = (table[1] ?? '').split('|').length;
  return n_columns <= COLUMNS_MAX && table[0]!.length < PART_CHARS && table.every((line) => line.length < BLOCK_CHARS);
}

/** A table of these lines as blocks that are built one by one. */
function rows(lines: string[], goesOn: boolean): Block[] {
  const head = lines.slice(0, 2).join('');
  const blocks: Block[] = [];
  let part = '';
  const flush = () => {
    if (part) blocks.push({ raw: head + part, kind: goesOn || blocks.length > 0 ? 'rows' : 'markdown' });
    part = '';
  };
  for (const line of lines.slice(2)) {
    part += line;
    if (part.length > PART_CHARS) flush();
  }
  flush();
  return blocks;
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

/** `head` is what a table that began before it has been given to go on with. */
function push(blocks: Block[], token: Token, head: string): void {
  if (token.type === 'space') return;
  const table = token.type === 'table' && (head || token.raw.length > PART_CHARS) ? linesOf(token.raw).filter((line) => line.trim()) : [];
  if (fenced(token.raw)) blocks.push({ raw: token.raw, kind: 'code' });
  else if (table.length > 0 && isCuttable(table)) blocks.push(...rows(table, head !== ''));
  else if (token.raw.length > largest(token) || isNoise(token.raw)) blocks.push({ raw: token.raw, kind: 'plain' });
  else blocks.push({ raw: token.raw, kind: 'markdown' });
}
