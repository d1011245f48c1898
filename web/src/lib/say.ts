// Words in the person's language.
import { en, type Word } from '../words/en';
import { zh } from '../words/zh';
import { Failure } from './api';
import { language } from './preferences.svelte';

const WORDS = { en, zh };

/** A text in the language that is set; reading it in a component follows the setting. */
export function say(word: Word, values: Record<string, string | number> = {}): string {
  return WORDS[language()][word].replace(/\{(\w+)\}/g, (all, name: string) => String(values[name] ?? all));
}

export function sayFailure(failure: Failure): string {
  const facts = Object.fromEntries(Object.entries(failure.facts).map(([name, n]) => [name, count(n ?? 0)]));
  return say(`e_${failure.kind}`, { message: failure.message, ...facts });
}

/** A number as people of that language write it. */
export function count(n: number, digits = 0): string {
  return n.toLocaleString(language() === 'zh' ? 'zh-CN' : 'en-US', { maximumFractionDigits: digits });
}

export function bytes(n: number): string {
  const units = ['B', 'KB', 'MB', 'GB', 'TB'];
  let unit = 0;
  for (; n >= 1000 && unit < units.length - 1; unit += 1) n /= 1000;
  return `${count(n, unit > 1 && n < 100 ? 1 : 0)} ${units[unit]}`;
}

export function duration(seconds: number): string {
  const units: [number, string][] = [[86_400, 'd'], [3600, 'h'], [60, 'min']];
  for (const [size, name] of units) {
    if (seconds >= size) return `${Math.floor(seconds / size)} ${name}`;
  }
  return `${Math.floor(seconds)} s`;
}
