// An answer as elements, while it is written and after.
//
// Owns the elements below one root: blocks that are settled are built once, the last one again when it has grown. Work is
// done in slices, so that no answer, however long or odd, holds up a frame. Nothing of the text is trusted.
import remend from 'remend';
import { fenced, isNoise, settle, type Block } from './blocks';
import { CodeBlock, type Labels } from './code';
import * as formulas from './formulas';
import { purify } from './purify';
import { markdown } from './syntax';
import { hasReordering, isDeep, makeVisible, showText } from './text';

/** Time of a frame that building may take. */
const SLICE_MS = 10;
/** A last block that took long to build is built again after this many times its time. */
const PATIENCE = 5;

export class Rendered {
  #text = '';
  #taken = 0;
  #queue: Block[] = [];
  #open: HTMLElement | null = null;
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
    this.#open = this.#openCode = null;
    this.#shown = '';
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
    const { blocks, taken } = settle(this.#text.slice(this.#taken), this.#done);
    this.#taken += taken;
    this.#queue.push(...blocks);
    while (this.#queue.length > 0) {
      if (performance.now() - begun > SLICE_MS) {
        this.#again(0);
        return;
      }
      this.#build(this.#queue.shift()!);
    }
    if (this.#done) this.#close();
    else this.#grow(this.#text.slice(this.#taken));
    this.#notBefore = performance.now() + PATIENCE * (performance.now() - begun - 2);
  }

  #close(): void {
    this.#open?.remove();
    this.#open = this.#openCode = null;
  }

  /** Puts a settled block before the open one, or makes it of the open one. */
  #build(block: Block): void {
    let element: HTMLElement;
    if (block.kind === 'code') {
      const { code, language } = fenced(block.raw) ?? { code: block.raw, language: '' };
      const isOpenOne = this.#openCode && this.#openCode.language === language;
      const made = isOpenOne ? this.#openCode! : new CodeBlock(language, this.labels);
      made.close(code.replace(/\n$/, ''));
      element = made.element;
      this.#openCode = null;
      if (isOpenOne) {
        this.#open = null;
        return;
      }
    } else if (block.kind === 'plain') {
      element = plain(block.raw, this.labels);
    } else {
      element = this.#elements(block.raw);
    }
    this.#close();
    this.#shown = '';
    if (block.raw.length > 4000) element.classList.add('long');
    this.root.append(element);
  }

  /** Shows what is not settled yet. */
  #grow(text: string): void {
    if (text === this.#shown) return;
    this.#shown = text;
    const fence = fenced(text);
    if (fence) {
      if (this.#openCode?.language !== fence.language) {
        this.#close();
        this.#openCode = new CodeBlock(fence.language, this.labels);
        this.#open = this.#openCode.element;
        this.root.append(this.#open);
      }
      this.#openCode.write(fence.code);
      return;
    }
    const element = text.trim() ? (isNoise(text) ? plain(text, this.labels) : this.#elements(remend(text))) : null;
    this.#close();
    this.#open = element;
    if (element) this.root.append(element);
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
