// Talking: sending, streaming, stopping, branching, reasoning, files, failures.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { answers, closeBrowser, done, field, lastAnswer, open, say, says, Scripted } from './helpers.mjs';

let server;
before(async () => (server = await Scripted.start({ SCRIPTED_STEP_US: '5000' })));
after(async () => {
  await closeBrowser();
  await server?.end();
});

const button = (page, name) => page.getByRole('button', { name, exact: true });

test('the first paint takes less than 100 KB, and nothing comes from elsewhere', async (t) => {
  const page = await open(t, server.url);
  const sizes = await page.evaluate(() => performance.getEntriesByType('resource').concat(performance.getEntriesByType('navigation'))
    .map((entry) => ({ name: entry.name, bytes: entry.encodedBodySize })));
  const own = sizes.filter(({ name }) => /\/(?:assets\/|$)/.test(new URL(name).pathname));
  const total = own.reduce((sum, { bytes }) => sum + bytes, 0);
  t.diagnostic(`first paint: ${(total / 1000).toFixed(1)} KB compressed, in ${own.length} files`);
  assert.ok(total > 10_000 && total < 100_000, `${total} bytes`);
  for (const { name } of sizes) assert.ok(name.startsWith(server.url), name);
});

test('the page is sent with a strict policy, and is not sent again', async () => {
  const first = await fetch(`${server.url}/`);
  const policy = first.headers.get('content-security-policy');
  assert.match(policy, /default-src 'none'/);
  assert.match(policy, /require-trusted-types-for 'script'/);
  assert.doesNotMatch(policy, /unsafe|\*|https?:/);
  assert.equal(first.headers.get('x-content-type-options'), 'nosniff');
  const again = await fetch(`${server.url}/`, { headers: { 'if-none-match': first.headers.get('etag') } });
  assert.equal(again.status, 304);
  const [asset] = /\/assets\/[^"]+\.js/.exec(await first.text());
  const script = await fetch(server.url + asset);
  assert.match(script.headers.get('cache-control'), /immutable/);
  assert.equal(script.headers.get('content-encoding'), 'gzip');
  assert.equal((await fetch(`${server.url}/assets/none.js`)).status, 404);
});

test('what is sent is answered while one watches', async (t) => {
  const page = await open(t, server.url);
  await say(page, 'count 120', { wait: false });
  await says(lastAnswer(page), /\b3 4\b/);
  const early = (await lastAnswer(page).innerText()).length;
  await says(lastAnswer(page), /119 120/);
  assert.ok(early < (await lastAnswer(page).innerText()).length, 'it grew');
  await done(page);
  await says(lastAnswer(page), /tokens\/s/);
  await says(lastAnswer(page), /% cached/);
  assert.match(await page.locator('.fill').getAttribute('aria-label'), /Context: \d+ of 8,192 tokens/);
  assert.match(page.url(), /#\/c\/conv_/);
  assert.equal(await page.title(), 'count 120 · Minke');
});

test('an answer is stopped, and gone on with', async (t) => {
  const page = await open(t, server.url);
  await say(page, 'count 600', { wait: false });
  await says(lastAnswer(page), /\b5 6\b/);
  await button(page, 'Stop').click();
  await says(lastAnswer(page), /Stopped/);
  const half = await lastAnswer(page).locator('.answer').innerText();
  assert.ok(!half.includes('600'));
  await button(page, 'Continue').click();
  await says(lastAnswer(page), /599 600/);
  await done(page);
  const whole = await lastAnswer(page).locator('.answer').innerText();
  assert.equal(whole.trim(), Array.from({ length: 600 }, (_, i) => i + 1).join(' '));
});

test('another answer is a branch, and there is a way between them', async (t) => {
  const page = await open(t, server.url);
  await say(page, 'one question');
  await button(page, 'Answer again').click();
  await says(lastAnswer(page), '2/2');
  await done(page);
  await button(page, 'Previous version').click();
  await says(lastAnswer(page), '1/2');
  await button(page, 'Next version').click();
  await says(lastAnswer(page), '2/2');
  assert.equal(await answers(page).count(), 1);
});

test('a message that is edited begins a branch; what was said before is kept, also by a reload', async (t) => {
  const page = await open(t, server.url);
  await say(page, 'first wording');
  await say(page, 'and more');
  assert.equal(await answers(page).count(), 2);
  await page.locator('article.user').first().hover();
  await page.locator('article.user').first().getByRole('button', { name: 'Edit' }).click();
  await page.locator('.editor textarea').fill('second wording');
  await page.locator('.editor').getByRole('button', { name: 'Send' }).click();
  await says(lastAnswer(page), 'You said: second wording');
  await done(page);
  assert.equal(await answers(page).count(), 1);
  await page.locator('article.user').first().getByRole('button', { name: 'Previous version' }).click();
  await says(lastAnswer(page), 'You said: and more');
  assert.equal(await answers(page).count(), 2);
  await page.waitForLoadState('networkidle');
  await page.reload();
  await says(lastAnswer(page), 'You said: and more');
  await says(page.locator('article.user').first(), '1/2');
});

test('reasoning is folded under a line that says how long it takes', async (t) => {
  const page = await open(t, server.url);
  await page.getByLabel('Think', { exact: true }).selectOption('high');
  const thoughts = Array.from({ length: 200 }, (_, i) => `thought ${i}`).join(' ');
  await say(page, `say: ${thoughts}</think>The sea is **salt**.`, { wait: false });
  await says(page.locator('.thinking-line'), /Thinking for \d+ s/);
  const waited = await says(page.locator('.thinking-label'), /Thinking for [1-9]\d* s/);
  assert.ok(waited);
  assert.equal(await page.locator('.reasoning').count(), 0, 'folded');
  await says(lastAnswer(page), 'The sea is salt.');
  await done(page);
  await says(page.locator('.thinking-label'), /Thought for \d+ s/);
  await page.locator('.thinking-line').click();
  await says(page.locator('.reasoning'), 'thought 199');
  assert.ok(!(await lastAnswer(page).locator('> .answer').innerText()).includes('thought'));
  await page.locator('.thinking-line').click();
  assert.equal(await page.locator('.reasoning').count(), 0);
});

test('Markdown, tables, formulas and code are set, and code is copied as it is', async (t) => {
  const page = await open(t, server.url, { permissions: ['clipboard-read', 'clipboard-write'] });
  const code = 'fn main() {\n    println!("<b>whale</b> & calf");\n}';
  await say(page, `say: # Head\n\n* one\n* *two*\n\n| a | b |\n|---|--:|\n| x | 1 |\n\n$$E = mc^2$$\n\nInline \\(a_1\\) and $b^2$, for $5 or $6.\n\n\`\`\`rust\n${code}\n\`\`\`\n\n[link](https://example.org)`);
  const answer = lastAnswer(page).locator('.answer');
  await answer.locator('h1', { hasText: 'Head' }).waitFor();
  assert.equal(await answer.locator('li em').innerText(), 'two');
  assert.equal(await answer.locator('td').last().innerText(), '1');
  await answer.locator('.katex').nth(2).waitFor();
  assert.equal(await answer.locator('.katex').count(), 3);
  await says(answer, 'for $5 or $6');
  await answer.locator('.hljs-keyword').first().waitFor();
  await answer.locator('.copy').click();
  await says(answer.locator('.copy'), 'Copied');
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), code);
  const link = answer.locator('a');
  assert.deepEqual([await link.getAttribute('href'), await link.getAttribute('target'), await link.getAttribute('rel')],
    ['https://example.org', '_blank', 'noopener noreferrer nofollow']);
});

