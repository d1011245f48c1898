// What a model may write to harm whoever reads it: nothing of it runs, and nothing breaks. Each text is streamed, and then
// read again from the server.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { closeBrowser, done, lastAnswer, open, say, says, Scripted, StandIn } from './helpers.mjs';

let server;
let model;
before(async () => {
  server = await Scripted.start();
  model = await StandIn.before(server.url);
});
after(async () => {
  await closeBrowser();
  model?.end();
  await server?.end();
});

/** Streams a text in pieces of odd sizes, which cut words, marks and tags. */
function pieces(text) {
  return async function* () {
    const size = Math.max(7, Math.ceil(text.length / 400));
    for (let at = 0; at < text.length; at += size) {
      yield { content: text.slice(at, at + size) };
      if ((at / size) % 20 === 0) yield 5;
    }
  };
}

/** Has a text answered, looks at it, and looks again after a reload. */
async function read(t, text, look) {
  model.answer = pieces(text);
  const page = await open(t, model.url);
  await page.evaluate(() => {
    window.harmed = [];
    document.addEventListener('securitypolicyviolation', (event) => window.harmed.push(event.violatedDirective));
  });
  const outside = [];
  page.on('request', (request) => request.url().startsWith(model.url) || outside.push(request.url()));
  await say(page, 'go on');
  const check = async () => {
    await look(lastAnswer(page).locator('.answer'), page);
    assert.deepEqual(await page.evaluate(() => window.harmed ?? []), []);
    assert.equal(await page.evaluate(() => window.pwned), undefined);
    assert.deepEqual(outside, []);
    // The page still does what it is for.
    await page.locator('#message').fill('still here');
    assert.equal(await page.locator('#message').inputValue(), 'still here');
  };
  await check();
  await page.waitForLoadState('networkidle');
  await page.reload();
  await lastAnswer(page).locator('.answer > div').first().waitFor();
  await check();
}

const clean = async (answer) => {
  const found = await answer.evaluate((root) => [...root.querySelectorAll('*')].flatMap((element) => [
    ...(/^(script|iframe|object|embed|style|link|meta|base|form|input|img|svg|video|audio)$/i.test(element.tagName) && !element.closest('.katex') ? [element.outerHTML] : []),
    ...[...element.attributes].filter(({ name }) => /^on/i.test(name)).map(({ name }) => name),
  ]));
  assert.deepEqual(found, []);
};

test('script tags', async (t) => {
  const text = 'Before <script>window.pwned = 1</script> after\n\n<script>window.pwned = 2</script>\n\n<scr<script>ipt>window.pwned = 3</script>\n\n<svg><script>window.pwned = 4</script></svg>\n\n<iframe srcdoc="<script>parent.pwned = 5</script>"></iframe>\n\n<style>body { display: none }</style>\n\n<meta http-equiv="refresh" content="0;url=https://example.org">\n\n<base href="https://example.org/">\n\n<math><mtext><table><mglyph><style><!--</style><img title="--&gt;&lt;img src=1 onerror=window.pwned=6&gt;">\n\nThe end';
  await read(t, text, async (answer) => {
    await says(answer, 'The end');
    // What was written is there to be read.
    await says(answer, '<script>window.pwned = 1</script>');
    await clean(answer);
  });
});

test('event handlers', async (t) => {
  const text = '<img src=x onerror="window.pwned = 1">\n\ninline <b onmouseover="window.pwned = 2">bold</b> <details open ontoggle="window.pwned = 3">\n\n<a href="https://example.org" onclick="window.pwned = 4">link</a>\n\n![x](x" onerror="window.pwned=5)\n\n[y](https://example.org "t\\" onmouseover=window.pwned=6 x=\\"")\n\n<svg onload=window.pwned=7>\n\n<body onload=window.pwned=8>\n\n`<img src=x onerror=window.pwned=9>`\n\nThe end';
  await read(t, text, async (answer) => {
    await says(answer, 'The end');
    await clean(answer);
    for (const link of await answer.locator('a').all()) await link.hover();
  });
});

