// An answer as elements, while it is written and after.
//
// Owns the elements below one root: blocks that are settled are built once, the last one again when it has grown. Work is
// done in slices, so that no answer, however long or odd, holds up a frame. Nothing of the text is trusted.
import remend from 'remend';
import { fenced, isNoise, settle, type Block } from './blocks';
import { CodeBlock, type Labels } from './code';
import * as formulas from './formulas';
import { merge } from './merge';
import { purify } from './purify';
import { markdown } from './syntax';
import { hasReordering, isDeep, makeVisible, showText } from './text';

/** Time of a frame that building may take. */
const SLICE_MS = 10;
/** Until the next slice: what was built is laid out in between. */
const PAUSE_MS = 16;
/** Blocks stand in groups of this size, of which a browser lays those out that are in view. */
const GROUP_CHARS = 1500;
/** So many rows are added to one table; then there is another one. */
const ROWS_MAX = 400;
/** A last block that took long to build is built again after this many times its time. */
const PATIENCE = 5;

export class Rendered {
  #text = '';
  #taken = 0;
  #queue: Block[] = [];
  #head = '';
  #group: HTMLElement | null = null;
  #groupChars = 0;
  /** The body of the table that was built last, if nothing came after. */
  #rows: HTMLTableSectionElement | null = null;
  #open: Element[] = [];
  #openCode: CodeBlock | null = null;
  #shown = '';
  #notBefore = 0;
  #done = false;
  #timer = 0;

  constructor(
    readonly root: HTMLElement,
    readonly labels: Labels,
  ) {}