test('text files go along and are shown as files', async (t) => {
  const page = await open(t, server.url);
  await page.locator('input[type=file]').setInputFiles([
    { name: 'whales.csv', mimeType: 'text/csv', buffer: Buffer.from('name,length\nminke,8\n') },
    { name: 'whale.bin', mimeType: 'application/octet-stream', buffer: Buffer.from([0, 159, 146, 150]) },
  ]);
  await says(page.locator('.composer .failure'), 'whale.bin is no text file');
  await say(page, 'What is in it?');
  await says(page.locator('article.user .files'), 'whales.csv');
  assert.equal(await page.locator('article.user .said > p').innerText(), 'What is in it?');
  await says(lastAnswer(page), 'minke,8');
  await page.reload();
  await says(page.locator('article.user .files'), 'whales.csv');
});

test('the system prompt and sampling go along, and belong to the conversation', async (t) => {
  const page = await open(t, server.url);
  await button(page, 'Settings').click();
  await page.getByLabel('System prompt').fill('You are a whale.');
  await page.getByLabel('Temperature').fill('0.3');
  await page.getByLabel('Longest answer (tokens)').fill('5');
  await page.keyboard.press('Escape');
  const asked = page.waitForRequest('**/v1/chat/completions');
  await say(page, 'count 50');
  const body = (await asked).postDataJSON();
  assert.deepEqual(body.messages[0], { role: 'system', content: 'You are a whale.' });
  assert.deepEqual([body.temperature, body.max_tokens, 'top_p' in body], [0.3, 5, false]);
  await says(lastAnswer(page), /Cut off/);
  await page.reload();
  await lastAnswer(page).waitFor();
  await button(page, 'Settings').click();
  assert.equal(await page.getByLabel('System prompt').inputValue(), 'You are a whale.');
});

