// Conversations as a whole, the machine view, and how the page looks and reads.
import assert from 'node:assert/strict';
import { appendFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { closeBrowser, done, field, lastAnswer, open, post, say, says, Scripted } from './helpers.mjs';

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

let server;
let runs;
before(async () => {
  runs = mkdtempSync(path.join(tmpdir(), 'minke-runs-'));
  server = await Scripted.start({ SCRIPTED_STEP_US: '2000', SCRIPTED_RUNS: path.join(runs, 'runs') });
});
after(async () => {
  await closeBrowser();
  await server?.end();
  rmSync(runs, { recursive: true, force: true });
});

const button = (page, name) => page.getByRole('button', { name, exact: true });
const chats = (page) => page.locator('li.chat');

async function act(page, title, name) {
  const chat = chats(page).filter({ hasText: title });
  await chat.hover();
  await chat.locator('.dots').click();
  await page.getByRole('menuitem', { name, exact: true }).click();
}

function conversation(title, ...texts) {
  return { title, messages: texts.map((content, i) => ({ role: i % 2 ? 'assistant' : 'user', content })) };
}

/** Fails with what axe-core holds to be serious. */
async function accessible(t, page, where) {
  await page.evaluate(AXE);
  const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ['violations'] }));
  const told = violations.map(({ impact, id, nodes }) => `${impact} ${id}: ${nodes.map((node) => node.target.join(' ')).join('; ')}`);
  const bad = told.filter((text) => /^(?:serious|critical)/.test(text));
  t.diagnostic(`${where}: ${violations.length} findings, ${bad.length} of them serious${told.length ? ` (${told.join(' | ')})` : ''}`);
  assert.deepEqual(bad, [], where);
}

test('words are found in all conversations, and lead to their message', async (t) => {
  const filler = Array.from({ length: 60 }, (_, i) => `line ${i} ${'word '.repeat(80)}`);
  await post(server.url, '/api/conversations', conversation('Long talk', ...filler.slice(0, 30), 'The narwhal has one tooth', ...filler.slice(30)));
  await post(server.url, '/api/conversations', conversation('Other talk', 'No such animal'));
  const page = await open(t, server.url);
  await page.keyboard.press('Control+k');
  await page.keyboard.type('narwhal tooth');
  await says(page.locator('.hit'), 'The narwhal has one tooth');
  assert.equal(await page.locator('.hit').count(), 1);
  assert.deepEqual(await page.locator('.hit mark').allInnerTexts(), ['narwhal', 'tooth']);
  await page.locator('.hit').click();
  const found = page.locator('article.found');
  await says(found, 'The narwhal has one tooth');
  await page.waitForFunction(() => {
    const box = document.querySelector('article.found').getBoundingClientRect();
    return box.top >= 0 && box.top < innerHeight / 2;
  });
  await page.locator('input[type=search]').fill('zebra');
  await says(page.locator('.chats'), 'Nothing found');
});

test('a conversation is renamed, pinned, deleted and brought back', async (t) => {
  await post(server.url, '/api/conversations', conversation('Minke facts', 'hello', 'there'));
  const page = await open(t, server.url);
  await act(page, 'Minke facts', 'Rename');
  await page.getByLabel('New name').fill('Whale facts');
  await page.keyboard.press('Enter');
  await chats(page).filter({ hasText: 'Whale facts' }).waitFor();
  await act(page, 'Whale facts', 'Pin');
  await says(page.locator('.chats h2').first(), 'Pinned');
  assert.match(await chats(page).first().innerText(), /Whale facts/);
  await page.reload();
  assert.match(await chats(page).first().innerText(), /Whale facts/);
  await act(page, 'Whale facts', 'Delete');
  await says(page.locator('.toast'), 'Deleted “Whale facts”');
  await chats(page).filter({ hasText: 'Whale facts' }).waitFor({ state: 'detached' });
  await button(page, 'Undo').click();
  await chats(page).filter({ hasText: 'Whale facts' }).waitFor();
  assert.match(await chats(page).first().innerText(), /Whale facts/);
});

