// Colours for code: highlight.js with its common languages, on a thread of its own, since code takes it up to a second.
import hljs from 'highlight.js/lib/common';
import { steps, type Asked, type Coloured } from './colours';

addEventListener('message', ({ data }: MessageEvent<Asked>) => {
  const { id, language, code } = data;
  const name = language.split(/[\s,{:]/)[0]!.toLowerCase();
  const known = hljs.getLanguage(name);
  const found = known ? steps(hljs.highlight(code, { language: name, ignoreIllegals: true }).value) : null;
  const answer: Coloured = { id, steps: found?.steps ?? null, classes: found?.classes ?? [] };
  // TypeScript takes this for a window, whose messages need a target.
  (postMessage as (message: Coloured) => void)(answer);
});