test('javascript: links', async (t) => {
  const text = '[a](javascript:window.pwned=1) [b](JaVaScRiPt:window.pwned=2) [c](java\nscript:window.pwned=3) [d](&#106;avascript:window.pwned=4) [e](data:text/html,<script>window.pwned=5</script>) [f](vbscript:x) [g]( javascript:window.pwned=6) <javascript:window.pwned=7> [h](//example.org/x) ![i](javascript:window.pwned=8) [ref]\n\n[ref]: javascript:window.pwned=9\n\n![track](https://example.org/pixel.png)\n\n[good](https://example.org/)\n\nThe end';
  await read(t, text, async (answer) => {
    await says(answer, 'The end');
    const links = await answer.locator('a').evaluateAll((all) => all.map((link) => link.getAttribute('href')));
    assert.ok(links.includes('https://example.org/'));
    for (const href of links) assert.match(href, /^https:\/\/example\.org\//);
    await clean(answer);
  });
});

test('unclosed fences', async (t) => {
  const text = `Some code:\n\n\`\`\`html\n<script>window.pwned = 1</script>\n${'| row |\n'.repeat(400)}**not bold** $x$ [l](javascript:window.pwned=2)\n~~~\n\`\`\n</code></pre><img src=x onerror=window.pwned=3>`;
  await read(t, text, async (answer) => {
    // What is out of view has no text that is seen.
    await answer.locator('.piece', { hasText: 'onerror' }).scrollIntoViewIfNeeded();
    await says(answer.locator('pre'), '</code></pre><img src=x onerror=window.pwned=3>');
    assert.equal(await answer.locator('pre').count(), 1);
    assert.equal(await answer.locator('strong, a').count(), 0);
    await clean(answer);
  });
});

test('lines of one megabyte', async (t) => {
  const text = `${'x'.repeat(500_000)}${'[*_`$'.repeat(100_000)}\n\n\`\`\`\n${'y'.repeat(1_000_000)}\n\`\`\`\n\nThe end`;
  await read(t, text, async (answer, page) => {
    await says(answer, 'The end');
    const shown = await answer.evaluate((root) => root.textContent.length);
    assert.ok(shown < 1_700_000, `${shown} characters`);
    assert.ok((await page.evaluate(() => document.querySelectorAll('*').length)) < 5000);
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert.ok(wide <= 0);
  });
});

test('bidi tricks', async (t) => {
  const [rlo, lri, pdi, rlm] = ['\u202E', '\u2066', '\u2069', '\u200F'];
  const text = `Safe ${rlo}gpj.exe and ${lri}isolated${pdi}. ${rlm}mark\n\n\`\`\`js\nif (isAdmin${rlo} ${lri}// only admins${pdi} ${lri}) {\n\`\`\`\n\n${rlo}# not closed\n\nThe end`;
  await read(t, text, async (answer, page) => {
    await says(answer, 'The end');
    const shown = await answer.evaluate((root) => root.textContent);
    assert.doesNotMatch(shown, /[\u202A-\u202E\u2066-\u2069]/);
    assert.ok(shown.includes('⟨U+202E⟩gpj.exe'));
    assert.ok(shown.includes('isAdmin⟨U+202E⟩'));
    // What stands around the answer keeps its direction.
    assert.equal(await page.locator('.below').last().evaluate((element) => getComputedStyle(element).direction), 'ltr');
  });
});

test('KaTeX bombs', async (t) => {
  const nested = (n) => `${'\\frac{1}{'.repeat(n)}x${'}'.repeat(n)}`;
  const text = `$$\\def\\a{\\b\\b}\\def\\b{\\c\\c}\\def\\c{\\d\\d}\\def\\d{\\e\\e}\\def\\e{\\f\\f}\\def\\f{\\g\\g}\\def\\g{xxxxxxxxxx}\\a\\a\\a\\a$$\n\n$$\\def\\x{\\x\\x}\\x$$\n\n$$${nested(300)}$$\n\n$$\\rule{99999em}{99999em}$$\n\n$$\\href{javascript:window.pwned=1}{x}\\includegraphics{https://example.org/x.png}\\htmlData{onclick=window.pwned=2}{y}$$\n\n$$${'x'.repeat(100_000)}$$\n\n$\\unknown{$\n\nAnd $1+1=2$ is right.\n\nThe end`;
  await read(t, text, async (answer, page) => {
    await says(answer, 'The end');
    await answer.locator('.katex', { hasText: '1+1=2' }).first().waitFor();
    const links = await answer.locator('a').evaluateAll((all) => all.map((link) => link.href));
    assert.deepEqual(links, []);
    const largest = await answer.evaluate((root) => Math.max(...[...root.querySelectorAll('*')].map((element) => element.getBoundingClientRect().height)));
    assert.ok(largest < 60_000, `${largest} pixels`);
    assert.ok((await page.evaluate(() => document.documentElement.scrollWidth - innerWidth)) <= 0);
  });
});

test('nesting without end', async (t) => {
  const lists = Array.from({ length: 300 }, (_, i) => `${'  '.repeat(i)}- x`).join('\n');
  const text = `${'> '.repeat(3000)}deep\n\n${lists}\n\n${'[a]('.repeat(2000)}\n\n${'**a *b '.repeat(1500)}\n\n${'$'.repeat(6000)}\n\n${'<b>'.repeat(3000)}\n\nThe end`;
  await read(t, text, async (answer) => {
    await says(answer, 'The end');
    const depth = await answer.evaluate((root) => {
      const below = (element) => 1 + Math.max(0, ...[...element.children].map(below));
      return below(root);
    });
    assert.ok(depth < 250, `${depth}`);
  });
});

test('names of files and titles are text too', async (t) => {
  const page = await open(t, server.url);
  const name = '<img src=x onerror=window.pwned=1>.txt';
  await page.locator('input[type=file]').setInputFiles({ name, mimeType: 'text/plain', buffer: Buffer.from('<script>window.pwned=2</script>') });
  await say(page, '<script>window.pwned=3</script>', { wait: false });
  await says(page.locator('article.user'), '<img src=x onerror=window.pwned=1>.txt');
  await says(page.locator('li.chat').first(), '<script>window.pwned=3</script>');
  await done(page);
  assert.equal(await page.evaluate(() => window.pwned), undefined);
});