test('conversations leave as files and come back, with their branches', async (t) => {
  const page = await open(t, server.url);
  await say(page, 'to be exported');
  await button(page, 'Answer again').click();
  await says(lastAnswer(page), '2/2');
  await done(page);
  const text = async (name) => {
    const waiting = page.waitForEvent('download');
    await act(page, 'to be exported', name);
    const download = await waiting;
    return { name: download.suggestedFilename(), text: readFileSync(await download.path(), 'utf8') };
  };
  const markdown = await text('Export as Markdown');
  assert.equal(markdown.name, 'to be exported.md');
  assert.match(markdown.text, /### User[^]*to be exported[^]*### Assistant/);
  const json = await text('Export as JSON');
  assert.equal(JSON.parse(json.text).conversations[0].messages.length, 3);
  await button(page, 'Settings').click();
  const renamed = json.text.replaceAll('to be exported', 'imported again');
  await page.locator('dialog input[type=file]').setInputFiles({ name: 'x.json', mimeType: 'application/json', buffer: Buffer.from(renamed) });
  await says(page.locator('.toast'), 'Imported 1');
  await page.keyboard.press('Escape');
  await chats(page).filter({ hasText: 'imported again' }).locator('a').click();
  await says(lastAnswer(page), '2/2');
});

test('the machine view shows memory, cache, requests, speed and training', async (t) => {
  mkdirSync(path.join(runs, 'runs'), { recursive: true });
  mkdirSync(path.join(runs, 'tiny-whale'), { recursive: true });
  writeFileSync(path.join(runs, 'runs', 'a.json'), JSON.stringify({
    output: path.join(runs, 'tiny-whale'), recipe: 'recipes/tiny.toml', pid: process.pid, started: '2026-01-02T03:04:05Z',
  }));
  const log = path.join(runs, 'tiny-whale', 'log.jsonl');
  for (let step = 1; step <= 400; step += 1) {
    appendFileSync(log, `${JSON.stringify({
      step, stage: 0, tokens: step * 4096, loss: 2 + 8 * Math.exp(-step / 80) + Math.sin(step) / 20, grad_norm: 1 + 3 / step, lr: 1e-3 * Math.min(1, step / 50),
      tokens_per_s: 900 + (step % 7) * 10, expert_load: { max_over_mean: 1.4, min_over_mean: 0.6 },
      ...(step % 50 ? {} : { held_out: { web: 2.2 + 8 * Math.exp(-step / 80) } }),
    })}\n`);
  }
  const view = await open(t, server.url, { place: '/#/machine' });
  await says(view.locator('main'), /Memory\s+980 MB/);
  const page = await open(t, server.url);
  await say(page, 'count 3000', { wait: false });
  await says(view.locator('main'), /Weights 671 MB[^]*Cache 268 MB/);
  await says(view.locator('main'), /1 of 16 running/);
  await says(view.locator('.requests'), /tokens written/);
  await view.locator('.plot', { hasText: 'Speed' }).locator('path.curve').first().waitFor();
  await says(view.locator('.runs'), /tiny-whale[^]*running/);
  await view.locator('.plot', { hasText: 'Loss' }).locator('path.curve').waitFor();
  await says(view.locator('main'), /step 400/);
  await view.locator('.plot', { hasText: 'Held out' }).waitFor();
  await accessible(t, view, 'machine view');
  await page.keyboard.press('Escape');
});

test('dark and light follow the system until they are chosen', async (t) => {
  const page = await open(t, server.url, { colorScheme: 'dark' });
  const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor.match(/\d+/g).map(Number)[0]);
  assert.ok((await ground()) < 60);
  await page.emulateMedia({ colorScheme: 'light' });
  assert.ok((await ground()) > 200);
  await button(page, 'Settings').click();
  await page.getByLabel('Theme').selectOption('dark');
  assert.ok((await ground()) < 60);
  await page.keyboard.press('Escape');
  await page.reload();
  await field(page).waitFor();
  assert.ok((await ground()) < 60);
});

test('at 390 pixels everything is in reach and nothing sticks out', async (t) => {
  const page = await open(t, server.url, { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true });
  await say(page, `say: A table\n\n| ${'column | '.repeat(9)}\n|${'---|'.repeat(9)}\n| ${'value | '.repeat(9)}\n\n\`\`\`\n${'long line '.repeat(40)}\n\`\`\`\n\n${'unbroken'.repeat(40)}`);
  const wide = await page.evaluate(() => document.documentElement.scrollWidth);
  assert.ok(wide <= 390, `${wide} pixels`);
  const box = await field(page).boundingBox();
  assert.ok(box.y + box.height < 844 && box.width > 250);
  await button(page, 'Menu').click();
  await page.locator('.sidebar.open').waitFor();
  await page.locator('.new').click();
  await page.locator('.welcome').waitFor();
  await page.waitForFunction(() => getComputedStyle(document.querySelector('.sidebar')).visibility === 'hidden');
  await accessible(t, page, 'phone');
});

test('nothing serious is found by axe-core in light, dark and dialogs', async (t) => {
  const page = await open(t, server.url, { colorScheme: 'light' });
  await accessible(t, page, 'empty page');
  await page.getByLabel('Think', { exact: true }).selectOption('high');
  await say(page, 'say: hm</think># Head\n\ntext `code` [link](https://example.org)\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```js\nlet x = "s"; // c\nreturn 1;\n```\n\n$$x^2$$');
  await page.locator('.hljs-keyword').first().waitFor();
  await page.locator('.katex').waitFor();
  await page.locator('.thinking-line').click();
  await accessible(t, page, 'conversation, light');
  await page.emulateMedia({ colorScheme: 'dark' });
  await accessible(t, page, 'conversation, dark');
  await button(page, 'Settings').click();
  await accessible(t, page, 'settings, dark');
  await page.keyboard.press('Escape');
  await page.emulateMedia({ colorScheme: 'light' });
  await button(page, 'Settings').click();
  await accessible(t, page, 'settings, light');
  await page.keyboard.press('Escape');
  await chats(page).first().hover();
  await chats(page).first().locator('.dots').click();
  await accessible(t, page, 'menu of a conversation');
});

test('the page speaks Chinese where the browser does, and switches', async (t) => {
  const page = await open(t, server.url, { locale: 'zh-CN' });
  assert.equal(await page.locator('html').getAttribute('lang'), 'zh-CN');
  await says(page.locator('.greeting'), '想聊点什么');
  await page.getByRole('button', { name: '设置', exact: true }).click();
  await page.getByLabel('语言').selectOption('en');
  await says(page.locator('dialog h2'), 'Settings');
  assert.equal(await page.locator('html').getAttribute('lang'), 'en');
});

test('a server that keeps no conversations says so, and answers all the same', async (t) => {
  const page = await open(t, server.url);
  await page.route('**/api/machine', async (route) => {
    const answer = await route.fetch();
    await route.fulfill({ response: answer, json: { ...(await answer.json()), stores_chats: false } });
  });
  await page.reload();
  await says(page.locator('.welcome'), 'keeps no conversations');
  await say(page, 'unstored words');
  await says(lastAnswer(page), 'You said: unstored words');
  const found = await (await fetch(`${server.url}/api/search?q=unstored`)).json();
  assert.deepEqual(found.data, []);
});
