// How the page is built: one small first chunk; mathematics and highlighting load when an answer needs them.
// The same source gives the same bytes, because CI compares the committed build with a fresh one.
import { svelte } from '@sveltejs/vite-plugin-svelte';
import type { Plugin } from 'vite';
import { defineConfig } from 'vite';

// KaTeX names each font in three formats; every browser that runs this page reads the first.
const fontsInOneFormat: Plugin = {
  name: 'fonts-in-one-format',
  enforce: 'pre',
  transform(code, id) {
    if (!id.endsWith('katex.min.css')) return null;
    return { code: code.replace(/,url\([^)]*\.(?:woff|ttf)\) format\("(?:woff|truetype)"\)/g, ''), map: null };
  },
};

export default defineConfig({
  plugins: [svelte(), fontsInOneFormat],
  build: {
    target: 'es2022',
    outDir: 'dist',
    // Nothing is inlined: the policy of the page forbids it.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 600,
  },
  server: { proxy: Object.fromEntries(['/api', '/v1', '/ready', '/health', '/tokenize'].map((path) => [path, 'http://127.0.0.1:8080'])) },
});
