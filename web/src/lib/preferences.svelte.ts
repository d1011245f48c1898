// What this browser remembers for the person: theme, language, how answers are made, drafts.
//
// Owns the names under which that is kept. Must not ask the server for anything.
import type { Sampling } from './types';

export type Theme = 'auto' | 'light' | 'dark';
export type Language = 'en' | 'zh';

const NAME = 'minke.preferences';
const DRAFT = 'minke.draft.';

export const DEFAULTS: Sampling = {
  system: '',
  thinking: 'auto',
  temperature: null,
  top_p: null,
  top_k: null,
  min_p: null,
  repetition_penalty: null,
  max_tokens: null,
  seed: null,
};

function stored(): Partial<Preferences> {
  try {
    return JSON.parse(localStorage.getItem(NAME) ?? '{}');
  } catch {
    return {};
  }
}

interface Preferences {
  theme: Theme;
  language: Language | 'auto';
  sampling: Sampling;
}

const found = stored();

export const preferences: Preferences = $state({
  theme: found.theme ?? 'auto',
  language: found.language ?? 'auto',
  sampling: { ...DEFAULTS, ...found.sampling },
});

export function keep(): void {
  localStorage.setItem(NAME, JSON.stringify(preferences));
}

export function language(): Language {
  if (preferences.language !== 'auto') return preferences.language;
  return navigator.languages.find((name) => /^(en|zh)/i.test(name))?.toLowerCase().startsWith('zh') ? 'zh' : 'en';
}

/** What was typed and not sent, by conversation, so that neither a reload nor an error loses it. */
export const draft = {
  get: (id: string | null): string => localStorage.getItem(DRAFT + (id ?? 'new')) ?? '',
  set(id: string | null, text: string): void {
    try {
      if (text) localStorage.setItem(DRAFT + (id ?? 'new'), text);
      else localStorage.removeItem(DRAFT + (id ?? 'new'));
    } catch {
      // A text that the browser has no room for stays in the page alone.
    }
  },
};
