// The page's one policy of Trusted Types: HTML for the sanitiser, which looks at it before anybody else, and the address of
// the one worker. Must not be handed on to anything else.

/** What TypeScript's own types do not name yet. */
interface Policy {
  createHTML(html: string): string;
  createScriptURL(url: string): string;
}
interface Factory {
  createPolicy(name: string, rules: Policy): Policy;
}

/** A policy that lets through what the sanitiser parses, and no script but `script`; none where the browser has none. */
export function policy(script: string): Policy | undefined {
  const factory = (globalThis as { trustedTypes?: Factory }).trustedTypes;
  return factory?.createPolicy('dompurify', {
    createHTML: (html) => html,
    createScriptURL(url) {
      if (url !== script) throw new TypeError('no script of the page');
      return url;
    },
  });
}
