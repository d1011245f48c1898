// What the page's tests share: a server whose model says what it is told, a browser, and a stand-in for the model where
// the test needs answers that no model gives.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import http from 'node:http';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { chromium } from 'playwright-core';

/** Tests run beside others, so nothing here is in a hurry. */
export const PATIENCE_MS = 90_000;

const CHROMIUM = process.env.MINKE_CHROMIUM ?? '/usr/bin/chromium';
const SCRIPTED = process.env.MINKE_SCRIPTED ?? '../target/debug/examples/scripted';
const FLAGS = [
  '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync',
];

let browser;

export async function launched() {
  browser ??= await chromium.launch({ executablePath: CHROMIUM, headless: true, args: FLAGS, timeout: PATIENCE_MS });
  return browser;
}

export async function closeBrowser() {
  await browser?.close();
  browser = undefined;
}

/** A server with a file of chats of its own; `kill` ends it at once, `start` brings it back at the same address. */
export class Scripted {
  static async start(variables = {}) {
    const made = new Scripted();
    made.folder = mkdtempSync(path.join(tmpdir(), 'minke-page-'));
    made.variables = variables;
    made.address = '127.0.0.1:0';
    await made.start();
    return made;
  }

  async start() {
    const chats = path.join(this.folder, 'chats.sqlite');
    this.child = spawn(SCRIPTED, [this.address, chats], {
      env: { ...process.env, ...this.variables }, stdio: ['ignore', 'pipe', 'inherit'],
    });
    const [line] = await once(this.child.stdout, 'data');
    this.url = String(line).trim();
    this.address = new URL(this.url).host;
  }

  async kill() {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    const ended = once(this.child, 'exit');
    this.child.kill('SIGKILL');
    await ended;
  }

  async end() {
    await this.kill();
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/**
 * Passes everything on to a server, but for answers: those are what `this.answer` yields, parts of chunks and pauses in
 * milliseconds.
 */
export class StandIn {
  static async before(url) {
    const made = new StandIn();
    made.server = http.createServer((request, response) => {
      if (request.url === '/v1/chat/completions' && made.answer) void made.say(request, response);
      else made.pass(url, request, response);
    });
    made.server.listen(0, '127.0.0.1');
    await once(made.server, 'listening');
    made.url = `http://127.0.0.1:${made.server.address().port}`;
    return made;
  }

  pass(url, request, response) {
    const on = http.request(new URL(request.url, url), { method: request.method, headers: request.headers }, (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
    });
    on.on('error', () => response.destroy());
    request.pipe(on);
  }

  async say(request, response) {
    request.resume();
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    let gone = false;
    response.on('close', () => (gone = true));
    const send = (chunk) => response.write(`data: ${JSON.stringify(chunk)}\n\n`);
    for await (const part of this.answer()) {
      if (gone) return;
      if (typeof part === 'number') await new Promise((on) => setTimeout(on, part));
      else send({ choices: [{ index: 0, delta: part, finish_reason: null }] });
    }
    send({ choices: [{ index: 0, delta: {}, finish_reason: 'stop' }] });
    response.end('data: [DONE]\n\n');
  }

  end() {
    this.server.closeAllConnections();
    this.server.close();
  }
}

/**
 * A page of its own, which must not complain: no error in its script, no breach of its policy. `allowed` are complaints
 * that a test causes itself.
 */
export async function open(t, url, { place = '', allowed = [], ...context } = {}) {
  const made = await (await launched()).newContext({ locale: 'en-US', ...context });
  const page = await made.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  const complaints = [];
  page.on('pageerror', (error) => complaints.push(String(error)));
  page.on('console', (message) => message.type() === 'error' && complaints.push(message.text()));
  page.on('dialog', (dialog) => {
    complaints.push(`dialog: ${dialog.message()}`);
    void dialog.dismiss();
  });
  t.after(async () => {
    await made.close();
    assert.deepEqual(complaints.filter((text) => !allowed.some((known) => known.test(text))), []);
  });
  await page.goto(url + place);
  await page.locator('#message, main.machine, dialog').first().waitFor();
  return page;
}

export const field = (page) => page.locator('#message');
export const answers = (page) => page.locator('article.assistant');
export const lastAnswer = (page) => answers(page).last();

/** Says something; the answer is complete when this returns, unless it is not to be waited for. */
export async function say(page, text, { wait = true } = {}) {
  const before = await answers(page).count();
  await field(page).fill(text);
  await page.getByRole('button', { name: 'Send', exact: true }).click();
  await page.waitForFunction((n) => document.querySelectorAll('article.assistant').length > n, before);
  if (wait) await done(page);
}

export async function done(page) {
  await page.waitForFunction(() => !document.querySelector('article.live') && document.querySelector('.composer button[type=submit]'));
}

/** Waits until a condition on the text of an element holds. */
export async function says(locator, wanted) {
  const until = Date.now() + PATIENCE_MS;
  let text = '';
  while (Date.now() < until) {
    text = (await locator.innerText({ timeout: PATIENCE_MS })).trim();
    if (wanted instanceof RegExp ? wanted.test(text) : text.includes(wanted)) return text;
    await new Promise((on) => setTimeout(on, 50));
  }
  assert.fail(`expected ${wanted}, found ${JSON.stringify(text)}`);
}

export async function post(url, path, body) {
  const response = await fetch(url + path, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) });
  assert.ok(response.ok, `${path}: ${response.status}`);
  return response.json();
}