test('a conversation that does not fit is explained, and what was typed is kept', async (t) => {
  const page = await open(t, server.url, { allowed: [/400/] });
  await say(page, `many words ${'whale '.repeat(9000)}`, { wait: false });
  await says(lastAnswer(page), /has [\d,]+ tokens, and the model reads 8,192/);
  await button(page, 'Try again').waitFor();
  assert.match(await page.locator('article.user .said').innerText(), /^many words/);
});

test('the server goes away while it answers, and comes back: nothing typed is lost', async (t) => {
  const own = await Scripted.start({ SCRIPTED_STEP_US: '20000' });
  t.after(() => own.end());
  const page = await open(t, own.url, { allowed: [/ERR_|Failed to load/] });
  await say(page, 'count 150', { wait: false });
  await says(lastAnswer(page), /\b8 9\b/);
  await own.kill();
  await says(page.locator('.banner'), 'cannot be reached');
  await says(lastAnswer(page), 'went away while it answered');
  assert.match(await lastAnswer(page).locator('.answer').innerText(), /^1 2 3 4/);
  await field(page).fill('a thought in between');
  await button(page, 'Send').click();
  await says(page.locator('.composer .failure'), 'cannot be reached');
  assert.equal(await field(page).inputValue(), 'a thought in between');
  await own.start();
  await says(page.locator('.banner'), 'there again');
  await page.locator('.failure').getByRole('button', { name: 'Continue' }).waitFor();
  await page.locator('.failure').getByRole('button', { name: 'Try again' }).click();
  await says(lastAnswer(page), /149 150/);
  await done(page);
  assert.equal(await field(page).inputValue(), 'a thought in between');
  await page.reload();
  await page.waitForFunction(() => document.querySelector('#message')?.value === 'a thought in between');
  await button(page, 'Send').click();
  await says(lastAnswer(page), 'You said: a thought in between');
  await done(page);
  assert.equal(await field(page).inputValue(), '');
});

test('a key is asked for where the server wants one', async (t) => {
  const own = await Scripted.start({ SCRIPTED_KEY: 'secret-of-whales' });
  t.after(() => own.end());
  const page = await open(t, own.url, { allowed: [/401/] });
  await page.locator('input[type=password]').fill('wrong-secret');
  await button(page, 'Use this key').click();
  await says(page.locator('dialog'), 'This key is not known here');
  await page.locator('input[type=password]').fill('secret-of-whales');
  await button(page, 'Use this key').click();
  await page.locator('dialog').waitFor({ state: 'detached' });
  await say(page, 'hello');
  await says(lastAnswer(page), 'You said: hello');
  await page.reload();
  await says(lastAnswer(page), 'You said: hello');
  assert.equal(await page.locator('dialog').count(), 0);
});

test('keys of the keyboard do what the list says', async (t) => {
  const page = await open(t, server.url);
  await field(page).focus();
  await page.keyboard.type('by keyboard');
  await page.keyboard.press('Shift+Enter');
  await page.keyboard.type('two lines');
  await page.keyboard.press('Enter');
  await says(lastAnswer(page), /You said: by keyboard\s+two lines/);
  await done(page);
  await field(page).focus();
  await page.keyboard.press('ArrowUp');
  assert.match(await page.locator('.editor textarea').inputValue(), /^by keyboard/);
  await page.keyboard.press('Escape');
  await page.locator('.editor').waitFor({ state: 'detached' });
  await page.keyboard.press('Control+k');
  assert.equal(await page.evaluate(() => document.activeElement?.getAttribute('type')), 'search');
  await page.keyboard.press('Control+Shift+o');
  await page.locator('.welcome').waitFor();
  assert.equal(await page.evaluate(() => document.activeElement?.id), 'message');
  await page.evaluate(() => document.activeElement?.blur());
  await page.keyboard.press('?');
  await says(page.locator('dialog'), 'Keyboard shortcuts');
  await page.keyboard.press('Escape');
  await page.keyboard.press('Alt+ArrowDown');
  await says(lastAnswer(page), /You said: by keyboard/);
  await field(page).fill('count 900');
  await page.keyboard.press('Enter');
  await says(lastAnswer(page), /\b2 3\b/);
  await page.keyboard.press('Escape');
  await says(lastAnswer(page), /Stopped/);
});
