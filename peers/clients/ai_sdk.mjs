// The Vercel AI SDK and Anthropic's package of npm against a server: chat, stream, reasoning, tools, objects.
//
//     node peers/clients/ai_sdk.mjs URL
//
// URL is that of `cargo run -p server --example scripted`, whose model says what it is told.
import assert from "node:assert";
import { createRequire } from "node:module";
import path from "node:path";
import process from "node:process";

const require = createRequire(path.join(process.cwd(), "x.js"));
const { generateText, streamText, generateObject, tool, jsonSchema, stepCountIs } = require("ai");
const { createOpenAI } = require("@ai-sdk/openai");
const { createAnthropic } = require("@ai-sdk/anthropic");
const { createDeepSeek } = require("@ai-sdk/deepseek");
const { createOpenAICompatible } = require("@ai-sdk/openai-compatible");
const Anthropic = require("@anthropic-ai/sdk").default;
const url = process.argv[2];
globalThis.AI_SDK_LOG_WARNINGS = false;
const CALL =
  '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{"city": "Paris"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>';
const THOUGHT = "say: hm\n</think>\n\nyes";
const schema = {
  type: "object", properties: { city: { type: "string" } }, required: ["city"], additionalProperties: false,
};

const openai = createOpenAI({ baseURL: url + "/v1", apiKey: "none" });
const models = {
  responses: [openai("any"), {}],
  chat: [openai.chat("any"), {}],
  compatible: [createOpenAICompatible({
    name: "ours", baseURL: url + "/v1", supportsStructuredOutputs: true, includeUsage: true,
  })("any"), {}],
  deepseek: [createDeepSeek({ baseURL: url, apiKey: "none" })("any"), { deepseek: { thinking: { type: "enabled" } } }],
  anthropic: [createAnthropic({ baseURL: url + "/v1", apiKey: "none" })("any"),
    { anthropic: { thinking: { type: "enabled", budgetTokens: 1024 } } }],
};
for (const [name, [model, thinking]] of Object.entries(models)) {
  const ask = { model, maxRetries: 0 };
  const said = await generateText({ ...ask, system: "Be kind.", prompt: "hello" });
  assert.equal(said.text, "You said: hello", name);
  assert.ok(said.usage.inputTokens > 0 && said.usage.outputTokens > 0 && said.finishReason === "stop", name);
  const stream = streamText({ ...ask, prompt: "count 9", onError: ({ error }) => assert.fail(`${name}: ${error}`) });
  assert.equal(await stream.text, "1 2 3 4 5 6 7 8 9", name);
  assert.ok((await stream.usage).outputTokens > 0, name);
  if (Object.keys(thinking).length > 0) {
    const thought = await generateText({ ...ask, prompt: THOUGHT, providerOptions: thinking });
    assert.deepEqual([thought.reasoningText, thought.text], ["hm", "yes"], name);
    const parts = streamText({ ...ask, prompt: THOUGHT, providerOptions: thinking });
    assert.deepEqual([await parts.reasoningText, await parts.text], ["hm", "yes"], name);
  }
  const seen = [];
  const weather = tool({
    description: "The weather in a city.", inputSchema: jsonSchema(schema),
    execute: async ({ city }) => (seen.push(city), "rain in " + city),
  });
  // The script calls again whenever it is asked; two steps send a result back.
  const called = await generateText({ ...ask, prompt: "say: " + CALL, tools: { weather }, stopWhen: stepCountIs(2) });
  assert.ok(called.steps.length === 2 && called.finishReason === "tool-calls", name);
  const calls = streamText({ ...ask, prompt: "say: " + CALL, tools: { weather }, stopWhen: stepCountIs(2) });
  await calls.consumeStream();
  assert.ok(seen.length === 4 && seen.every((city) => city === "Paris"), name);
  const forced = await generateText({ ...ask, prompt: "no", tools: { weather }, toolChoice: "required" });
  assert.equal(forced.toolCalls[0].toolName, "weather", name);
  const text = 'say: {"city": "Rome"}';
  const shaped = await generateObject({ ...ask, schema: jsonSchema(schema), prompt: text });
  assert.equal(typeof shaped.object.city, "string", name);
  // This provider keeps temperatures within bounds of its own.
  const wrong = name === "anthropic" ? { topK: 0.5 } : { temperature: 99 };
  await assert.rejects(generateText({ ...ask, prompt: "x", ...wrong }), (error) => error.statusCode === 400, name);
  console.log(name, "ok");
}

const client = new Anthropic({ baseURL: url, apiKey: "none", maxRetries: 0 });
const ask = { model: "any", max_tokens: 200 };
const user = (content) => [{ role: "user", content }];
const message = await client.messages.create({ ...ask, messages: user("hello") });
assert.equal(message.content[0].text, "You said: hello");
const tools = [{ name: "weather", input_schema: schema }];
const stream = client.messages.stream({ ...ask, messages: user("say: " + CALL), tools });
const final = await stream.finalMessage();
assert.deepEqual([final.stop_reason, final.content[0].input], ["tool_use", { city: "Paris" }]);
assert.ok((await client.messages.countTokens({ model: "any", messages: user("hello") })).input_tokens > 0);
await assert.rejects(client.messages.create({ ...ask, messages: [] }), (error) => error.status === 400);
console.log("@anthropic-ai/sdk ok");
