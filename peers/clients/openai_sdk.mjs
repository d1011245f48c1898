// The `openai` package of npm against a server: chat, stream, tools, parsing, responses, errors.
//
//     node peers/clients/openai_sdk.mjs URL
//
// URL is that of `cargo run -p server --example scripted`, whose model says what it is told.
import assert from "node:assert";
import { createRequire } from "node:module";
import path from "node:path";
import process from "node:process";

const require = createRequire(path.join(process.cwd(), "x.js"));
const OpenAI = require("openai").default;
const client = new OpenAI({ baseURL: process.argv[2] + "/v1", apiKey: "none", maxRetries: 0 });
const user = (text) => [{ role: "user", content: text }];
const CALL =
  '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{"city": "Paris"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>';
const schema = {
  type: "object", properties: { city: { type: "string" } }, required: ["city"], additionalProperties: false,
};
const tools = [{ type: "function", function: { name: "weather", parameters: schema, strict: true } }];

const answer = await client.chat.completions.create({ model: "any", messages: user("hello") });
assert.equal(answer.choices[0].message.content, "You said: hello");
let text = "";
let usage;
const stream = await client.chat.completions.create({
  model: "any", messages: user("count 20"), stream: true, stream_options: { include_usage: true },
});
for await (const chunk of stream) {
  text += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}
assert.ok(text.endsWith("19 20") && usage.completion_tokens > 20);
const left = await client.chat.completions.create({ model: "any", messages: user("count 500"), stream: true });
for await (const _ of left) break;
const called = await client.chat.completions.create({ model: "any", messages: user("say: " + CALL), tools });
assert.equal(called.choices[0].message.tool_calls[0].function.arguments, '{"city": "Paris"}');
const runner = client.chat.completions.stream({ model: "any", messages: user("say: " + CALL), tools });
assert.equal((await runner.finalChatCompletion()).choices[0].finish_reason, "tool_calls");
const response_format = { type: "json_schema", json_schema: { name: "x", schema, strict: true } };
const parsed = await client.chat.completions.parse({ model: "any", messages: user("no"), response_format });
assert.equal(typeof JSON.parse(parsed.choices[0].message.content).city, "string");
const response = await client.responses.create({ model: "any", input: "hello" });
assert.equal(response.output_text, "You said: hello");
const events = client.responses.stream({ model: "any", input: "count 9" });
assert.equal((await events.finalResponse()).output_text, "1 2 3 4 5 6 7 8 9");
await assert.rejects(client.chat.completions.create({ model: "any", messages: user("x"), temperature: 99 }), (error) => {
  assert.ok(error instanceof OpenAI.BadRequestError);
  assert.equal(error.param, "temperature");
  return true;
});
console.log("openai of npm: all ok");
