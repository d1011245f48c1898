// Pictures of the page for docs/page.md: `node tests/screenshots.mjs FOLDER`, with a scripted server built. They are to be
// looked at by somebody, so no test runs this; with 256 colours each (Pillow's `quantize`) they are half as large.
import { appendFileSync, mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { closeBrowser, done, lastAnswer, launched, post, say, Scripted, StandIn } from './helpers.mjs';

const folder = process.argv[2] ?? 'pictures';
mkdirSync(folder, { recursive: true });

const runs = mkdtempSync(path.join(tmpdir(), 'minke-runs-'));
const server = await Scripted.start({ SCRIPTED_STEP_US: '9000', SCRIPTED_RUNS: path.join(runs, 'runs') });
const model = await StandIn.before(server.url);

const SKY = `The sky is blue because air scatters short waves far more than long ones.

**Rayleigh scattering** grows with the fourth power of the frequency:

$$I(\\lambda) \\propto \\frac{1}{\\lambda^4}\\,\\frac{1 + \\cos^2\\theta}{2R^2}$$

| colour | wavelength | scattered, red = 1 |
|---|--:|--:|
| violet | 400 nm | 9.4 |
| blue | 450 nm | 5.9 |
| red | 700 nm | 1.0 |

1. Sunlight holds all colours.
2. Blue light is thrown about and reaches us from **everywhere** in the sky.
3. At dusk the way through the air is long: the blue is gone, and what is left is red.`;

const THOUGHTS = `The question is why the sky is blue. First the mechanism: molecules are much smaller than the wavelength, so the Rayleigh limit holds. The intensity goes with the inverse fourth power of the wavelength. Violet would scatter more still, so why is the sky not violet? Our eyes are less sensitive there, and the sun sends less of it.`;

const CODE = `Here is a ring buffer that never allocates after it was made:

\`\`\`rust
/// A queue of fixed size; the oldest value gives way to a new one.
pub struct Ring<T, const N: usize> {
    values: [Option<T>; N],
    next: usize,
}

impl<T, const N: usize> Ring<T, N> {
    pub fn new() -> Self {
        Self { values: [const { None }; N], next: 0 }
    }

    /// Puts a value in, and gives back the one that had to leave.
    pub fn push(&mut self, value: T) -> Option<T> {
        let place = &mut self.values[self.next];
        self.next = (self.next + 1) % N;
        place.replace(value)
    }

    /// From the oldest to the newest.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        let (new, old) = self.values.split_at(self.next);
        old.iter().chain(new).flatten()
    }
}
\`\`\`

\`push\` takes constant time, and \`iter\` borrows: nothing is copied.`;

const SEA = `小须鲸是**须鲸**中体型较小的一种，成体长约 7 至 10 米。

* 以磷虾和小型鱼类为食
* 单独或两三头一起活动
* 叫声频率约为 $50$ 至 $9400$ 赫兹`;

/** An answer as it comes, word by word. */
const spoken = (content, reasoning = '', pause = 24) => async function* () {
  for (const part of reasoning.match(/[^\x00-\x7f]|[\x21-\x7f]+\s*/g) ?? []) {
    yield { reasoning_content: part };
    yield pause;
  }
  for (const part of content.match(/\s*[^\x00-\x7f]|\s*[\x21-\x7f]+\s*/g) ?? []) {
    yield { content: part };
    yield 24;
  }
};

async function page({ phone = false, dark = false, locale = 'en-GB' } = {}) {
  const context = await (await launched()).newContext({
    locale,
    colorScheme: dark ? 'dark' : 'light',
    viewport: phone ? { width: 390, height: 844 } : { width: 1180, height: 780 },
    deviceScaleFactor: phone ? 2 : 1,
    isMobile: phone,
    hasTouch: phone,
  });
  const made = await context.newPage();
  made.setDefaultTimeout(120_000);
  await made.goto(model.url);
  await made.locator('#message').waitFor();
  return made;
}

async function shot(of, name) {
  await of.evaluate(() => document.fonts.ready);
  await of.waitForTimeout(700);
  await of.screenshot({ path: path.join(folder, `${name}.png`), animations: 'disabled' });
  console.log(name);
}

const talk = (title, ...texts) => post(server.url, '/api/conversations', {
  title, messages: texts.map((content, i) => ({ role: i % 2 ? 'assistant' : 'user', content })),
});
await talk('Three days in Lisbon', 'Three days in Lisbon?', 'Begin in Alfama, take the tram, and keep the last day for Belém.');
await talk('Names for a sailing boat', 'A name for a boat?', 'Petrel, or Fulmar.');
const pinned = await talk('How minke whales breathe', 'How do whales breathe?', 'A minke whale breathes through two blowholes, five to eight times, and then dives for up to twenty minutes.');
await fetch(`${server.url}/api/conversations/${pinned.id}`, { method: 'PATCH', headers: { 'content-type': 'application/json' }, body: '{"pinned": true}' });
await talk('Sourdough at high altitude', 'My dough is too fast.', 'Cooler water, and less starter.');
await talk('Whale song as a Fourier series', 'What does a whale song look like?', 'A sum of sines whose whale-sized periods drift over minutes.');

const light = await page();
await shot(light, 'empty');
model.answer = spoken(SKY, THOUGHTS, 60);
await light.getByLabel('Think', { exact: true }).selectOption('high');
await say(light, 'Why is the sky blue?', { wait: false });
await light.waitForTimeout(2500);
await shot(light, 'thinking');
await done(light);
await light.locator('.katex').first().waitFor();
await light.locator('.thinking-line').click();
await light.setViewportSize({ width: 1180, height: 960 });
await shot(light, 'light');

model.answer = spoken(CODE);
for (const [name, dark, question] of [['dark-code', true, 'A ring buffer in Rust that does not allocate, please.'], ['light-code', false, 'How does a ring buffer look in Rust?']]) {
  const coded = await page({ dark });
  await say(coded, question);
  await coded.locator('.hljs-keyword').first().waitFor();
  await coded.setViewportSize({ width: 1180, height: 900 });
  await shot(coded, name);
  await coded.context().close();
}

await light.setViewportSize({ width: 1180, height: 780 });
await light.keyboard.press('Control+k');
await light.keyboard.type('whale');
await light.locator('.hit').nth(1).waitFor();
await shot(light, 'search');

const phone = await page({ phone: true });
model.answer = spoken(SKY, THOUGHTS);
await say(phone, 'Why is the sky blue?');
await phone.locator('.katex').first().waitFor();
await shot(phone, 'phone');
await phone.getByRole('button', { name: 'Menu', exact: true }).click();
await shot(phone, 'phone-menu');

const chinese = await page({ locale: 'zh-CN' });
model.answer = spoken(SEA, '用户想了解小须鲸。', 200);
await say_(chinese, '介绍一下小须鲸');
await shot(chinese, 'chinese');

async function say_(of, text) {
  await of.locator('#message').fill(text);
  await of.locator('.composer button[type=submit]').click();
  await lastAnswer(of).locator('li').nth(2).waitFor();
  await done(of);
}

await light.getByRole('button', { name: 'Settings', exact: true }).click();
await light.setViewportSize({ width: 1180, height: 1000 });
await shot(light, 'settings');
await light.keyboard.press('Escape');

mkdirSync(path.join(runs, 'runs'));
mkdirSync(path.join(runs, 'tiny-whale'));
writeFileSync(path.join(runs, 'runs', 'a.json'), JSON.stringify({
  output: path.join(runs, 'tiny-whale'), recipe: 'tiny.toml', pid: process.pid, started: new Date().toISOString(),
}));
for (let step = 1; step <= 600; step += 1) {
  const noise = Math.sin(step * 12.9898) * 0.05;
  appendFileSync(path.join(runs, 'tiny-whale', 'log.jsonl'), `${JSON.stringify({
    step, stage: 0, tokens: step * 4096, loss: 1.6 + 5 * Math.exp(-step / 90) + noise, grad_norm: 0.4 + 2 * Math.exp(-step / 40) + Math.abs(noise),
    lr: 3e-3 * Math.min(1, step / 50) * (0.5 + 0.5 * Math.cos((Math.PI * step) / 700)), tokens_per_s: 3100 + noise * 2000,
    expert_load: { max_over_mean: 1.3 + 1.5 * Math.exp(-step / 60) + noise, min_over_mean: 0.7 - 0.6 * Math.exp(-step / 60) + noise },
    ...(step % 50 ? {} : { held_out: { sums: 1.7 + 5 * Math.exp(-step / 90), text: 2.1 + 4 * Math.exp(-step / 110) } }),
  })}\n`);
}
model.answer = null;
const machine = await page();
await machine.goto(`${model.url}/#/machine`);
for (const n of [300, 900, 1400]) {
  void fetch(`${server.url}/v1/chat/completions`, {
    method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ messages: [{ role: 'user', content: `count ${n}` }] }),
  }).catch(() => {});
  await machine.waitForTimeout(5000);
}
await machine.locator('.plot').nth(5).waitFor();
await machine.setViewportSize({ width: 1180, height: 1060 });
await shot(machine, 'machine');

await closeBrowser();
model.end();
await server.end();