  /** Shows a text, mostly one that the last one was the beginning of. */
  show(given: string, done: boolean): void {
    const text = given.includes('\r') ? given.replace(/\r\n?/g, '\n') : given;
    if (text === this.#text && done === this.#done) return;
    // What was closed is built anew: its last block may go on.
    if (this.#done || !text.startsWith(this.#text)) this.#clear();
    this.#text = text;
    this.#done = done;
    this.#work();
  }

  destroy(): void {
    clearTimeout(this.#timer);
    this.#queue = [];
  }

  #clear(): void {
    this.root.replaceChildren();
    this.#taken = 0;
    this.#queue = [];
    this.#head = this.#shown = '';
    this.#group = this.#rows = this.#openCode = null;
    this.#open = [];
  }

  #again(ms: number): void {
    clearTimeout(this.#timer);
    this.#timer = window.setTimeout(() => this.#work(), ms);
  }

  #work(): void {
    const begun = performance.now();
    if (!this.#done && begun < this.#notBefore) {
      this.#again(this.#notBefore - begun);
      return;
    }
    clearTimeout(this.#timer);
    const { blocks, taken, head } = settle(this.#text.slice(this.#taken), this.#done, this.#head);
    this.#taken += taken;
    this.#head = head;
    this.#queue.push(...blocks);
    while (this.#queue.length > 0) {
      if (performance.now() - begun > SLICE_MS) {
        this.#again(PAUSE_MS);
        return;
      }
      this.#build(this.#queue.shift()!);
    }
    if (this.#done) this.#close();
    else this.#grow(this.#text.slice(this.#taken));
    this.#notBefore = performance.now() + PATIENCE * (performance.now() - begun - 2);
  }

  #close(): void {
    for (const element of this.#open) element.remove();
    this.#open = [];
    this.#openCode = null;
  }

  /** Makes the open block what an element is, if it can be. */
  #becomes(element: HTMLElement): boolean {
    const [open] = this.#open;
    const can = this.#open.length === 1 && !this.#openCode && open instanceof HTMLDivElement;
    if (can) merge(open, element);
    return can;
  }

  /** The group that what comes next belongs to. */
  #place(): HTMLElement {
    if (!this.#group || this.#groupChars > GROUP_CHARS) {
      this.#group = document.createElement('div');
      this.#group.className = 'blocks';
      this.#groupChars = 0;
      this.root.append(this.#group);
    }
    return this.#group;
  }

  /** Puts a settled block in the place of the open one, or makes it of the open one. */
  #build(block: Block): void {
    if (block.kind === 'code') {
      const { code, language } = fenced(block.raw) ?? { code: block.raw, language: '' };
      const isOpenOne = this.#openCode?.language === language;
      const made = isOpenOne ? this.#openCode! : new CodeBlock(language, this.labels);
      made.close(code.replace(/\n$/, ''));
      if (isOpenOne) this.#open = [];
      this.#close();
      if (!isOpenOne) this.#place().append(made.element);
      this.#rows = null;
    } else {
      const made = block.kind === 'plain' ? plain(block.raw, this.labels) : this.#elements(block.raw);
      const isOpenOne = block.kind === 'markdown' && this.#becomes(made);
      const element = isOpenOne ? this.#open.pop()! : made;
      this.#close();
      const rows = block.kind === 'rows' && this.#rows ? [...element.querySelectorAll('tbody > tr')] : [];
      if (rows.length > 0) this.#rows!.append(...rows);
      else if (!isOpenOne) this.#place().append(element);
      if (rows.length === 0 || this.#rows!.rows.length > ROWS_MAX) this.#rows = rows.length > 0 ? null : element.querySelector(':scope > .table:last-child tbody');
    }
    this.#shown = '';
    this.#groupChars += block.raw.length;
  }

  /** Shows what is not settled yet. */
  #grow(text: string): void {
    if (text === this.#shown) return;
    this.#shown = text;
    const fence = this.#head ? null : fenced(text);
    if (fence) {
      if (this.#openCode?.language !== fence.language) {
        this.#close();
        this.#openCode = new CodeBlock(fence.language, this.labels);
        this.#open = [this.#openCode.element];
        this.#place().append(this.#openCode.element);
      }
      this.#openCode.write(fence.code);
      return;
    }
    const element = text.trim() ? (isNoise(text) ? plain(text, this.labels) : this.#elements(remend(this.#head + text))) : null;
    if (element && !this.#head && this.#becomes(element)) return;
    this.#close();
    if (!element) return;
    const rows = this.#head && this.#rows ? [...element.querySelectorAll(':scope > .table:first-child tbody > tr')] : [];
    if (rows.length > 0) {
      this.#rows!.append(...rows);
      element.querySelector('.table')!.remove();
    }
    this.#open = element.hasChildNodes() ? [...rows, element] : rows;
    if (element.hasChildNodes()) this.#place().append(element);
  }

  #elements(raw: string): HTMLElement {
    const element = document.createElement('div');
    try {
      element.append(purify(markdown.parse(raw, { async: false })));
    } catch {
      // Nested deeper than the parser can follow.
      return plain(raw, this.labels);
    }
    if (isDeep(element)) return plain(raw, this.labels);
    if (hasReordering(raw)) makeVisible(element);
    for (const pre of element.querySelectorAll('pre')) {
      const code = pre.textContent ?? '';
      const language = /language-(\S+)/.exec(pre.querySelector('code')?.className ?? '')?.[1] ?? '';
      const block = new CodeBlock(language, this.labels);
      block.close(code.replace(/\n$/, ''));
      pre.replaceWith(block.element);
    }
    for (const table of element.querySelectorAll('table')) {
      const frame = document.createElement('div');
      frame.className = 'table';
      frame.tabIndex = 0;
      frame.setAttribute('role', 'region');
      frame.setAttribute('aria-label', this.labels.table);
      table.replaceWith(frame);
      frame.append(table);
    }
    for (const link of element.querySelectorAll('a')) {
      link.target = '_blank';
      link.rel = 'noopener noreferrer nofollow';
    }
    formulas.set(element);
    return element;
  }
}

/** A text as it is written. */
function plain(text: string, labels: Labels): HTMLElement {
  const element = document.createElement('div');
  const paragraph = document.createElement('p');
  paragraph.className = 'plain';
  element.append(paragraph);
  showText(paragraph, text, labels.showAll);
  return element;
}
